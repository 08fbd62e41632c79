"""The climb: a race over all levers at once; then the finalists again, with other seeds and in full.

The race. A pack of settings that together say the most about ranks and rates, which outweigh the rest, is trained on a
part of the budget, the *look*; a surface is fitted through their losses, and the next pack, of all levers, is where the
best could be (`surface.py`); up to half of it tries the kinds of modules and the alphas that none had. So a run speaks
for every lever at once, where trying one lever after the other uses it for one. Nothing is said of what nobody has
tried. Every judgement is of adapters that have cooled down, so settings of unlike rates can be compared. Where the best
rate stands at the edge of the grid and the user has not named the rates, some settings try the rate beyond. What leads
goes on; nothing is claimed yet.

The semifinal, where the budget allows for one. Those that lead are trained on to the full budget with the seed that
they have: what is best at the look is often not so at the end, and one run in full tells that more cheaply than three.
Where the budget allows for nothing else, this is the answer, with no verdict.

The confirmation. The race picks what looks best on one seed, and so flatters its winner. So the finalists are trained
anew and in full, with seeds that the race has not seen: the leader, the rung above it, and whatever else is nearest.
Short training favours small ranks, so a rank is never given up on the look alone. While the topmost rung is the best,
the next one is trained too; and while the lowest is as good as the best, the one below. Where the plan allows for it,
comparisons that stay undecided get more seeds, if those can decide them; that is a second look at them, and their
intervals are wider for it.

The verdicts come at the end, when the noise is known: each lever's at the look, from the surface, with what that leaves
over as the noise of a run; and those on the finalists at the full budget, with the noise of seeds. All of them hold
together (Bonferroni over every comparison and every look at it).

The recommendation. The cheapest finalist whose loss is within the margin of the best one's, unless another is shown to
be worthwhile better. The margin is the smallest gain that is worth having, so a cheaper one costs nothing that counts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Sequence

from rung.errors import TrainingError
from rung.search.effort import SETTINGS_PER_EXTENSION, Effort
from rung.search.race import Race
from rung.search.results import Results
from rung.search.stats import (
    KNOWN_ZERO,
    Variance,
    gain_estimate,
    judge,
    minimum_detectable,
    required_sample,
    shared_confidence,
)
from rung.search.strategy import (
    Answer,
    Conclusions,
    Decision,
    Exclusion,
    Script,
    Stage,
    best,
    replay,
)
from rung.search.verdicts import NATS, difference, make_verdict
from rung.types import (
    Candidate,
    LeverSpace,
    Measurement,
    Scores,
    Setting,
    Verdict,
    distinct_settings,
)

FAMILY_ERROR = 0.05
"""How often a climb may claim something that is not so, in all its comparisons together."""
RACE_ERROR_SHARE = 0.1
"""The share of it that is spent on what is compared at the look, with one seed, where little can be shown."""


class Climb:
    """The default strategy. `margin` is relative to the loss of the lower side of a comparison. See `Strategy`.

    What is judged in full may be something else than the loss of the look, such as a metric's distance from its best:
    then `unit` names it, and `untuned` are the untuned model's scores in it.
    """

    def __init__(
        self,
        space: LeverSpace,
        margin: float = 0.01,
        effort: Effort | None = None,
        unit: str = NATS,
        untuned: Scores | None = None,
    ) -> None:
        self.space, self.margin, self.effort = space, margin, effort or Effort()
        self.unit, self.untuned = unit, untuned

    def decide(self, baseline: Scores, history: Sequence[Measurement]) -> Decision:
        return replay(lambda conclusions: _Climber(self, baseline, conclusions).script(), history)


def confidence_in_full(comparisons: int, effort: Effort) -> float:
    """The confidence of each comparison in full, so that all of a climb hold together, and both looks at each where
    there may be two. Those at the look have `LOOK_ERROR` of the error that is allowed.
    """
    return shared_confidence(
        comparisons * (2 if effort.more else 1), 1 - (1 - RACE_ERROR_SHARE) * FAMILY_ERROR
    )


Part = Generator[Stage, Answer, None]
"""A part of the course."""
Pair = tuple[Setting, Setting]
"""Two settings that are compared."""


class _Climber:
    """One climb on its way. A *setting* is a candidate with seed 0, and stands for all of its seeds."""

    def __init__(self, climb: Climb, baseline: Scores, conclusions: Conclusions) -> None:
        self.space, self.margin, self.effort = climb.space, climb.margin, climb.effort
        self.unit, self.untuned, self.conclusions = (
            climb.unit,
            climb.untuned or baseline,
            conclusions,
        )
        self.results = Results(self.effort.all_seeds)
        self.race = Race(self.space, self.margin, baseline)

    def script(self) -> Script:
        effort = self.effort
        # The pairs are settled before the confirmation has measured anything, but for further rungs, whose lower side
        # is the best so far: its luck makes it harder to call them better. `_asked` may pick one pair more.
        finalists: list[Setting] = sorted(self.race.pool, key=lambda s: (s.rank, s.alpha))
        pairs = list(itertools.pairwise(finalists))
        if len(finalists) > effort.finalists:
            yield from self._race()
            yield from self._semifinal()
            finalists = self._finalists()
            pairs = [(finalists[0], other) for other in finalists[1:]]
        yield from self._confirm(finalists, effort.seeds)
        for _ in range(effort.rungs):
            if (step := self._next_rung(finalists)) is None:
                break
            yield from self._confirm(step[1:], effort.seeds)
            finalists, pairs = [*finalists, step[1]], [*pairs, step]
        finalists = yield from self._stand_ins(finalists)
        yield from self._more_seeds(
            self._asked(finalists, pairs), self._confidence(finalists, pairs)
        )
        # A further seed may diverge too.
        finalists = yield from self._stand_ins(finalists)
        return self._end(
            finalists, self._asked(finalists, pairs), self._confidence(finalists, pairs)
        )

    def _measure(
        self,
        phase: str,
        settings: Sequence[Setting],
        fraction: float,
        seeds: Sequence[int],
        remaining: float = 0.0,
    ) -> Part:
        """Have the settings measured with each of the seeds; what they have been measured with is in `runs`."""
        wanted = tuple(
            Candidate(setting, seed) for seed in seeds for setting in dict.fromkeys(settings)
        )
        self.results.keep((yield Stage(phase, wanted, fraction, remaining)), fraction)

    def _confirm(self, settings: Sequence[Setting], seeds: Sequence[int]) -> Part:
        yield from self._measure("confirmation", settings, 1.0, seeds)

    def _race(self) -> Part:
        effort, race, rounds = self.effort, self.race, list(self.effort.rounds)
        extensions = effort.extensions
        settings = race.first(rounds.pop(0))
        after = (
            effort.semifinalists * (1 - effort.race_fraction / 2) + effort.finalists * effort.runs
        )
        while settings:
            remaining = sum(rounds) * effort.race_fraction + after
            yield from self._measure("race", settings, effort.race_fraction, [0], remaining)
            race.see([self.results.of(setting, effort.race_fraction)[0] for setting in settings])
            if not rounds and extensions and race.beyond():
                rounds, extensions = [SETTINGS_PER_EXTENSION], extensions - 1
            settings = race.next(rounds.pop(0)) if rounds else []

    def _semifinal(self) -> Part:
        """Those that lead go on to the full budget with the seed they have; how they end is how they stand then."""
        if chosen := distinct_settings([self.race.leader, *self.race.standing])[
            : self.effort.semifinalists
        ]:
            remaining = self.effort.finalists * self.effort.runs
            yield from self._measure("semifinal", chosen, 1.0, [0], remaining)
            self.race.see_in_full([self.results.of(setting, 1.0)[0] for setting in chosen])

    # The confirmation.

    def _finalists(self) -> list[Setting]:
        """The leader, the rung above it (or below the topmost), and whatever else was nearest in the race."""
        race, ranks = self.race, self.space.ranks
        at = ranks.index(race.leader.rank)
        rungs = [
            race.at_rank(race.leader, rank) for rank in (ranks[at + 1 :] or ranks[:at][::-1])[:1]
        ]
        chosen = [race.leader, *rungs, *race.standing]
        finalists = distinct_settings(chosen)[: self.effort.finalists]
        for setting in (
            distinct_settings([*finalists, *race.tried])[len(finalists) :]
            if 0 not in self.effort.seeds
            else ()
        ):
            share = (
                1.0
                if self.results.has(setting, 1.0) and self.results.has(race.leader, 1.0)
                else self.effort.race_fraction
            )
            loss, of_leader = (self.results.loss(s, share) for s in (setting, race.leader))
            self.conclusions.excluded.setdefault(
                Candidate(setting), Exclusion("behind", share, loss, of_leader)
            )
        return finalists

    def _next_rung(self, finalists: Sequence[Setting]) -> Pair | None:
        """The best finalist and the rung above, where that is not among them and doubling may still be worth it; or the
        lowest and the one below, where it is within the margin of the best and half of it may be enough.
        """
        winner = min(finalists, key=self.results.by_loss(1.0))
        least, ranks = self.results.loss(winner, 1.0), self.space.ranks
        if math.isinf(least):
            return None
        ladder = sorted((s for s in finalists if s.targets == winner.targets), key=lambda s: s.rank)
        below, (above, *_) = ladder[0], [*ranks[ranks.index(winner.rank) + 1 :], None]
        if above and all(s.rank != above for s in ladder):
            return winner, self.race.at_rank(winner, above)
        if (
            self.results.loss(below, 1.0) <= least + self.margin * abs(least)
            and below.rank != ranks[0]
        ):
            return below, self.race.at_rank(below, ranks[ranks.index(below.rank) - 1])
        return None

    def _stand_ins(self, finalists: list[Setting]) -> Generator[Stage, Answer, list[Setting]]:
        """The finalists; where every one has diverged in full, with those of the others that were the nearest in the
        race, until one lasts.
        """
        while not any(self.results.lasted(s, 1.0) for s in finalists):
            others = distinct_settings([*finalists, *self.race.standing])[len(finalists) :]
            if not others:
                break
            yield from self._confirm(others[:1], self.effort.seeds)
            finalists = [*finalists, others[0]]
        return finalists

    def _more_seeds(self, pairs: Sequence[Pair], confidence: float) -> Part:
        """Train undecided pairs of finalists with all further seeds of the plan, where those can be expected to decide
        them: if the estimate stays where it is, or because they would show a gain of twice the margin.
        """
        noise = self.results.noise(1.0)
        wanted: list[Setting] = []
        if noise is None or not self.effort.more:
            return
        for before, to in pairs:
            one, other = self.results.sides(before, to, 1.0)
            worth, seeds = self._worth(one), len(self.effort.all_seeds)
            if (
                judge(self.results.gain(before, to, 1.0, noise).interval(confidence), worth)
                == "undecided"
            ):
                enough = required_sample(one, other, noise, worth, confidence).seeds or math.inf
                shown = minimum_detectable(
                    gain_estimate(one, other, noise.times(2 / seeds)), confidence
                )
                if enough <= seeds or shown <= 2 * worth:
                    wanted += [before, to]
        if wanted:
            yield from self._confirm(wanted, self.effort.all_seeds[len(self.effort.seeds) :])

    # The judgement.

    def _end(
        self, finalists: Sequence[Setting], pairs: Sequence[Pair], confidence: float
    ) -> Candidate:
        """Judge all the questions and recommend; the recommended candidate is the best seed of the best setting."""
        noise = self.results.noise(1.0)
        finished = [s for s in finalists if self.results.lasted(s, 1.0)]
        if not finished:
            raise TrainingError(
                "Every finalist has diverged; give lower learning rates with --learning-rates."
            )
        at_race_fraction = self.race.verdicts(
            self.effort.race_fraction, RACE_ERROR_SHARE * FAMILY_ERROR
        )
        self.conclusions.standings += self.race.standings(self.effort.race_fraction)
        self.conclusions.untried |= self.race.untried()
        self.conclusions.verdicts += at_race_fraction + [
            self._judged(before, to, noise, confidence) for before, to in pairs
        ]
        chosen = self._cheapest(finished, noise, confidence)
        self.conclusions.verdicts.append(self._against_untuned(chosen))
        return best(self.results.of(chosen, 1.0)).candidate

    def _asked(self, finalists: Sequence[Setting], pairs: Sequence[Pair]) -> list[Pair]:
        """The pairs to judge in full, each from the cheaper to the dearer one: also whether the rung above the best one
        is worth it, if that was trained.
        """
        best_one = min(finalists, key=self.results.by_loss(1.0))
        found = []
        for pair in (*pairs, *self._doubling(best_one, finalists)):
            if all(self.results.lasted(setting, 1.0) for setting in pair):
                one, other = sorted(
                    pair,
                    key=lambda s: (
                        s.rank,
                        self.results.parameters(s, 1.0),
                        s.alpha,
                        Candidate(s).id,
                    ),
                )
                found.append((one, other))
        return list(dict.fromkeys(found))

    def _doubling(self, setting: Setting, finalists: Sequence[Setting]) -> list[Pair]:
        """The setting and the next higher rung that a finalist with its modules stands on, if any. Of several it is
        the one that came first to be a finalist: what the confirmation shows picks no upper side.
        """
        above = [s for s in finalists if s.targets == setting.targets and s.rank > setting.rank]
        return [(setting, min(above, key=lambda s: s.rank))] if above else []

    def _confidence(self, finalists: Sequence[Setting], pairs: Sequence[Pair]) -> float:
        """That of each comparison in full. All that may be asked count, since what was measured picks one of them."""
        possible = [
            *pairs,
            *(pair for setting in finalists for pair in self._doubling(setting, finalists)),
        ]
        return confidence_in_full(len({frozenset(pair) for pair in possible}), self.effort)

    def _cheapest(
        self, finished: Sequence[Setting], noise: Variance | None, confidence: float
    ) -> Setting:
        """The cheapest that is within the margin of the best, unless another is shown to be worthwhile better."""
        losses = self.results.losses(finished, 1.0)
        winner = min(finished, key=lambda s: (losses[s], self.results.by_loss(1.0)(s)))
        worth = self.margin * abs(losses[winner])
        # What a setting costs are its parameters. Among equals the better one is taken.
        for setting in sorted(
            finished, key=lambda s: (self.results.parameters(s, 1.0), losses[s], s.alpha)
        ):
            near = losses[setting] - losses[winner] <= worth
            beaten = noise and any(
                judge(self.results.gain(setting, other, 1.0, noise).interval(confidence), worth)
                == "better"
                for other in finished
                if other != setting
            )
            if near and not beaten:
                return setting
        return winner

    def _worth(self, before: Sequence[Scores]) -> float:
        """The smallest gain that is worth having, in the unit of what is judged."""
        return self.margin * abs(math.fsum(s.mean for s in before)) / len(before)

    def _judged(
        self, before: Setting, to: Setting, noise: Variance | None, confidence: float
    ) -> Verdict:
        """The verdict on two finalists."""
        one, other = self.results.sides(before, to, 1.0)
        worth, lever = self._worth(one), difference(before, to)
        gain = self.results.gain(before, to, 1.0, noise or KNOWN_ZERO)
        required = required_sample(one, other, noise, worth, confidence) if noise else None
        return make_verdict(
            "confirmation",
            lever,
            before,
            to,
            1.0,
            gain,
            worth,
            confidence,
            one,
            noise is not None,
            required,
            self.unit,
        )

    def _against_untuned(self, chosen: Setting) -> Verdict:
        """Whether anything was learned: with one seed, of that run and the choice of rows alone. It stands by itself,
        with an error of its own.
        """
        results = [m.scores for m in self.results.of(chosen, 1.0) if m.scores]
        noise = self.results.whole_noise(1.0)
        added = noise.times(1 / len(results)) if noise else KNOWN_ZERO
        gain = gain_estimate([self.untuned], results, added)
        worth = self.margin * abs(self.untuned.mean)
        return make_verdict(
            "untuned",
            "adapter",
            None,
            chosen,
            1.0,
            gain,
            worth,
            0.95,
            results,
            noise_known=True,
            unit=self.unit,
        )
