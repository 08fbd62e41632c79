"""The judgement of the judge: what a climb claims where there is nothing to find, and what it finds where there is.

- *Null*: all candidates are the same but for chance. How often does a climb say that anything is better?
- *Power*: doubling the lowest rank is worth twice the margin. How often does the climb come to say so, and how often
  that it is worth nothing? By the noise of seeds, how many confirm, and how many more it may add; `power` is the
  default plan's at a third of the margin.
- *Coverage*: how often do 95 % intervals of a gain hold the true one, and those of a setting's own loss?
- *Replay*: strategies on a recorded table of real trainings. How much worse than the best setting of the whole table is
  what each recommends, and for what share of the table's training, all of its seeds counted? And on parts of the
  table, without one of its ranks or one of its rates or both, which are as many tables more; and with the grid of rates
  that a climb lays and may grow, where what lies between and beyond the recorded rates is made up.

    python benchmarks/search.py [--quick] [--json] [--write docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator

from rung.atomic import write_text
from rung.runner.protocol import StepProgress
from rung.runner.replay import ReplayRunner, Table, load_table
from rung.search.climb import Climb
from rung.search.effort import Effort, choose_race_fraction, rate_grid
from rung.search.grid import Grid, Random
from rung.search.stats import gain_estimate, loss_estimate, run_noise, seed_noise
from rung.search.strategy import Decision, Stage, Strategy
from rung.search.tpe import Tpe
from rung.types import Candidate, LeverSpace, Measurement, Scores, Setting

TASKS = ("pronounce", "price")
MARGIN = 0.01
NULLS = 4
"""In how many pieces the climbs with nothing to find are played."""
SPACE = LeverSpace(
    (8, 16, 32, 64), (1e-3, 2e-3, 4e-3, 8e-3), ("attention", "mlp", "all-linear"), ("2r", "r", "4r")
)
ROWS, TOKENS = 200, 8
SEEDS_DEVIATION = 0.01
ROWS_DEVIATION = 0.14
LOSS = 1.5
"""A made-up world as the recorded ones are: a loss in nats a token, and its deviations from run to run, and from row to
row of a difference.
"""


@dataclass
class World:
    """Made-up trainings; `gain` is by how much a candidate's loss lies below `LOSS`. Each run has its own noise."""

    draw: np.random.Generator
    gain: Callable[[Candidate], float] = lambda candidate: 0.0
    noise: float = SEEDS_DEVIATION

    def __post_init__(self) -> None:
        self.hard = self.draw.normal(0, 0.5, ROWS)

    def baseline(self) -> Scores:
        return Scores(tuple(np.full(ROWS, 3.0 * TOKENS).tolist()), (TOKENS,) * ROWS)

    def run(self, stage: Stage) -> list[Measurement]:
        return [self.measure(candidate, stage.fraction) for candidate in stage.candidates]

    def measure(self, candidate: Candidate, fraction: float) -> Measurement:
        run = self.draw.normal(0, self.noise) + 0.3 * (1 - fraction)
        own = self.draw.normal(0, ROWS_DEVIATION / math.sqrt(2), ROWS)
        losses = TOKENS * (LOSS - self.gain(candidate) + self.hard + run + own)
        scores = Scores(tuple(losses.tolist()), (TOKENS,) * ROWS)
        size = candidate.rank * {"attention": 10, "mlp": 15}.get(candidate.targets, 25)
        return Measurement(
            candidate, fraction, 10, 1000, 1000, "trained", scores, size, size, 0, 1.0
        )


def play(
    strategy: Strategy, baseline: Scores, run: Callable[[Stage], Sequence[Measurement]]
) -> tuple[Decision, list[Measurement]]:
    """A strategy to its end."""
    history: list[Measurement] = []
    while True:
        decision = strategy.decide(baseline, history)
        if decision.stage is None:
            return decision, history
        history += run(decision.stage)


