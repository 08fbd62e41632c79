"""A benchmark of the search: what a climb claims and detects, and how its answers compare.

- *Null*: all candidates are the same but for chance. How often does a climb call anything better?
- *Power*: doubling the lowest rank is worth twice the margin. How often does the climb say so, and
  how often that it is no worthwhile gain? By the noise of seeds, how many seeds confirm, and how
  many may be added; `power` is that of the default effort with noise of a third of the margin.
- *Coverage*: how often do 95 % intervals of a gain, and of a setting's own loss, hold the true one?
- *Replay*: strategies on a recorded table of real trainings. How much worse is what each recommends
  than the best setting of the table, and what share of the table's training does it take, all seeds
  counted? Also on parts of the table, without one of its ranks or learning rates or both, and at
  the learning rates that a climb chooses and may extend, where the losses are interpolated.

    python benchmarks/search.py [--quick] [--json] [--write docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from search_replays import TASKS, mean_over_tasks, replays
from search_worlds import coverage, coverage_of_loss, null, null_of_table, power

from rung.atomic import write_text
from rung.search.effort import Effort

NULL_PIECES = 4
"""The climbs without a gain run in so many pieces."""
POWER = (
    *((noise, 3, 0) for noise in (0.0025, 0.005, 0.01)),
    *((noise, 4, 0) for noise in (0.0025, 0.005, 0.01)),
    *((noise, 5, 0) for noise in (0.005, 0.01)),
    *((noise, 4, 4) for noise in (0.005, 0.01, 0.02)),
)
"""The noise of a run in nats, of a loss of 1.5; the seeds; the extra seeds of undecided pairs."""
MAIN_POWER = (0.005, len(Effort().seeds), 0)
"""Where `power` is measured: the default effort."""


def main() -> None:
    """Run everything, and print or write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer replays; two minutes on two cores"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--write", type=Path, help="put the tables into this page, between its two marks"
    )
    options = parser.parse_args()
    if options.write and (
        options.quick or any(mark not in options.write.read_text("utf-8") for mark in MARKS)
    ):
        parser.error("--write takes the whole benchmark, and a page with both of its marks.")
    climbs, count = (2000, 16) if options.quick else (5000, 60)
    start = time.perf_counter()
    document = run_all(climbs, count, parts=not options.quick) | {
        "seconds": round(time.perf_counter() - start)
    }
    print(json.dumps(document, indent=2) if options.json else markdown(document))
    if options.write:
        before, _, rest = options.write.read_text(encoding="utf-8").partition(MARKS[0])
        _, _, after = rest.partition(MARKS[1])
        write_text(
            options.write, f"{before}{MARKS[0]}\n\n{markdown(document)}\n\n{MARKS[1]}{after}"
        )


