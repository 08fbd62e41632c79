"""The climb: the learning rate, then the rank ladder, then the recommendation.

1. *Learning rate.* A grid of rates at the lowest rank. One look at a third of the budget lets hopeless ones leave; the
   others go on to the end. Where the best stands at an edge of the grid, and is better than its neighbour there, the
   grid grows by a factor of two.
2. *Rank.* The rungs up to the third in one pack, alpha twice the rank; the first rung is the grid's winner itself.
   Further rungs one at a time, while the upper bound of the last doubling's gain reaches the margin. Each rung is
   tried at the best rate so far and at half of it, for the best rate can fall as the rank grows: on *pronounce*, rank
   32 looks worse than rank 8 at the rate that suits rank 8, and is better at half of it (docs/log.md).
3. *Recommendation.* The smallest rank that the evidence cannot tell from the best: none of the rungs is shown to be
   worthwhile better than it.

All final comparisons are of candidates whose rate has decayed to zero. The look is not, and a half-trained loss
flatters low rates: a high one's noise has not cooled down yet. So at the look a candidate can leave only behind one
with a higher rate than its own, which cooling down will help at least as much.

Every lever's intervals hold together: Bonferroni over all pairs of the values that could be tried, the look apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rung.errors import TrainingError
from rung.levers import Candidate, LeverSpace, Measurement, Scores, Verdict
from rung.search.stats import gain_interval, judge, shared_confidence
from rung.search.strategy import Decision, Heat

LOOK = 1 / 3
EXTENSIONS = 2
"""How many times the grid of learning rates may grow."""
FIRST_RUNGS = 3
"""How many rungs the first pack of the ladder reaches up to."""


def rate_grid(hidden_size: int) -> tuple[float, ...]:
    """Four learning rates, a factor of two apart, for a model of that width where the user names none.

    Larger models take smaller rates. 2e-3 was the best at width 576 (docs/log.md); the exponent is a rule of thumb
    that puts the grid around 4e-4 for a width of 4,096. A wrong guess costs an extension of the grid, not the answer.
    """
    middle = float(f"{2e-3 * (576 / hidden_size) ** 0.8:.1g}")
    return tuple(float(f"{middle * factor:.6g}") for factor in (0.5, 1, 2, 4))


class Climb:
    """The default strategy. `margin` is relative to the loss of the lower side of a comparison. See `Strategy`."""

    def __init__(self, space: LeverSpace, margin: float = 0.01) -> None:
        self.space = space
        self.margin = margin

    def decide(self, baseline: Scores, history: Sequence[Measurement]) -> Decision:
        known = {(m.candidate, m.fraction): m for m in history}
        rates = _Rates(self, known)
        if rates.heat:
            ahead = rates.ahead + 2 * (min(len(self.space.ranks), FIRST_RUNGS) - 1)
            return Decision(tuple(rates.verdicts), tuple(rates.left), rates.heat, ahead=ahead)
        ladder = _Ladder(self, rates.best, known)
        verdicts = (*rates.verdicts, *ladder.verdicts)
        if ladder.heat:
            return Decision(verdicts, tuple(rates.left + ladder.left), ladder.heat, ahead=ladder.ahead)
        found = ladder.recommended
        verdicts += (_against_baseline(baseline, found, self.margin),)
        return Decision(verdicts, tuple(rates.left + ladder.left), recommended=found.candidate)

    def compare(
        self,
        lever: str,
        before: Measurement,
        to: Measurement,
        values: tuple[object, object],
        family: int,
        note: str = "",
    ) -> Verdict:
        """The paired verdict on two measurements, one of `family` values' pairs."""
        assert before.scores is not None
        assert to.scores is not None
        confidence = shared_confidence(math.comb(family, 2))
        return _verdict(lever, before.scores, to.scores, values, self.margin, confidence, note)


