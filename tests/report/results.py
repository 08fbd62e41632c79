"""Results of studies, as a study writes them, for the tests of what people see of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rung.metrics.report import (
    Disagreement,
    MetricBounds,
    MetricGain,
    MetricInfo,
    MetricsReport,
    SettingMetrics,
)
from rung.search.stats import Interval
from rung.search.strategy import LeverStanding
from rung.tuning.result import (
    Baseline,
    Cost,
    LadderStep,
    Recommendation,
    SeedNoise,
    SettingResult,
    StudyResult,
    TrivialAnswer,
)
from rung.types import Lever, RankUse, RequiredSample, Setting, Verdict

LINEAR = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")


def setting(
    rank: int = 32,
    rate: float = 1e-3,
    targets: str = "all-linear",
    per_rank: float = 2,
    **more: Any,
) -> Setting:
    return Setting(rank, per_rank * rank, targets, rate, **more)


BEST = setting()
RSLORA = Setting(32, 16, "all-linear", 1e-3, use_rslora=True)


def verdict(
    before: Setting | None, after: Setting, lever: Any, gain: float, half: float, **more: Any
) -> Verdict:
    """A verdict with an interval of `half` on both sides; it is a confirmed gain if nothing else
    is given.
    """
    values: dict[str, Any] = {
        "kind": "confirmation",
        "fraction": 1.0,
        "margin": 0.014,
        "outcome": "better",
        "reason": "gain",
        "rows": 400,
        "seeds": 4,
        "unit": "nats a token",
        "detectable": 1.4 * half,
    }
    low, high = gain - half, gain + half
    return Verdict(
        lever=lever, before=before, after=after, gain=gain, low=low, high=high, **values | more
    )


RACE: dict[str, Any] = {"kind": "race", "fraction": 1 / 4, "seeds": 1, "margin": 0.016}
UNDECIDED: dict[str, Any] = {"outcome": "undecided", "reason": "wide_interval"}
BELOW_MARGIN: dict[str, Any] = {"outcome": "no_worthwhile_gain", "reason": "below_margin"}
WORSE: dict[str, Any] = {"outcome": "no_worthwhile_gain", "reason": "worse"}
ONE_SEED: dict[str, Any] = {
    "outcome": "undecided",
    "reason": "one_seed",
    "detectable": None,
    "seeds": 1,
}
NO_INFORMATION: dict[str, Any] = {
    "outcome": "undecided",
    "reason": "no_information",
    "detectable": 2.31,
}

UNTUNED = verdict(None, BEST, "adapter", 6.997, 0.1, kind="untuned", margin=0.084, detectable=0.14)
LEARNING_RATE = verdict(setting(rate=5e-4), BEST, "learning_rate", 0.160, 0.109, **RACE)
TARGETS = verdict(setting(targets="attention", rate=2e-3), BEST, "targets", 0.213, 0.15, **RACE)
MATCHED = verdict(
    setting(targets="attention", rate=2e-3),
    setting(12),
    "targets",
    0.101,
    0.14,
    **RACE | UNDECIDED | {"kind": "matched_parameters"},
)
ALPHA = verdict(BEST, setting(per_rank=4, rate=5e-4), "alpha", -0.03, 0.09, **RACE | UNDECIDED)
RANK_IN_RACE = verdict(setting(16), BEST, "rank", 0.021, 0.08, **RACE | UNDECIDED)
RANK_BELOW = verdict(setting(16), BEST, "rank", 0.051, 0.03, detectable=0.042)
RANK_ABOVE = verdict(
    BEST,
    setting(64, 5e-4),
    "rank",
    0.008,
    0.04,
    **UNDECIDED,
    required=RequiredSample(rows=2100, seeds=11),
)
SEVERAL = verdict(BEST, setting(32, 2e-3, "mlp", per_rank=4), "setting", -0.05, 0.03, **WORSE)

STANDINGS = (
    LeverStanding(
        "learning_rate",
        1 / 4,
        tuple(
            (setting(rate=rate), loss)
            for rate, loss in ((1e-3, 1.601), (5e-4, 1.634), (2e-3, 1.702), (2.5e-4, 1.812))
        ),
    ),
    LeverStanding(
        "targets",
        1 / 4,
        (
            (BEST, 1.601),
            (setting(targets="mlp"), 1.634),
            (setting(targets="attention", rate=2e-3), 1.814),
        ),
    ),
    LeverStanding(
        "rank",
        1 / 4,
        ((BEST, 1.601), (setting(64, 5e-4), 1.611), (setting(16), 1.622), (setting(8), 1.683)),
    ),
    LeverStanding(
        "alpha",
        1 / 4,
        (
            (BEST, 1.601),
            (setting(per_rank=1, rate=2e-3), 1.615),
            (setting(per_rank=4, rate=5e-4), 1.631),
        ),
    ),
)

LADDER = (
    LadderStep(8, setting(8), 1 / 4, 0, 1.683),
    LadderStep(16, setting(16), 1.0, 4, 1.414),
    LadderStep(32, BEST, 1.0, 4, 1.363, 0.051, 0.021, 0.081, outcome="better"),
    LadderStep(64, setting(64, 5e-4), 1.0, 4, 1.355, 0.008, -0.032, 0.048, outcome="undecided"),
)


def setting_result(own: Setting, loss: float | None, **more: Any) -> SettingResult:
    """A setting that was trained in full with four seeds if nothing else is given."""
    values: dict[str, Any] = {
        "seeds": 4,
        "fraction": 1.0,
        "status": "diverged" if loss is None else "trained",
        "validation_loss": None if loss is None else Interval(loss, loss - 0.031, loss + 0.031),
        "parameters": 610_560 * own.rank,
        "peak_memory_bytes": 2_510_000_000,
        "seconds": 61.4,
    }
    return SettingResult(own, **values | more)


RACED: dict[str, Any] = {"seeds": 1, "fraction": 1 / 4, "status": "excluded"}
SETTINGS = (
    setting_result(setting(8), 1.683, **RACED),
    setting_result(setting(8, 2e-3), 1.741, **RACED),
    setting_result(setting(16), 1.414),
    setting_result(BEST, 1.363),
    setting_result(setting(64, 5e-4), 1.355),
    setting_result(setting(32, 2e-3, "mlp", per_rank=4), 1.412, seeds=1),
    setting_result(setting(targets="attention", rate=2e-3), 1.814, **RACED),
    setting_result(RSLORA, 1.702, **RACED),
    setting_result(setting(64, 8e-3), None, **RACED | {"status": "diverged"}),
)


def metrics_of(own: Setting, exact: float, error: float, seeds: int = 4) -> SettingMetrics:
    return SettingMetrics(
        own,
        seeds,
        {
            "phoneme_error_rate": MetricBounds(error, error - 0.02, error + 0.02),
            "exact_match": MetricBounds(exact, max(0.0, exact - 0.05), exact + 0.05),
        },
        {},
    )


METRICS = MetricsReport(
    "loss",
    (MetricInfo("phoneme_error_rate", True), MetricInfo("exact_match", False)),
    64,
    (
        metrics_of(setting(16), 0.141, 0.312),
        metrics_of(BEST, 0.203, 0.281),
        metrics_of(setting(64, 5e-4), 0.187, 0.274),
    ),
    Disagreement("phoneme_error_rate", BEST, setting(64, 5e-4), 0.281, 0.274, True),
)


def full_climb(**changes: Any) -> StudyResult:
    """A climb with everything: a race, a confirmation with four seeds, metrics."""
    test = {"loss": 1.342, "phoneme_error_rate": 0.274, "exact_match": 0.21}
    values: dict[str, Any] = {
        "schema": 2,
        "study": "pronounce",
        "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "model_source": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "data": "pronounce",
        "recommendation": Recommendation(
            candidate=f"{BEST.label}-s2",
            setting=BEST,
            seed=2,
            target_modules=LINEAR,
            adapter=f"adapters/{BEST.label}-s2",
            validation_loss=Interval(1.363, 1.332, 1.394),
            adapter_validation_loss=1.351,
            test=test,
            test_intervals={},
            test_gains={
                "loss": MetricGain(6.958, 6.871, 7.045),
                "phoneme_error_rate": MetricGain(0.612, 0.583, 0.641),
                "exact_match": MetricGain(0.21, 0.17, 0.25),
            },
            rank_use=RankUse(11.3, {8: 1.402, 16: 1.361}),
        ),
        "baseline": Baseline(
            validation_loss=8.360,
            test={"loss": 8.3, "phoneme_error_rate": 0.886, "exact_match": 0.0},
            test_rows=400,
            generated_rows=200,
            trivial=TrivialAnswer(" D IY T", {"phoneme_error_rate": 0.862, "exact_match": 0.005}),
        ),
        "verdicts": (
            LEARNING_RATE,
            TARGETS,
            RANK_IN_RACE,
            ALPHA,
            MATCHED,
            RANK_BELOW,
            RANK_ABOVE,
            SEVERAL,
            UNTUNED,
        ),
        "standings": STANDINGS,
        "ladder": LADDER,
        "metrics": METRICS,
        "noise": SeedNoise(0.0213, 12.0),
        "untried": {"alpha": ("rslora",)},
        "settings": SETTINGS,
        "candidates": (),
        "cost": Cost(871.0, 412_400, 38_540),
    }
    return StudyResult(**values | changes)


def grid_with_one_seed(**changes: Any) -> StudyResult:
    """A grid: every setting in full with one seed, so nothing is judged; no texts are generated."""
    losses = {(8, 5e-4): 1.52, (8, 1e-3): 1.49, (16, 5e-4): 1.47, (16, 1e-3): 1.44}
    settings = tuple(
        setting_result(setting(rank, rate), loss, seeds=1) for (rank, rate), loss in losses.items()
    )
    best = setting(16)
    climb = full_climb()
    recommendation = replace(
        climb.recommendation,
        setting=best,
        seed=0,
        candidate=f"{best.label}-s0",
        adapter=f"adapters/{best.label}-s0",
        validation_loss=Interval(1.44, 1.40, 1.48),
        adapter_validation_loss=1.44,
        test={"loss": 1.45},
        test_gains={"loss": MetricGain(6.85, 6.75, 6.95)},
        rank_use=RankUse(7.2, {8: 1.46}),
    )
    standing = LeverStanding
    levers: tuple[tuple[Lever, Setting], ...] = (
        ("learning_rate", setting(16, 5e-4)),
        ("rank", setting(8)),
    )
    values: dict[str, Any] = {
        "recommendation": recommendation,
        "baseline": Baseline(8.36, {"loss": 8.3}, 400, 0, None),
        "verdicts": (),
        "standings": tuple(
            standing(lever, 1.0, ((best, 1.44), (other, losses[other.rank, other.learning_rate])))
            for lever, other in levers
        ),
        "ladder": (
            LadderStep(8, setting(8), 1.0, 1, 1.49),
            LadderStep(16, best, 1.0, 1, 1.44, 0.05),
        ),
        "metrics": MetricsReport("loss", (), 0, (), None),
        "noise": None,
        "untried": {},
        "settings": settings,
        "cost": Cost(311.0, 154_160, 38_540),
    }
    return replace(climb, **values | changes)


def judged_by_metric(**changes: Any) -> StudyResult:
    """A climb whose finalists are judged by exact match, with a metric of the user's own."""
    unit: dict[str, Any] = {"unit": "exact_match", "margin": 0.0079}
    below = verdict(setting(16), BEST, "rank", 0.062, 0.05, **unit, detectable=0.07)
    above = verdict(
        BEST, setting(64, 5e-4), "rank", -0.016, 0.02, **unit | BELOW_MARGIN, detectable=0.03
    )
    untuned = verdict(None, BEST, "adapter", 0.203, 0.04, kind="untuned", **unit, detectable=0.06)
    own = "scoring/my_metrics.py:weighted_edit_distance"
    settings = tuple(
        SettingMetrics(
            one.setting,
            one.seeds,
            {
                "exact_match": one.metrics["exact_match"],
                own: MetricBounds(1234.5 + one.setting.rank, 1200.0, 1300.0),
            },
            {},
        )
        for one in METRICS.settings
    )
    climb = full_climb()
    best = replace(
        climb.recommendation,
        test={"loss": 1.342, "exact_match": 0.21, own: 1250.25},
        test_gains={
            "loss": climb.recommendation.test_gains["loss"],
            "exact_match": climb.recommendation.test_gains["exact_match"],
            own: MetricGain(3411.5, 3100.25, 3722.75),
        },
    )
    ladder = (
        *LADDER[:2],
        LadderStep(32, BEST, 1.0, 4, 1.363, 0.062, 0.012, 0.112, "exact_match", "better"),
        LadderStep(
            64,
            setting(64, 5e-4),
            1.0,
            4,
            1.355,
            -0.016,
            -0.036,
            0.004,
            "exact_match",
            "no_worthwhile_gain",
        ),
    )
    values: dict[str, Any] = {
        "recommendation": best,
        "baseline": replace(
            climb.baseline,
            test={"loss": 8.3, "exact_match": 0.0, own: 4661.75},
            trivial=TrivialAnswer("the", {"exact_match": 0.005, own: 4000.0}),
        ),
        "verdicts": (LEARNING_RATE, TARGETS, RANK_IN_RACE, ALPHA, below, above, untuned),
        "ladder": ladder,
        "metrics": MetricsReport(
            "exact_match",
            (MetricInfo("exact_match", False), MetricInfo(own, True)),
            64,
            settings,
            Disagreement("exact_match", setting(64, 5e-4), BEST, 0.187, 0.203, False),
        ),
    }
    return replace(climb, **values | changes)


