"""Every verdict, exclusion and standing has its sentence, and none claims more than its data."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.report.results import (
    ALPHA,
    BELOW_MARGIN,
    BEST,
    LEARNING_RATE,
    MATCHED,
    NO_INFORMATION,
    ONE_SEED,
    RACE,
    RANK_ABOVE,
    RANK_BELOW,
    RSLORA,
    SETTINGS,
    SEVERAL,
    STANDINGS,
    TARGETS,
    UNDECIDED,
    UNTUNED,
    WORSE,
    full_climb,
    grid_with_one_seed,
    judged_by_metric,
    setting,
    setting_result,
    verdict,
)

from rung.metrics.report import Disagreement
from rung.report.sentences import (
    choice_sentence,
    contrast,
    cost_sentence,
    disagreement_sentence,
    exclusion_sentence,
    lever_verdict,
    more_needed,
    noise_sentence,
    not_covered_sentence,
    race_sentence,
    standing_sentence,
    verdict_sentence,
)
from rung.search.stats import Estimate, Variance
from rung.search.strategy import Exclusion
from rung.search.verdicts import make_verdict
from rung.tuning.result import Cost, SeedNoise, StudyResult
from rung.types import Candidate, RequiredSample, Scores, Verdict

RANKS = (setting(16), BEST)


def of_ranks(gain: float, half: float, **more: Any) -> Verdict:
    return verdict(*RANKS, "rank", gain, half, **more)


@pytest.mark.parametrize(
    ("judged", "sentence"),
    [
        (of_ranks(0.051, 0.03), "better by 0.051 nats a token (0.021 to 0.081)."),
        (
            of_ranks(-0.03, 0.01, **WORSE),
            "no worthwhile gain, worse by 0.030 nats a token (0.020 to 0.040).",
        ),
        (
            of_ranks(0.001, 0.007, **BELOW_MARGIN),
            "no worthwhile gain, at most 0.008 nats a token (0.014 would be worth it).",
        ),
        (
            of_ranks(0.02, 0.01, **ONE_SEED),
            "undecided, since one seed cannot tell a gain of 0.020 nats a token from luck.",
        ),
        (
            of_ranks(0.02, 0.01, **NO_INFORMATION),
            "undecided, since even a gain of 2.31 nats a token would not show in so few runs.",
        ),
        (
            of_ranks(0.02, 0.05, **UNDECIDED, detectable=None),
            "undecided, a gain of −0.030 to 0.070 nats a token (0.014 would be worth it).",
        ),
    ],
    ids=["gain", "worse", "below margin", "one seed", "no information", "wide interval"],
)
def test_every_reason_has_its_sentence(judged: Verdict, sentence: str) -> None:
    seeds = "1 seed" if judged.seeds == 1 else "4 seeds"
    assert verdict_sentence(judged) == f"Rank 16 → 32 (all-linear, in full, {seeds}): {sentence}"


@pytest.mark.parametrize(
    ("judged", "subject"),
    [
        (LEARNING_RATE, "Learning rate 0.0005 → 0.001 (after a quarter of the training): "),
        (
            TARGETS,
            "Target modules attention → all-linear (learning rate 0.002 → 0.001, after a quarter "
            "of the training): ",
        ),
        (
            MATCHED,
            "Target modules attention → all-linear (as many parameters, at rank 32 → 12, after a "
            "quarter of the training): ",
        ),
        (RANK_BELOW, "Rank 16 → 32 (all-linear, in full, 4 seeds): "),
        (
            RANK_ABOVE,
            "Rank 32 → 64 (all-linear, learning rate 0.001 → 0.0005, in full, 4 seeds): ",
        ),
        (
            verdict(BEST, RSLORA, "alpha", 0.1, 0.05, **RACE),
            "Alpha 64 → 16 rsLoRA (after a quarter of the training): ",
        ),
        (
            verdict(BEST, RSLORA, "alpha", 0.1, 0.05),
            "Alpha 64 → 16 rsLoRA (rank 32, all-linear, in full, 4 seeds): ",
        ),
        (
            verdict(BEST, setting(targets="mlp"), "targets", 0.1, 0.05),
            "Target modules all-linear → mlp (rank 32, in full, 4 seeds): ",
        ),
        (
            SEVERAL,
            "Setting alpha 64, all-linear, learning rate 0.001 → alpha 128, mlp, learning rate "
            "0.002 (in full, 4 seeds): ",
        ),
        (
            UNTUNED,
            "Adapter (rank 32, alpha 64, all-linear, learning rate 0.001) against the untuned "
            "model: ",
        ),
    ],
)
def test_it_says_what_was_compared_and_where(judged: Verdict, subject: str) -> None:
    assert verdict_sentence(judged).startswith(subject)


@pytest.mark.parametrize(
    ("required", "words"),
    [
        (None, ""),
        (RequiredSample(None, None), ""),
        (RequiredSample(400, 4), ""),
        (RequiredSample(2100, None), "about 1,700 more validation rows"),
        (RequiredSample(None, 5), "about 1 more seed"),
        (RequiredSample(401, 11), "about 1 more validation row or 7 more seeds"),
    ],
)
def test_what_would_decide_it_is_said_as_what_is_missing(
    required: RequiredSample | None, words: str
) -> None:
    judged = replace(RANK_ABOVE, required=required)
    assert more_needed(judged) == words
    assert ("would decide it" in verdict_sentence(judged)) == bool(words)


def test_an_undecided_verdict_says_which_gain_would_have_shown() -> None:
    assert "four of five such comparisons would show a gain of 0.056" in verdict_sentence(
        RANK_ABOVE
    )


@pytest.mark.parametrize(
    ("unit", "margin", "sentence"),
    [
        ("exact_match", 0.008, "better by 5.1 points of exact match (2.1 to 8.1)."),
        ("r2", 0.008, "better by 0.051 in r2 (0.021 to 0.081)."),
        ("my/own.py:grade_b", 0.008, "better by 0.051 in grade b (0.021 to 0.081)."),
        ("nats a token", 0.0005, "better by 0.0510 nats a token (0.0210 to 0.0810)."),
    ],
)
def test_gains_are_in_the_unit_that_was_judged_by(unit: str, margin: float, sentence: str) -> None:
    judged = of_ranks(0.051, 0.03, unit=unit, margin=margin)
    assert verdict_sentence(judged).endswith(sentence)


@given(
    gain=st.floats(-0.2, 0.2),
    error=st.floats(1e-4, 0.5),
    margin=st.floats(0.004, 0.1),
    noise_known=st.booleans(),
)
def test_no_sentence_claims_more_than_its_verdict(
    gain: float, error: float, margin: float, noise_known: bool
) -> None:
    scores = [Scores((1.0, 1.5), (1, 1))]
    judged = make_verdict(
        "confirmation",
        "rank",
        *RANKS,
        1.0,
        Estimate(gain, Variance(error**2, 10)),
        margin,
        0.95,
        scores,
        noise_known,
    )
    for text in (verdict_sentence(judged), lever_verdict(judged, BEST)):
        assert ("better by" in text) == (judged.outcome == "better")
        assert ("no worthwhile gain" in text) == (judged.outcome == "no_worthwhile_gain")
        assert ("undecided" in text) == (judged.outcome == "undecided")
        assert not re.search("equal|same|no difference", text)


# In the summary.


@pytest.mark.parametrize(
    ("judged", "text"),
    [
        (LEARNING_RATE, "0.001 over 0.0005: better by 0.160 (0.051 to 0.269)"),
        (ALPHA, "128 over 64: one seed cannot tell (gain −0.120 to 0.060)"),
        (
            replace(ALPHA, **ONE_SEED),
            "128 over 64: too few runs to tell",
        ),
        (
            replace(ALPHA, **NO_INFORMATION),
            "128 over 64: too few runs to tell",
        ),
        (
            MATCHED,
            "all-linear at rank 12, as many parameters, over attention at rank 32: one seed "
            "cannot tell (gain −0.039 to 0.241)",
        ),
        (
            SEVERAL,
            "alpha 128, mlp, learning rate 0.002 over the recommended setting (in full, 4 "
            "seeds): no worthwhile gain, worse by 0.050 (0.020 to 0.080)",
        ),
        (
            RANK_ABOVE,
            "64 over 32 (all-linear, learning rate 0.001 → 0.0005, in full, 4 seeds): undecided, a "
            "gain of −0.032 to 0.048 (0.014 would be worth it)",
        ),
        (
            # The recommended setting has another rate, so the same ranks may stand elsewhere too.
            verdict(setting(16, 5e-4), setting(32, 5e-4), "rank", 0.051, 0.03),
            "32 over 16 (all-linear, learning rate 0.0005, in full, 4 seeds): better by 0.051 "
            "(0.021 to 0.081)",
        ),
    ],
)
def test_beside_its_lever_a_verdict_is_short(judged: Verdict, text: str) -> None:
    assert lever_verdict(judged, BEST) == text


def test_two_settings_are_contrasted_by_what_differs() -> None:
    assert contrast(BEST, setting(16)) == ("rank 32, alpha 64", "rank 16, alpha 32")
    assert contrast(BEST, RSLORA) == ("alpha 64", "alpha 16 rsLoRA")


# Exclusions and standings.


@pytest.mark.parametrize(
    ("exclusion", "sentence"),
    [
        (Exclusion("diverged"), " diverged and is not trained on."),
        (Exclusion("diverged", 1.0), " diverged after the full training and is not trained on."),
        (
            Exclusion("stopped_early", 0.25),
            " is not trained on: Hyperband stopped it after a quarter of the training.",
        ),
        (
            Exclusion("behind", 0.125, 1.5, 1.4),
            " is not trained on: its loss after an eighth of the training is 1.500, and the "
            "leader's is 1.400.",
        ),
        (Exclusion("behind"), " is not trained on."),
    ],
)
def test_an_exclusion_says_why(exclusion: Exclusion, sentence: str) -> None:
    candidate = Candidate(BEST, 3)
    assert exclusion_sentence(candidate, exclusion) == candidate.id + sentence


def test_a_standing_names_the_values_the_best_first() -> None:
    assert standing_sentence(STANDINGS[0]) == (
        "Learning rate after a quarter of the training, the best first: 0.001 (1.601), "
        "0.0005 (1.634), 0.002 (1.702), 0.00025 (1.812)."
    )
    assert standing_sentence(replace(STANDINGS[2], fraction=1.0)).startswith("Rank in full, ")


def test_the_losses_of_a_race_are_called_estimates() -> None:
    text = race_sentence(STANDINGS, BEST)
    assert "estimated from a race with one seed" in text
    assert "the other levers as recommended" in text
    assert "the other levers as in rank 32, alpha 64" in race_sentence(STANDINGS, setting(16))


def test_losses_in_full_with_one_seed_are_called_no_gains() -> None:
    standings = [replace(standing, fraction=1.0) for standing in STANDINGS]
    assert "One seed cannot tell a gain from luck." in race_sentence(standings, BEST)


# Quality, cost and limits.


@pytest.mark.parametrize(
    ("explained", "luck"),
    [
        (True, "The choice of rows and seeds can explain that difference."),
        (False, "The choice of rows and seeds does not explain that difference."),
        (None, "With one seed each nothing tells whether that is luck."),
    ],
)
def test_a_disagreement_names_both_settings_and_says_if_luck_explains_it(
    explained: bool | None, luck: str
) -> None:
    disagreement = Disagreement("exact_match", BEST, setting(16), 0.12, 0.2, explained)
    assert disagreement_sentence(disagreement) == (
        "The loss prefers rank 32, alpha 64; exact match prefers rank 16, alpha 32 (20.0% against "
        f"12.0%). {luck}"
    )


def test_the_cost_is_time_memory_and_training_in_single_runs() -> None:
    assert cost_sentence(Cost(431.0, 100_000, 20_000), 2_510_000_000) == (
        "Cost: 7 min 11 s, at most 2.5 GB of memory, 100,000 training tokens, as many as 5.0 "
        "single runs."
    )


def test_the_noise_of_seeds_is_told_or_said_to_be_unknown() -> None:
    assert "varies by 0.021 (standard deviation, 4 degrees" in noise_sentence(
        SeedNoise(0.0213, 4.0), 3
    )
    assert "one seed says nothing of seeds" in noise_sentence(None, 3)


def test_what_is_not_covered_depends_on_the_study() -> None:
    assert not_covered_sentence(False, False, []) == (
        "Not covered: other data than this one data set; that the setting was chosen on the same "
        "rows."
    )
    text = not_covered_sentence(True, True, ["targets", "alpha"])
    assert "levers that act together" in text
    assert "the luck of the seed" in text
    assert "values of target modules and alpha that were not tried" in text


def test_where_another_setting_has_a_lower_loss_it_says_why_that_is_not_recommended() -> None:
    assert choice_sentence(full_climb()) == (
        "The lowest loss is 1.355, with rank 64, alpha 128, learning rate 0.0005. Recommended is "
        "the cheapest setting that is within the margin of it."
    )


@pytest.mark.parametrize(
    "result",
    [
        grid_with_one_seed(),
        judged_by_metric(),
        full_climb(settings=(*SETTINGS[:4], setting_result(setting(64), 1.2, seeds=1))),
    ],
    ids=["it is the lowest", "a metric judges", "the other one has fewer seeds"],
)
def test_otherwise_nothing_is_said_of_the_choice(result: StudyResult) -> None:
    assert choice_sentence(result) == ""
