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
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace

from rung.errors import TrainingError
from rung.levers import Candidate, LeverSpace, Measurement, Scores, Verdict
from rung.search.grid import best
from rung.search.stats import (
    KNOWN_ZERO,
    Estimate,
    Needed,
    Variance,
    gain_estimate,
    judge,
    needed,
    seed_noise,
    shared_confidence,
)
from rung.search.strategy import Answer, Ask, Course, Decision, Notes, follow, in_words

EXTENSIONS = 2
"""How many times the grid of learning rates may grow, where it is not the user's own."""
ERROR = 0.05
"""How often a climb may claim something that is not so, in all its comparisons together."""
LOOK_ERROR = 0.2
"""The share of it that is spent on what is compared at the look, with one seed, where little can be shown."""
FAR = 4.0
"""Nats a token of the untuned model from which on the completions are far from what it writes, and the output head is
tried: it gives the right token one chance in 55."""


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
        self.runs: dict[tuple[Candidate, float], dict[int, Measurement]] = {}
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
        answer = yield Ask(phase, wanted, until, self._ahead(phase, until))
        for candidate, measurement in answer.items():
            self.runs.setdefault((replace(candidate, seed=0), until), {})[candidate.seed] = measurement

    def _ahead(self, phase: str, until: float) -> float:
        """An estimate of what comes after: the confirmation, and a few settings for each lever of the race."""
        plan = self.plan
        confirming = plan.finalists * len(plan.seeds)
        if phase == "confirmation":
            return confirming * (1 - plan.look) if until < 1 else 0.0
        order = ["learning rate", "target modules", "rank", "alpha"]
        return confirming + 4 * plan.look * (len(order) - 1 - order.index(phase)) if phase in order else 0.0

    def _loss(self, setting: Candidate, until: float) -> float:
        """The mean over the seeds; infinite where one of them diverged."""
        runs = self.runs[setting, until]
        return math.fsum(m.loss for m in runs.values()) / len(runs)

    def _by_loss(self, until: float) -> Callable[[Candidate], tuple[float, int, float, float, str]]:
        """A key to sort settings by; among equals the smaller one comes first, so that no order of history matters."""
        return lambda s: (self._loss(s, until), s.rank, s.alpha, s.learning_rate, s.targets)

    def _best(self, settings: Iterable[Candidate], until: float) -> Candidate:
        found = min(settings, key=self._by_loss(until))
        if math.isinf(self._loss(found, until)):
            raise TrainingError("Every candidate has diverged; give lower learning rates with --learning-rates.")
        return found

    # The race.

    def _learning_rate(self) -> Part:
        look = self.plan.look
        grid = [self.space.candidate(self.space.ranks[0], rate) for rate in self.space.learning_rates]
        yield from self._measure("learning rate", grid, look, [0])
        for _ in range(0 if self.space.pinned or len(grid) == 1 else EXTENSIONS):
            grid.sort(key=lambda setting: setting.learning_rate)
            leader = self._best(grid, look)
            if leader not in (grid[0], grid[-1]):
                break
            beside = grid[1] if leader is grid[0] else grid[-2]
            rate = float(f"{leader.learning_rate * (0.5 if leader is grid[0] else 2):.6g}")
            # Where the edge is flat, the best rate is not beyond it.
            if not 0 < rate < 1 or self._loss(leader, look) > (1 - self.margin) * self._loss(beside, look):
                break
            grid.append(replace(leader, learning_rate=rate))
            self.rates.add(rate)
            yield from self._measure("learning rate", grid[-1:], look, [0])
        self.leader = self._best(grid, look)
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
        share = self._parameters(first, look) / self._parameters(self.leader, look)
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
        least = self._loss(self._best(everyone, look), look)
        near = [s for s in everyone if self._loss(s, look) <= least + self.margin * abs(least)]
        return min(
            near,
            key=lambda s: (self._parameters(s, look), self._but_rate(s) != self._but_rate(before), self._loss(s, look)),
        )

    def _nearest(self, settings: Sequence[Candidate]) -> Candidate:
        """The one with the lowest loss at the look, diverged or not."""
        return min(settings, key=self._by_loss(self.plan.look))

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
        for setting in sorted(settings, key=self._by_loss(look)):
            standing.setdefault(_in_words(setting, name), self._loss(setting, look))
        values = ", ".join(f"{value} {loss:.3f}" for value, loss in standing.items())
        leading = _in_words(self.leader, name)
        self.notes.said.append(f"{lever} at {in_words(look)}, one seed: {values}; {leading} leads")
        for setting in settings:
            behind = self._loss(setting, look) - self._loss(self.leader, look)
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
        tried = sorted(self._raced(), key=self._by_loss(look))
        alike = {self._but_rate(setting) for setting in chosen}
        for setting in tried:
            if self._but_rate(setting) not in alike and math.isfinite(self._loss(setting, look)):
                alike.add(self._but_rate(setting))
                chosen.append(setting)
        return sorted(chosen[: self.plan.finalists], key=lambda s: s.rank)

    def _raced(self) -> list[Candidate]:
        """The settings that have been tried at the look."""
        return [s for s, until in self.runs if until == self.plan.look and s not in self.asides]

    def _but_rate(self, setting: Candidate) -> Candidate:
        return replace(setting, learning_rate=1.0)

    def _rung(self, rank: int) -> Candidate:
        """The leader on another rung, at the rate that was best there."""
        value = self._at_rank(self.leader, rank)
        known = [s for s, until in self.runs if until == self.plan.look and self._but_rate(s) == self._but_rate(value)]
        return self._nearest(known) if known else value

    def _next_rung(self, finalists: Sequence[Candidate]) -> Candidate | None:
        """The rung above the topmost finalist, where that is the best and doubling may still be worth it; or the one
        below the lowest, where that is within the margin of the best and half of it may be enough.
        """
        ladder = sorted((s for s in finalists if s.targets == self.leader.targets), key=lambda s: s.rank)
        below, above = ladder[0], ladder[-1]
        winner = min(finalists, key=self._by_loss(1.0))
        least = self._loss(winner, 1.0)
        if math.isinf(least):
            return None
        ranks = self.space.ranks
        if winner == above and above.rank != ranks[-1]:
            return self._rung(ranks[ranks.index(above.rank) + 1])
        if self._loss(below, 1.0) <= least + self.margin * abs(least) and below.rank != ranks[0]:
            return self._rung(ranks[ranks.index(below.rank) - 1])
        return None

    def _stand_in(self, finalists: Sequence[Candidate]) -> Candidate | None:
        """Where every finalist has diverged in full: the one of the others that was the nearest at the look."""
        look = self.plan.look
        others = [s for s in self._raced() if s not in finalists and math.isfinite(self._loss(s, look))]
        if any(math.isfinite(self._loss(s, 1.0)) for s in finalists):
            return None
        return min(others, key=self._by_loss(look), default=None)

    # The judgement.

    def _end(self, finalists: list[Candidate]) -> Candidate:
        """Judge all the questions and recommend; the recommended candidate is the best seed of the best setting."""
        noises = {until: self._noise(until) for until in (self.plan.look, 1.0)}
        full = noises[1.0]
        self.notes.noise = full
        finished = [s for s in finalists if math.isfinite(self._loss(s, 1.0))]
        if not finished:
            raise TrainingError("Every finalist has diverged; give lower learning rates with --learning-rates.")
        winner = self._best(finished, 1.0)
        for below, above in itertools.pairwise(finished):
            self._ask(_difference(below, above), below, above, 1.0)
        confidences = self._confidences()
        self.notes.verdicts += [self._judged(q, noises[q.until], confidences[q.until]) for q in self.questions]
        chosen = self._cheapest(finished, winner, full, confidences[1.0])
        run = best(self.runs[chosen, 1.0].values())
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

    def _noise(self, until: float) -> Variance | None:
        """Of one run, from the settings that have several seeds there."""
        return seed_noise(
            {
                (setting, seed): m.loss
                for (setting, share), runs in self.runs.items()
                if share == until
                for seed, m in runs.items()
                if m.scores and seed in self.plan.seeds
            }
        )

    def _cheapest(
        self, finished: Sequence[Candidate], winner: Candidate, noise: Variance | None, confidence: float
    ) -> Candidate:
        """The cheapest that is within the margin of the best, unless another is shown to be worthwhile better."""
        worth = self.margin * self._loss(winner, 1.0)
        for setting in sorted(finished, key=self._price):
            near = self._loss(setting, 1.0) - self._loss(winner, 1.0) <= worth
            beaten = noise and any(
                judge(self._gain(setting, other, 1.0, noise).interval(confidence), worth) == "better"
                for other in finished
                if other != setting
            )
            if near and not beaten:
                return setting
        return winner

    def _price(self, setting: Candidate) -> tuple[int, float, float]:
        """What a setting costs: its parameters. Among equals the better one is taken."""
        return self._parameters(setting, 1.0), self._loss(setting, 1.0), setting.alpha

    def _parameters(self, setting: Candidate, until: float) -> int:
        return next(iter(self.runs[setting, until].values())).parameters

    def _ask(self, lever: str, before: Candidate, to: Candidate, until: float, note: str = "") -> None:
        """Have a comparison judged at the end, if both sides came that far."""
        if all(math.isfinite(self._loss(setting, until)) for setting in (before, to)):
            self.questions.append(_Question(lever, before, to, until, note))

    def _seeds(self, before: Candidate, to: Candidate, until: float) -> list[int]:
        """The seeds that both have been measured with; those of the confirmation, where there are any."""
        shared = [s for s in self.runs[before, until] if s in self.runs[to, until]]
        fresh = [s for s in shared if s in self.plan.seeds]
        return sorted(fresh or shared)

    def _scores(self, setting: Candidate, until: float, seeds: Iterable[int]) -> list[Scores]:
        found = [self.runs[setting, until][seed].scores for seed in seeds]
        return [scores for scores in found if scores]

    def _gain(self, before: Candidate, to: Candidate, until: float, noise: Variance) -> Estimate:
        seeds = self._seeds(before, to, until)
        one, other = (self._scores(setting, until, seeds) for setting in (before, to))
        return gain_estimate(one, other, noise.times(2 / len(seeds)))

    def _judged(self, question: _Question, noise: Variance | None, confidence: float) -> Verdict:
        before, to, until = question.before, question.to, question.until
        seeds = self._seeds(before, to, until)
        one, other = (self._scores(setting, until, seeds) for setting in (before, to))
        worth = self.margin * math.fsum(s.mean for s in one) / len(one)
        values = (_value(before, question.lever), _value(to, question.lever))
        at = question.note + ("" if until == 1 else f" at {in_words(until)} of the budget")
        gain = self._gain(before, to, until, noise or KNOWN_ZERO)
        more = needed(one, other, noise, worth, confidence) if noise else None
        return _verdict(question.lever, values, gain, worth, confidence, one, noise is not None, at, more)

    def _against_untuned(self, chosen: Candidate, noise: Variance | None) -> Verdict:
        runs = [m.scores for m in self.runs[chosen, 1.0].values() if m.scores]
        added = noise.times(1 / len(runs)) if noise else KNOWN_ZERO
        gain = gain_estimate([self.baseline], runs, added)
        worth = self.margin * self.baseline.mean
        return _verdict("adapter", ("untuned", _name(chosen)), gain, worth, 0.95, runs, True, "", None)


