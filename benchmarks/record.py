"""Record the replay table: every setting of a grid, trained and judged by the engine on real data.

Each run is what the local runner does in a study: a pack of eight, cooled-down branches judged at an eighth, a quarter,
a half and all of the budget, the loss of each validation row. Stop it at any time; the same command goes on. With
`--write` it puts what there is so far into the table that `rung.runner.replay` reads.

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
from rung.runner.training import CheckpointTimer
from rung.runner.replay import TABLE, load_table, write_table
from rung.search.strategy import Stage
from rung.study.folder import StudyFolder
from rung.study.ledger import Ledger
from rung.types import Candidate, Setting

RANKS = (4, 16, 64, 8)
"""In the order in which they are recorded: what there is makes a table after the third."""
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
VALIDATION = {"pronounce": 160, "price": 96}


def groups() -> Iterator[tuple[Candidate, ...]]:
    """Packs of one seed, one rank and one set of targets."""
    for rank, targets, seed in itertools.product(RANKS, TARGETS, SEEDS):
        yield tuple(
            Candidate(Setting(rank, scale * rank, targets, rate), seed=seed)
            for scale in SCALES
            for rate in RATES
        )


def data(task: str, tokenizer: Any) -> Data:
    """The task's, with fewer validation rows: each costs four passes in every run."""
    whole = prepare(RECIPES[task], tokenizer)
    return replace(whole, validation=whole.validation[: VALIDATION[task]])


def quiet(_: StepProgress) -> None:
    """Nobody listens."""


def record(folder: Path) -> None:
    """Train whatever is not recorded yet."""
    homes = {task: StudyFolder(folder / task) for task in RECIPES}
    ledgers = {task: Ledger(home) for task, home in homes.items()}
    # Packs that save every minute would write gigabytes; a lost pack costs a few minutes.
    runners = {
        task: LocalRunner(
            base := load_base(recipe.model),
            data(task, base.tokenizer),
            recipe,
            homes[task],
            CheckpointTimer(time.perf_counter, 240),
            min_race_rows=VALIDATION[task],
        )
        for task, recipe in RECIPES.items()
    }
    for task, ledger in ledgers.items():
        # What an earlier recording has left in the table need not be trained again.
        known = {(m.candidate, m.fraction) for m in ledger.history()}
        for points in load_table(task).runs.values() if TABLE.exists() else ():
            for point in points.values():
                if (point.candidate, point.fraction) not in known:
                    ledger.record(point)
        if ledger.baseline() is None:
            ledger.record_baseline(runners[task].baseline())
    for group in groups():
        for task, ledger in ledgers.items():
            for fraction in FRACTIONS:
                history = ledger.history()
                done = {m.candidate for m in history if m.fraction == fraction or not m.scores}
                if missing := tuple(candidate for candidate in group if candidate not in done):
                    begun = time.perf_counter()
                    measured = runners[task].run(Stage("record", missing, fraction), quiet)
                    for measurement in measured:
                        ledger.record(measurement)
                    seconds, spent = time.perf_counter() - begun, sum(m.spent for m in measured)
                    losses = " ".join(f"{m.loss:.3f}" for m in measured)
                    what = f"{task} s{group[0].seed} r{group[0].rank} {group[0].targets} {fraction:.3f}"
                    said = f"{time.strftime('%H:%M:%S')} {what}: {losses} · {spent} tokens, {seconds:.0f} s"
                    print(said, file=sys.stderr, flush=True)
            # Gigabytes, and never gone on from.
            shutil.rmtree(homes[task].path / "candidates", ignore_errors=True)


def write(folder: Path) -> None:
    """The table of what is recorded: each setting that came to its end with every seed."""
    judged, baselines, about = {}, {}, {}
    for task, recipe in RECIPES.items():
        ledger = Ledger(StudyFolder(folder / task))
        history, baseline = ledger.history(), ledger.baseline()
        assert baseline is not None, "record before you write"
        ended = [m.candidate.setting for m in history if m.fraction == 1 or not m.scores]
        whole = {setting for setting in ended if ended.count(setting) == len(SEEDS)}
        judged[task] = sorted(
            (m for m in history if m.candidate.setting in whole),
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
            f"{task}: {len(whole)} settings, {len(judged[task])} judgements, {sum(m.spent for m in history):,} tokens"
        )
    write_table(TABLE, judged, baselines, about)
    print(f"{TABLE}: {TABLE.stat().st_size / 1e6:.2f} MB")


def main() -> None:
    """Record, or write what was recorded."""
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
