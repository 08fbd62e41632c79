"""What a whole climb costs, against one training with TRL and PEFT: both from nothing, each in a process of its own.

The climb is `rung tune` on *pronounce*, confirmation, test split and all. TRL's run is one SFTTrainer over the same
rows, for the full budget of one candidate (rank 16 on the attention), with loading and without an evaluation.

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
from pathlib import Path
from typing import Any

from packed import Trl, machine

from rung.data.batches import Steps
from rung.data.prepare import prepare
from rung.defaults import DEFAULT_MODEL
from rung.model.load import load_base
from rung.recipe import Recipe


def train_with_trl(passes: float) -> None:
    """One run, over the rows that the first seed's candidates see, in their order."""
    recipe = Recipe(passes=passes)
    base = load_base(DEFAULT_MODEL, recipe.quantization)
    rows = prepare(recipe, base.tokenizer).train
    batches = Steps(rows.lengths, recipe.batch_size, passes, recipe.seed).rows(0)
    Trl("auto", [rows[row] for batch in batches for row in batch], recipe.batch_size).serve()


def timed(command: list[str]) -> float:
    """Seconds that it takes from its start to its end."""
    begun = time.perf_counter()
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


def main() -> None:
    """Time both, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", type=float, default=1.0)
    parser.add_argument("--budget", help="of the climb, as for `rung tune`")
    parser.add_argument("--studies", type=Path, help="keep the study there")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--trl", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    if options.trl:
        train_with_trl(options.passes)
        return
    alone = timed([sys.executable, __file__, "--trl", "--passes", str(options.passes)])
    with tempfile.TemporaryDirectory() as temporary:
        folder = str(options.studies or temporary)
        climb = [sys.executable, "-c", "from rung.cli import main; main()", "tune", "--study", "s", "--studies", folder]
        climb += ["--passes", str(options.passes), *(["--budget", options.budget] if options.budget else [])]
        whole = timed(climb)
        found = json.loads((Path(folder) / "s" / "result.json").read_text(encoding="utf-8"))
    document: dict[str, Any] = {
        "machine": machine(load_base(DEFAULT_MODEL, "nf4").dtype),
        "date": time.strftime("%Y-%m-%d"),
        "passes": options.passes,
        "budget": options.budget,
        "trl_seconds": round(alone, 1),
        "climb_seconds": round(whole, 1),
        "ratio": round(whole / alone, 2),
        "full_trainings": round(found["cost"]["candidate_tokens"] / found["cost"]["single_run_tokens"], 2),
        "recommendation": found["recommendation"]["candidate"],
        "validation_loss": found["recommendation"]["validation_loss"],
    }
    print(json.dumps(document, indent=2) if options.json else document)


if __name__ == "__main__":
    main()