_NAMES = {
    "learning_rate": "Learning rate",
    "rank": "Rank",
    "alpha": "Alpha",
    "target_modules": "Target modules",
    "setting": "Setting",
    "adapter": "Adapter",
}


def _value(setting: Candidate, lever: str) -> object:
    if lever == "learning_rate":
        return setting.learning_rate
    if lever == "rank":
        return setting.rank
    if lever == "alpha":
        return f"{setting.alpha:g}{' rsLoRA' if setting.use_rslora else ''}"
    return setting.targets if lever == "target_modules" else _name(setting)


def _in_words(setting: Candidate, lever: str) -> str:
    value = _value(setting, lever)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _name(setting: Candidate) -> str:
    return setting.id.removesuffix(f"-s{setting.seed}")


def _difference(before: Candidate, to: Candidate) -> str:
    """The one lever that two settings differ in, beside the rate that goes with it; or that they differ in several."""
    ratios = [s.scale for s in (before, to)]
    unlike = [
        lever
        for lever, differs in (
            ("rank", before.rank != to.rank),
            ("target_modules", before.targets != to.targets),
            ("alpha", not math.isclose(*ratios) and before.rank == to.rank),
        )
        if differs
    ]
    return unlike[0] if len(unlike) == 1 else "setting" if unlike else "learning_rate"