def run_all(climbs: int, count: int, parts: bool) -> dict[str, Any]:
    """Run everything on all cores.

    Each piece has random numbers of its own, so the order in which the pieces run has no influence.

    Args:
        climbs: how many climbs without a gain.
        count: how many replays of each strategy.
        parts: whether there are replays of parts of the tables.
    """
    draws = iter(np.random.default_rng(20261125).spawn(100))
    # The matrices are small, and more threads in each process slow all of them down. These are
    # read when numpy is loaded.
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:

        def submit(
            function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
        ) -> list[Future[Any]]:
            return [pool.submit(function, *one) for one in arguments]

        # The longest first.
        on_tables = submit(replays, [(task, count, 1) for task in TASKS])
        on_parts = submit(replays, [(task, count, 2, "parts") for task in TASKS if parts])
        own_rates = submit(replays, [(task, count, 3, "own_rates") for task in TASKS])
        tables = submit(null_of_table, [(task, climbs // 20, next(draws)) for task in TASKS])
        nulls = submit(
            null, [(climbs // NULL_PIECES, next(draws), Effort()) for _ in range(NULL_PIECES)]
        )
        extra_seeds = submit(null, [(climbs // 20, next(draws), Effort(extra_seeds=5))])
        powers = submit(
            power, [(climbs // (5 if by == MAIN_POWER else 20), next(draws), *by) for by in POWER]
        )
        covered = [
            *submit(coverage, [(climbs, next(draws))]),
            *submit(coverage_of_loss, [(climbs, next(draws))]),
        ]
        document = {
            "null": {
                "climbs": sum(n.result()["climbs"] for n in nulls),
                "false_better": float(np.mean([n.result()["false_better"] for n in nulls])),
            },
            "null_extra_seeds": extra_seeds[0].result(),
            "null_of_table": _by_task(tables),
            "power": powers[POWER.index(MAIN_POWER)].result()["power"],
            "power_by": [p.result() for p in powers],
            "coverage": covered[0].result(),
            "coverage_of_loss": covered[1].result(),
            "replay_by_task": _by_task(on_tables),
            "replay_own_rates": _by_task(own_rates),
        }
        if parts:
            document["replay_parts"] = _by_task(on_parts)
        return document | {"replay": mean_over_tasks(document["replay_by_task"])}


def _by_task(results: Sequence[Future[Any]]) -> dict[str, Any]:
    return dict(zip(TASKS, (result.result() for result in results), strict=True))


NAMES = {
    "climb": "climb, thorough",
    "climb_default": "climb, as it is by default",
    "climb_of_four": "climb with a budget of four trainings",
    "tpe": "TPE + Hyperband, rates 1e-5 to 1e-3",
    "tpe_same_rates": "TPE + Hyperband, the table's rates",
    "random": "random",
    "rate_grid": "four rates at r 16, all-linear",
    "recipe": "r 16, alpha 32, 2e-4, all-linear",
}
MARKS = ("<!-- written by benchmarks/search.py -->", "<!-- until here -->")
"""The page between these marks is replaced."""


def markdown(document: dict[str, Any]) -> str:
    """The document as the tables of docs/benchmarks.md."""
    lines = [
        f"{time.strftime('%Y-%m-%d')}, {document['seconds']} s on {os.cpu_count()} cores of an "
        f"{_processor()}.",
        "",
        *_claims_table(document),
        "",
        "| noise from run to run | seeds | extra seeds | seeds used | twice the margin is better |"
        " is no worthwhile gain |",
        "|---|---|---|---|---|---|",
        *(
            f"| {p['noise']:.2%} | {p['seeds']} | {p['extra_seeds'] or ''} "
            f"| {p['seeds_used']:.1f} | {p['power']:.0%} | {p['called_no_gain']:.1%} |"
            for p in document["power_by"]
        ),
    ]
    replays_by_title = {
        **{f"*{task}*": figures for task, figures in document["replay_by_task"].items()},
        **{
            f"parts of *{task}*": figures
            for task, figures in document.get("replay_parts", {}).items()
        },
        **{
            f"*{task}*, the climb's own rates": figures
            for task, figures in document["replay_own_rates"].items()
        },
    }
    for title, figures in replays_by_title.items():
        lines += [
            "",
            f"| {title} | mean regret | 90th percentile | within 1 % | full trainings "
            "| of the table |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {NAMES[name]} | {r['regret_mean']:.1%} | {r['regret_p90']:.1%} "
            f"| {r['within_1_percent']:.0%} | {r['cost']:.1f} | {r['cost_fraction']:.1%} |"
            for name, r in figures.items()
        ]
    return re.sub(r"(\d)%", r"\1 %", "\n".join(lines))


def _claims_table(document: dict[str, Any]) -> list[str]:
    null, extra_seeds = document["null"], document["null_extra_seeds"]
    climbs = null["climbs"]
    rows = [
        (
            "anything called better where all is the same",
            f"{climbs:,} climbs",
            f"{null['false_better']:.1%}",
            "at most 5 %",
        ),
        (
            "the same, where five extra seeds may be used",
            f"{extra_seeds['climbs']:,} climbs",
            f"{extra_seeds['false_better']:.1%}",
            "at most 5 %",
        ),
        *(
            (
                f"the same, with the noise of the recorded runs of *{task}*",
                f"{one['climbs']:,} climbs",
                f"{one['false_better']:.1%}",
                "at most 5 %",
            )
            for task, one in document["null_of_table"].items()
        ),
        (
            "95 % intervals that hold the true gain",
            f"{climbs:,} gains",
            f"{document['coverage']:.1%}",
            "at least 94 %",
        ),
        (
            "95 % intervals that hold a setting's true loss",
            f"{climbs:,} losses",
            f"{document['coverage_of_loss']:.1%}",
            "at least 94 %",
        ),
        (
            "a gain of twice the margin, detected by the default effort, where a run's noise is "
            "a third of the margin",
            f"{climbs // 5:,} climbs",
            f"{document['power']:.0%}",
            "at least 90 %",
        ),
    ]
    return [
        "| what | of | result | wanted |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _processor() -> str:
    """The name of the processor, where /proc tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
