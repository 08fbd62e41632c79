"""From an estimated gain to a verdict."""

from __future__ import annotations

import math

import pytest

from rung.search.stats import Estimate, Variance
from rung.search.verdicts import NATS, difference, lever_value, make_verdict
from rung.types import Outcome, Reason, RequiredSample, Scores, Setting, Verdict

SMALL, LARGE = Setting(8, 16, "mlp", 1e-3), Setting(16, 32, "mlp", 2e-3)
REQUIRED = RequiredSample(rows=400, seeds=None)


def verdict(
    gain: float,
    error: float,
    loss: float = 2.0,
    unit: str = NATS,
    noise_known: bool = True,
    margin: float = 0.1,
) -> Verdict:
    return make_verdict(
        "confirmation",
        "rank",
        SMALL,
        LARGE,
        1.0,
        Estimate(gain, Variance(error**2, math.inf)),
        margin,
        0.95,
        [Scores((loss,) * 200, (1,) * 200)],
        noise_known,
        REQUIRED,
        unit,
    )


@pytest.mark.parametrize(
    ("gain", "error", "outcome", "reason"),
    [
        (0.2, 0.01, "better", "gain"),
        (-0.2, 0.01, "no_worthwhile_gain", "worse"),
        (0.0, 0.01, "no_worthwhile_gain", "below_margin"),
        (0.1, 0.1, "undecided", "wide_interval"),
        (0.1, 2.0, "undecided", "no_information"),
    ],
)
def test_the_interval_decides_the_outcome_and_its_reason(
    gain: float, error: float, outcome: Outcome, reason: Reason
) -> None:
    judged = verdict(gain, error)
    assert (judged.outcome, judged.reason) == (outcome, reason)
    assert judged.low < gain < judged.high


def test_without_known_noise_nothing_is_claimed() -> None:
    judged = verdict(0.2, 0.01, noise_known=False)
    assert (judged.outcome, judged.reason) == ("undecided", "one_seed")
    assert (judged.detectable, judged.required) == (None, None)


def test_only_an_interval_that_is_too_wide_says_what_would_decide() -> None:
    assert verdict(0.1, 0.1).required == REQUIRED
    for gain, error in ((0.2, 0.01), (0.0, 0.01), (-0.2, 0.01), (0.1, 2.0)):
        assert verdict(gain, error).required is None


@pytest.mark.parametrize(
    ("unit", "loss", "error", "informative"),
    [
        (NATS, 2.0, 0.1, True),
        (NATS, 2.0, 2.0, False),
        # The distance of 99 % from all: to halve it is no small thing.
        ("of accuracy", 0.01, 0.02, True),
        ("of score", 0.0, 0.02, True),
    ],
)
def test_only_a_loss_can_be_too_noisy_to_tell_anything(
    unit: str, loss: float, error: float, informative: bool
) -> None:
    judged = verdict(0.0, error, loss, unit, margin=0.001)
    assert judged.outcome == "undecided"
    assert judged.reason == ("wide_interval" if informative else "no_information")


@pytest.mark.parametrize(
    ("after", "lever"),
    [
        (Setting(8, 16, "mlp", 2e-3), "learning_rate"),
        (Setting(16, 32, "mlp", 2e-3), "rank"),
        (Setting(8, 16, "attention", 2e-3), "targets"),
        (Setting(8, 32, "mlp", 2e-3), "alpha"),
        (Setting(16, 16, "mlp", 2e-3), "rank"),
        (Setting(16, 32, "attention", 2e-3), "setting"),
    ],
)
def test_a_pair_differs_in_one_lever_beside_the_learning_rate_or_in_several(
    after: Setting, lever: str
) -> None:
    assert difference(SMALL, after) == lever


def test_a_lever_has_its_value_and_several_levers_have_the_label() -> None:
    setting = Setting(8, 16, "mlp", 1e-3, use_rslora=True)
    assert lever_value(setting, "rank") == 8
    assert lever_value(setting, "learning_rate") == 1e-3
    assert lever_value(setting, "targets") == "mlp"
    assert lever_value(setting, "alpha") == "16 rsLoRA"
    assert lever_value(SMALL, "alpha") == "16"
    assert lever_value(SMALL, "setting") == SMALL.label