def _verdict(
    lever: str,
    values: tuple[object, object],
    gain: Estimate,
    worth: float,
    confidence: float,
    scores: Sequence[Scores],
    noise_known: bool,
    at: str,
    more: Needed | None,
) -> Verdict:
    interval = gain.interval(confidence)
    outcome = judge(interval, worth) if noise_known else "undecided"
    what = " → ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
    if not noise_known:
        says = f"undecided: {gain.mean:+.3f} nats a token with one seed, which cannot tell a gain from its luck"
    elif outcome == "better":
        says = f"better by {gain.mean:.3f} nats a token ({interval.low:.3f} to {interval.high:.3f})"
    elif interval.high < 0:
        says = (
            f"no worthwhile gain: worse by {-gain.mean:.3f} nats a token ({-interval.high:.3f} to {-interval.low:.3f})"
        )
    elif outcome == "no_worthwhile_gain":
        says = f"no worthwhile gain: at most {interval.high:.3f} nats a token, and {worth:.3f} would be worth it"
    else:
        says = f"undecided: a gain of {interval.low:.3f} to {interval.high:.3f}, and {worth:.3f} would be worth it"
        says += _would_decide(more, len(scores[0].tokens), len(scores))
    return Verdict(
        lever,
        *values,
        gain.mean,
        interval.low,
        interval.high,
        worth,
        outcome,
        len(scores[0].tokens),
        len(scores),
        f"{_NAMES[lever]} {what}{at}: {says}.",
    )


def _would_decide(more: Needed | None, rows: int, seeds: int) -> str:
    """What would decide it, in words."""
    found = []
    if more and more.rows:
        found.append(f"about {more.rows - rows:,} more validation rows")
    if more and more.seeds:
        found.append(f"about {more.seeds - seeds:,} more seeds")
    return f"; {' or '.join(found)} would decide it" if found else ""
