"""The climb: race all levers at once, then train the best settings in full with other seeds.

*The race.* Settings are trained with one seed to a fraction of the budget. The first ones together
say the most about ranks and learning rates, which matter more than the other levers. A surface is
fitted to their losses, and the next settings, of all levers, are those that could be the best
(`surface`); up to half of them try target modules and alphas that none had. So each run informs
about every lever at once; one lever after the other would use each run for one. Every loss is of an
adapter that has cooled down, so settings with different learning rates can be compared. If the best
rate is at the edge of the grid, and the user has not named the rates, some settings try the rate
beyond. Nothing is claimed yet.

*The semifinal*, if the budget allows for one. The leaders train on to the full budget with the seed
that they have. What is best at the race fraction is often not the best at the end, and one run in
full shows that more cheaply than three. If the budget allows for nothing else, this is the answer,
with no verdict.

*The confirmation.* The race chooses what looks best with one seed, so the loss of its winner is
flattering. The finalists are therefore trained anew, in full, with seeds that the race has not
used: the leader, the same at the next higher rank, and those that rank next. Short training favours
small ranks, so a rank is never given up because of the race alone. While the highest rank is the
best, the next higher one is trained too. While the lowest is as good as the best, the next lower
one is. With enough effort, undecided comparisons get more seeds, if those can decide them. That is
a second look, and their intervals are wider for it.

*The verdicts* come at the end, when the noise is known. Each lever has one at the race fraction,
from the surface, with the residuals of the surface as the noise of a run. The finalists have theirs
at the full budget, with the noise of seeds. All of them hold together (Bonferroni, over every
comparison and every look at it).

*The recommendation* is the cheapest finalist whose loss is within the margin of the best one's,
unless another is shown to be better by the margin. The margin is the smallest gain that is worth
having, so nothing that counts is lost by taking a cheaper one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Sequence

from rung.errors import TrainingError
from rung.search.confirmation import FAMILY_ERROR, FULL, RACE_ERROR_SHARE, Confirmation, Pair
from rung.search.effort import SETTINGS_PER_EXTENSION, Effort
from rung.search.race import Race, settings_of
from rung.search.race_verdicts import lever_standings, race_verdicts
from rung.search.results import Results
from rung.search.rounds import first_round, next_round
from rung.search.strategy import (
    Conclusions,
    Decision,
    Exclusion,
    Script,
    Stage,
    StageResults,
    best,
    replay,
)
from rung.search.verdicts import NATS
from rung.types import (
    Candidate,
    LeverSpace,
    Measurement,
    Scores,
    Setting,
    distinct_settings,
)


class Climb:
    """The default strategy. See `Strategy`.

    Args:
        space: what may be tried.
        margin: the smallest gain that is worth having, relative to the loss of the side before.
        effort: how thorough the climb is.
        unit: of what is judged at the full budget. It may be something else than the loss of the
            race, such as a metric's distance from its best value.
        untuned: the untuned model's scores in that unit; by default those of the loss.
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


Part = Generator[Stage, StageResults, None]
"""A part of the script."""


