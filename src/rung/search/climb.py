"""The climb: learning rate, target modules, rank, alpha; then the finalists again, with other seeds and in full.

The race. One lever after the other is tried around the best setting so far, each value at the best rate so far and at
the next lower one (for alpha at the rates that keep scale · rate, so that scale is told apart from rate), on a part of
the budget: the *look*. Every judgement is of adapters that have cooled down, so settings of unlike rates can be
compared. What leads goes on; nothing is claimed yet.

The confirmation. The race picks what looks best on one seed, and so flatters its winner. So the finalists are trained
anew with seeds that the race has not seen, and judged twice: at the look, which tells how much of a difference there is
owed to the seed, and at the full budget. The finalists are the leader, the rung above and the one below: short training
favours small ranks, so a rank is never given up on the look alone. While the topmost rung is the best, the next one is
trained too; and while the lowest is as good as the best, the one below.

The verdicts come at the end, when the noise is known: each lever's at the look, with the noise of the look, and those
on the finalists at the full budget. All of them hold together (Bonferroni over every comparison that is judged).

The recommendation. The cheapest finalist whose loss is within the margin of the best one's, unless another is shown to
be worthwhile better. The margin is the smallest gain that is worth having, so a cheaper one costs nothing that counts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

from rung.errors import TrainingError
from rung.levers import Candidate, LeverSpace, Measurement, Scores, Verdict
from rung.search.plan import EXTENSIONS, Plan
from rung.search.runs import Runs
from rung.search.stats import (
    KNOWN_ZERO,
    Variance,
    gain_estimate,
    judge,
    needed,
    shared_confidence,
)
from rung.search.strategy import Answer, Ask, Course, Decision, Notes, best, follow, in_words
from rung.search.verdicts import difference, make_verdict, name_of, value_in_words, value_of

ERROR = 0.05
"""How often a climb may claim something that is not so, in all its comparisons together."""
LOOK_ERROR = 0.2
"""The share of it that is spent on what is compared at the look, with one seed, where little can be shown."""
FAR = 4.0
"""Nats a token of the untuned model from which on the completions are far from what it writes, and the output head is
tried: it gives the right token one chance in 55."""


class Climb:
    """The default strategy. `margin` is relative to the loss of the lower side of a comparison. See `Strategy`."""

    def __init__(self, space: LeverSpace, margin: float = 0.01, plan: Plan | None = None) -> None:
        self.space, self.margin, self.plan = space, margin, plan or Plan()

    def decide(self, baseline: Scores, history: Sequence[Measurement]) -> Decision:
        return follow(lambda notes: _Climber(self, baseline, notes).course(), history)


Part = Generator[Ask, Answer, None]
"""A part of the course."""


@dataclass(frozen=True, slots=True)
class _Question:
    """A comparison of two settings that is to be judged at the end; `lever` is what they differ in."""

    lever: str
    before: Candidate
    to: Candidate
    until: float
    note: str = ""


class _Climber:
    """One climb on its way. A *setting* is a candidate with seed 0, and stands for all of its seeds."""

    def __init__(self, climb: Climb, baseline: Scores, notes: Notes) -> None:
        self.space, self.margin, self.plan = climb.space, climb.margin, climb.plan
        self.baseline, self.notes = baseline, notes
        self.runs = Runs(self.plan.seeds)
        self.questions: list[_Question] = []
        self.rates = set(self.space.learning_rates)
        self.asides: set[Candidate] = set()

    def course(self) -> Course:
        space, plan = self.space, self.plan
        if len(space.candidates()) == 1:
            leader = space.candidate(space.ranks[0], space.learning_rates[0])
            yield from self._measure("training", [leader], 1.0, plan.seeds)
            return self._end([leader])
        yield from self._learning_rate()
        for lever in (self._target_modules, self._rank, self._alpha):
            yield from lever()
        finalists = self._finalists()
        yield from self._measure("confirmation", finalists, plan.look, plan.seeds)
        yield from self._measure("confirmation", finalists, 1.0, plan.seeds)
        rungs = plan.rungs
        while more := (self._next_rung(finalists) if rungs else None) or self._stand_in(finalists):
            rungs = max(0, rungs - 1)
            yield from self._measure("confirmation", [more], 1.0, plan.seeds)
            finalists.append(more)
        return self._end(sorted(finalists, key=lambda setting: setting.rank))

    def _measure(self, phase: str, settings: Sequence[Candidate], until: float, seeds: Sequence[int]) -> Part:
        """Have the settings measured with each of the seeds; what they have been measured with is in `runs`."""
        wanted = tuple(replace(setting, seed=seed) for seed in seeds for setting in dict.fromkeys(settings))
        self.runs.keep((yield Ask(phase, wanted, until, self._ahead(phase, until))), until)

    def _ahead(self, phase: str, until: float) -> float:
        """An estimate of what comes after: the confirmation, and a few settings for each lever of the race."""
        plan = self.plan
        confirming = plan.finalists * len(plan.seeds)
        if phase == "confirmation":
            return confirming * (1 - plan.look) if until < 1 else 0.0
        order = ["learning rate", "target modules", "rank", "alpha"]
        return confirming + 4 * plan.look * (len(order) - 1 - order.index(phase)) if phase in order else 0.0

    # The race.

    def _learning_rate(self) -> Part:
        look = self.plan.look
        grid = [self.space.candidate(self.space.ranks[0], rate) for rate in self.space.learning_rates]
        yield from self._measure("learning rate", grid, look, [0])
        for _ in range(0 if self.space.pinned or len(grid) == 1 else EXTENSIONS):
            grid.sort(key=lambda setting: setting.learning_rate)
            leader = self.runs.best(grid, look)
            if leader not in (grid[0], grid[-1]):
                break
            beside = grid[1] if leader is grid[0] else grid[-2]
            rate = float(f"{leader.learning_rate * (0.5 if leader is grid[0] else 2):.6g}")
            # Where the edge is flat, the best rate is not beyond it.
            if not 0 < rate < 1 or self.runs.loss(leader, look) > (1 - self.margin) * self.runs.loss(beside, look):
                break
            grid.append(replace(leader, learning_rate=rate))
            self.rates.add(rate)
            yield from self._measure("learning rate", grid[-1:], look, [0])
        self.leader = self.runs.best(grid, look)
        if others := [setting for setting in grid if setting != self.leader]:
            self._ask("learning_rate", self._nearest(others), self.leader, look)
        self._leave("learning rate", grid)

    def _target_modules(self) -> Part:
        first = self.leader
        others = [targets for targets in self.space.targets if targets != first.targets]
        yield from self._try("target modules", [replace(first, targets=targets) for targets in others])
        if others and self.baseline.mean >= FAR and "lm_head" not in self.leader.targets:
            headed = replace(self.leader, targets=f"{self.leader.targets}+lm_head")
            yield from self._try("target modules", [headed])
        if self.leader.targets != first.targets:
            yield from self._at_matched_parameters(first)

    def _at_matched_parameters(self, first: Candidate) -> Part:
        """Are the leader's modules better, or just more? At the rank where they have as many parameters as the first
        ones had. It is asked for the answer alone: unless it is a rung of the ladder, it is no finalist.
        """
        look = self.plan.look
        share = self.runs.parameters(first, look) / self.runs.parameters(self.leader, look)
        matched = self._at_rank(self.leader, max(1, round(self.leader.rank * share)))
        if matched.rank not in self.space.ranks:
            self.asides.add(matched)
        yield from self._measure("target modules", [matched], look, [0])
        self._ask("target_modules", first, matched, look, " at matched parameter count")

    def _rank(self) -> Part:
        yield from self._try("rank", [self._at_rank(self.leader, rank) for rank in self.space.ranks])

    def _alpha(self) -> Part:
        others = [self.space.candidate(self.leader.rank, 1.0, alpha=text) for text in self.space.alphas]
        # At one rank an alpha under rsLoRA is another alpha without it: of those with one scale the first is tried.
        scales = {self.leader.scale: self.leader}
        for other in others:
            scales.setdefault(other.scale, replace(self.leader, alpha=other.alpha, use_rslora=other.use_rslora))
        tried = list(scales.values())
        yield from self._try("alpha", tried)

    def _try(self, lever: str, values: Sequence[Candidate]) -> Part:
        """Race the values of one lever, each at two rates, and let the best setting lead."""
        values = [value for value in values if value != self.leader]
        if not values:
            return
        look = self.plan.look
        settings = [setting for value in values for setting in self._at_rates(value)]
        yield from self._measure(lever, settings, look, [0])
        before = self.leader
        self._ask(lever.replace(" ", "_"), before, self._nearest(settings), look)
        self.leader = self._lead(before, settings)
        self._leave(lever, [before, *settings])

    def _lead(self, before: Candidate, settings: Sequence[Candidate]) -> Candidate:
        """Who leads from here on: the cheapest that is within the margin of the best, as in the recommendation."""
        look, everyone = self.plan.look, [before, *settings]
        least = self.runs.loss(self.runs.best(everyone, look), look)
        near = [s for s in everyone if self.runs.loss(s, look) <= least + self.margin * abs(least)]
        return min(
            near,
            key=lambda s: (
                self.runs.parameters(s, look),
                self._but_rate(s) != self._but_rate(before),
                self.runs.loss(s, look),
            ),
        )

    def _nearest(self, settings: Sequence[Candidate]) -> Candidate:
        """The one with the lowest loss at the look, diverged or not."""
        return min(settings, key=self.runs.by_loss(self.plan.look))

    def _at_rates(self, value: Candidate) -> list[Candidate]:
        """A lever's value at the rate that should suit it, and at one beside: the leader's and half of it; for another
        scale the rate that keeps scale · rate, and the leader's.
        """
        rate = value.learning_rate
        if math.isclose(value.scale, self.leader.scale):
            rates = [rate, self._next_rate(rate, rate / 2)]
        else:
            rates = [self._next_rate(rate, rate * self.leader.scale / value.scale), rate]
        return [replace(value, learning_rate=rate) for rate in dict.fromkeys(rates)][: self.plan.rates]

    def _next_rate(self, rate: float, wanted: float) -> float:
        """The rate that is tried beside `rate`: the wanted one, or the nearest of those that the user allows."""
        if not self.space.pinned:
            return float(f"{wanted:.6g}") if 0 < wanted < 1 else rate
        on_that_side = [other for other in self.rates if (other - rate) * (wanted - rate) > 0]
        return min(on_that_side, key=lambda other: abs(math.log(other / wanted)), default=rate)

    def _at_rank(self, setting: Candidate, rank: int) -> Candidate:
        """The setting on another rung, with the same multiple of the rank for its alpha."""
        alpha = setting.alpha if setting.use_rslora else setting.alpha / setting.rank * rank
        return replace(setting, rank=rank, alpha=alpha)

    def _leave(self, lever: str, settings: Sequence[Candidate]) -> None:
        """Note who leads and who is behind. Whoever comes back as a finalist does so with seeds of the confirmation."""
        look = self.plan.look
        name = lever.replace(" ", "_")
        standing: dict[str, float] = {}
        for setting in sorted(settings, key=self.runs.by_loss(look)):
            standing.setdefault(value_in_words(setting, name), self.runs.loss(setting, look))
        values = ", ".join(f"{value} {loss:.3f}" for value, loss in standing.items())
        leading = value_in_words(self.leader, name)
        self.notes.said.append(f"{lever} at {in_words(look)}, one seed: {values}; {leading} leads")
        for setting in settings:
            behind = self.runs.loss(setting, look) - self.runs.loss(self.leader, look)
            gone = setting != self.leader and setting.seed not in self.plan.seeds
            if gone and setting not in self.notes.left and math.isfinite(behind):
                self.notes.left[setting] = f"{behind:.3f} behind at {in_words(look)}"

    # The confirmation.

    def _finalists(self) -> list[Candidate]:
        """The leader; the rung above it and the one below; then whatever else was nearest at the look."""
        ranks, at = self.space.ranks, self.space.ranks.index(self.leader.rank)
        beside = (*ranks[at + 1 : at + 2], *ranks[max(0, at - 1) : at])
        chosen = [self.leader, *(self._rung(rank) for rank in beside)]
        look = self.plan.look
        tried = sorted(self._raced(), key=self.runs.by_loss(look))
        alike = {self._but_rate(setting) for setting in chosen}
        for setting in tried:
            if self._but_rate(setting) not in alike and self.runs.lasted(setting, look):
                alike.add(self._but_rate(setting))
                chosen.append(setting)
        return sorted(chosen[: self.plan.finalists], key=lambda s: s.rank)

    def _raced(self) -> list[Candidate]:
        """The settings that have been tried at the look."""
        return [s for s in self.runs.settings(self.plan.look) if s not in self.asides]

    def _but_rate(self, setting: Candidate) -> Candidate:
        return replace(setting, learning_rate=1.0)

    def _rung(self, rank: int) -> Candidate:
        """The leader on another rung, at the rate that was best there."""
        value = self._at_rank(self.leader, rank)
        known = [s for s in self.runs.settings(self.plan.look) if self._but_rate(s) == self._but_rate(value)]
        return self._nearest(known) if known else value

    def _next_rung(self, finalists: Sequence[Candidate]) -> Candidate | None:
        """The rung above the topmost finalist, where that is the best and doubling may still be worth it; or the one
        below the lowest, where that is within the margin of the best and half of it may be enough.
        """
        ladder = sorted((s for s in finalists if s.targets == self.leader.targets), key=lambda s: s.rank)
        below, above = ladder[0], ladder[-1]
        winner = min(finalists, key=self.runs.by_loss(1.0))
        least = self.runs.loss(winner, 1.0)
        if math.isinf(least):
            return None
        ranks = self.space.ranks
        if winner in ladder and winner.rank == above.rank != ranks[-1]:
            return self._rung(ranks[ranks.index(above.rank) + 1])
        if self.runs.loss(below, 1.0) <= least + self.margin * abs(least) and below.rank != ranks[0]:
            return self._rung(ranks[ranks.index(below.rank) - 1])
        return None

    def _stand_in(self, finalists: Sequence[Candidate]) -> Candidate | None:
        """Where every finalist has diverged in full: the one of the others that was the nearest at the look."""
        look = self.plan.look
        others = [s for s in self._raced() if s not in finalists and self.runs.lasted(s, look)]
        if any(self.runs.lasted(s, 1.0) for s in finalists):
            return None
        return min(others, key=self.runs.by_loss(look), default=None)

    # The judgement.

    def _end(self, finalists: list[Candidate]) -> Candidate:
        """Judge all the questions and recommend; the recommended candidate is the best seed of the best setting."""
        noises = {until: self.runs.noise(until) for until in (self.plan.look, 1.0)}
        full = noises[1.0]
        self.notes.noise = full
        finished = [s for s in finalists if self.runs.lasted(s, 1.0)]
        if not finished:
            raise TrainingError("Every finalist has diverged; give lower learning rates with --learning-rates.")
        winner = self.runs.best(finished, 1.0)
        for below, above in itertools.pairwise(finished):
            self._ask(difference(below, above), below, above, 1.0)
        confidences = self._confidences()
        self.notes.verdicts += [self._judged(q, noises[q.until], confidences[q.until]) for q in self.questions]
        chosen = self._cheapest(finished, winner, full, confidences[1.0])
        run = best(self.runs.of(chosen, 1.0))
        self.notes.verdicts.append(self._against_untuned(chosen, full))
        return run.candidate

    def _confidences(self) -> dict[float, float]:
        """The confidence of each comparison, so that all of a climb hold together: those at the look share `LOOK_ERROR`
        of the error that is allowed, and those in full share the rest.
        """
        asked = [sum(q.until == until for q in self.questions) for until in (self.plan.look, 1.0)]
        return {
            self.plan.look: shared_confidence(asked[0], 1 - LOOK_ERROR * ERROR),
            1.0: shared_confidence(asked[1], 1 - (1 - LOOK_ERROR) * ERROR),
        }

    def _cheapest(
        self, finished: Sequence[Candidate], winner: Candidate, noise: Variance | None, confidence: float
    ) -> Candidate:
        """The cheapest that is within the margin of the best, unless another is shown to be worthwhile better."""
        worth = self.margin * self.runs.loss(winner, 1.0)
        for setting in sorted(finished, key=self._price):
            near = self.runs.loss(setting, 1.0) - self.runs.loss(winner, 1.0) <= worth
            beaten = noise and any(
                judge(self.runs.gain(setting, other, 1.0, noise).interval(confidence), worth) == "better"
                for other in finished
                if other != setting
            )
            if near and not beaten:
                return setting
        return winner

    def _price(self, setting: Candidate) -> tuple[int, float, float]:
        """What a setting costs: its parameters. Among equals the better one is taken."""
        return self.runs.parameters(setting, 1.0), self.runs.loss(setting, 1.0), setting.alpha

    def _ask(self, lever: str, before: Candidate, to: Candidate, until: float, note: str = "") -> None:
        """Have a comparison judged at the end, if both sides came that far."""
        if all(self.runs.lasted(setting, until) for setting in (before, to)):
            self.questions.append(_Question(lever, before, to, until, note))

    def _judged(self, question: _Question, noise: Variance | None, confidence: float) -> Verdict:
        before, to, until = question.before, question.to, question.until
        one, other = self.runs.sides(before, to, until)
        worth = self.margin * math.fsum(s.mean for s in one) / len(one)
        values = (value_of(before, question.lever), value_of(to, question.lever))
        at = question.note + ("" if until == 1 else f" at {in_words(until)} of the budget")
        gain = self.runs.gain(before, to, until, noise or KNOWN_ZERO)
        more = needed(one, other, noise, worth, confidence) if noise else None
        return make_verdict(question.lever, values, gain, worth, confidence, one, noise is not None, at, more)

    def _against_untuned(self, chosen: Candidate, noise: Variance | None) -> Verdict:
        runs = [m.scores for m in self.runs.of(chosen, 1.0) if m.scores]
        added = noise.times(1 / len(runs)) if noise else KNOWN_ZERO
        gain = gain_estimate([self.baseline], runs, added)
        worth = self.margin * self.baseline.mean
        return make_verdict("adapter", ("untuned", name_of(chosen)), gain, worth, 0.95, runs, True, "", None)