def with_a_diverged_lever(**changes: Any) -> StudyResult:
    """A small climb of one finalist with one seed, in which the highest learning rate diverged."""
    few: dict[str, Any] = RACE | ONE_SEED
    verdicts = (
        verdict(setting(rate=5e-4), BEST, "learning_rate", 0.03, 0.01, **few),
        verdict(setting(targets="attention"), BEST, "targets", 0.2, 9.0, **RACE | NO_INFORMATION),
        UNTUNED,
    )
    ladder = (
        LadderStep(8, None, None, 0, None),
        LadderStep(16, setting(16), 1 / 4, 0, 1.622),
        LadderStep(32, BEST, 1.0, 1, 1.363),
    )
    values: dict[str, Any] = {
        "verdicts": verdicts,
        "standings": STANDINGS[:2],
        "ladder": ladder,
        "noise": None,
        "untried": {"targets": ("mlp", "lm_head"), "alpha": ("r", "4r", "rslora")},
        "settings": (
            setting_result(BEST, 1.363, seeds=1),
            setting_result(setting(16), 1.622, **RACED),
            setting_result(setting(rate=8e-3), None, seeds=1, fraction=1 / 4),
        ),
        "metrics": replace(METRICS, settings=METRICS.settings[1:2], disagreement=None),
    }
    return replace(full_climb(), **values | changes)


RESULTS = {
    "a full climb": full_climb,
    "a grid with one seed": grid_with_one_seed,
    "judged by a metric": judged_by_metric,
    "a diverged lever": with_a_diverged_lever,
}
