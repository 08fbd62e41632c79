"""What a whole climb costs, against one training with TRL and PEFT.

Both start from nothing, each in a process of its own. The climb is `rung tune` on *pronounce*, with
confirmation and test split. TRL's run is one SFTTrainer over the same rows, for the full budget of
one candidate; it loads the model, and it evaluates nothing. It is timed twice: with rank 16 on the
attention, which many people start with; and with the rank and the target modules that the climb
recommends, as if they had been known. (TRL refuses to adapt the output head, so it is left out.)

    python benchmarks/climb.py [--passes 1] [--budget 30min] [--studies FOLDER] [--json]
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from packed import machine
from packed_sides import MODULES, ONE, RANK, Trl

from rung.data.batches import BatchOrder
from rung.data.prepare import prepare
from rung.defaults import DEFAULT_MODEL
from rung.model.load import load_base
from rung.recipe import Recipe
from rung.types import Candidate


def train_with_trl(passes: float, rank: int, modules: list[str]) -> None:
    """One training, over the rows that candidates with seed 0 see, shuffled as TRL does it."""
    recipe = Recipe(passes=passes)
    base = load_base(DEFAULT_MODEL, recipe.quantization)
    rows = prepare(recipe, base.tokenizer).train
    batches = BatchOrder(rows.lengths, recipe.batch_size, passes, recipe.seed).rows(0)
    candidate = Candidate(replace(ONE.setting, rank=rank, alpha=2.0 * rank))
    seen = [rows[row] for batch in batches for row in batch]
    Trl("auto", seen, recipe.batch_size, candidate, modules).train()


def time_process(name: str, command: list[str]) -> float:
    """How many seconds a process takes from its start to its end."""
    begun, nothing = time.perf_counter(), subprocess.DEVNULL
    subprocess.run(command, stdin=nothing, stdout=nothing, stderr=nothing, check=True)
    seconds = time.perf_counter() - begun
    print(f"{name}: {seconds:.1f} s", file=sys.stderr, flush=True)
    return seconds


def time_trl(passes: float, rank: int, modules: Sequence[str]) -> float:
    """How many seconds one training with TRL takes."""
    command = [sys.executable, __file__, "--passes", str(passes), "--trl", str(rank), *modules]
    return time_process(f"TRL, rank {rank} on {', '.join(modules)}", command)


def time_climb(passes: float, budget: str | None, studies: Path) -> tuple[float, dict[str, Any]]:
    """How many seconds the climb takes, and its result."""
    command = [sys.executable, "-c", "from rung.cli import main; main()", "tune"]
    command += ["--study", "climb", "--studies", str(studies), "--passes", str(passes)]
    command += ["--budget", budget] if budget else []
    seconds = time_process("the climb", command)
    result = (studies / "climb" / "result.json").read_text(encoding="utf-8")
    return seconds, json.loads(result)


def main() -> None:
    """Time one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--passes", type=float, default=1.0)
    parser.add_argument("--budget", help="of the climb, as for `rung tune`")
    parser.add_argument("--studies", type=Path, help="keep the study there")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--trl", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    if options.trl:
        train_with_trl(options.passes, int(options.trl[0]), options.trl[1:])
        return
    usual = time_trl(options.passes, RANK, MODULES)
    with tempfile.TemporaryDirectory() as temporary:
        studies = options.studies or Path(temporary)
        climb, result = time_climb(options.passes, options.budget, studies)
    best, cost = result["recommendation"], result["cost"]
    modules = [module for module in best["target_modules"] if module != "lm_head"]
    recommended = time_trl(options.passes, best["setting"]["rank"], modules)
    document = {
        "machine": machine(load_base(DEFAULT_MODEL, "nf4").dtype),
        "date": time.strftime("%Y-%m-%d"),
        "passes": options.passes,
        "budget": options.budget,
        "climb_seconds": round(climb, 1),
        "trl_seconds": round(usual, 1),
        "ratio": round(climb / usual, 2),
        "trl_as_recommended_seconds": round(recommended, 1),
        "ratio_as_recommended": round(climb / recommended, 2),
        "full_trainings": round(cost["candidate_tokens"] / cost["single_run_tokens"], 2),
        "recommendation": best["candidate"],
        "validation_loss": best["validation_loss"],
    }
    print(json.dumps(document, indent=2) if options.json else document)


if __name__ == "__main__":
    main()
