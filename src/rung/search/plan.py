"""How much a climb spends, and where its learning rates begin."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rung.levers import LeverSpace

EXTENSIONS = 2
"""How many times the grid of learning rates may grow, where it is not the user's own."""


def rate_grid(hidden_size: int) -> tuple[float, ...]:
    """Four learning rates, a factor of two apart, for a model of that width where the user names none.

    Larger models take smaller rates. 2e-3 was the best at width 576 (docs/log.md); the exponent is a rule of thumb
    that puts the grid around 4e-4 for a width of 4,096. A wrong guess costs an extension of the grid, not the answer.
    """
    middle = float(f"{2e-3 * (576 / hidden_size) ** 0.8:.1g}")
    return tuple(float(f"{middle * factor:.6g}") for factor in (0.5, 1, 2, 4))


@dataclass(frozen=True, slots=True)
class Plan:
    """How much a climb spends.

    The share of the budget at the `look`, at how many `rates` the values of the other levers are tried there, how many
    `finalists`, the `seeds` that confirm them, and by how many `rungs` the ladder may go on from there.
    """

    look: float = 1 / 8
    rates: int = 2
    finalists: int = 3
    seeds: tuple[int, ...] = (1, 2, 3)
    rungs: int = 4

    @property
    def decides(self) -> bool:
        """Whether it can come to verdicts: one seed cannot tell a difference from its own luck."""
        return len(self.seeds) > 1 and self.finalists > 1

    def cost(self, space: LeverSpace) -> float:
        """What the climb takes at the most, but for further rungs; in full budgets of one candidate."""
        tried = (0 if space.pinned else EXTENSIONS) + len(space.learning_rates)
        if len(space.targets) > 1:
            tried += self.rates + 1  # the output head, and the matched parameter count
        tried += self.rates * (len(space.targets) - 1 + len(space.ranks) - 1 + len(space.alphas) - 1)
        finalists = self.finalists if len(space.candidates()) > 1 else 1
        return tried * self.look + finalists * len(self.seeds) * (1 + self.look / 4)

    @classmethod
    def within(cls, space: LeverSpace, budget: float) -> Plan:
        """The most thorough plan that costs no more than `budget` full budgets; the thriftiest one where none does."""
        plans = [
            cls(look, rates, finalists, tuple(range(1, seeds + 1)))
            for look, rates, finalists, seeds in (
                (1 / 4, 2, 3, 8),
                (1 / 4, 2, 3, 5),
                (1 / 4, 2, 3, 3),
                (1 / 8, 2, 3, 3),
                (1 / 8, 1, 3, 3),
                (1 / 8, 1, 2, 3),
                (1 / 8, 1, 2, 2),
                (1 / 16, 1, 2, 2),
                (1 / 16, 1, 1, 1),
            )
        ]
        found = next((plan for plan in plans if plan.cost(space) <= budget), plans[-1])
        left = budget - found.cost(space)
        return replace(found, rungs=max(0, min(4, int(left / len(found.seeds)))))
