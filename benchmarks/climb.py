"""What a whole climb costs, against one training with TRL and PEFT: both from nothing, each in a process of its own.

The climb is `rung tune` on *pronounce*, confirmation, test split and all. TRL's run is one SFTTrainer over the same
rows, for the full budget of one candidate, with loading and without an evaluation: with rank 16 on the attention, which
is what many begin with, and with the rank and the target modules that the climb recommends, which is what the run would
take that one could have had if one had known. (TRL refuses to adapt the output head; then it is left out.)

    python benchmarks/climb.py [--passes 1] [--budget 30min] [--json]
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

from rung.data.batches import Steps
from rung.data.prepare import prepare
from rung.defaults import DEFAULT_MODEL
from rung.model.load import load_base
from rung.recipe import Recipe
from rung.types import Candidate


def train_with_trl(passes: float, rank: int, modules: list[str]) -> None:
    """One run, over the rows that the first seed's candidates see, shuffled as TRL does it."""
    recipe = Recipe(passes=passes)
    base = load_base(DEFAULT_MODEL, recipe.quantization)
    rows = prepare(recipe, base.tokenizer).train
    batches = Steps(rows.lengths, recipe.batch_size, passes, recipe.seed).rows(0)
    candidate = Candidate(replace(ONE.setting, rank=rank, alpha=2.0 * rank))
    Trl(
        "auto",
        [rows[row] for batch in batches for row in batch],
        recipe.batch_size,
        candidate,
        modules,
    ).serve()


def timed(what: str, command: list[str]) -> float:
    """Seconds that it takes from its start to its end."""
    begun = time.perf_counter()
    subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    seconds = time.perf_counter() - begun
    print(f"{what}: {seconds:.1f} s", file=sys.stderr, flush=True)
    return seconds


def main() -> None:
    """Time both, one after the other."""
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

    def alone(rank: int, modules: Sequence[str]) -> float:
        """Seconds of one training with TRL."""
        command = [
            sys.executable,
            __file__,
            "--passes",
            str(options.passes),
            "--trl",
            str(rank),
            *modules,
        ]
        return timed(f"TRL, rank {rank} on {', '.join(modules)}", command)

    usual = alone(RANK, MODULES)
    with tempfile.TemporaryDirectory() as temporary:
        folder = str(options.studies or temporary)
        climb = [
            sys.executable,
            "-c",
            "from rung.cli import main; main()",
            "tune",
            "--study",
            "s",
            "--studies",
            folder,
        ]
        climb += [
            "--passes",
            str(options.passes),
            *(["--budget", options.budget] if options.budget else []),
        ]
        whole = timed("the climb", climb)
        found = json.loads((Path(folder) / "s" / "result.json").read_text(encoding="utf-8"))
    best = found["recommendation"]
    chosen = alone(
        best["rank"], [module for module in best["target_modules"] if module != "lm_head"]
    )
    document: dict[str, Any] = {
        "machine": machine(load_base(DEFAULT_MODEL, "nf4").dtype),
        "date": time.strftime("%Y-%m-%d"),
        "passes": options.passes,
        "budget": options.budget,
        "climb_seconds": round(whole, 1),
        "trl_seconds": round(usual, 1),
        "ratio": round(whole / usual, 2),
        "trl_as_recommended_seconds": round(chosen, 1),
        "ratio_as_recommended": round(whole / chosen, 2),
        "full_trainings": round(
            found["cost"]["candidate_tokens"] / found["cost"]["single_run_tokens"], 2
        ),
        "recommendation": best["candidate"],
        "validation_loss": best["validation_loss"],
    }
    print(json.dumps(document, indent=2) if options.json else document)


if __name__ == "__main__":
    main()