class _Climber:
    """One climb in progress.

    Attributes:
        finalists: the settings that are confirmed.
        pairs: those of them that are compared. They are chosen before the confirmation measures
            anything. A ladder step adds one whose lower side is the best so far, and its luck makes
            it harder to call the other one better. `Confirmation.comparisons` may add one more.
    """

    def __init__(self, climb: Climb, baseline: Scores, conclusions: Conclusions) -> None:
        self.space, self.margin, self.effort = climb.space, climb.margin, climb.effort
        self.conclusions = conclusions
        self.results = Results(self.effort.all_seeds)
        self.race = Race(self.space, self.margin, baseline)
        self.confirmation = Confirmation(
            self.results, self.margin, self.effort, climb.unit, climb.untuned or baseline
        )
        self.finalists = sorted(settings_of(self.space), key=lambda s: (s.rank, s.alpha))
        self.pairs = list(itertools.pairwise(self.finalists))

    def script(self) -> Script:
        """The whole climb; see the module's description."""
        if len(self.finalists) > self.effort.finalists:
            yield from self._race()
            yield from self._semifinal()
            self._choose_finalists()
        yield from self._confirm(self.finalists, self.effort.seeds)
        yield from self._climb_ladder()
        yield from self._replace_diverged()
        yield from self._add_seeds()
        # A further seed may diverge too.
        yield from self._replace_diverged()
        return self._conclude()

    def _measure(
        self,
        phase: str,
        settings: Sequence[Setting],
        fraction: float,
        seeds: Sequence[int],
        remaining: float = 0.0,
    ) -> Part:
        """Have each setting measured with each seed, and add that to the results."""
        candidates = tuple(
            Candidate(setting, seed) for seed in seeds for setting in dict.fromkeys(settings)
        )
        answer = yield Stage(phase, candidates, fraction, remaining)
        self.results.add(answer, fraction)

    def _race(self) -> Part:
        effort, race = self.effort, self.race
        rounds, extensions = list(effort.rounds), effort.grid_extensions
        # A semifinalist resumes from its cooldown start, so it trains the race's cooldown again.
        semifinal = effort.semifinalists * (1 - effort.race_fraction / 2)
        after_race = semifinal + effort.finalists * effort.runs_per_finalist
        settings = first_round(race, rounds.pop(0))
        while settings:
            remaining = sum(rounds) * effort.race_fraction + after_race
            yield from self._measure("race", settings, effort.race_fraction, [0], remaining)
            race.add_race([self.results.measurements(s, effort.race_fraction)[0] for s in settings])
            if not rounds and extensions and race.rates_beyond_grid():
                rounds, extensions = [SETTINGS_PER_EXTENSION], extensions - 1
            settings = next_round(race, rounds.pop(0)) if rounds else []

    def _semifinal(self) -> Part:
        """The leaders go on to the full budget with the seed that they have."""
        leaders = distinct_settings([self.race.leader, *self.race.ranking])
        if semifinalists := leaders[: self.effort.semifinalists]:
            remaining = self.effort.finalists * self.effort.runs_per_finalist
            yield from self._measure("semifinal", semifinalists, FULL, [0], remaining)
            self.race.add_semifinal([self.results.measurements(s, FULL)[0] for s in semifinalists])

    def _choose_finalists(self) -> None:
        """The leader, the same at the next higher rank, and those that rank next.

        A leader at the highest rank is taken at the next lower one too.
        """
        race, ranks = self.race, self.space.ranks
        position = ranks.index(race.leader.rank)
        neighbours = (ranks[position + 1 :] or ranks[:position][::-1])[:1]
        at_neighbours = [race.at_rank(race.leader, rank) for rank in neighbours]
        chosen = distinct_settings([race.leader, *at_neighbours, *race.ranking])
        self.finalists = chosen[: self.effort.finalists]
        self.pairs = [(self.finalists[0], other) for other in self.finalists[1:]]
        if 0 not in self.effort.seeds:
            self._exclude_others()

    def _exclude_others(self) -> None:
        """Say of the settings that raced, and are no finalists, how far they are behind."""
        leader = self.race.leader
        settings = distinct_settings([*self.finalists, *self.race.finished])
        for setting in settings[len(self.finalists) :]:
            both_full = self.results.has(setting, FULL) and self.results.has(leader, FULL)
            fraction = FULL if both_full else self.effort.race_fraction
            loss, best_loss = (self.results.loss(s, fraction) for s in (setting, leader))
            self.conclusions.excluded.setdefault(
                Candidate(setting), Exclusion("behind", fraction, loss, best_loss)
            )

    def _confirm(self, settings: Sequence[Setting], seeds: Sequence[int]) -> Part:
        yield from self._measure("confirmation", settings, FULL, seeds)

    def _climb_ladder(self) -> Part:
        """Confirm further ranks, while one may be worth it."""
        for _ in range(self.effort.max_ladder_steps):
            step = self._ladder_step()
            if step is None:
                break
            yield from self._confirm(step[1:], self.effort.seeds)
            self.finalists, self.pairs = [*self.finalists, step[1]], [*self.pairs, step]

    def _ladder_step(self) -> Pair | None:
        """A finalist, and the same at a rank that is to be confirmed too.

        If no finalist with the target modules of the best one has the next higher rank, that is it.
        Else, if the one with the lowest rank is within the margin of the best, it is the next lower
        rank.
        """
        winner, ranks = self.confirmation.best(self.finalists), self.space.ranks
        least = self.confirmation.loss(winner)
        if math.isinf(least):
            return None
        ladder = sorted(
            (s for s in self.finalists if s.targets == winner.targets), key=lambda s: s.rank
        )
        lowest, higher_ranks = ladder[0], ranks[ranks.index(winner.rank) + 1 :]
        if higher_ranks and all(s.rank != higher_ranks[0] for s in ladder):
            return winner, self.race.at_rank(winner, higher_ranks[0])
        near = self.confirmation.loss(lowest) <= least + self.margin * abs(least)
        if near and lowest.rank != ranks[0]:
            return lowest, self.race.at_rank(lowest, ranks[ranks.index(lowest.rank) - 1])
        return None

    def _replace_diverged(self) -> Part:
        """If every finalist diverged, confirm the next settings of the race until one finishes."""
        while not any(self.confirmation.finished(s) for s in self.finalists):
            settings = distinct_settings([*self.finalists, *self.race.ranking])
            others = settings[len(self.finalists) :]
            if not others:
                break
            yield from self._confirm(others[:1], self.effort.seeds)
            self.finalists = [*self.finalists, others[0]]

    def _add_seeds(self) -> Part:
        """Train undecided pairs with the extra seeds, if those can decide them."""
        comparisons = self.confirmation.comparisons(self.finalists, self.pairs)
        confidence = self.confirmation.confidence(self.finalists, self.pairs)
        if settings := self.confirmation.settings_for_extra_seeds(comparisons, confidence):
            yield from self._confirm(settings, self.effort.all_seeds[len(self.effort.seeds) :])

    def _conclude(self) -> Candidate:
        """Judge every comparison, and recommend the best seed of the recommended setting."""
        confirmation, conclusions = self.confirmation, self.conclusions
        fraction, race_error = self.effort.race_fraction, RACE_ERROR_SHARE * FAMILY_ERROR
        comparisons = confirmation.comparisons(self.finalists, self.pairs)
        confidence = confirmation.confidence(self.finalists, self.pairs)
        finished = [s for s in self.finalists if confirmation.finished(s)]
        if not finished:
            raise TrainingError(
                "Every finalist has diverged; give lower learning rates with --learning-rates."
            )
        recommended = confirmation.recommend(finished, confidence)
        conclusions.standings += lever_standings(self.race, fraction)
        conclusions.untried |= self.race.untried()
        conclusions.verdicts += race_verdicts(self.race, fraction, race_error)
        conclusions.verdicts += [confirmation.verdict(*pair, confidence) for pair in comparisons]
        conclusions.verdicts.append(confirmation.verdict_on_untuned(recommended))
        return best(self.results.measurements(recommended, FULL)).candidate
