"""The metrics by their names, and which of them suit the completions of a data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rung.errors import MetricError
from rung.metrics.custom import is_custom, load_custom_metric
from rung.metrics.metric import CompletionStats, Metric
from rung.metrics.numbers import ANSWERED, GREEN, NUMBER_METRICS
from rung.metrics.text import OVERLAP_METRICS, TEXT_METRICS, is_json_container

METRICS = {
    metric.name: metric for metric in (*TEXT_METRICS, ANSWERED, *NUMBER_METRICS, *OVERLAP_METRICS)
}
SHARES = tuple(metric.name for metric in METRICS.values() if metric.is_share)
"""The metrics that are shares, between 0 and 1."""
NEED_NUMBERS = tuple(metric.name for metric in NUMBER_METRICS)
"""The metrics that leave out rows whose wanted text has no number."""

MAX_SHORT_WORDS = 5
"""Words of a completion that can be expected to match exactly."""

_ARPABET_VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW"
_ARPABET_CONSONANTS = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH"
_VOWELS = frozenset(_ARPABET_VOWELS.split())
"""Texts of single letters have none of them."""
_PHONEMES = _VOWELS | frozenset(_ARPABET_CONSONANTS.split())


def find_metric(name: str) -> Metric:
    """A metric by its name, or a user's own metric: `file.py:function`.

    Raises:
        MetricError: There is no metric of that name, or the file or the function cannot be used.
    """
    if name in METRICS:
        return METRICS[name]
    if is_custom(name):
        return load_custom_metric(name)
    raise MetricError(
        f"There is no metric '{name}'; there are {', '.join(METRICS)}, and your own as "
        "file.py:function."
    )


def suggest_metrics(completions: Sequence[str], stats: CompletionStats) -> tuple[str, ...]:
    """The names of the metrics that suit these completions; the first is the one to judge by."""
    texts = [text.strip() for text in completions]
    if stats.labels:
        return ("accuracy", "macro_f1", *(("mean_absolute_error",) if stats.all_numbers else ()))
    if stats.all_numbers:
        assert stats.median is not None
        bands = ("green", "green_or_orange") if stats.median >= 2 * GREEN[0] else ()
        errors = ("mean_absolute_error", "median_absolute_error", "rmsle", "r2")
        return (*errors, *bands, "answered", "exact_match")
    if all(map(is_json_container, texts)):
        return ("json_fields", "json_valid", "exact_match")
    words = [text.split() for text in texts]
    if _are_phonemes(words):
        return ("phoneme_error_rate", "exact_match")
    if np.median([len(own) for own in words]) <= MAX_SHORT_WORDS:
        return ("exact_match", "token_f1")
    return ("token_f1", "exact_match")


def _are_phonemes(texts: Sequence[Sequence[str]]) -> bool:
    """Whether all words are phonemes of ARPAbet, and most of the texts have a vowel."""
    phonemes = [{word.rstrip("012") for word in words} for words in texts]
    with_vowel = sum(bool(own & _VOWELS) for own in phonemes)
    return all(own <= _PHONEMES for own in phonemes) and with_vowel > len(phonemes) / 2
