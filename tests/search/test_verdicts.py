"""Comparisons in a sentence."""

from __future__ import annotations

import pytest

from rung.search.stats import Estimate, Variance
from rung.search.verdicts import NATS, make_verdict
from rung.types import Scores, Setting


@pytest.mark.parametrize(
    ("unit", "loss", "error", "told"),
    [
        (NATS, 2.0, 0.1, True),
        (NATS, 2.0, 2.0, False),
        (
            "of accuracy",
            0.01,
            0.02,
            True,
        ),  # how far 99 % are from all; to halve that is no small thing
        ("of score", 0.0, 0.02, True),
    ],
)
def test_only_of_losses_it_says_that_nothing_can_be_told(
    unit: str, loss: float, error: float, told: bool
) -> None:
    scores = Scores((loss,) * 200, (1,) * 200)
    gain = Estimate(0.0, Variance(error**2, 10))
    before, after = (Setting(rank, 2 * rank, "mlp", 1e-3) for rank in (8, 16))
    verdict = make_verdict(
        "confirmation", "rank", before, after, 1.0, gain, 0.001, 0.95, [scores], True, unit=unit
    )
    assert verdict.outcome == "undecided"
    assert verdict.reason == ("wide_interval" if told else "no_information")
