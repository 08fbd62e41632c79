"""How numbers, amounts and settings are written."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from tests.report.results import BEST, RSLORA, setting

from rung.report.format import (
    Unit,
    alphas_follow_rank,
    count,
    decimals_for,
    duration,
    file_size,
    fixed,
    fraction_figures,
    fraction_words,
    gigabytes,
    lever_words,
    metric_name,
    metric_value,
    parameter_count,
    plus_minus,
    setting_words,
    shortened,
    targets_cell,
)
from rung.types import Setting


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (1.3634, 3, "1.363"),
        (-0.01, 3, "−0.010"),
        (-0.0001, 3, "0.000"),
        (-math.inf, 3, "−inf"),
        (1250.0, 1, "1,250.0"),
        (-7.0, 0, "−7"),
    ],
)
def test_a_number_has_fixed_decimals_and_no_negative_zero(
    value: float, decimals: int, text: str
) -> None:
    assert fixed(value, decimals) == text


@given(st.floats(1e-5, 1e4))
def test_a_margin_can_be_read_at_the_decimals_that_it_asks_for(margin: float) -> None:
    shown = float(fixed(margin, decimals_for(margin)).replace(",", ""))
    assert math.isclose(shown, margin, rel_tol=0.15)


@pytest.mark.parametrize(
    ("margin", "decimals"),
    [(0.0001, 5), (0.004, 3), (0.014, 3), (0.39, 3), (0.5, 1), (12.0, 0), (0.0, 3), (math.inf, 3)],
)
def test_losses_have_three_decimals_unless_the_margin_asks_for_others(
    margin: float, decimals: int
) -> None:
    assert decimals_for(margin) == decimals


def test_a_mean_stands_with_half_its_interval_where_that_is_known() -> None:
    assert plus_minus(1.3634, 0.0301, 3) == "1.363 ± 0.030"
    assert plus_minus(1.3634, None, 3) == "1.363"
    assert plus_minus(None, None, 3) == "–"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("exact_match", 0.125, "12.5%"),
        ("phoneme_error_rate", 1.5, "150.0%"),
        ("r2", -0.5, "−0.500"),
        ("mean_absolute_error", 1250.25, "1,250"),
        ("mean_absolute_error", 12.25, "12.25"),
        ("r2", math.nan, "–"),
    ],
)
def test_shares_are_in_per_cent_and_large_values_have_few_decimals(
    name: str, value: float, text: str
) -> None:
    assert metric_value(name, value) == text


def test_a_metric_is_named_in_words_and_a_users_own_by_its_function() -> None:
    assert metric_name("exact_match") == "exact match"
    assert metric_name("scoring/my_metrics.py:edit_distance") == "edit distance"


def test_a_gain_in_a_share_is_in_percentage_points() -> None:
    unit = Unit.of("exact_match", 0.008)
    assert unit.interval(-0.01, 0.125) == "−1.0 to 12.5"
    assert unit.words == "points of exact match"


@pytest.mark.parametrize(
    ("fraction", "words", "figures"),
    [
        (0.25, "a quarter", "1/4"),
        (1 / 3, "a third", "1/3"),
        (0.3, "30%", "30%"),
        (1.0, "100%", "1/1"),
    ],
)
def test_a_fraction_is_written_as_people_say_it(fraction: float, words: str, figures: str) -> None:
    assert fraction_words(fraction) == words
    assert fraction_figures(fraction) == figures


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7380, "2 h 03 min")],
)
def test_a_duration_has_two_units_at_most(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sizes_and_counts() -> None:
    assert gigabytes(2_510_000_000) == "2.5 GB"
    assert file_size(1_234_000_000) == "1.23 GB"
    assert file_size(54_500_000) == "54.5 MB"
    assert [parameter_count(n) for n in (80, 4_100, 99_999, 460_800, 29_491_200)] == [
        "80",
        "4.1k",
        "100.0k",
        "0.5M",
        "29.5M",
    ]
    assert [count(1, "seed"), count(1200, "row")] == ["1 seed", "1,200 rows"]


@given(st.text(max_size=60), st.integers(1, 30))
def test_a_shortened_text_fits_and_is_whole_if_it_can_be(text: str, limit: int) -> None:
    short = shortened(text, limit)
    assert cell_len(short) <= limit
    assert "\n" not in short
    if cell_len(" ".join(text.split())) <= limit:
        assert short == " ".join(text.split())


def test_a_setting_in_words_has_every_lever() -> None:
    assert setting_words(BEST) == "rank 32, alpha 64, all-linear, learning rate 0.001"
    assert "alpha 16 rsLoRA" in setting_words(RSLORA)
    assert setting_words(setting(dropout=0.1)).endswith(", dropout 0.1")


@pytest.mark.parametrize(
    ("targets", "lines"),
    [
        ("all-linear+lm_head", ["all-linear+lm_head"]),
        ("q_proj+k_proj+v_proj+o_proj", ["q_proj+k_proj+", "v_proj+o_proj"]),
        ("layers.*.self_attn.q_proj,v_proj", ["layers.*.self_attn.q_proj,", "v_proj"]),
    ],
)
def test_many_target_modules_are_broken_between_names(targets: str, lines: list[str]) -> None:
    assert targets_cell(targets).split("\n") == lines


def test_alpha_is_a_multiple_of_the_rank_where_it_was_given_as_one() -> None:
    assert alphas_follow_rank([setting(8), setting(16), setting(32)])
    assert not alphas_follow_rank([Setting(rank, 16, "mlp", 1e-3) for rank in (8, 16, 32)])
    assert lever_words(BEST, "alpha") == "64"
    assert lever_words(BEST, "alpha", alpha_per_rank=True) == "2r"
    assert lever_words(setting(per_rank=1), "alpha", alpha_per_rank=True) == "r"
    assert lever_words(RSLORA, "alpha", alpha_per_rank=True) == "16 rsLoRA"
