"""From measurements to the parts of `result.json`: settings over their seeds, and the ladder."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rung.search.stats import NO_SEED_NOISE, Interval, Variance, loss_estimate, run_noise
from rung.search.strategy import Decision, LeverStanding
from rung.search.verdicts import lever_value
from rung.tuning.result import LadderStep, SeedNoise, SettingResult, SettingStatus
from rung.types import Candidate, Lever, Measurement, Scores, Setting, Verdict

LEVERS: tuple[Lever, ...] = ("learning_rate", "targets", "rank", "alpha")


@dataclass(frozen=True)
class Runs:
    """Every candidate of a study with its measurements, in the order of the ledger."""

    stages: Mapping[Candidate, Sequence[Measurement]]

    @classmethod
    def of(cls, history: Iterable[Measurement]) -> Runs:
        stages: dict[Candidate, list[Measurement]] = {}
        for measurement in history:
            stages.setdefault(measurement.candidate, []).append(measurement)
        return cls(stages)

    @property
    def last(self) -> dict[Candidate, Measurement]:
        """Of each candidate the measurement at its largest fraction."""
        return {
            candidate: max(own, key=lambda m: m.fraction) for candidate, own in self.stages.items()
        }

    def noise(self) -> Variance | None:
        """The variance of the loss of one full run, from settings with several confirming seeds.

        Seed 0 raced: it selected what was confirmed, so it is left out.
        """
        return run_noise(
            {
                (candidate.setting, candidate.seed): m.loss
                for candidate, m in self.last.items()
                if m.fraction == 1 and m.scores and candidate.seed
            }
        )


def seed_noise_of(noise: Variance | None) -> SeedNoise | None:
    if noise is None:
        return None
    return SeedNoise(math.sqrt(noise.value), noise.degrees_of_freedom)


def loss_interval_of(scores: Sequence[Scores], noise: Variance = NO_SEED_NOISE) -> Interval | None:
    """The mean loss over runs of one setting; `noise` is that of one run. None without runs."""
    if not scores:
        return None
    return loss_estimate(scores, noise.times(1 / len(scores))).interval()


def furthest(runs: Sequence[Measurement]) -> list[Measurement]:
    """The runs of a setting that were trained as far as any of them.

    Of these only the seeds of the confirmation, if there are any: seed 0 raced, so it selected
    what was confirmed and flatters it.
    """
    most = max(m.fraction for m in runs)
    runs = [m for m in runs if m.fraction == most]
    return [m for m in runs if m.candidate.seed] or runs


def setting_loss(runs: Sequence[Measurement], noise: Variance | None) -> Interval | None:
    """The loss of a setting from runs at one fraction; None if one of them diverged.

    The noise of seeds is known for full runs only.
    """
    scores = [m.scores for m in runs if m.scores]
    in_full = noise if noise and runs[0].fraction == 1 else NO_SEED_NOISE
    return loss_interval_of(scores, in_full) if len(scores) == len(runs) else None


def setting_results(runs: Runs, noise: Variance | None) -> tuple[SettingResult, ...]:
    """Every setting over its seeds, in the order in which they were first tried."""
    by_setting: dict[Setting, list[Measurement]] = {}
    for candidate, measurement in runs.last.items():
        by_setting.setdefault(candidate.setting, []).append(measurement)
    results = []
    for setting, all_runs in by_setting.items():
        shown = furthest(all_runs)
        loss, fraction = setting_loss(shown, noise), shown[0].fraction
        status: SettingStatus = (
            "diverged" if loss is None else "excluded" if fraction < 1 else "trained"
        )
        results.append(
            SettingResult(
                setting=setting,
                seeds=len(shown),
                fraction=fraction,
                status=status,
                validation_loss=loss,
                parameters=shown[0].parameters,
                peak_memory_bytes=max(m.peak_memory_bytes for m in all_runs),
                seconds=sum(m.seconds for m in all_runs),
            )
        )
    return tuple(results)


def lever_standings(
    decision: Decision, settings: Sequence[SettingResult]
) -> tuple[LeverStanding, ...]:
    """How the values of each lever stand: by the race, or else by the settings trained in full.

    Without a race a value stands by the best setting that has it.
    """
    if decision.standings:
        return decision.standings
    standings = []
    finished = [s for s in settings if s.fraction == 1 and s.validation_loss]
    finished.sort(key=lambda s: s.validation_loss.mean if s.validation_loss else math.inf)
    for lever in LEVERS:
        best: dict[float | str, tuple[Setting, float]] = {}
        for result in finished:
            if result.validation_loss:
                value = lever_value(result.setting, lever)
                best.setdefault(value, (result.setting, result.validation_loss.mean))
        if len(best) > 1:
            standings.append(LeverStanding(lever, 1.0, tuple(best.values())))
    return tuple(standings)


def rank_ladder(
    ranks: Sequence[int],
    recommended: Setting,
    settings: Sequence[SettingResult],
    standings: Sequence[LeverStanding],
    verdicts: Sequence[Verdict],
) -> tuple[LadderStep, ...]:
    """The ranks from small to large, with the recommended target modules.

    A rank that was trained in full stands with that loss, another one with the loss that the
    race's surface has for it.
    """
    judged = [v for v in verdicts if v.kind == "confirmation" and v.lever == "rank"]
    judged = [v for v in judged if v.after.targets == recommended.targets]
    sides = [side for v in judged for side in (v.before, v.after) if side]
    full = _full_by_rank(settings, [*sides, recommended])
    race = next((s for s in standings if s.lever == "rank" and s.fraction < 1), None)
    on_surface = {setting.rank: (setting, loss) for setting, loss in race.losses} if race else {}
    steps: list[LadderStep] = []
    for rank in sorted({*ranks, *full, recommended.rank}):
        if result := full.get(rank):
            assert result.validation_loss is not None
            step = LadderStep(rank, result.setting, 1.0, result.seeds, result.validation_loss.mean)
        elif race and rank in on_surface:
            setting, loss = on_surface[rank]
            step = LadderStep(rank, setting, race.fraction, 0, loss)
        else:
            step = LadderStep(rank, None, None, 0, None)
        steps.append(_with_gain(step, steps[-1] if steps else None, judged))
    return tuple(steps)


def _full_by_rank(
    settings: Sequence[SettingResult], preferred: Sequence[Setting]
) -> dict[int, SettingResult]:
    """For each rank a setting that was trained in full: the last one that is preferred, or else
    the best one with the same target modules.
    """
    targets = preferred[-1].targets
    by_rank: dict[int, SettingResult] = {}
    of_setting = {s.setting: s for s in settings if s.fraction == 1 and s.validation_loss}
    for result in sorted(of_setting.values(), key=_mean):
        if result.setting.targets == targets:
            by_rank.setdefault(result.setting.rank, result)
    by_rank |= {s.rank: of_setting[s] for s in preferred if s in of_setting}
    return by_rank


def _mean(result: SettingResult) -> float:
    return result.validation_loss.mean if result.validation_loss else math.inf


def _with_gain(
    step: LadderStep, before: LadderStep | None, verdicts: Sequence[Verdict]
) -> LadderStep:
    """The step with its gain over the rank before: the verdict on the two, or the difference."""
    if before is None or before.setting is None or step.setting is None:
        return step
    sides = (before.setting, step.setting)
    verdict = next((v for v in verdicts if (v.before, v.after) == sides), None)
    if verdict:
        gain, low, high = verdict.gain, verdict.low, verdict.high
        return replace(
            step, gain=gain, low=low, high=high, unit=verdict.unit, outcome=verdict.outcome
        )
    if step.fraction != before.fraction or step.loss is None or before.loss is None:
        return step
    return replace(step, gain=before.loss - step.loss)
