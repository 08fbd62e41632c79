"""Completions that are one of a few labels, and completions that are all the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rung.data.audit.finding import Finding, quote
from rung.data.rows import normalize

MAX_LABELS = 20
"""Completions are labels if there are at most this many, and ten rows or more for each."""
UNEVEN_SHARE = 0.8
"""Labels are uneven if one of them is in a larger share of the rows."""
_NAMED_GROUPS = 3


def are_few(counts: Counter[str], rows: int) -> bool:
    """Whether the different completions are few enough to be labels."""
    return len(counts) <= min(MAX_LABELS, rows / 10)


def check_labels(counts: Counter[str], rows: int) -> Iterator[Finding]:
    """Findings on labels, from how often each completion is in the training rows."""
    yield from _check_variants(counts, rows)
    (commonest, times), labels = counts.most_common(1)[0], len(counts)
    share = f"{times / rows:.1%} of the training rows"
    if labels == 1:
        message = f"Every completion is {quote(commonest)}, so there is nothing to tell apart."
        yield Finding("identical", "warning", message)
    elif are_few(counts, rows) and times > UNEVEN_SHARE * rows:
        message = (
            f"{share} have the label {quote(commonest)}; a model that always gives this label is "
            "right as often."
        )
        yield Finding("imbalance", "warning", message)
    elif are_few(counts, rows):
        most = f"the commonest, {quote(commonest)}, is in {share}"
        message = f"The completions are {labels} labels; {most}."
        yield Finding("labels", "note", message)
    elif times > max(10, rows / 5):
        message = f"{share} have the same completion, {quote(commonest)}."
        yield Finding("identical", "warning", message)


def _check_variants(counts: Counter[str], rows: int) -> Iterator[Finding]:
    """Labels that differ only in case, spaces or punctuation."""
    variants: dict[str, list[str]] = {}
    for answer in counts:
        variants.setdefault(normalize(answer), []).append(answer)
    groups = [answers for answers in variants.values() if len(answers) > 1]
    if groups and len(variants) <= min(MAX_LABELS, rows / 10):
        named = "; ".join(
            " and ".join(f"{quote(answer)} ({counts[answer]:,})" for answer in answers)
            for answers in groups[:_NAMED_GROUPS]
        )
        message = (
            "Some labels differ only in case, spaces or punctuation, and a model takes them for "
            f"different labels: {named}; write each in one way."
        )
        yield Finding("variants", "warning", message)
