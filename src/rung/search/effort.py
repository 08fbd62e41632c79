"""How thorough a climb is, at which fraction it races, and which learning rates it starts with."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rung.types import LeverSpace

MIN_RACE_STEPS = 20
"""With fewer steps, chance hides the differences between settings. After 10 and 11 steps the better
of two settings was hardly recognized, after 20 and 22 steps it was (docs/log.md)."""
SETTINGS_PER_EXTENSION = 4
"""How many settings a further round of the race tries when the grid of learning rates grows."""
MAX_LADDER_STEPS = 4
"""How many further ranks a climb confirms at the most."""


def rate_grid(hidden_size: int) -> tuple[float, ...]:
    """Four learning rates, a factor of two apart, for a model of this width.

    They are used if the user names none. Larger models need smaller rates. At width 576 the best
    rates were 1e-3 to 2e-3 on all linear layers, and 2e-3 on attention (docs/log.md). The exponent
    is a rule of thumb that puts the grid around 3e-4 at width 4,096. A guess that is too low costs
    an extension of the grid; a guess that is too high spends the race on settings that fail.
    """
    middle = float(f"{2e-3 * (576 / hidden_size) ** 0.8:.1g}")
    return tuple(float(f"{middle * factor:.6g}") for factor in (0.25, 0.5, 1, 2))


def choose_race_fraction(steps: int) -> float:
    """The fraction of a budget of so many steps at which the race is judged.

    It is the smallest one that has `MIN_RACE_STEPS` steps, and at most half of the budget.
    """
    return next(
        (fraction for fraction in (1 / 16, 1 / 8, 1 / 4) if fraction * steps >= MIN_RACE_STEPS),
        1 / 2,
    )


@dataclass(frozen=True, slots=True)
class Effort:
    """How thorough a climb is.

    Attributes:
        race_fraction: the share of the full budget at which the race is judged.
        rounds: how many settings each round of the race tries. The first round tries ranks and
            learning rates alone.
        semifinalists: how many of the best go on to the full budget before the finalists are
            chosen.
        finalists: how many settings are confirmed.
        seeds: the seeds that confirm them.
        max_ladder_steps: how many further ranks may be confirmed.
        extra_seeds: how many more seeds undecided comparisons get, if those can decide them.
        grid_extensions: how many more rounds the race may have when the best learning rate is at
            the edge of a grid that the user has not named.
    """

    race_fraction: float = 1 / 4
    rounds: tuple[int, ...] = (9, 8)
    semifinalists: int = 4
    finalists: int = 3
    seeds: tuple[int, ...] = (1, 2, 3, 4)
    max_ladder_steps: int = MAX_LADDER_STEPS
    extra_seeds: int = 0
    grid_extensions: int = 2

    @property
    def can_decide(self) -> bool:
        """Whether it can come to verdicts: with one seed no gain can be told from luck."""
        return len(self.seeds) > 1 and self.finalists > 1

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds that may confirm: `seeds`, and the extra ones after them."""
        return (*self.seeds, *range(self.seeds[-1] + 1, self.seeds[-1] + 1 + self.extra_seeds))

    @property
    def runs_per_finalist(self) -> int:
        """How many runs of each finalist the confirmation starts with.

        A semifinalist has a full run with seed 0 already.
        """
        return len(self.seeds) - (self.semifinalists > 0 and 0 in self.seeds)

    def cost(self, space: LeverSpace) -> float:
        """The most that the climb takes without ladder steps, in full budgets of one candidate."""
        settings = len(space.settings())
        finalists = min(self.finalists, settings)
        extensions = 0 if space.rates_fixed else self.grid_extensions * SETTINGS_PER_EXTENSION
        raced = sum(self.rounds) + extensions
        if space.rates_fixed and len(space.targets) == 1:
            raced = min(raced, settings)
        race = 0.0
        if settings > self.finalists:
            # A semifinalist resumes from its cooldown start, so it trains the cooldown of the race
            # once more.
            race = raced * self.race_fraction + self.semifinalists * (1 - self.race_fraction / 2)
        return race + finalists * (self.runs_per_finalist + self.extra_seeds)

    @classmethod
    def within_budget(
        cls, space: LeverSpace, budget: float, race_fraction: float = 1 / 4
    ) -> Effort:
        """The most thorough effort that the budget allows, or else the cheapest one.

        Args:
            space: what the climb may try.
            budget: in full budgets of one candidate.
            race_fraction: at which the race is judged; at twice that if all else is paid for.
        """
        efforts = [
            cls(
                min(1 / 2, race_fraction * factor),
                rounds,
                semifinalists,
                finalists,
                seeds,
                MAX_LADDER_STEPS,
                extra_seeds,
                grid_extensions,
            )
            for (
                factor,
                rounds,
                semifinalists,
                finalists,
                seeds,
                extra_seeds,
                grid_extensions,
            ) in _EFFORTS
        ]
        effort = next((e for e in efforts if e.cost(space) <= budget), efforts[-1])
        steps = int((budget - effort.cost(space)) / len(effort.seeds))
        return replace(effort, max_ladder_steps=max(0, min(MAX_LADDER_STEPS, steps)))


_EFFORTS: tuple[tuple[int, tuple[int, ...], int, int, tuple[int, ...], int, int], ...] = (
    (2, (9, 8, 8), 8, 4, (1, 2, 3, 4, 5), 5, 2),
    (1, (9, 8, 8), 8, 4, (1, 2, 3, 4, 5), 5, 2),
    (1, (9, 8), 8, 4, (1, 2, 3, 4), 4, 2),
    (1, (9, 8), 8, 4, (1, 2, 3, 4), 0, 2),
    (1, (9, 8), 4, 3, (1, 2, 3, 4), 0, 2),
    (1, (9, 8), 0, 3, (1, 2, 3, 4), 0, 2),
    (1, (9, 8), 0, 3, (1, 2, 3), 0, 2),
    (1, (9, 4), 2, 2, (1, 2, 3), 0, 1),
    (1, (9, 4), 0, 2, (1, 2, 3), 0, 0),
    (1, (9,), 2, 2, (1, 2), 0, 0),
    (1, (9,), 0, 2, (1, 2), 0, 0),
    # From here on no gain can be told from luck. The leaders train to the full budget with the
    # seed that they have.
    (1, (9,), 3, 1, (0,), 0, 0),
    (1, (9,), 2, 1, (0,), 0, 0),
    (1, (6,), 2, 1, (0,), 0, 0),
    (1, (6,), 1, 1, (0,), 0, 0),
    (1, (4,), 1, 1, (0,), 0, 0),
)
"""The efforts that a budget chooses from, the most thorough first.

In each: the factor of the race fraction, rounds, semifinalists, finalists, seeds, extra seeds, and
grid extensions.
"""
