"""Strategies on recorded tables: how good their recommendations are, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any, Literal

import numpy as np
from scipy.interpolate import PchipInterpolator
from search_worlds import MARGIN, play

from rung.runner.protocol import StepProgress
from rung.runner.replay import ReplayRunner, Table, load_table
from rung.search.climb import Climb
from rung.search.effort import Effort, choose_race_fraction, rate_grid
from rung.search.grid import Grid, Random
from rung.search.strategy import Stage, Strategy
from rung.search.tpe import Tpe
from rung.types import Candidate, LeverSpace, Measurement, Scores, Setting

TASKS = ("pronounce", "price")

World = Literal["table", "parts", "own_rates"]
"""What strategies are tried on.

`table`: the recorded grid. `parts`: the grid without one of its ranks or learning rates, or both.
`own_rates`: the recorded grid at the learning rates that a climb chooses by itself, and may extend;
losses between and beyond the recorded rates are interpolated.
"""

ON_PARTS = ("climb", "climb_default", "climb_of_four", "tpe_same_rates", "random")
"""The strategies on parts of a table. The others try settings that some parts lack."""
ON_OWN_RATES = ("climb", "climb_default", "climb_of_four", "rate_grid", "recipe")
"""The strategies where the learning rates are those of the climb."""
HIDDEN_SIZE = 576
"""Of the model that the tables were recorded with. It sets the learning rates of a climb."""
MIN_RISE = 0.1
"""Beyond the recorded rates the log loss rises by at least this for each factor of e."""


def strategies(
    table: Table, space: LeverSpace, budget: float
) -> dict[str, Callable[[int], Strategy]]:
    """What is compared, each made from a seed.

    Args:
        budget: in full trainings, for the strategies that can have any budget.
    """
    wide = replace(space, learning_rates=(1e-5, 1e-3), rates_fixed=False)
    four_rates = [
        s for s in table.settings if (s.rank, s.alpha, s.targets) == (16, 32, "all-linear")
    ]
    fraction = race_fraction(table)
    default = replace(Effort(fraction), seeds=table.seeds)
    of_four = Effort.within_budget(space, 4.0, fraction)
    fractions = table.fractions[1:]
    return {
        "climb": lambda _: Climb(space, MARGIN, thorough_effort(table)),
        "climb_default": lambda _: Climb(space, MARGIN, default),
        "climb_of_four": lambda _: Climb(space, MARGIN, of_four),
        "tpe": lambda seed: Tpe(wide, budget, fractions=fractions, seed=seed),
        "tpe_same_rates": lambda seed: Tpe(space, budget, fractions=fractions, seed=seed),
        "random": lambda seed: Random(space, round(budget), seed),
        "rate_grid": lambda _: Grid(four_rates),
        "recipe": lambda _: Grid([Setting(16, 32, "all-linear", 2e-4)]),
    }


def thorough_effort(table: Table) -> Effort:
    """An effort that costs at most 15 % of all training that the table took.

    Thirteen settings race, the eight best train in full, and four of those with both seeds. The
    seed of the race is one of the two, so the semifinalists resume.
    """
    return Effort(race_fraction(table), (9, 4), 8, 4, table.seeds)


def race_fraction(table: Table) -> float:
    """The race fraction of a climb with the table's budget."""
    return choose_race_fraction(
        max(m.steps for points in table.runs.values() for m in points.values())
    )


def part_of(space: LeverSpace, draw: np.random.Generator) -> LeverSpace:
    """The space without one of its ranks, one of its learning rates, or both."""
    without = draw.choice(["rank", "rate", "both"])
    ranks, rates = list(space.ranks), list(space.learning_rates)
    if without != "rate":
        ranks.pop(int(draw.integers(len(ranks))))
    if without != "rank":
        rates.pop(int(draw.integers(len(rates))))
    return replace(space, ranks=tuple(ranks), learning_rates=tuple(rates))


class InterpolatingRunner:
    """A table at any learning rate.

    The losses of a recorded run are moved by `log_loss_curve`. Each row keeps its share of the
    loss.
    """

    def __init__(self, table: Table, draw: np.random.Generator) -> None:
        self.replay = ReplayRunner(table, draw)

    def baseline(self) -> Scores:
        return self.replay.baseline()

    def run(self, stage: Stage, on_step: Callable[[StepProgress], None]) -> list[Measurement]:
        return [self._move(m) for m in self.replay.run(stage, on_step)]

    def _move(self, measurement: Measurement) -> Measurement:
        scores = measurement.scores
        if not scores:
            return measurement
        recorded = self.replay.recorded(measurement.candidate)
        curve = log_loss_curve(self.replay.table, recorded, measurement.fraction)
        factor = math.exp(
            curve(measurement.candidate.learning_rate) - curve(recorded.learning_rate)
        )
        losses = tuple(factor * loss for loss in scores.losses)
        return replace(measurement, scores=replace(scores, losses=losses))


