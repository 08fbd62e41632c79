"""What the texts that a model wrote are worth, with what is needed for intervals.

Every metric is a smooth function of sums over rows: of hits and rows, of edits and words, of true and false labels. So
each row has counts, and the metric is made of their sums. Its error is the jackknife's (Efron and Stein, Annals of
Statistics 9, 1981): a row's *pseudo-value* says how the metric moves when it is left out, and is the row's own value
where the metric is a mean. Two models are compared through the differences of the same rows' pseudo-values, by the very
functions that compare losses. Only a median is no such function: it is given without an interval.
"""

from __future__ import annotations

import collections
import importlib
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rung.errors import MetricError
from rung.formats.numbers import POINT, Column, Convention
from rung.types import Generation

Array = npt.NDArray[np.float64]

GREEN, ORANGE = (40.0, 0.2), (80.0, 0.4)
"""A number is green where it is off by less than 40 or less than 20 %, and orange by 80 or 40 %; else red: the bands of
a course on guessing prices."""
MOST_LABELS = 20
"""Completions are labels where there are at most so many, and each stands for ten rows or more."""
SHORT = 5
"""Words of a completion that can be asked to be exactly right."""
_PHONEMES = frozenset(
    {
        "AA",
        "AE",
        "AH",
        "AO",
        "AW",
        "AY",
        "B",
        "CH",
        "D",
        "DH",
        "EH",
        "ER",
        "EY",
        "F",
        "G",
        "HH",
        "IH",
        "IY",
        "JH",
        "K",
    }
    | {
        "L",
        "M",
        "N",
        "NG",
        "OW",
        "OY",
        "P",
        "R",
        "S",
        "SH",
        "T",
        "TH",
        "UH",
        "UW",
        "V",
        "W",
        "Y",
        "Z",
        "ZH",
    }
)
"""ARPAbet."""
_VOWELS = frozenset(
    {"AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"}
)
"""Of the phonemes; who writes letters of the alphabet writes none of them."""


@dataclass(frozen=True, slots=True)
class CompletionStats:
    """What the training rows say: the labels, if completions are labels; the median of the numbers in them, if there
    are any. `always` is what the trivial predictor writes: the commonest completion, or the median of mere numbers.
    `numbers` is how they are written, and how every text is read; `mere` says that they are numbers and no more, which
    can be compared.
    """

    labels: tuple[str, ...]
    median: float | None
    always: str
    numbers: Convention = POINT
    mere: bool = False

    @classmethod
    def of(cls, completions: Sequence[str], numbers: Convention | None = None) -> CompletionStats:
        """Of completions; how their numbers are written is told from them, if it is not given."""
        counts = collections.Counter(text.strip() for text in completions)
        labels = (
            tuple(sorted(counts))
            if 1 < len(counts) <= min(MOST_LABELS, len(completions) / 10)
            else ()
        )
        column = Column.of(completions)
        numbers = numbers or column.convention()
        values = [value for text in completions if (value := numbers.first(text)) is not None]
        median = float(np.median(values)) if values else None
        mere = median is not None and column.numeric(numbers)
        if labels or median is None or not mere:
            return cls(labels, median, counts.most_common(1)[0][0] if counts else "", numbers, mere)
        return cls(labels, median, numbers.write(median), numbers, mere)

    def wanted(self, text: str) -> float | None:
        """The number that was wanted: the whole text, where completions are numbers and no more."""
        return self.numbers.read(text) if self.mere else self.numbers.first(text)


