"""What `rung plan` shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.report.render import printed, words

from rung.commands.plan import DeviceInfo, PackFit, Plan, PlannedCost, PlannedMemory, PlannedPower
from rung.report.plan import plan_page, power_sentence
from rung.runner.estimate import PlannedStage
from rung.search.power import DetectableGain

POWER = PlannedPower(0.01, 8.36, DetectableGain(400, 4, 0.021, 0.015, 900, 21))
PLAN = Plan(
    schema=2,
    model="HuggingFaceTB/SmolLM2-135M-Instruct",
    data="pronounce",
    device=DeviceInfo("here", "this machine", True, 8_000_000_000),
    steps=45,
    candidate_tokens=38_540,
    stages=(
        PlannedStage("race", 1 / 4, 9, 1, (8, 1), 86_715, 181.0, 2_900_000_000),
        PlannedStage("confirmation", 1.0, 3, 4, (8, 4), 462_480, 611.0, 3_100_000_000),
    ),
    cost=PlannedCost(871.0, 79.0, 549_195, 14.2, 203.0, 61.0, None, None),
    memory=PlannedMemory(
        8,
        64,
        1_100_000_000,
        310_000_000,
        250_000_000,
        1_340_000_000,
        100_000_000,
        3_100_000_000,
        8_000_000_000,
    ),
    fits=(
        PackFit(32, "all-linear", 1, 1_300_000_000, "in one pass"),
        PackFit(32, "all-linear", 8, 2_900_000_000, "in parts"),
        PackFit(64, "all-linear", 1, 1_500_000_000, "in one pass"),
        PackFit(64, "all-linear", 8, 9_100_000_000, "no"),
    ),
    power=POWER,
    notes=("A note.",),
)


def shown(**changes: Any) -> str:
    return printed(plan_page(replace(PLAN, **changes)))


def line_of(text: str, start: str) -> str:
    (line,) = (line for line in text.splitlines() if line.startswith(start))
    return words(line)


def test_it_begins_with_the_time_and_what_that_is_in_single_runs() -> None:
    text = shown()
    assert text.strip().startswith("About 14 min 31 s on this machine.")
    assert (
        "pronounce: 549,195 training tokens, as many as 14.2 single runs of 45 steps and 38,540 "
        "tokens. One single run takes about 1 min 01 s."
    ) in words(text)


def test_with_the_price_of_an_hour_it_says_the_price() -> None:
    cost = replace(PLAN.cost, price_per_hour=1.5, price=0.36)
    assert ", for 0.36 at 1.5 an hour." in shown(cost=cost)


def test_an_estimate_is_called_one() -> None:
    device = DeviceInfo("t4", "NVIDIA T4", False, 16_000_000_000, "its data sheet")
    assert "on NVIDIA T4. An estimate: see below." in shown(device=device)
    assert "An estimate" not in shown()


def test_each_stage_has_its_candidates_packs_tokens_time_and_peak() -> None:
    text = shown()
    assert line_of(text, "race") == "race a quarter 9 8, 1 86,715 3 min 01 s 2.9 GB"
    assert line_of(text, "confirmation") == (
        "confirmation the end 3 × 4 seeds 8, 4 462,480 10 min 11 s 3.1 GB"
    )
    assert "Each further rank of the ladder takes about 3 min 23 s more." in words(text)


def test_the_memory_is_shown_by_part_with_the_limit() -> None:
    text = shown()
    assert line_of(text, "activations") == "activations 1.3 GB"
    assert line_of(text, "together") == "together, for 8 candidates of rank 64 3.1 GB"
    assert line_of(text, "what the process may hold").endswith("8.0 GB")


def test_it_says_which_packs_fit() -> None:
    text = shown()
    assert line_of(text, "32  ") == "32 1.3 GB 2.9 GB*"
    assert line_of(text, "64  ") == "64 1.5 GB 9.1 GB✗"
    assert "* fits if the step is done in parts" in words(text)
    assert "✗ does not fit" in text
    whole = shown(fits=PLAN.fits[:1])
    assert "*" not in whole
    assert "✗" not in whole


def test_it_says_which_gains_the_rows_and_seeds_can_show() -> None:
    text = power_sentence(POWER)
    assert text.startswith(
        "With 400 validation rows and 4 seeds, four of five studies would show a gain of 2.1% of "
        "the loss, or of 1.5% if seeds made no difference. To show the margin of 1.0% takes about "
        "900 rows if seeds made no difference, or about 21 seeds if rows made none."
    )
    assert text in words(shown())


def test_without_the_models_losses_nothing_is_said_of_gains() -> None:
    assert "four of five" not in shown(power=None)


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_is_wider_than_the_terminal_and_no_cell_is_cut(width: int) -> None:
    text = printed(plan_page(PLAN), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