def null(climbs: int, draw: np.random.Generator, effort: Effort) -> dict[str, Any]:
    """The share of climbs among identical candidates that call anything better."""
    false = 0
    for _ in range(climbs):
        world = World(draw)
        decision, _ = play(Climb(SPACE, MARGIN, effort), world.baseline(), world.run)
        false += _claims(decision)
    return {"climbs": climbs, "false_better": false / climbs}


def _claims(decision: Decision) -> bool:
    return any(
        verdict.outcome == "better" and verdict.lever != "adapter" for verdict in decision.verdicts
    )


def null_of_table(task: str, climbs: int, draw: np.random.Generator) -> dict[str, Any]:
    """The same with real noise: every candidate is one recorded setting, and each of its runs is off by what two
    recorded seeds of some setting differ by (over √2), with either sign, rows drawn anew.
    """
    table = load_table(task)
    pairs = {
        fraction: [
            np.subtract(results[0].scores.losses, results[1].scores.losses) / math.sqrt(2)
            for setting in table.settings
            if len(results := [table.runs[Candidate(setting, s)][fraction] for s in table.seeds])
            == 2
            and results[0].scores
            and results[1].scores
        ]
        for fraction in table.fractions
    }
    best, tokens = table.best(), np.array(table.tokens)
    false = 0
    for _ in range(climbs):
        rows = draw.integers(len(tokens), size=len(tokens))

        def measure(candidate: Candidate, fraction: float, rows: Any = rows) -> Measurement:
            like = table.runs[Candidate(best, table.seeds[0])][fraction]
            assert like.scores
            noise = pairs[fraction][draw.integers(len(pairs[fraction]))] * draw.choice([-1, 1])
            losses = (np.array(like.scores.losses) + noise)[rows]
            scores = Scores(tuple(losses.tolist()), tuple(tokens[rows].tolist()))
            return replace(like, candidate=candidate, scores=scores, parameters=candidate.rank)

        baseline = Scores(
            tuple(np.array(table.baseline)[rows].tolist()), tuple(tokens[rows].tolist())
        )
        decision, _ = play(
            Climb(SPACE, MARGIN),
            baseline,
            lambda stage: [measure(c, stage.fraction) for c in stage.candidates],
        )
        false += _claims(decision)
    return {"climbs": climbs, "false_better": false / climbs}


def power(
    climbs: int, draw: np.random.Generator, noise: float, seeds: int, more: int
) -> dict[str, float]:
    """How often a climb says that rank 16 is better than rank 8, where it is by twice the margin; and its seeds."""
    space = replace(SPACE, targets=("attention",), alphas=("2r",), ranks=(8, 16))
    effort = Effort(seeds=tuple(range(1, seeds + 1)), more=more)
    found, missed, used = 0, 0, 0
    for _ in range(climbs):
        world = World(draw, lambda c: 2 * MARGIN * LOSS if c.rank > 8 else 0.0, noise)
        decision, history = play(Climb(space, MARGIN, effort), world.baseline(), world.run)
        told = {
            v.outcome
            for v in decision.verdicts
            if v.before and (v.kind, v.before.rank, v.after.rank) == ("confirmation", 8, 16)
        }
        found += "better" in told
        missed += "no_worthwhile_gain" in told
        used += len({m.candidate.seed for m in history} - {0})
    power_by = {"noise": noise / LOSS, "seeds": seeds, "more": more, "power": found / climbs}
    return power_by | {"called_no_gain": missed / climbs, "seeds_used": used / climbs}


POWER = (
    *((noise, 3, 0) for noise in (0.0025, 0.005, 0.01)),
    *((noise, 4, 0) for noise in (0.0025, 0.005, 0.01)),
    *((noise, 5, 0) for noise in (0.005, 0.01)),
    *((noise, 4, 4) for noise in (0.005, 0.01, 0.02)),
)
"""Noise of a run in nats, of a loss of 1.5; seeds of the confirmation; and how many more undecided pairs may get."""
POWERFUL = (0.005, len(Effort().seeds), 0)
"""Where `power` is measured: with the default plan."""