@dataclass(frozen=True)
class Metric:
    """How written texts are scored.

    Attributes:
        top: the best value there is, where more is better; None where less is, with 0 the best.
        counts: of each row, (n, k).
        total: the metric from the sums of the counts, (…, k) ─▶ (…); None for the median of the one count of each row,
            which no sums say.
    """

    name: str
    top: float | None
    counts: Callable[[Sequence[Generation], CompletionStats], Array]
    total: Callable[[Array], Array] | None

    def loss(self, value: float) -> float:
        """The value as something to lower, as the search does."""
        return value if self.top is None else (-value if math.isinf(self.top) else self.top - value)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A metric's value over some rows, and each row's pseudo-value (n,), whose mean it is; none for a median."""

    value: float
    rows: Array


def measure(metric: Metric, written: Sequence[Generation], known: CompletionStats) -> Evaluation:
    """The metric of what was written."""
    counts = metric.counts(written, known)
    if metric.total is None:
        return Evaluation(float(np.median(counts)) if len(counts) else math.nan, np.zeros(0))
    whole, n = counts.sum(axis=0), len(written)
    value = float(metric.total(whole))
    if n < 2 or math.isnan(value):
        return Evaluation(value, np.zeros(0))
    without = metric.total(whole - counts)
    values = n * value - (n - 1) * without
    # The jackknife's own mean corrects a bias of order 1/n; what is shown and compared is the metric itself.
    finite = np.isfinite(values)
    center = float(np.mean(values[finite])) if finite.any() else value
    return Evaluation(value, np.where(finite, values - center + value, value))


def as_number(text: str, numbers: Convention = POINT) -> float | None:
    """The number that a text consists of, but for a currency, a unit and the like."""
    return numbers.read(text)


def _mean(
    counts: Callable[[Generation], float],
) -> Callable[[Sequence[Generation], CompletionStats], Array]:
    def each(written: Sequence[Generation], _: CompletionStats) -> Array:
        return np.array([[counts(row), 1.0] for row in written])

    return each


def ratio(sums: Array) -> Array:
    """The first sum over the second; nothing over nothing is 0."""
    found: Array = np.divide(
        sums[..., 0], sums[..., 1], out=np.zeros(sums.shape[:-1]), where=sums[..., 1] != 0
    )
    return found


def _exact(row: Generation) -> float:
    return float(row.text.strip() == row.wanted.strip())


def _words(text: str) -> list[str]:
    """Without punctuation. Not by letters: marks that belong to them are none."""
    return [
        word
        for word in re.split(r"[\s!-/:-@\[-`{-~…“”„‘’«»。、，！？；：「」]+", text.casefold())
        if word
    ]


def _token_f1(row: Generation) -> float:
    """Of the words that both have (Rajpurkar et al., 1606.05250)."""
    wrote, wanted = collections.Counter(_words(row.text)), collections.Counter(_words(row.wanted))
    if not wrote or not wanted:
        return float(row.text.strip() == row.wanted.strip())
    return 2 * (wrote & wanted).total() / (wrote.total() + wanted.total())


def _edits(written: Sequence[Generation], _: CompletionStats) -> Array:
    """Words to change, add or take away, and words that were wanted."""
    from rapidfuzz.distance import Levenshtein

    pairs = [(row.text.split(), row.wanted.split()) for row in written]
    return np.array(
        [[Levenshtein.distance(wanted, text), len(wanted)] for text, wanted in pairs],
        dtype=np.float64,
    )


def _confusions(written: Sequence[Generation], known: CompletionStats) -> Array:
    """For each label: hits, times written, times wanted."""
    labels = known.labels or tuple(sorted({row.wanted.strip() for row in written}))
    wrote = np.array(
        [[row.text.strip() == label for label in labels] for row in written], dtype=np.float64
    )
    wanted = np.array(
        [[row.wanted.strip() == label for label in labels] for row in written], dtype=np.float64
    )
    return np.concatenate([wrote * wanted, wrote, wanted], axis=1)


def _macro_f1(sums: Array) -> Array:
    """The mean over the labels that were written or wanted."""
    hits, wrote, wanted = np.split(sums, 3, axis=-1)
    # What is there in all rows together, also where one of them is left out.
    there = (wrote + wanted).max(axis=tuple(range(wrote.ndim - 1)), keepdims=True) > 0
    each = np.divide(2 * hits, wrote + wanted, out=np.zeros_like(hits), where=wrote + wanted > 0)
    found: Array = (each * there).sum(axis=-1) / max(1, int(there.sum()))
    return found


_NO_JSON = object()


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _NO_JSON


def _fields(written: Sequence[Generation], _: CompletionStats) -> Array:
    """Fields that are right, and fields that were wanted; a value that is no object is one field."""
    counts = []
    for row in written:
        wanted, wrote = _parsed(row.wanted), _parsed(row.text)
        if isinstance(wanted, dict):
            there = wrote if isinstance(wrote, dict) else {}
            right = sum(key in there and there[key] == value for key, value in wanted.items())
            counts.append([float(right), float(len(wanted))])
        else:
            counts.append([float(wanted is not _NO_JSON and wrote == wanted), 1.0])
    return np.array(counts)


def _numbers(
    written: Sequence[Generation], known: CompletionStats
) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
    """What was written and what was wanted, and in which rows a number was: the others are left out. Who writes no
    number has guessed the median: a model that gives no answer is no better than one that knows nothing.
    """
    fallback = known.median or 0.0
    wanted = [known.wanted(row.wanted) for row in written]
    wrote = [fallback if (n := known.numbers.first(row.text)) is None else n for row in written]
    there = np.array([n is not None for n in wanted], dtype=bool)
    return np.array(wrote)[there], np.array([n for n in wanted if n is not None]), there


def _of_numbers(
    one: Callable[[Array, Array], Array],
) -> Callable[[Sequence[Generation], CompletionStats], Array]:
    """Counts whose last is 1; all are 0 in a row that is left out."""

    def each(written: Sequence[Generation], known: CompletionStats) -> Array:
        wrote, wanted, there = _numbers(written, known)
        if not there.any():
            return np.zeros((len(written), 4))
        found = one(wrote, wanted)
        found = np.stack([found, np.ones_like(found)], axis=1) if found.ndim == 1 else found
        counts = np.zeros((len(written), found.shape[1]))
        counts[there] = found
        return counts

    return each


def _offs(written: Sequence[Generation], known: CompletionStats) -> Array:
    wrote, wanted, _ = _numbers(written, known)
    return _off(wrote, wanted)[:, None]


def _if_any(total: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """No number where every row was left out."""
    return lambda sums: np.where(sums[..., -1] > 0, total(sums), np.nan)


def _off(wrote: Array, wanted: Array) -> Array:
    found: Array = np.abs(wrote - wanted)
    return found


def _squared_logs(wrote: Array, wanted: Array) -> Array:
    return (np.log1p(np.maximum(wrote, 0.0)) - np.log1p(np.maximum(wanted, 0.0))) ** 2


def _for_r2(wrote: Array, wanted: Array) -> Array:
    # From a number near all of them: squares of large numbers would hide their differences.
    off = wanted - wanted[0]
    return np.stack([(wrote - wanted) ** 2, off, off**2, np.ones_like(wanted)], axis=1)


def _r2(sums: Array) -> Array:
    """1 − Σ(y − ŷ)² / Σ(y − ȳ)²."""
    wrong, first, second, n = np.moveaxis(sums, -1, 0)
    spread = second - first**2 / np.maximum(n, 1)
    # Where all are the same there is nothing to explain, and only the right guess is good.
    alike = spread <= 1e-12 * second
    found: Array = 1 - np.divide(
        wrong, spread, out=np.array(wrong > 0, dtype=np.float64), where=~alike
    )
    return found


def _within(band: tuple[float, float]) -> Callable[[Array, Array], Array]:
    def hits(wrote: Array, wanted: Array) -> Array:
        off = _off(wrote, wanted)
        found: Array = ((off < band[0]) | (off < band[1] * np.abs(wanted))).astype(np.float64)
        return found

    return hits


def _rouge(written: Sequence[Generation], _: CompletionStats) -> Array:
    """ROUGE-L's F, with words of any script."""
    scorer = _library("rouge_score.rouge_scorer").RougeScorer(["rougeL"], tokenizer=_Words())
    return np.array(
        [[scorer.score(row.wanted, row.text)["rougeL"].fmeasure, 1.0] for row in written]
    )


