"""How much a climb spends, and where its learning rates begin."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rung.types import LeverSpace

MIN_RACE_STEPS = 20
"""Steps under which the luck of a run hides what its setting is worth: after 10 and 11 steps the better of two settings
was hardly told, after 20 and 22 it was (docs/log.md)."""
SETTINGS_PER_EXTENSION = 4
"""How many settings a further round of the race tries, where the grid of learning rates grows."""


def rate_grid(hidden_size: int) -> tuple[float, ...]:
    """Four learning rates, a factor of two apart, for a model of that width where the user names none.

    Larger models take smaller rates. At width 576 1e-3 to 2e-3 were the best on all linear layers, and 2e-3 on the
    attention (docs/log.md); the exponent is a rule of thumb that puts the grid around 3e-4 for a width of 4,096. A
    guess that is too low costs an extension of the grid; one too high spends the race on settings that are lost.
    """
    middle = float(f"{2e-3 * (576 / hidden_size) ** 0.8:.1g}")
    return tuple(float(f"{middle * factor:.6g}") for factor in (0.25, 0.5, 1, 2))


def choose_race_fraction(steps: int) -> float:
    """The share of a budget of so many steps at which a race can be judged: the smallest one with `LOOK_STEPS`."""
    return next(
        (share for share in (1 / 16, 1 / 8, 1 / 4) if share * steps >= MIN_RACE_STEPS), 1 / 2
    )


@dataclass(frozen=True, slots=True)
class Effort:
    """How much a climb spends.

    How many settings the `rounds` of the race try (the first round ranks and rates alone), at which share of the budget
    they are judged (the `look`), how many of the best go on to the full budget before the finalists are picked
    (`semifinalists`), how many `finalists` there are, the `seeds` that confirm them, by how many `rungs` the ladder may
    go on from there, how many `more` seeds undecided comparisons get, if those can decide them, and how many further
    rounds (`extensions`) the race may take where the best learning rate stands at the edge of a grid that is not the
    user's.
    """

    race_fraction: float = 1 / 4
    rounds: tuple[int, ...] = (9, 8)
    semifinalists: int = 4
    finalists: int = 3
    seeds: tuple[int, ...] = (1, 2, 3, 4)
    rungs: int = 4
    more: int = 0
    extensions: int = 2

    @property
    def decides(self) -> bool:
        """Whether it can come to verdicts: one seed cannot tell a difference from its own luck."""
        return len(self.seeds) > 1 and self.finalists > 1

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """Those that may confirm: `seeds`, and `more` after them."""
        return (*self.seeds, *range(self.seeds[-1] + 1, self.seeds[-1] + 1 + self.more))

    @property
    def runs(self) -> int:
        """How many runs of a finalist its confirmation begins with: a semifinalist has one with seed 0 already."""
        return len(self.seeds) - (self.semifinalists > 0 and 0 in self.seeds)

    def cost(self, space: LeverSpace) -> float:
        """What the climb takes at the most, but for further rungs; in full budgets of one candidate."""
        settings = len(space.settings())
        finalists = min(self.finalists, settings)
        tried = sum(self.rounds) + (0 if space.pinned else self.extensions * SETTINGS_PER_EXTENSION)
        if space.pinned and len(space.targets) == 1:
            tried = min(tried, settings)
        # A semifinalist goes on from its fork: what it cooled down for the look is trained once more.
        race = (
            tried * self.race_fraction + self.semifinalists * (1 - self.race_fraction / 2)
            if settings > self.finalists
            else 0.0
        )
        return race + finalists * (self.runs + self.more)

    @classmethod
    def within(cls, space: LeverSpace, budget: float, race_fraction: float = 1 / 4) -> Effort:
        """The most thorough plan that costs no more than `budget` full budgets, or else the thriftiest one.

        Its race is judged at the share `look` of a candidate's budget, or at twice it where all else is paid for.
        """
        plans = [
            cls(
                min(1 / 2, race_fraction * times),
                rounds,
                semi,
                finalists,
                seeds,
                4,
                more,
                extensions,
            )
            for times, rounds, semi, finalists, seeds, more, extensions in (
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
                # From here on nothing can be told from luck: what leads is trained in full, with the seed it has.
                (1, (9,), 3, 1, (0,), 0, 0),
                (1, (9,), 2, 1, (0,), 0, 0),
                (1, (6,), 2, 1, (0,), 0, 0),
                (1, (6,), 1, 1, (0,), 0, 0),
                (1, (4,), 1, 1, (0,), 0, 0),
            )
        ]
        found = next((effort for effort in plans if effort.cost(space) <= budget), plans[-1])
        left = budget - found.cost(space)
        return replace(found, rungs=max(0, min(4, int(left / len(found.seeds)))))
