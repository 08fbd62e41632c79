"""The judgement of the finalists, which were trained in full with several seeds.

It says which pairs are compared and with what confidence, which pairs deserve more seeds, what each
comparison shows, and which setting is recommended.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from rung.search.effort import Effort
from rung.search.race import by_id
from rung.search.results import Results
from rung.search.stats import (
    NO_SEED_NOISE,
    gain_estimate,
    judge,
    minimum_detectable,
    required_sample,
    shared_confidence,
)
from rung.search.verdicts import difference, make_verdict
from rung.types import Scores, Setting, Verdict

FAMILY_ERROR = 0.05
"""The probability that any claim of a climb is wrong, over all its comparisons together."""
RACE_ERROR_SHARE = 0.1
"""The part of it that the verdicts of the race have: with one seed they can show little."""
FULL = 1.0
"""The fraction of the budget that finalists are trained to."""

Pair = tuple[Setting, Setting]
"""Two settings that are compared."""


def confirmation_confidence(comparisons: int, effort: Effort) -> float:
    """The confidence that each comparison of finalists needs, so that all hold together.

    If there may be extra seeds, each comparison may be judged twice, and counts twice.
    """
    looks = 2 if effort.extra_seeds else 1
    return shared_confidence(comparisons * looks, 1 - (1 - RACE_ERROR_SHARE) * FAMILY_ERROR)


class Confirmation:
    """Judges finalists by their results at the full budget.

    Args:
        results: of the climb.
        margin: the relative gain that is worth having.
        effort: of the climb.
        unit: of what is judged.
        untuned: the untuned model's scores, in that unit.
    """

    def __init__(
        self, results: Results, margin: float, effort: Effort, unit: str, untuned: Scores
    ) -> None:
        self.results, self.margin, self.effort = results, margin, effort
        self.unit, self.untuned = unit, untuned

    def finished(self, setting: Setting) -> bool:
        """Whether no seed of it diverged."""
        return self.results.finished(setting, FULL)

    def loss(self, setting: Setting) -> float:
        """The mean over the seeds; infinite if one of them diverged."""
        return self.results.loss(setting, FULL)

    def best(self, finalists: Collection[Setting]) -> Setting:
        """The finalist with the lowest loss."""
        return min(finalists, key=self.results.by_loss(FULL))

    def comparisons(self, finalists: Sequence[Setting], pairs: Sequence[Pair]) -> list[Pair]:
        """The pairs to judge, each from the cheaper to the more expensive setting.

        These are `pairs`, and whether the next higher rank is worth it for the best finalist. Pairs
        with a setting that diverged are left out.
        """
        ordered: list[Pair] = []
        for pair in (*pairs, *_rank_step(self.best(finalists), finalists)):
            if all(self.finished(setting) for setting in pair):
                before, after = sorted(pair, key=self._by_cost)
                ordered.append((before, after))
        return list(dict.fromkeys(ordered))

    def confidence(self, finalists: Sequence[Setting], pairs: Sequence[Pair]) -> float:
        """The confidence of each comparison.

        The rank step of every finalist counts, because the results choose which one is compared.
        """
        possible = [*pairs, *(step for s in finalists for step in _rank_step(s, finalists))]
        return confirmation_confidence(len({frozenset(pair) for pair in possible}), self.effort)

    def settings_for_extra_seeds(self, pairs: Sequence[Pair], confidence: float) -> list[Setting]:
        """The settings of undecided pairs that all seeds can be expected to decide.

        That is if the estimate stays as it is, or because a gain of twice the margin would be seen.
        """
        noise = self.results.seed_noise(FULL)
        if noise is None or not self.effort.extra_seeds:
            return []
        settings: list[Setting] = []
        seeds = len(self.effort.all_seeds)
        for pair in pairs:
            before, after = self.results.paired_scores(*pair, FULL)
            margin = self._margin(before)
            interval = self.results.gain(*pair, FULL, noise).interval(confidence)
            if judge(interval, margin) == "undecided":
                required = required_sample(before, after, noise, margin, confidence)
                detectable = minimum_detectable(
                    gain_estimate(before, after, noise.times(2 / seeds)), confidence
                )
                if (required.seeds or math.inf) <= seeds or detectable <= 2 * margin:
                    settings += pair
        return settings

    def verdict(self, before: Setting, after: Setting, confidence: float) -> Verdict:
        """The verdict on two finalists."""
        noise = self.results.seed_noise(FULL)
        scores_before, scores_after = self.results.paired_scores(before, after, FULL)
        margin = self._margin(scores_before)
        required = (
            required_sample(scores_before, scores_after, noise, margin, confidence)
            if noise
            else None
        )
        return make_verdict(
            "confirmation",
            difference(before, after),
            before,
            after,
            FULL,
            self.results.gain(before, after, FULL, noise or NO_SEED_NOISE),
            margin,
            confidence,
            scores_before,
            noise_known=noise is not None,
            required=required,
            unit=self.unit,
        )

    def verdict_on_untuned(self, setting: Setting) -> Verdict:
        """Whether the setting is better than the untuned model.

        It has an error of its own, 5 %. With one seed its interval covers that run, and the choice
        of rows alone.
        """
        scores = [m.scores for m in self.results.measurements(setting, FULL) if m.scores]
        noise = self.results.run_noise(FULL)
        seed_variance = noise.times(1 / len(scores)) if noise else NO_SEED_NOISE
        return make_verdict(
            "untuned",
            "adapter",
            None,
            setting,
            FULL,
            gain_estimate([self.untuned], scores, seed_variance),
            self.margin * abs(self.untuned.mean),
            0.95,
            scores,
            noise_known=True,
            unit=self.unit,
        )

    def recommend(self, finished: Sequence[Setting], confidence: float) -> Setting:
        """The cheapest setting within the margin of the best, if none is shown to be better.

        The cost of a setting is its number of parameters. Of equal costs the better one is taken.
        """
        noise = self.results.seed_noise(FULL)
        losses = self.results.shared_seed_losses(finished, FULL)
        by_loss = self.results.by_loss(FULL)
        best = min(finished, key=lambda s: (losses[s], by_loss(s)))
        margin = self.margin * abs(losses[best])
        for setting in sorted(
            finished, key=lambda s: (self.results.parameters(s, FULL), losses[s], s.alpha)
        ):
            near = losses[setting] - losses[best] <= margin
            beaten = noise and any(
                judge(self.results.gain(setting, other, FULL, noise).interval(confidence), margin)
                == "better"
                for other in finished
                if other != setting
            )
            if near and not beaten:
                return setting
        return best

    def _by_cost(self, setting: Setting) -> tuple[int, int, float, str]:
        parameters = self.results.parameters(setting, FULL)
        return setting.rank, parameters, setting.alpha, by_id(setting)

    def _margin(self, before: Sequence[Scores]) -> float:
        """The smallest gain over these scores that is worth having, in the unit."""
        return self.margin * abs(math.fsum(s.mean for s in before)) / len(before)


def _rank_step(setting: Setting, finalists: Sequence[Setting]) -> list[Pair]:
    """The setting and the finalist of the same target modules at the next higher rank, if any.

    Of several finalists at that rank it is the one that became a finalist first. Choosing by the
    confirmation loss would select on the data that we test with.
    """
    higher = [s for s in finalists if s.targets == setting.targets and s.rank > setting.rank]
    return [(setting, min(higher, key=lambda s: s.rank))] if higher else []