class _Words:
    def tokenize(self, text: str) -> list[str]:
        return _words(text)


def _chrf(written: Sequence[Generation], _: CompletionStats) -> Array:
    """The mean over the rows, from 0 to 1."""
    scorer = _library("sacrebleu.metrics").CHRF()
    return np.array(
        [[scorer.sentence_score(row.text, [row.wanted]).score / 100, 1.0] for row in written]
    )


def _ngrams(written: Sequence[Generation], _: CompletionStats) -> Array:
    """What BLEU sums up over a corpus: matches and n-grams of four lengths, and the words of both sides."""
    scorer = _library("sacrebleu.metrics").BLEU(effective_order=True)
    found = [scorer.sentence_score(row.text, [row.wanted]) for row in written]
    return np.array(
        [[*score.counts, *score.totals, score.sys_len, score.ref_len] for score in found],
        dtype=np.float64,
    )


def _bleu(sums: Array) -> Array:
    """From 0 to 1, over the corpus."""
    compute = _library("sacrebleu.metrics").BLEU.compute_bleu

    def one(own: Array) -> float:
        score: float = compute(
            list(own[:4]), list(own[4:8]), int(own[8]), int(own[9]), smooth_method="exp"
        ).score
        return score / 100

    return np.apply_along_axis(one, -1, sums)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0].replace("_", "-")
        raise MetricError(
            f"This metric needs the package {package}; run: pip install 'rung[metrics]'."
        ) from None