class _Rates:
    """The learning-rate phase, as far as the measurements go: a heat to ask for, or the best."""

    def __init__(self, climb: Climb, known: dict[tuple[Candidate, float], Measurement]) -> None:
        self.climb, self.known = climb, known
        space = climb.space
        self.family = len(space.learning_rates) + EXTENSIONS
        self.verdicts: list[Verdict] = []
        self.left: list[tuple[Candidate, str]] = []
        self.heat: Heat | None = None
        self.ahead = 0.0
        grid = [space.candidate(space.ranks[0], rate) for rate in space.learning_rates]
        alive = self._look(grid)
        if self.heat:
            return
        finished = self._finish(alive)
        if self.heat:
            return
        if not finished:
            why = ", ".join(f"{candidate.learning_rate:g}: {reason}" for candidate, reason in self.left)
            raise TrainingError(f"No learning rate of the grid lasted ({why}); give lower ones with --learning-rates.")
        self.best = min(finished, key=_by_loss)
        self.verdicts += [
            climb.compare(
                "learning_rate",
                m,
                self.best,
                (m.candidate.learning_rate, self.best.candidate.learning_rate),
                self.family,
            )
            for m in finished
            if m is not self.best
        ]

    def _look(self, grid: list[Candidate]) -> list[Candidate]:
        """The candidates of the grid that go on past the look."""
        if len(grid) == 1:
            return grid
        looks = [self.known.get((candidate, LOOK)) for candidate in grid]
        missing = tuple(c for c, look in zip(grid, looks, strict=True) if look is None)
        if missing:
            self.heat = Heat("learning rate", missing, LOOK)
            self.ahead = (1 - LOOK) * len(grid)
            return []
        alive = []
        for look in looks:
            assert look is not None
            if look.scores is None:
                self.left.append((look.candidate, "it diverged"))
            elif verdict := self._beaten(look, [other for other in looks if other and other.scores]):
                self.verdicts.append(verdict)
                self.left.append((look.candidate, f"at the look {verdict.to:g} was better by {verdict.gain:.3f}"))
            else:
                alive.append(look.candidate)
        return alive

    def _beaten(self, look: Measurement, others: list[Measurement]) -> Verdict | None:
        """The verdict that lets a candidate leave at the look, if there is one."""
        rate = look.candidate.learning_rate
        faster = [other for other in others if other.candidate.learning_rate > rate]
        if not faster:
            return None
        best = min(faster, key=_by_loss)
        verdict = self.climb.compare(
            "learning_rate", look, best, (rate, best.candidate.learning_rate), self.family, " at a third of the budget"
        )
        return verdict if verdict.outcome == "better" else None

    def _finish(self, alive: list[Candidate]) -> list[Measurement]:
        """The measurements at the full budget, extensions of the grid included; or a heat for those that lack."""
        space = self.climb.space
        low, high = space.learning_rates[0], space.learning_rates[-1]
        candidates = list(alive)
        for extension in range(EXTENSIONS + 1):
            missing = tuple(c for c in candidates if (c, 1.0) not in self.known)
            if missing:
                self.heat = Heat("learning rate", missing)
                return []
            finished = [m for c in candidates if (m := self.known[c, 1.0]).scores]
            if not finished or len(space.learning_rates) == 1 or extension == EXTENSIONS:
                break
            best = min(finished, key=_by_loss)
            rate = best.candidate.learning_rate
            if rate == high:
                high = beyond = float(f"{rate * 2:.6g}")
            elif rate == low:
                low = beyond = float(f"{rate / 2:.6g}")
            else:
                break
            if not 0 < beyond < 1 or self._flat(best, finished):
                break
            candidates.append(space.candidate(space.ranks[0], beyond))
        failed = [self.known[c, 1.0] for c in candidates if not self.known[c, 1.0].scores]
        self.left += [(m.candidate, "it diverged") for m in failed]
        return finished

    def _flat(self, edge: Measurement, finished: list[Measurement]) -> bool:
        """Whether the rate next to the edge was trained to the end too, and is not shown to be worse."""
        rates = {*self.climb.space.learning_rates, *(m.candidate.learning_rate for m in finished)}
        rate = edge.candidate.learning_rate
        beside = min(rates - {rate}, key=lambda other: abs(math.log(other / rate)))
        for m in finished:
            if m.candidate.learning_rate == beside:
                return self.climb.compare("learning_rate", m, edge, (beside, rate), self.family).outcome != "better"
        return False


