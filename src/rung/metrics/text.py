"""Metrics of texts as such: exact match, token F1, labels, edits, JSON, ROUGE, BLEU and chrF."""

from __future__ import annotations

import collections
import importlib
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from rung.errors import MetricError
from rung.metrics.metric import Array, CompletionStats, Metric, mean_of, ratio
from rung.types import Generation

# Punctuation and white space. Letters are not listed, for marks that belong to letters are not
# letters themselves in some scripts.
_BETWEEN_WORDS = re.compile(r"[\s!-/:-@\[-`{-~…“”„‘’«»。、，！？；：「」]+")
_NOT_JSON = object()


def _exact_match(row: Generation) -> float:
    return float(row.text.strip() == row.wanted.strip())


def _words(text: str) -> list[str]:
    """The words in lower case, without punctuation."""
    return [word for word in _BETWEEN_WORDS.split(text.casefold()) if word]


def _token_f1(row: Generation) -> float:
    """The F1 of the words that both texts have (Rajpurkar et al., 1606.05250)."""
    generated = collections.Counter(_words(row.text))
    wanted = collections.Counter(_words(row.wanted))
    if not generated or not wanted:
        return _exact_match(row)
    return 2 * (generated & wanted).total() / (generated.total() + wanted.total())


def _edits(generations: Sequence[Generation], _: CompletionStats) -> Array:
    """Words to change, insert or delete; and words that were wanted."""
    from rapidfuzz.distance import Levenshtein

    pairs = [(row.text.split(), row.wanted.split()) for row in generations]
    return np.array(
        [[Levenshtein.distance(wanted, text), len(wanted)] for text, wanted in pairs],
        dtype=np.float64,
    )


def _label_counts(generations: Sequence[Generation], stats: CompletionStats) -> Array:
    """For each of the labels: true positives, times generated, times wanted; (n, 3 · labels)."""
    labels = stats.labels or tuple(sorted({row.wanted.strip() for row in generations}))
    generated = np.array(
        [[row.text.strip() == label for label in labels] for row in generations], dtype=np.float64
    )
    wanted = np.array(
        [[row.wanted.strip() == label for label in labels] for row in generations],
        dtype=np.float64,
    )
    return np.concatenate([generated * wanted, generated, wanted], axis=1)


def _macro_f1(sums: Array) -> Array:
    """The mean F1 over the labels that were generated or wanted."""
    true_positives, generated, wanted = np.split(sums, 3, axis=-1)
    # A label counts if any of the rows has it, also in the sums without that row.
    all_but_last = tuple(range(generated.ndim - 1))
    occurs = (generated + wanted).max(axis=all_but_last, keepdims=True) > 0
    f1 = np.divide(
        2 * true_positives,
        generated + wanted,
        out=np.zeros_like(true_positives),
        where=generated + wanted > 0,
    )
    mean: Array = (f1 * occurs).sum(axis=-1) / max(1, int(occurs.sum()))
    return mean


def is_json_container(text: str) -> bool:
    """Whether the text is a JSON object or array."""
    return isinstance(_parse_json(text), dict | list)


def _parse_json(text: str) -> Any:
    """The value, or `_NOT_JSON`."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _NOT_JSON


def _is_json(row: Generation) -> float:
    return float(_parse_json(row.text) is not _NOT_JSON)


def _json_fields(generations: Sequence[Generation], _: CompletionStats) -> Array:
    """Correct fields, and wanted fields. A value that is not an object counts as one field."""
    counts = []
    for row in generations:
        wanted, generated = _parse_json(row.wanted), _parse_json(row.text)
        if isinstance(wanted, dict):
            fields = generated if isinstance(generated, dict) else {}
            correct = sum(key in fields and fields[key] == value for key, value in wanted.items())
            counts.append([float(correct), float(len(wanted))])
        else:
            counts.append([float(wanted is not _NOT_JSON and generated == wanted), 1.0])
    return np.array(counts)


class _WordTokenizer:
    """ROUGE's own tokenizer keeps only the letters a to z."""

    def tokenize(self, text: str) -> list[str]:
        return _words(text)


def _rouge_l(generations: Sequence[Generation], _: CompletionStats) -> Array:
    """The F-measure of ROUGE-L, on words of any script."""
    scorer = _library("rouge_score.rouge_scorer").RougeScorer(
        ["rougeL"], tokenizer=_WordTokenizer()
    )
    return np.array(
        [[scorer.score(row.wanted, row.text)["rougeL"].fmeasure, 1.0] for row in generations]
    )


def _chrf(generations: Sequence[Generation], _: CompletionStats) -> Array:
    """chrF of each row, from 0 to 1."""
    scorer = _library("sacrebleu.metrics").CHRF()
    return np.array(
        [[scorer.sentence_score(row.text, [row.wanted]).score / 100, 1.0] for row in generations]
    )


def _bleu_counts(generations: Sequence[Generation], _: CompletionStats) -> Array:
    """What BLEU sums over a corpus, (n, 10).

    Matches of four n-gram lengths, n-grams of the four, and the words of both sides.
    """
    scorer = _library("sacrebleu.metrics").BLEU(effective_order=True)
    scores = [scorer.sentence_score(row.text, [row.wanted]) for row in generations]
    return np.array(
        [[*score.counts, *score.totals, score.sys_len, score.ref_len] for score in scores],
        dtype=np.float64,
    )


def _bleu(sums: Array) -> Array:
    """BLEU over the corpus, from 0 to 1."""
    compute_bleu = _library("sacrebleu.metrics").BLEU.compute_bleu

    def corpus_bleu(sums: Array) -> float:
        score: float = compute_bleu(
            list(sums[:4]), list(sums[4:8]), int(sums[8]), int(sums[9]), smooth_method="exp"
        ).score
        return score / 100

    return np.apply_along_axis(corpus_bleu, -1, sums)


def _library(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0].replace("_", "-")
        raise MetricError(
            f"This metric needs the package {package}; run: pip install 'rung[metrics]'."
        ) from None


TEXT_METRICS = (
    Metric("exact_match", 1.0, mean_of(_exact_match), ratio, is_share=True),
    Metric("token_f1", 1.0, mean_of(_token_f1), ratio, is_share=True),
    Metric("accuracy", 1.0, mean_of(_exact_match), ratio, is_share=True),
    Metric("macro_f1", 1.0, _label_counts, _macro_f1, is_share=True),
    Metric("phoneme_error_rate", None, _edits, ratio),
    Metric("word_error_rate", None, _edits, ratio),
    Metric("json_valid", 1.0, mean_of(_is_json), ratio, is_share=True),
    Metric("json_fields", 1.0, _json_fields, ratio, is_share=True),
)
OVERLAP_METRICS = (
    Metric("rouge_l", 1.0, _rouge_l, ratio, is_share=True),
    Metric("bleu", 1.0, _bleu_counts, _bleu, is_share=True),
    Metric("chrf", 1.0, _chrf, ratio, is_share=True),
)
"""Metrics of n-grams, which need the packages of `rung[metrics]`."""
