from __future__ import annotations

import math

import pytest

from rung.metrics import text_metrics


def test_exact_match_forgives_white_space_at_the_ends_only() -> None:
    assert text_metrics([" A B ", "A  B", "a b"], ["A B"] * 3) == {"exact_match": pytest.approx(1 / 3)}


def test_numbers_are_judged_as_numbers_where_the_model_wrote_one() -> None:
    found = text_metrics(["100", "1,300", "cheap", "-5"], ["110", "1300", "5", "5"])
    assert found["exact_match"] == 0
    assert found["answered"] == 0.75
    assert found["mean_absolute_error"] == pytest.approx((10 + 0 + 10) / 3)
    assert "rmsle" not in found, "a logarithm needs numbers above -1"
    found = text_metrics(["99", "7"], ["49", "7"])
    assert found["rmsle"] == pytest.approx(math.log(2) / math.sqrt(2))


def test_no_answer_at_all_is_no_error_of_zero() -> None:
    assert text_metrics(["x", "nan"], ["1", "2"]) == {"exact_match": 0, "answered": 0}