def coverage(trials: int, draw: np.random.Generator, seeds: int = 3) -> float:
    """How often the 95 % interval of a gain between two confirmed settings holds the true one."""
    held = 0
    for _ in range(trials):
        world = World(draw, lambda c: 0.1 if c.rank > 8 else 0.0)
        results = {
            (rank, seed): world.measure(
                Candidate(Setting(rank, 16, "mlp", 1e-3), seed=seed), 1.0
            ).scores
            for rank in (8, 16, 32)
            for seed in range(seeds)
        }
        noise = seed_noise({key: scores.mean for key, scores in results.items() if scores})
        assert noise is not None
        sides = [[s for (r, _), s in results.items() if r == rank and s] for rank in (8, 16)]
        interval = gain_estimate(sides[0], sides[1], noise.times(2 / seeds)).interval()
        # The rows' difficulty is the same on both sides, so the true gain is that of the settings.
        held += interval.low <= 0.1 <= interval.high
    return held / trials


def coverage_of_loss(trials: int, draw: np.random.Generator, seeds: int = 3) -> float:
    """How often the 95 % interval of a confirmed setting's own loss holds the true one, where what a seed does to all
    settings alike varies as much as what it does to one, and the rows less than either.
    """
    held = 0
    for _ in range(trials):
        shared, hard = draw.normal(0, SEEDS_DEVIATION, seeds), draw.normal(0, 0.05, ROWS)
        losses = LOSS + shared + draw.normal(0, SEEDS_DEVIATION, (2, seeds))  # of two settings
        noise = run_noise(
            {(setting, seed): loss for (setting, seed), loss in np.ndenumerate(losses)}
        )
        assert noise is not None
        results = [
            Scores(tuple((TOKENS * (loss + hard)).tolist()), (TOKENS,) * ROWS) for loss in losses[0]
        ]
        interval = loss_estimate(results, noise.times(1 / seeds)).interval()
        held += interval.low <= LOSS <= interval.high
    return held / trials


def strategies(
    table: Table, space: LeverSpace, budget: float
) -> dict[str, Callable[[int], Strategy]]:
    """What is compared, by a seed; those that can take any budget take `budget` full trainings."""
    wide = replace(space, learning_rates=(1e-5, 1e-3), pinned=False)
    grid = [s for s in table.settings if (s.rank, s.alpha, s.targets) == (16, 32, "all-linear")]
    shares = table.fractions[1:]
    return {
        "climb": lambda _: Climb(space, MARGIN, thorough(table)),
        "climb_default": lambda _: Climb(
            space, MARGIN, replace(Effort(look_of(table)), seeds=table.seeds)
        ),
        "climb_of_four": lambda _: Climb(space, MARGIN, Effort.within(space, 4.0, look_of(table))),
        "tpe": lambda seed: Tpe(wide, budget, shares=shares, seed=seed),
        "tpe_same_rates": lambda seed: Tpe(space, budget, shares=shares, seed=seed),
        "random": lambda seed: Random(space, round(budget), seed),
        "rate_grid": lambda _: Grid(grid),
        "recipe": lambda _: Grid([Setting(16, 32, "all-linear", 2e-4)]),
    }


def thorough(table: Table) -> Effort:
    """A plan that keeps to 15 % of all training that the table took: what is raced, its eight best in full, four of
    those with both seeds, and rungs. The seed that raced is one of the two, and goes on from the look.
    """
    return Effort(look_of(table), (9, 4), 8, 4, table.seeds)


def look_of(table: Table) -> float:
    """The look of a climb on the table's budget."""
    return choose_race_fraction(
        max(m.steps for points in table.runs.values() for m in points.values())
    )


ON_PARTS = ("climb", "climb_default", "climb_of_four", "tpe_same_rates", "random")
"""What is compared on parts of a table: the others try settings that some parts lack."""


