"""Record the replay table: every setting of a grid, trained by the engine on real data.

Each run is what the local runner does in a study: a pack of eight, and the loss of each validation
row after cooldowns at an eighth, a quarter, a half and all of the budget. It may be stopped at any
time; the same command goes on. With `--write` the table that `rung.runner.replay` reads is made of
what is recorded so far.

    python benchmarks/record.py [--folder recordings] [--write]
"""

from __future__ import annotations

import argparse
import itertools
import logging
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rung.data.prepare import Data, prepare
from rung.model.load import load_base
from rung.recipe import Recipe
from rung.runner.local import LocalRunner
from rung.runner.protocol import StepProgress
from rung.runner.replay import TABLE, load_table, write_table
from rung.runner.training import CheckpointTimer
from rung.search.strategy import Stage
from rung.study.folder import StudyFolder
from rung.study.ledger import Ledger
from rung.types import Candidate, Setting

RANKS = (4, 16, 64, 8)
"""In the order in which they are recorded; after the third there is enough for a table."""
TARGETS = ("attention", "all-linear")
SCALES = (1, 2)
RATES = (2e-4, 1e-3, 2e-3, 4e-3)
SEEDS = (0, 1)
FRACTIONS = (1 / 8, 1 / 4, 1 / 2, 1.0)

RECIPES = {
    "pronounce": Recipe(data="pronounce", passes=0.6),
    "price": Recipe(data="price", passes=2 / 15),
}
"""90 steps of about 100 tokens; 40 of about 230."""
VALIDATION_ROWS = {"pronounce": 160, "price": 96}


def packs() -> Iterator[tuple[Candidate, ...]]:
    """Packs of one seed, one rank and one set of target modules."""
    for rank, targets, seed in itertools.product(RANKS, TARGETS, SEEDS):
        yield tuple(
            Candidate(Setting(rank, scale * rank, targets, rate), seed=seed)
            for scale in SCALES
            for rate in RATES
        )


def data(task: str, tokenizer: Any) -> Data:
    """The task's data with fewer validation rows: each row is scored four times in every run."""
    complete = prepare(RECIPES[task], tokenizer)
    return replace(complete, validation=complete.validation[: VALIDATION_ROWS[task]])


def ignore(_: StepProgress) -> None:
    """No progress is shown within a stage."""


def record(folder: Path) -> None:
    """Train what is not recorded yet."""
    folders = {task: StudyFolder(folder / task) for task in RECIPES}
    ledgers = {task: Ledger(home) for task, home in folders.items()}
    # Checkpoints every minute would be gigabytes, and a lost pack costs only a few minutes.
    runners = {
        task: LocalRunner(
            base := load_base(recipe.model),
            data(task, base.tokenizer),
            recipe,
            folders[task],
            timer=CheckpointTimer(time.monotonic, 240),
            min_race_rows=VALIDATION_ROWS[task],
        )
        for task, recipe in RECIPES.items()
    }
    for task, ledger in ledgers.items():
        # What the table has from an earlier recording need not be trained again.
        known = {(m.candidate, m.fraction) for m in ledger.history()}
        for points in load_table(task).runs.values() if TABLE.exists() else ():
            for point in points.values():
                if (point.candidate, point.fraction) not in known:
                    ledger.record(point)
        if ledger.baseline() is None:
            ledger.record_baseline(runners[task].baseline())
    for pack in packs():
        for task, ledger in ledgers.items():
            for fraction in FRACTIONS:
                history = ledger.history()
                done = {m.candidate for m in history if m.fraction == fraction or not m.scores}
                if missing := tuple(candidate for candidate in pack if candidate not in done):
                    start = time.perf_counter()
                    measured = runners[task].run(Stage("record", missing, fraction), ignore)
                    for measurement in measured:
                        ledger.record(measurement)
                    seconds, spent = time.perf_counter() - start, sum(m.spent for m in measured)
                    losses = " ".join(f"{m.loss:.3f}" for m in measured)
                    first = pack[0]
                    print(
                        f"{time.strftime('%H:%M:%S')} {task} s{first.seed} r{first.rank} "
                        f"{first.targets} {fraction:.3f}: {losses} · {spent} tokens, "
                        f"{seconds:.0f} s",
                        file=sys.stderr,
                        flush=True,
                    )
            # The checkpoints are gigabytes, and are not needed after the last fraction.
            shutil.rmtree(folders[task].path / "candidates", ignore_errors=True)


def write(folder: Path) -> None:
    """Write the table: each setting that was recorded to its end with every seed."""
    recorded, baselines, about = {}, {}, {}
    for task, recipe in RECIPES.items():
        ledger = Ledger(StudyFolder(folder / task))
        history, baseline = ledger.history(), ledger.baseline()
        assert baseline is not None, "record before you write"
        ended = [m.candidate.setting for m in history if m.fraction == 1 or not m.scores]
        complete = {setting for setting in ended if ended.count(setting) == len(SEEDS)}
        recorded[task] = sorted(
            (m for m in history if m.candidate.setting in complete),
            key=lambda m: (m.candidate.id, m.fraction),
        )
        baselines[task] = baseline
        about[task] = {
            "recipe": recipe.model_dump(mode="json"),
            "date": time.strftime("%Y-%m-%d"),
            "versions": {
                name: version(name) for name in ("rung", "torch", "transformers", "bitsandbytes")
            },
        }
        print(
            f"{task}: {len(complete)} settings, {len(recorded[task])} measurements, "
            f"{sum(m.spent for m in history):,} tokens"
        )
    write_table(TABLE, recorded, baselines, about)
    print(f"{TABLE}: {TABLE.stat().st_size / 1e6:.2f} MB")


def main() -> None:
    """Record, or write the table of what was recorded."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("recordings"))
    parser.add_argument("--write", action="store_true", help="write the table, and train nothing")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    if options.write:
        write(options.folder)
    else:
        record(options.folder)


if __name__ == "__main__":
    main()
