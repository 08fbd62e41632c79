"""The rank ladder: where returns diminish, and how sure that is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.report.render import printed, words
from tests.report.results import (
    BELOW_MARGIN,
    BEST,
    LADDER,
    NO_INFORMATION,
    ONE_SEED,
    RANK_ABOVE,
    RANK_BELOW,
    WORSE,
    full_climb,
    grid_with_one_seed,
    judged_by_metric,
    setting,
    setting_result,
    verdict,
    with_a_diverged_lever,
)

from rung.report.ladder import ladder_part
from rung.report.ladder_sentences import ladder_sentence, rank_use_sentence
from rung.tuning.result import LadderStep, StudyResult
from rung.types import RankUse, Verdict


def above(gain: float, half: float, **more: Any) -> Verdict:
    return verdict(BEST, setting(64, 5e-4), "rank", gain, half, **more)


@pytest.mark.parametrize(
    ("judged", "sentence"),
    [
        (
            above(0.05, 0.02),
            "Returns do not diminish at rank 32: rank 64 is better by 0.050 (0.030 to 0.070).",
        ),
        (
            above(0.001, 0.007, **BELOW_MARGIN),
            "Returns diminish at rank 32, and that is shown: rank 64 gains at most 0.008, and "
            "0.014 would be worth it.",
        ),
        (
            above(-0.03, 0.01, **WORSE),
            "Returns diminish at rank 32, and that is shown: rank 64 is worse by 0.030 (0.020 to "
            "0.040).",
        ),
        (
            RANK_ABOVE,
            "Whether returns diminish at rank 32 is undecided: rank 64 gains −0.032 to 0.048, and "
            "0.014 would be worth it. About 1,700 more validation rows or 7 more seeds would "
            "decide it. Four of five such comparisons would show a gain of 0.056.",
        ),
        (
            above(0.01, 0.02, **ONE_SEED),
            "Whether returns diminish at rank 32 is undecided: one seed cannot tell rank 64 from "
            "rank 32.",
        ),
        (
            above(0.01, 3.0, **NO_INFORMATION),
            "Whether returns diminish at rank 32 is undecided: so few runs cannot tell rank 64 "
            "from rank 32.",
        ),
    ],
    ids=["gain", "below margin", "worse", "wide interval", "one seed", "no information"],
)
def test_it_says_whether_returns_diminish_by_the_verdict_above(
    judged: Verdict, sentence: str
) -> None:
    assert ladder_sentence(LADDER, (RANK_BELOW, judged), BEST) == sentence


def test_of_two_verdicts_it_takes_the_one_on_the_setting_in_the_ladder() -> None:
    other = verdict(BEST, setting(64, 2e-3), "rank", -0.03, 0.01, **WORSE)
    on_ladder = above(0.001, 0.007, **BELOW_MARGIN)
    assert "at most 0.008" in ladder_sentence(LADDER, (other, on_ladder), BEST)


UNTRAINED = replace(
    LADDER[3], fraction=1 / 4, seeds=0, gain=None, low=None, high=None, outcome=None
)


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        (LADDER[2:3], "Only rank 32 was tried."),
        (
            LADDER[:3],
            "The ladder ends at rank 32, so nothing is known of higher ranks. The step to 32 was "
            "still worth it: try higher ones with --ranks.",
        ),
        (
            (*LADDER[:2], replace(LADDER[2], outcome="undecided")),
            "The ladder ends at rank 32, so nothing is known of higher ranks.",
        ),
        (
            (*LADDER[:3], UNTRAINED),
            "Whether returns diminish at rank 32 is not shown: rank 64 was not trained in full.",
        ),
        (
            (*LADDER[:3], LadderStep(64, None, None, 0, None)),
            "Whether returns diminish at rank 32 is not shown: rank 64 was not trained in full.",
        ),
        (
            (*LADDER[:3], replace(UNTRAINED, fraction=1.0, seeds=1)),
            "Whether returns diminish at rank 32 is not shown: one seed cannot tell rank 64 from "
            "rank 32.",
        ),
        (
            (*LADDER[:3], replace(UNTRAINED, fraction=1.0, seeds=4)),
            "Whether returns diminish at rank 32 is not shown: rank 64 was trained in full, but "
            "not compared with rank 32.",
        ),
    ],
)
def test_without_a_verdict_above_it_says_why_nothing_is_shown(
    steps: tuple[LadderStep, ...], sentence: str
) -> None:
    assert ladder_sentence(steps, (), BEST) == sentence


def cells(result: StudyResult) -> list[list[str]]:
    """The cells of the table's rows that are not empty."""
    lines = printed(*ladder_part(result)).splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("rank")) + 1
    rows = [
        line.removeprefix("▸").split("  ") for line in lines[start : start + len(result.ladder)]
    ]
    return [[cell.strip() for cell in row if cell.strip()] for row in rows]


def test_the_table_has_each_rank_with_its_loss_and_what_the_step_gained() -> None:
    assert cells(full_climb()) == [
        ["8", "race 1/4", "1.683"],
        ["16", "4 seeds", "1.414 ± 0.031"],
        ["32", "4 seeds", "1.363 ± 0.031", "0.051 (0.021 to 0.081)", "▲ better"],
        ["64", "4 seeds", "1.355 ± 0.031", "0.008 (−0.032 to 0.048)", "? undecided"],
    ]


def test_with_one_seed_the_table_has_differences_and_no_outcomes() -> None:
    assert cells(grid_with_one_seed()) == [
        ["8", "1 seed", "1.490 ± 0.031"],
        ["16", "1 seed", "1.440 ± 0.031", "0.050"],
    ]


def test_judged_by_a_metric_the_gains_are_in_its_unit() -> None:
    text = printed(*ladder_part(judged_by_metric()))
    assert "The rank ladder, with gains in points of exact match" in text
    assert cells(judged_by_metric())[3][3:] == ["−1.6 (−3.6 to 0.4)", "■ not worthwhile"]


def test_a_rank_without_a_run_is_called_not_tried() -> None:
    assert cells(with_a_diverged_lever())[0] == ["8", "not tried", "–"]


@pytest.mark.parametrize(
    ("make", "raced"),
    [(full_climb, True), (grid_with_one_seed, False)],
)
def test_losses_of_the_race_are_marked_as_not_comparable(
    make: Callable[[], StudyResult], raced: bool
) -> None:
    text = words(printed(*ladder_part(make())))
    assert ("they are not comparable with the others." in text) == raced


def test_it_says_how_much_of_its_rank_the_adapter_uses() -> None:
    best = full_climb().recommendation
    assert rank_use_sentence(best) == (
        "The adapter uses 11.3 of its 32 ranks (effective rank). Cut down, its loss of 1.351 "
        "becomes 1.361 at rank 16, 1.402 at rank 8."
    )
    assert rank_use_sentence(replace(best, rank_use=RankUse(11.3, {}))) == (
        "The adapter uses 11.3 of its 32 ranks (effective rank)."
    )


def test_a_rank_that_diverged_is_not_called_untried() -> None:
    climb = with_a_diverged_lever()
    diverged = setting_result(setting(8), None, seeds=1)
    elsewhere = setting_result(setting(8, targets="mlp"), None, seeds=1)
    for more, cell in ((diverged, "diverged"), (elsewhere, "not tried")):
        page = printed(*ladder_part(replace(climb, settings=(*climb.settings, more))))
        assert re.search(rf"^ +8 +{cell} +–", page, re.MULTILINE), page