BETWEEN = ("climb", "climb_default", "climb_of_four", "rate_grid", "recipe")
"""What is compared where the grid of rates is the climb's own."""
WIDTH = 576
"""Of the model that the tables were recorded with, which lays the grid."""
RISE = 0.1
"""A loss rises by so much of itself at the least, for a rate that is e times as far beyond the recorded ones."""


def part(space: LeverSpace, draw: np.random.Generator) -> LeverSpace:
    """The space without one of its ranks, one of its rates, or both."""
    without = draw.choice(["rank", "rate", "both"])
    ranks, rates = list(space.ranks), list(space.learning_rates)
    if without != "rate":
        ranks.pop(int(draw.integers(len(ranks))))
    if without != "rank":
        rates.pop(int(draw.integers(len(rates))))
    return replace(space, ranks=tuple(ranks), learning_rates=tuple(rates))


class Between(ReplayRunner):
    """A table at any learning rate. The logarithm of a loss follows a monotone curve through the recorded rates (PCHIP;
    Fritsch & Carlson, SIAM J. Numer. Anal. 17, 1980), and beyond them rises as it does at their ends, or by `RISE`:
    nobody has seen a best rate there. Rows keep their shares of a loss.
    """

    def _measure(self, candidate: Candidate, fraction: float) -> Measurement:
        found = super()._measure(candidate, fraction)
        if not found.scores:
            return found
        recorded = self._recorded(candidate)
        curve = curve_of(self.table, recorded, fraction)
        factor = math.exp(curve(candidate.learning_rate) - curve(recorded.learning_rate))
        return replace(
            found,
            scores=replace(
                found.scores, losses=tuple(factor * loss for loss in found.scores.losses)
            ),
        )


def curve_of(table: Table, recorded: Candidate, fraction: float) -> Callable[[float], float]:
    """The logarithm of the loss by learning rate, of a recorded candidate."""
    ends = {
        rate: end
        for rate in table.space.learning_rates
        if (end := table.runs[at_rate(recorded, rate)].get(fraction)) and end.scores
    }
    rates, losses = np.log(list(ends)), np.log([end.loss for end in ends.values()])
    within = PchipInterpolator(rates, losses)

    def curve(rate: float) -> float:
        inside = float(np.clip(np.log(rate), rates[0], rates[-1]))
        away, side = math.log(rate) - inside, slice(2) if inside == rates[0] else slice(-2, None)
        slope = np.diff(losses[side])[0] / np.diff(rates[side])[0]
        return float(within(inside) + max(RISE * abs(away), slope * away))

    return curve


def at_rate(candidate: Candidate, rate: float) -> Candidate:
    """The candidate with another learning rate."""
    return replace(candidate, setting=replace(candidate.setting, learning_rate=rate))


def losses_of(table: Table, between: bool) -> Callable[[Setting], float]:
    """The full-budget loss of a setting, or of the recorded one that plays it; with `between`, at any rate."""

    @cache
    def loss(setting: Setting) -> float:
        recorded = table.nearest(setting)
        if not between:
            return table.loss(recorded)
        curves = [curve_of(table, Candidate(recorded, seed), 1.0) for seed in table.seeds]
        return math.fsum(math.exp(curve(setting.learning_rate)) for curve in curves) / len(curves)

    return loss