def log_loss_curve(table: Table, recorded: Candidate, fraction: float) -> Callable[[float], float]:
    """The logarithm of a recorded candidate's loss by its learning rate.

    It is a monotone curve through the recorded rates (PCHIP; Fritsch & Carlson, SIAM J. Numer.
    Anal. 17, 1980). Beyond them it rises as at their ends, or by `MIN_RISE`, since no best rate was
    recorded there.
    """
    losses_by_rate = {}
    for rate in table.space.learning_rates:
        setting = replace(recorded.setting, learning_rate=rate)
        end = table.runs[Candidate(setting, recorded.seed)].get(fraction)
        if end and end.scores:
            losses_by_rate[rate] = end.loss
    rates, losses = np.log(list(losses_by_rate)), np.log(list(losses_by_rate.values()))
    between = PchipInterpolator(rates, losses)

    def curve(rate: float) -> float:
        inside = float(np.clip(np.log(rate), rates[0], rates[-1]))
        outside = math.log(rate) - inside
        ends = slice(2) if inside == rates[0] else slice(-2, None)
        slope = np.diff(losses[ends])[0] / np.diff(rates[ends])[0]
        return float(between(inside) + max(MIN_RISE * abs(outside), slope * outside))

    return curve


def true_losses(table: Table, interpolated: bool) -> Callable[[Setting], float]:
    """The full-budget loss of a setting, or of the recorded one that stands for it.

    Args:
        interpolated: whether losses are those of `InterpolatingRunner`, at any learning rate.
    """

    @cache
    def loss(setting: Setting) -> float:
        recorded = table.nearest(setting)
        if not interpolated:
            return table.loss(recorded)
        curves = [log_loss_curve(table, Candidate(recorded, seed), 1.0) for seed in table.seeds]
        return math.fsum(math.exp(curve(setting.learning_rate)) for curve in curves) / len(curves)

    return loss


def replays(task: str, count: int, seed: int, world: World = "table") -> dict[str, Any]:
    """The regrets and costs of each strategy over so many replays.

    A regret is against the best setting that the strategy could have chosen. All strategies see the
    same draws of rows and seeds, and the same parts.
    """
    table = load_table(task)
    loss = true_losses(table, world == "own_rates")
    whole = table.full_tokens * len(table.settings) * len(table.seeds)
    names = {
        "table": tuple(strategies(table, table.space, 1.0)),
        "parts": ON_PARTS,
        "own_rates": ON_OWN_RATES,
    }
    figures: dict[str, Any] = {}
    for name in names[world]:
        regrets, costs = [], []
        budget = figures.get("climb", {}).get("cost", 1.0)
        for number in range(count):
            draw = np.random.default_rng([seed, number])
            space = table.space
            if world == "parts":
                space = part_of(space, draw)
            elif world == "own_rates":
                space = replace(space, learning_rates=rate_grid(HIDDEN_SIZE), rates_fixed=False)
            strategy = strategies(table, space, budget)[name](number)
            runner = (InterpolatingRunner if world == "own_rates" else ReplayRunner)(table, draw)
            run = partial(runner.run, on_step=_ignore)
            decision, history = play(strategy, runner.baseline(), run)
            assert decision.recommended is not None
            possible = [s for s in space.settings() if s in table.settings]
            if world == "own_rates":
                lowest, *_, highest = rates = space.learning_rates
                extended = replace(space, learning_rates=(lowest / 2, *rates, highest * 2))
                possible = list(extended.settings())
            regrets.append(loss(decision.recommended.setting) / min(map(loss, possible)) - 1)
            costs.append(sum(m.spent for m in history))
        figures[name] = {
            "regret_mean": float(np.mean(regrets)),
            "regret_p90": float(np.quantile(regrets, 0.9)),
            "within_1_percent": float(np.mean(np.array(regrets) <= 0.01)),
            "cost": float(np.mean(costs)) / table.full_tokens,
            "cost_fraction": float(np.mean(costs)) / whole,
        }
    return figures


def mean_over_tasks(by_task: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The mean of each figure over the tasks; of the ninetieth percentile, the worst."""
    names = next(iter(by_task.values()))
    return {
        name: {
            figure: max(task[name][figure] for task in by_task.values())
            if figure == "regret_p90"
            else float(np.mean([task[name][figure] for task in by_task.values()]))
            for figure in names[name]
        }
        for name in names
    }


def _ignore(_: StepProgress) -> None:
    """No progress is shown."""