def _answered(written: Sequence[Generation], known: CompletionStats) -> Array:
    return np.array([[float(known.numbers.first(row.text) is not None), 1.0] for row in written])


METRICS = {
    metric.name: metric
    for metric in (
        Metric("exact_match", 1.0, _mean(_exact), ratio),
        Metric("token_f1", 1.0, _mean(_token_f1), ratio),
        Metric("accuracy", 1.0, _mean(_exact), ratio),
        Metric("macro_f1", 1.0, _confusions, _macro_f1),
        Metric("phoneme_error_rate", None, _edits, ratio),
        Metric("word_error_rate", None, _edits, ratio),
        Metric(
            "json_valid", 1.0, _mean(lambda row: float(_parsed(row.text) is not _NO_JSON)), ratio
        ),
        Metric("json_fields", 1.0, _fields, ratio),
        Metric("answered", 1.0, _answered, ratio),
        Metric("mean_absolute_error", None, _of_numbers(_off), _if_any(ratio)),
        Metric("median_absolute_error", None, _offs, None),
        Metric(
            "rmsle", None, _of_numbers(_squared_logs), _if_any(lambda sums: np.sqrt(ratio(sums)))
        ),
        Metric("r2", 1.0, _of_numbers(_for_r2), _if_any(_r2)),
        Metric("green", 1.0, _of_numbers(_within(GREEN)), _if_any(ratio)),
        Metric("green_or_orange", 1.0, _of_numbers(_within(ORANGE)), _if_any(ratio)),
        Metric("rouge_l", 1.0, _rouge, ratio),
        Metric("bleu", 1.0, _ngrams, _bleu),
        Metric("chrf", 1.0, _chrf, ratio),
    )
}
"""Everything that is called a share lies between 0 and 1."""
SHARES = tuple(name for name, metric in METRICS.items() if metric.top == 1.0 and name != "r2")
"""Those that are shares of rows or of what is in them."""
OF_NUMBERS = (
    "mean_absolute_error",
    "median_absolute_error",
    "rmsle",
    "r2",
    "green",
    "green_or_orange",
)
"""Those that leave out rows whose wanted text has no number."""


def propose(completions: Sequence[str], known: CompletionStats) -> tuple[str, ...]:
    """The metrics that fit completions like these, the one to judge by first."""
    texts = [text.strip() for text in completions]
    if known.labels:
        return ("accuracy", "macro_f1", *(("mean_absolute_error",) if known.mere else ()))
    if known.mere:
        assert known.median is not None
        bands = ("green", "green_or_orange") if known.median >= 2 * GREEN[0] else ()
        errors = ("mean_absolute_error", "median_absolute_error", "rmsle", "r2")
        return (*errors, *bands, "answered", "exact_match")
    if all(isinstance(_parsed(text), dict | list) for text in texts):
        return ("json_fields", "json_valid", "exact_match")
    words = [text.split() for text in texts]
    sounds = [{word.rstrip("012") for word in own} for own in words]
    spoken = sum(bool(own & _VOWELS) for own in sounds)
    if all(own <= _PHONEMES for own in sounds) and spoken > len(sounds) / 2:
        return ("phoneme_error_rate", "exact_match")
    if np.median([len(own) for own in words]) <= SHORT:
        return ("exact_match", "token_f1")
    return ("token_f1", "exact_match")
