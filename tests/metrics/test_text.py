"""Metrics of texts: exact match, token F1, labels, edits, JSON, ROUGE, BLEU and chrF."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.metrics.scoring import score

from rung.metrics.metric import CompletionStats


def test_exact_match_ignores_white_space_only_at_the_ends() -> None:
    assert score("exact_match", [" A B ", "A  B", "a b"], ["A B"] * 3) == pytest.approx(1 / 3)


def test_token_f1_counts_the_words_that_both_texts_have() -> None:
    assert score("token_f1", ["the cat sat"], ["The cat stood up."]) == pytest.approx(
        2 * 2 / (3 + 4)
    )
    assert score("token_f1", ["달 위에"], ["달 아래"]) == pytest.approx(0.5)
    assert score("token_f1", ["", "x"], ["", ""]) == 0.5


def test_words_may_be_of_any_script() -> None:
    assert score("token_f1", ["दिन"], ["दीन"]) == 0
    assert score("token_f1", ["ไม่ ดี"], ["ไม่ ร้าย"]) == 0.5


def test_an_error_rate_is_edits_over_words_and_not_a_mean_over_rows() -> None:
    wanted = ["D IH F L EH K T ER", "K AE T"]
    assert score("phoneme_error_rate", ["D IH F L EH K T ER", "K AE"], wanted) == pytest.approx(
        1 / 11
    )
    assert score("phoneme_error_rate", ["", "K AE T S S S"], wanted) == pytest.approx(11 / 11), (
        "insertions count"
    )


def test_macro_f1_is_the_mean_over_the_labels() -> None:
    """By hand: the F1 of a is 4/5, of b 2/3, of c 0."""
    texts, wanted = ["a", "a", "a", "b", "what?"], ["a", "a", "b", "b", "c"]
    stats = CompletionStats(("a", "b", "c"), None, "a")
    assert score("macro_f1", texts, wanted, stats) == pytest.approx((4 / 5 + 2 / 3 + 0) / 3)
    assert score("accuracy", texts, wanted, stats) == pytest.approx(3 / 5)


def test_json_is_scored_by_its_fields() -> None:
    wanted = ['{"a": 1, "b": [2]}', '{"a": 1, "b": [2]}', '{"a": 1, "b": [2]}', "[1]"]
    texts = ['{"b": [2], "a": 1}', '{"a": 1, "b": 2, "c": 3}', "{a: 1}", "[1]"]
    assert score("json_valid", texts, wanted) == 0.75
    assert score("json_fields", texts, wanted) == pytest.approx((2 + 1 + 0 + 1) / 7)


def test_two_texts_that_are_not_json_do_not_match() -> None:
    assert score("json_fields", ["{oops"], ["{also oops"]) == 0


def test_json_that_is_nested_too_deep_is_not_valid() -> None:
    deep: Any = "[" * 100_000
    assert score("json_valid", [deep], [json.dumps({})]) == 0


def test_bleu_and_chrf_are_those_of_sacrebleu_and_rouge_reads_any_script() -> None:
    from sacrebleu.metrics import BLEU, CHRF

    texts, wanted = (
        ["the cat sat on a mat", "it is late now"],
        ["the cat sat on the mat", "it is too late now"],
    )
    assert score("bleu", texts, wanted) == pytest.approx(
        BLEU().corpus_score(texts, [wanted]).score / 100
    )
    sentences = [
        CHRF().sentence_score(a, [b]).score / 100 for a, b in zip(texts, wanted, strict=True)
    ]
    assert score("chrf", texts, wanted) == pytest.approx(sum(sentences) / 2)
    assert score("rouge_l", ["the cat"], ["the fat cat"]) == pytest.approx(0.8)
    assert score("rouge_l", ["달 위에"], ["달 위에"]) == 1


def test_bleu_of_a_few_words_is_smoothed_as_in_sacrebleu() -> None:
    from sacrebleu.metrics import BLEU

    texts, wanted = ["a b x d"], ["a b c d"]
    expected = BLEU().corpus_score(texts, [wanted]).score / 100
    assert score("bleu", texts, wanted) == pytest.approx(expected)
    assert expected > 0