class _Ladder:
    """The rank ladder, as far as the measurements go: a heat to ask for, or the candidate to recommend."""

    def __init__(self, climb: Climb, first: Measurement, known: dict[tuple[Candidate, float], Measurement]) -> None:
        self.climb, self.known = climb, known
        self.verdicts: list[Verdict] = []
        self.left: list[tuple[Candidate, str]] = []
        self.heat: Heat | None = None
        self.ahead = 0.0
        ranks = climb.space.ranks
        climbed = [first]
        reached = 1
        while reached < len(ranks) and self._go_on():
            rungs = ranks[reached : max(reached + 1, FIRST_RUNGS)]
            rate = climbed[-1].candidate.learning_rate
            tried = [climb.space.candidate(rank, r) for rank in rungs for r in (rate, rate / 2)]
            missing = tuple(c for c in tried if (c, 1.0) not in known)
            if missing:
                self.heat = Heat("rank", missing)
                return
            for rank in rungs:
                if best := self._best_of(rank, [known[c, 1.0] for c in tried if c.rank == rank]):
                    self.verdicts.append(self._compare(climbed[-1], best))
                    climbed.append(best)
            reached += len(rungs)
        self.recommended = self._cheapest(climbed)

    def _go_on(self) -> bool:
        """Whether a further doubling can still be worth it."""
        ranks = [verdict for verdict in self.verdicts if verdict.lever == "rank"]
        return not ranks or ranks[-1].outcome != "no_worthwhile_gain"

    def _best_of(self, rank: int, tried: list[Measurement]) -> Measurement | None:
        """The better of a rung's rates, if one was trained to the end; says when the best rate moved down."""
        self.left += [(m.candidate, "it diverged") for m in tried if not m.scores]
        finished = [m for m in tried if m.scores]
        best = min(finished, key=_by_loss, default=None)
        if best and len(finished) == 2:
            fast, slow = finished
            rates = (fast.candidate.learning_rate, slow.candidate.learning_rate)
            family = len(self.climb.space.learning_rates) + EXTENSIONS
            self.verdicts.append(self.climb.compare("learning_rate", fast, slow, rates, family, f" at rank {rank}"))
        return best

    def _compare(self, before: Measurement, to: Measurement) -> Verdict:
        values = (before.candidate.rank, to.candidate.rank)
        return self.climb.compare("rank", before, to, values, len(self.climb.space.ranks))

    def _cheapest(self, climbed: list[Measurement]) -> Measurement:
        """The lowest rung that no other is shown to be worthwhile better than; says what beats each below it."""
        for rung in climbed:
            against = [self._compare(rung, other) for other in climbed if other is not rung]
            if not (beaten := [verdict for verdict in against if verdict.outcome == "better"]):
                return rung
            if not any(verdict in self.verdicts for verdict in beaten):
                self.verdicts.append(max(beaten, key=lambda verdict: verdict.gain))
        raise AssertionError("no rung is worse than itself: the best is beaten by none")


def _by_loss(measurement: Measurement) -> tuple[float, int, float]:
    """For picking the best; among equals the smaller rank and the lower rate, so that no order of history matters."""
    return measurement.loss, measurement.candidate.rank, measurement.candidate.learning_rate


def _against_baseline(baseline: Scores, found: Measurement, margin: float) -> Verdict:
    assert found.scores is not None
    return _verdict("adapter", baseline, found.scores, ("untuned", found.candidate.id), margin, 0.95, "")


_NAMES = {"learning_rate": "Learning rate", "rank": "Rank", "adapter": "Adapter"}


def _verdict(
    lever: str, before: Scores, to: Scores, values: tuple[object, object], margin: float, confidence: float, note: str
) -> Verdict:
    gain = gain_interval(before, to, confidence)
    worth = margin * before.mean
    outcome = judge(gain, worth)
    what = " → ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
    if outcome == "better":
        says = f"better by {gain.mean:.3f} nats a token ({gain.low:.3f} to {gain.high:.3f})"
    elif gain.high < 0:
        says = f"no worthwhile gain: worse by {-gain.mean:.3f} nats a token ({-gain.high:.3f} to {-gain.low:.3f})"
    elif outcome == "no_worthwhile_gain":
        says = f"no worthwhile gain: at most {gain.high:.3f} nats a token, and {worth:.3f} would be worth it"
    else:
        says = f"undecided: a gain of {gain.low:.3f} to {gain.high:.3f}, and {worth:.3f} would be worth it"
    return Verdict(
        lever,
        *values,
        gain.mean,
        gain.low,
        gain.high,
        worth,
        outcome,
        len(before.tokens),
        1,
        f"{_NAMES[lever]} {what}{note}: {says}.",
    )
