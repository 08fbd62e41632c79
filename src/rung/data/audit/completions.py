"""The completions of the training rows: empty, missing, garbled, all alike, or run together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from rung.data.arrow_store import Texts
from rung.data.audit.finding import Finding, RowList
from rung.data.audit.labels import are_few, check_labels
from rung.data.prepare import Data

UNIFORM_SHARE = 0.9
"""What more than this share of the rows has comes from how the file was written."""
MAX_COUNTED = 1000
"""With more different completions than this they are no labels, and need not all be counted."""
_MISSING = {"nan", "NaN", "None", "null", "NULL", "NA", "N/A", "#N/A", "<NA>", "NaT", "undefined"}
"""What programs write for a value that is missing."""
_MAY_BE_LABEL = {"N/A", "NA", "None", "null"}
"""Those that people use as a label too."""
_LABEL_SHARE = 0.01
"""One of those is a label if at least this share of the rows has it."""
_QUOTES = {('"', '"'), ("'", "'"), ("`", "`"), ("“", "”"), ("‘", "’"), ("„", "“"), ("«", "»")}
_WRONG_ENCODING = re.compile("Ã[\x80-\xbf]|Â[\xa0-\xbf]|â€[\u2122\u0153\x9d\u02dc\u201c\u201d\xa6]")
"""UTF-8 that was read as Windows-1252."""


@dataclass
class _Counts:
    """What is counted while the training rows go by."""

    rows: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    empty: RowList = field(default_factory=RowList)
    missing: dict[str, RowList] = field(default_factory=dict)
    """For each such text its rows; for "" the rows in which only the prompt is missing."""
    garbled: RowList = field(default_factory=RowList)
    quoted: int = 0
    unseparated: int = 0

    def add(self, text: Texts) -> None:
        self.rows += 1
        answer = text.answer.strip()
        if not answer:
            self.empty.add(text.location)
        if len(self.answers) <= MAX_COUNTED or answer in self.answers:
            self.answers[answer] += 1
        if answer in _MISSING or text.prompt.strip() in _MISSING:
            of_text = self.missing.setdefault(answer if answer in _MISSING else "", RowList())
            of_text.add(text.location)
        if _is_garbled(text.prompt) or _is_garbled(text.answer):
            self.garbled.add(text.location)
        is_code = answer.startswith("```")
        self.quoted += len(answer) > 1 and not is_code and (answer[0], answer[-1]) in _QUOTES
        self.unseparated += text.prompt[-1:].isalnum() and text.answer[:1].isalnum()


def check_completions(data: Data) -> Iterator[Finding]:
    """All findings on the texts of completions, labels included."""
    counts = _Counts()
    for text in data.train.every_text():
        counts.add(text)
    rows = counts.rows
    if counts.empty.count:
        message = (
            f"{counts.empty.count:,} of {rows:,} training rows have an empty completion, so the "
            f"model learns to generate nothing: {counts.empty}."
        )
        yield Finding("empty", "warning", message)
    yield from _check_missing(counts)
    if counts.garbled.count:
        count = counts.garbled.counted("training row has", "training rows have")
        message = (
            f"{count} letters that were lost, or that were read in another encoding than they were "
            f"written in: {counts.garbled}."
        )
        yield Finding("garbled", "warning", message)
    if counts.quoted > UNIFORM_SHARE * rows:
        message = (
            f"In {counts.quoted:,} of {rows:,} training rows the completion is in quotes, and the "
            "model learns to write them; remove them if they come from how the file was written."
        )
        yield Finding("quoted", "warning", message)
    yield from check_labels(counts.answers, rows)
    if data.stats.record_format == "prompt_completion" and counts.unseparated > rows / 2:
        message = (
            f"In {counts.unseparated:,} of {rows:,} training rows nothing separates prompt and "
            "completion; begin the completion with a space."
        )
        yield Finding("separator", "warning", message)
    if merged := data.stats.merged_rows:
        message = (
            f"In {merged:,} rows the prompt's last token merges with the completion, "
            "so the model sees another token there when it generates; end the prompt where a token "
            "ends, such as before a space."
        )
        yield Finding("boundary", "warning", message)


def _check_missing(counts: _Counts) -> Iterator[Finding]:
    """Texts that are written where one is missing, except for those that are labels."""
    lists = [
        rows
        for answer, rows in counts.missing.items()
        if not (
            answer in _MAY_BE_LABEL
            and are_few(counts.answers, counts.rows)
            and rows.count >= _LABEL_SHARE * counts.rows
        )
    ]
    first = [name for rows in lists for name in rows.first]
    missing = RowList(first, sum(rows.count for rows in lists))
    # Where half of the rows have it, it is meant.
    if 0 < missing.count < counts.rows / 2:
        message = (
            f"{missing.count:,} of {counts.rows:,} training rows have 'nan', 'None' or the like in "
            f"place of a text, as programs write for a missing value: {missing}."
        )
        yield Finding("missing", "warning", message)


def _is_garbled(text: str) -> bool:
    return not text.isascii() and ("\ufffd" in text or bool(_WRONG_ENCODING.search(text)))