def replays(task: str, count: int, seed: int, world: str = "") -> dict[str, Any]:
    """What each strategy comes to, over `count` replays: regrets against the best that it could have found, and costs.

    All of them see the same worlds: the same draws of rows and seeds, and the same parts. `world` is `parts` or
    `between` where it is not the table.
    """
    table = load_table(task)
    loss = losses_of(table, world == "between")
    whole = table.full_tokens * len(table.settings) * len(table.seeds)
    found: dict[str, Any] = {}
    for name in {"parts": ON_PARTS, "between": BETWEEN}.get(world) or strategies(
        table, table.space, 1.0
    ):
        regrets, costs = [], []
        budget = found.get("climb", {}).get("cost", 1.0)
        for number in range(count):
            draw = np.random.default_rng([seed, number])
            space = table.space
            if world == "parts":
                space = part(space, draw)
            elif world == "between":
                space = replace(space, learning_rates=rate_grid(WIDTH), pinned=False)
            strategy = strategies(table, space, budget)[name](number)
            runner = (Between if world == "between" else ReplayRunner)(table, draw)
            decision, history = play(strategy, runner.baseline(), partial(runner.run, tick=_quiet))
            assert decision.recommended is not None
            if world == "between":
                lowest, *_, highest = space.learning_rates
                space = replace(
                    space, learning_rates=(lowest / 2, *space.learning_rates, highest * 2)
                )
            could = [s for s in space.settings() if world == "between" or s in table.settings]
            regrets.append(loss(decision.recommended.setting) / min(map(loss, could)) - 1)
            costs.append(sum(m.spent for m in history))
        found[name] = {
            "regret_mean": float(np.mean(regrets)),
            "regret_p90": float(np.quantile(regrets, 0.9)),
            "within_1_percent": float(np.mean(np.array(regrets) <= 0.01)),
            "cost": float(np.mean(costs)) / table.full_tokens,
            "cost_fraction": float(np.mean(costs)) / whole,
        }
    return found


def _quiet(_: StepProgress) -> None:
    """Nobody listens."""


def merged(tasks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The figures of each strategy: the mean over the tasks; of the ninetieth percentile, the worst."""
    names = next(iter(tasks.values()))
    return {
        name: {
            key: max(t[name][key] for t in tasks.values())
            if key == "regret_p90"
            else float(np.mean([t[name][key] for t in tasks.values()]))
            for key in names[name]
        }
        for name in names
    }


def main() -> None:
    """Judge, and print or write it down."""
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
    begun = time.perf_counter()
    document = judged(climbs, count, parts=not options.quick) | {
        "seconds": round(time.perf_counter() - begun)
    }
    print(json.dumps(document, indent=2) if options.json else markdown(document))
    if options.write:
        before, _, rest = options.write.read_text(encoding="utf-8").partition(MARKS[0])
        _, _, after = rest.partition(MARKS[1])
        write_text(
            options.write, f"{before}{MARKS[0]}\n\n{markdown(document)}\n\n{MARKS[1]}{after}"
        )


def judged(climbs: int, count: int, parts: bool) -> dict[str, Any]:
    """Everything, on all cores: each piece has random numbers of its own, so their order changes nothing."""
    draws = iter(np.random.default_rng(20261125).spawn(100))
    # The matrices are tiny: a thread more in each process only gets in the way. It is read as numpy is loaded.
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:

        def each(
            function: Callable[..., Any], given: Sequence[tuple[Any, ...]]
        ) -> list[Future[Any]]:
            return [pool.submit(function, *one) for one in given]

        # The longest first.
        wholes = each(replays, [(task, count, 1) for task in TASKS])
        lacking = each(replays, [(task, count, 2, "parts") for task in TASKS if parts])
        between = each(replays, [(task, count, 3, "between") for task in TASKS])
        tables = each(null_of_table, [(task, climbs // 20, next(draws)) for task in TASKS])
        nulls = each(null, [(climbs // NULLS, next(draws), Effort()) for _ in range(NULLS)])
        more = each(null, [(climbs // 20, next(draws), Effort(more=5))])
        powers = each(
            power, [(climbs // (5 if by == POWERFUL else 20), next(draws), *by) for by in POWER]
        )
        covered = [
            *each(coverage, [(climbs, next(draws))]),
            *each(coverage_of_loss, [(climbs, next(draws))]),
        ]
        found = {
            "null": {
                "climbs": sum(n.result()["climbs"] for n in nulls),
                "false_better": float(np.mean([n.result()["false_better"] for n in nulls])),
            },
            "null_more_seeds": more[0].result(),
            "null_of_table": dict(zip(TASKS, (t.result() for t in tables), strict=True)),
            "power": next(
                p.result()["power"] for p, by in zip(powers, POWER, strict=True) if by == POWERFUL
            ),
            "power_by": [p.result() for p in powers],
            "coverage": covered[0].result(),
            "coverage_of_loss": covered[1].result(),
            "replay_by_task": dict(zip(TASKS, (w.result() for w in wholes), strict=True)),
            "replay_between": dict(zip(TASKS, (b.result() for b in between), strict=True)),
        }
        if parts:
            found["replay_parts"] = dict(zip(TASKS, (p.result() for p in lacking), strict=True))
        return found | {"replay": merged(found["replay_by_task"])}


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
"""What lies between them in the page is written anew."""


def markdown(document: dict[str, Any]) -> str:
    """The document as the tables of docs/benchmarks.md."""
    null, of_table = document["null"], document["null_of_table"]
    processor = next(
        (line.split(": ")[1] for line in _processor() if line.startswith("model name")), "unknown"
    )
    lines = [
        f"{time.strftime('%Y-%m-%d')}, {document['seconds']} s on {os.cpu_count()} cores of an {processor}.",
        "",
        "| what | of | found | wanted |",
        "|---|---|---|---|",
        f"| anything called better where all is the same | {null['climbs']:,} climbs | {null['false_better']:.1%} "
        "| at most 5 % |",
        f"| the same, where five more seeds may be added | {document['null_more_seeds']['climbs']:,} climbs "
        f"| {document['null_more_seeds']['false_better']:.1%} | at most 5 % |",
        *(
            f"| the same, with the noise of the recorded runs of *{task}* | {one['climbs']:,} climbs "
            f"| {one['false_better']:.1%} | at most 5 % |"
            for task, one in of_table.items()
        ),
        f"| 95 % intervals that hold the true gain | {null['climbs']:,} gains | {document['coverage']:.1%} "
        "| at least 94 % |",
        f"| 95 % intervals that hold a setting's true loss | {null['climbs']:,} losses "
        f"| {document['coverage_of_loss']:.1%} | at least 94 % |",
        "| a gain of twice the margin, found by the default plan, where a run's noise is a third of the margin "
        f"| {null['climbs'] // 5:,} climbs "
        f"| {document['power']:.0%} | at least 90 % |",
        "",
        "| noise from run to run | seeds | more where undecided | seeds used | twice the margin is found "
        "| is called no worthwhile gain |",
        "|---|---|---|---|---|---|",
        *(
            f"| {p['noise']:.2%} | {p['seeds']} | {p['more'] or ''} | {p['seeds_used']:.1f} | {p['power']:.0%} "
            f"| {p['called_no_gain']:.1%} |"
            for p in document["power_by"]
        ),
    ]
    tables = {f"*{task}*": found for task, found in document["replay_by_task"].items()}
    tables |= {
        f"parts of *{task}*": found for task, found in document.get("replay_parts", {}).items()
    }
    tables |= {
        f"*{task}*, the climb's own rates": found
        for task, found in document["replay_between"].items()
    }
    for title, found in tables.items():
        lines += [
            "",
            f"| {title} | mean regret | 90th percentile | within 1 % | full trainings | of the table |",
        ]
        lines += ["|---|---|---|---|---|---|"]
        lines += [
            f"| {NAMES[name]} | {r['regret_mean']:.1%} | {r['regret_p90']:.1%} | {r['within_1_percent']:.0%} | "
            f"{r['cost']:.1f} | {r['cost_fraction']:.1%} |"
            for name, r in found.items()
        ]
    return re.sub(r"(\d)%", r"\1 %", "\n".join(lines))


def _processor() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


if __name__ == "__main__":
    main()
