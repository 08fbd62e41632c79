"""What is to be known of a data set before anything is trained on it: in plain words, with the rows named.

*Leakage*: a row that is judged by and also trained on flatters whatever learns by heart. Rows are the same where only
case, white space and punctuation tell them apart. *Nearly the same* are rows whose prompts share eight of ten runs of
three words (Jaccard; found by MinHash and banding: Broder, 1997; Leskovec, Rajaraman and Ullman, Mining of Massive
Datasets, chapter 3), where runs do not count that many rows have: those are the prompt's frame. Of a row with a short
prompt it is the whole, and very short rows have too few.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rung.data.arrow_store import Examples, Texts
from rung.data.asked import alike
from rung.data.contained import contained
from rung.data.languages import another_language
from rung.data.prepare import Data, fits
from rung.data.schema import normal
from rung.data.tokens import first_tokens
from rung.data.told import sentences
from rung.formats.numbers import COMMA, POINT, Column, is_currency

Severity = Literal["error", "warning", "note"]
NEAR = 0.8
"""How much two rows share that are nearly the same."""
FEWEST_RUNS = 8
"""Rows with fewer runs of three words than this are compared as a whole only."""
FRAME = 0.02
"""A run of words that so large a share of the rows has is part of the frame."""
_TURNS = ("messages", "sharegpt", "text")
"""The shapes of which what comes earlier is learnt too."""
NUMBERS = 0.9
"""Completions are meant as numbers where so large a share of them are."""
UNIFORM = 0.9
"""What so large a share of the rows has comes from how they were written."""
LABELS = 20
"""Completions are labels where there are at most so many of them, and each stands for ten rows or more."""
UNEVEN = 0.8
"""One label is common where it stands in so large a share of the rows."""
FEW_ROWS = 100
"""With fewer rows to judge by, even differences of many percent drown."""
_MISSING = {"nan", "NaN", "None", "null", "NULL", "NA", "N/A", "#N/A", "<NA>", "NaT", "undefined"}
_NO_ANSWER = {"N/A", "NA", "None", "null"}
"""Those that may be one of a few labels."""
_QUOTES = {('"', '"'), ("'", "'"), ("`", "`"), ("“", "”"), ("‘", "’"), ("„", "“"), ("«", "»")}
_MISREAD = re.compile("Ã[\x80-\xbf]|Â[\xa0-\xbf]|â€[\u2122\u0153\x9d\u02dc\u201c\u201d\xa6]")
"""UTF-8 that was read as Western Windows."""
_RUN = 3
_PERMUTATIONS = 128
_INDEXED = 20_000
"""Rows of each split to judge by that training rows are compared with, where that is nearly."""
_SAMPLED = 5_000
_DECODED = 2_000
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about the data. An *error* stops a study; a *warning* may spoil it."""

    kind: str
    severity: Severity
    says: str


def audit(data: Data, tokenizer: Any = None, numbers: str = "auto") -> list[Finding]:
    """All findings, the worst first. Each split is read twice. Of tokens and languages nothing is said without the
    tokenizer that made the rows. `numbers` is what the recipe says of them.
    """
    found = [
        *_leakage(data),
        *_grown(data),
        *_asked(data),
        *_near(data),
        *_completions(data),
        *_numbers(data.facts.numbers, numbers),
    ]
    found += [*_lengths(data), *_rows(data), *_remarks(data)]
    return worst_first([*found, *(_tokens(data, tokenizer) if tokenizer else ())])


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    order: dict[Severity, int] = {"error": 0, "warning": 1, "note": 2}
    return sorted(findings, key=lambda finding: order[finding.severity])


def _leakage(data: Data) -> Iterator[Finding]:
    """Rows that stand in two splits, and rows that stand twice in one."""
    first: dict[int, tuple[str, str]] = {}
    asked: dict[int, tuple[str, str]] = {}
    whole, prompts = _Named(), _Named()
    # The splits that are judged by are held, the training rows go by.
    for name in ("test", "validation", "train"):
        for text in data.splits[name].every_text():
            row, prompt = (
                _number(f"{normal(text.before)}\n{normal(text.after)}"),
                _number(normal(text.before)),
            )
            if (other := first.get(row)) and other[0] != name:
                whole.add(f"{text.where} = {other[1]}")
            elif text.before and (other := asked.get(prompt)) and other[0] != name:
                prompts.add(f"{text.where} ~ {other[1]}")
            if name != "train":
                first.setdefault(row, (name, text.where))
                asked.setdefault(prompt, (name, text.where))
    if whole.count:
        count = f"{whole.count:,} row{'s stand' if whole.count > 1 else ' stands'}"
        yield Finding(
            "leakage",
            "error",
            f"{count} in two splits, so what is learnt by heart looks learnt: {whole}.",
        )
    if prompts.count:
        count = f"{prompts.count:,} row{'s have' if prompts.count > 1 else ' has'}"
        yield Finding(
            "same_prompt", "warning", f"{count} a prompt that another split has too: {prompts}."
        )
    rows = np.fromiter(
        (_number(f"{t.before}\n{t.after}") for t in data.train.every_text()),
        np.uint64,
        len(data.train),
    )
    if repeated := len(rows) - len(np.unique(rows)):
        yield Finding(
            "duplicates",
            "note",
            f"{repeated:,} of {len(rows):,} training rows are there already; they count twice.",
        )


def _grown(data: Data) -> Iterator[Finding]:
    """Rows whose prompt has all of another row in it, as in a conversation that is given answer by answer."""
    facts = data.facts
    if facts.together:
        says = (
            f"{facts.together:,} rows go on from one another, prompt and answer, as the rows of one conversation do, "
            "or ask and answer the same; those that do are in one split and count as one."
        )
        yield Finding("grown", "note", says)
    if len(facts.made) == 2 and not facts.apart:
        return
    # Held-out rows first: of rows with one text the first stands for the others.
    names = ("validation", "test", "train")
    parts = [data.splits[name] for name in names]
    starts = np.cumsum([0, *map(len, parts)])
    pairs = contained(parts)
    sides = [np.searchsorted(starts, rows, side="right") - 1 for rows in (pairs.rows, pairs.inside)]
    learnt, others = dict[int, int](), dict[int, int]()
    columns = pairs.rows.tolist(), pairs.inside.tolist(), pairs.partly.tolist()
    for row, inside, partly, to, of in zip(*columns, *sides, strict=True):
        if to != of and to == 2 and not partly and facts.shape in _TURNS:
            learnt.setdefault(inside, row)
        elif to != of:
            others.setdefault(*((inside, row) if to == 2 else (row, inside)))

    def named(rows: dict[int, int], sign: str) -> _Named:
        places = [
            f"{_where(parts, starts, one)} {sign} {_where(parts, starts, other)}"
            for one, other in rows.items()
        ]
        return _Named(places)

    if learnt:
        count = f"{len(learnt):,} row{'s' if len(learnt) > 1 else ''} to judge by"
        what = "texts" if facts.shape == "text" else "conversations"
        says = f"{count} stand in {what} of the training split, which learns them: {named(learnt, '⊂')}."
        yield Finding("leakage", "error", says)
    if others:
        count = f"{len(others):,} row{'s have' if len(others) > 1 else ' has'}"
        says = f"{count} all of another split's row in the prompt, or the other way: {named(others, '~')}."
        yield Finding("same_prompt", "warning", says)


def _asked(data: Data) -> Iterator[Finding]:
    """Rows that ask and answer what a row of another split does, though their prompts differ."""
    names = ("validation", "test", "train")
    parts = [data.splits[name] for name in names]
    starts = np.cumsum([0, *map(len, parts)])
    pairs = alike(parts, data.facts.shape)
    learnt, others = dict[int, str](), dict[int, str]()
    to, of = (np.searchsorted(starts, rows, side="right") - 1 for rows in (pairs.rows, pairs.first))
    columns = (pairs.rows, pairs.first, pairs.loosely, pairs.sure, to, of)
    known = list(zip(*(column.tolist() for column in columns), strict=True))
    # Held-out rows come first: each row that is the first of its kind, and those that are as it is.
    trained = {
        (first, loosely): row for row, first, loosely, _, to, _ in reversed(known) if to == 2
    }
    for row, first, loosely, sure, to, of in known:
        held, other = (first, row) if to == 2 else (row, trained.get((first, loosely), first))
        part, leaks = (of if to == 2 else to), sure and not loosely and (first, loosely) in trained
        if part == 2 or (other == first and to == of) or held in learnt or (loosely and not sure):
            continue
        one, two = _text(parts, starts, held), _text(parts, starts, other)
        if normal(one.before) != normal(two.before) and (leaks or held not in others):
            (learnt if leaks else others)[held] = f"{one.where} ~ {two.where}"
    others = {row: said for row, said in others.items() if row not in learnt}
    if learnt:
        count = f"{len(learnt):,} row{'s' if len(learnt) > 1 else ''} to judge by"
        says = f"{count} ask and answer what training rows do, under another system prompt or none"
        yield Finding("leakage", "error", f"{says}: {_Named(list(learnt.values()))}.")
    if others:
        count = f"{len(others):,} row{'s' if len(others) > 1 else ''}"
        says = f"In {count} the last question and the answer are those of a row in another split, after other words"
        yield Finding("same_prompt", "warning", f"{says}: {_Named(list(others.values()))}.")


def _text(parts: Sequence[Examples], starts: Any, row: int) -> Texts:
    part = int(np.searchsorted(starts, row, side="right")) - 1
    return parts[part].texts(row - int(starts[part]))


def _where(parts: Sequence[Examples], starts: Any, row: int) -> str:
    return _text(parts, starts, row).where


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _near(data: Data) -> Iterator[Finding]:
    """Training rows that are nearly the same as one that is judged by."""
    from datasketch import MinHashLSH

    frame = _frame(data.train)
    held: list[tuple[str, set[int]]] = []
    index = MinHashLSH(threshold=NEAR, num_perm=_PERMUTATIONS)
    for name in ("validation", "test"):
        for where, own, sketch in _sketched(data.splits[name], _INDEXED, frame):
            index.insert(len(held), sketch)
            held.append((where, own))
    found = _Named()
    for where, own, sketch in _sketched(data.train, len(data.train), frame) if held else ():
        alike = [
            number for number in index.query(sketch) if NEAR <= _jaccard(own, held[number][1]) < 1
        ]
        if alike:
            found.add(f"{where} ≈ {held[alike[0]][0]}")
    if found.count:
        count = f"{found.count:,} training row{'s are' if found.count > 1 else ' is'}"
        yield Finding(
            "near_duplicates", "warning", f"{count} nearly a row that is judged by: {found}."
        )


def _sketched(
    examples: Examples, most: int, frame: set[int]
) -> Iterator[tuple[str, set[int], Any]]:
    """Of each row that is long enough: where it stands, its runs beside the frame, and their MinHash."""
    from datasketch import MinHash

    for texts in _pieces(examples, most):
        runs = [(text.where, _runs(text) - frame) for text in texts]
        known = [(where, own) for where, own in runs if len(own) >= FEWEST_RUNS]
        sketches = MinHash.generator(
            [list(own) for _, own in known], num_perm=_PERMUTATIONS, hashfunc=int
        )
        for (where, own), sketch in zip(known, sketches, strict=True):
            yield where, own, sketch


def _pieces(examples: Examples, most: int) -> Iterator[list[Texts]]:
    rows = itertools.islice(examples.every_text(), most)
    while piece := list(itertools.islice(rows, 1024)):
        yield piece


def _runs(text: Texts) -> set[int]:
    """The runs of three words of its prompt, as numbers; of the whole, where the prompt is short."""
    found = _threes(text.before)
    return found if len(found) >= FEWEST_RUNS else _threes(f"{text.before} {text.after}")


def _threes(text: str) -> set[int]:
    words = [zlib.crc32(word.encode()) for word in normal(text).split()]
    return {
        (a * 31 + b) * 31 + c & 0xFFFFFFFF
        for a, b, c in zip(words, words[1:], words[2:], strict=False)
    }


def _frame(examples: Examples) -> set[int]:
    """The runs that many rows have, by a sample spread over all of them."""
    step = max(1, len(examples) // _SAMPLED)
    rows = range(0, len(examples), step)
    counts = Counter(run for row in rows for run in _runs(examples.texts(row)))
    return {run for run, count in counts.items() if count > max(2, FRAME * len(rows))}


def _jaccard(one: set[int], other: set[int]) -> float:
    return len(one & other) / len(one | other)


def _completions(data: Data) -> Iterator[Finding]:
    """Empty and common completions, and prompts that run into theirs."""
    counts: Counter[str] = Counter()
    absent: dict[str, _Named] = {}
    empty, garbled, glued, quoted, rows = _Named(), _Named(), 0, 0, 0
    for texts in _pieces(data.train, len(data.train)):
        for text in texts:
            rows += 1
            if not text.after.strip():
                empty.add(text.where)
            # Beyond that they are no labels, and need not be held.
            answer = text.after.strip()
            if len(counts) <= 1000 or answer in counts:
                counts[answer] += 1
            if answer in _MISSING or text.before.strip() in _MISSING:
                absent.setdefault(answer if answer in _MISSING else "", _Named()).add(text.where)
            if not (text.before.isascii() and text.after.isascii()) and _garbled(text):
                garbled.add(text.where)
            is_code = answer.startswith("```")
            quoted += len(answer) > 1 and not is_code and (answer[0], answer[-1]) in _QUOTES
            glued += bool(text.before and text.before[-1:].isalnum() and text.after[:1].isalnum())
    if empty.count:
        count = f"{empty.count:,} of {rows:,} training rows"
        says = f"{count} have an empty completion, so the model learns to say nothing: {empty}."
        yield Finding("empty", "warning", says)
    few = len(counts) <= min(LABELS, rows / 10)
    lacks = [
        own
        for answer, own in absent.items()
        if not (few and answer in _NO_ANSWER and own.count >= rows / 100)
    ]
    missing = _Named(
        [place for own in lacks for place in own.first], sum(own.count for own in lacks)
    )
    if 0 < missing.count < rows / 2:
        count = f"{missing.count:,} of {rows:,} training rows"
        says = f"{count} have 'nan', 'None' or the like for a text, as is written where one is missing: {missing}."
        yield Finding("missing", "warning", says)
    if garbled.count:
        count = f"{garbled.count:,} training row{'s have' if garbled.count > 1 else ' has'}"
        says = f"{count} letters that were lost, or read in another encoding than they were written in: {garbled}."
        yield Finding("garbled", "warning", says)
    if quoted > UNIFORM * rows:
        says = (
            f"In {quoted:,} of {rows:,} training rows the completion stands in quotes, which are learnt; take them "
            "out, if they come from how the file was written."
        )
        yield Finding("quoted", "warning", says)
    yield from _variants(counts, rows)
    (most, times), labels = counts.most_common(1)[0], len(counts)
    share = f"{times / rows:.1%} of the training rows"
    if labels == 1:
        yield Finding(
            "identical",
            "warning",
            f"Every completion is {_quoted(most)}: there is nothing to tell apart.",
        )
    elif few:
        if times > UNEVEN * rows:
            says = f"{share} have the label {_quoted(most)}; who always says so is right as often."
            yield Finding("imbalance", "warning", says)
        else:
            says = f"The completions are {labels} labels; the commonest, {_quoted(most)}, stands in {share}."
            yield Finding("labels", "note", says)
    elif times > max(10, rows / 5):
        yield Finding("identical", "warning", f"{share} have the same completion, {_quoted(most)}.")
    if data.facts.shape == "prompt_completion" and glued > rows / 2:
        count = f"In {glued:,} of {rows:,} training rows"
        says = f"{count} nothing parts prompt and completion; begin the completion with a space."
        yield Finding("separator", "warning", says)
    if data.facts.merged:
        says = (
            f"In {data.facts.merged:,} rows the prompt's last token merges with the completion, so that the model is "
            "given another one when it writes; end the prompt where a token ends, such as before a space."
        )
        yield Finding("boundary", "warning", says)


def _tokens(data: Data, tokenizer: Any) -> Iterator[Finding]:
    """What the tokenizer makes of the completions, and the language that they are in."""
    first, begun = first_tokens(tokenizer), data.train[0].ids
    lost, rows = _Named(), range(0, len(data.train), max(1, len(data.train) // _DECODED))
    named = {tokenizer.bos_token_id, tokenizer.pad_token_id, *data.facts.ends, *first}
    unknown = {tokenizer.unk_token_id} - named
    for row in rows:
        example, text = data.train[row], data.train.texts(row)
        asked, ids = example.ids[: example.prompt], example.ids[example.prompt :]
        wanted, back = text.after.strip(), _back(ids, tokenizer)
        if data.facts.shape == "text":  # nobody writes it, and it may have marks of its own
            wanted, back = _solid(wanted), _solid(tokenizer.decode(ids))
        is_whole = any(token in data.facts.ends for token in ids[-3:])
        if not unknown.isdisjoint(ids) or (is_whole and wanted not in back):
            lost.add(
                f"{text.where}: {_quoted(text.after.strip())} comes back as {_quoted(_back(ids, tokenizer))}"
            )
        elif not unknown.isdisjoint(asked):
            lost.add(
                f"{text.where}: {_quoted(text.before.strip())} is read as {_quoted(_back(asked, tokenizer))}"
            )
    if lost.count:
        says = (
            f"Of {len(rows):,} rows the tokenizer cannot write {lost.count:,} as they are: {lost}."
        )
        yield Finding("lossy", "warning", says)
    if data.facts.own_ends:
        own = " and ".join(_quoted(tokenizer.decode([token])) for token in data.facts.own_ends)
        says = (
            f"What is learnt ends with {own}, which neither the tokenizer nor the model's generation_config.json names "
            "as an end; whatever serves the adapter has to be told to stop there."
        )
        yield Finding("end_token", "warning", says)
    if begun[: len(first)] != first:
        says = (
            f"The tokenizer begins a text with {_quoted(tokenizer.decode(first))} and the chat template does not, so "
            "the rows have none."
        )
        yield Finding("first_token", "note", says)
    if foreign := another_language(data.train, tokenizer):
        says = (
            f"{foreign}. The output head (lm_head) may be worth adapting there, and a climb over several sets of "
            "target modules tries it."
        )
        yield Finding("language", "note", says)


def _back(ids: Sequence[int], tokenizer: Any) -> str:
    """What a model that writes these tokens is taken to have written."""
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text.strip()


def _solid(text: str) -> str:
    return "".join(text.split())


def asks_for_head(findings: Iterable[Finding]) -> bool:
    """Whether the data say that the output head should be tried."""
    return any(finding.kind == "language" for finding in findings)


def _garbled(text: Texts) -> bool:
    return any("\ufffd" in part or _MISREAD.search(part) for part in (text.before, text.after))


def _variants(counts: Counter[str], rows: int) -> Iterator[Finding]:
    """Labels that differ by case or a full stop alone."""
    alike: dict[str, list[str]] = {}
    for answer in counts:
        alike.setdefault(normal(answer), []).append(answer)
    several = [own for own in alike.values() if len(own) > 1]
    if several and len(alike) <= min(LABELS, rows / 10):
        named = "; ".join(
            " and ".join(f"{_quoted(one)} ({counts[one]:,})" for one in own)
            for own in several[:_NAMED]
        )
        says = f"Labels differ only in case, space or marks, and are others to a model: {named}; write each in one way."
        yield Finding("variants", "warning", says)


def _numbers(column: Column, given: str) -> Iterator[Finding]:
    """How the completions are read, where they are numbers."""
    numbers = column.convention(given)
    read = column.reads[numbers.decimal]
    if column.numbers < max(1, NUMBERS * column.rows):
        return
    shown = column.shown
    words = [
        kind
        for kind in shown
        if kind.startswith(("times ", "short ") if column.short else "times ")
    ]
    kinds = [
        numbers.decimal,
        *(("either",) if given != "auto" or not column.is_ambiguous else ()),
        *words,
        "negative",
    ]
    texts = dict.fromkeys(text for kind in kinds if (text := shown.get(kind)))
    values = [
        f"{_quoted(text)} is {value:.10g}"
        for text in texts
        if (value := numbers.read(text)) is not None
    ]
    severity: Severity = "note"
    says = ""
    if values:
        says = f"The completions are numbers with a decimal {numbers.decimal}: {', '.join(values)}."
    if column.is_ambiguous and given == "auto":
        text, severity = shown["either"], "warning"
        says += (
            f" {_quoted(text)} is {POINT.read(text):.10g} with a decimal point and {COMMA.read(text):.10g} with a "
            f"decimal comma, and no completion tells which; {numbers.read(text):.10g} is assumed."
        )
    if column.may_be_pairs and given == "auto":
        severity = "warning"
        says += f" Each may be a list of two; if {_quoted(shown['pairs'])} is one, put brackets around all of them."
    if says:
        says += " To have them read otherwise, give --numbers point or --numbers comma."
    if column.floats > UNIFORM * column.rows:
        says += (
            f" Whole numbers are written as {_quoted(shown['floats'])}, as a table does once one of them is missing; "
            "write them as texts, if that is not meant."
        )
        severity = "warning"
    if column.unit is None:
        units = ", ".join(f"'{unit}'" if unit else "none" for unit in list(column.units)[:_NAMED])
        says += f" The numbers have several units ({units}), so no error of theirs is worked out."
        severity = "warning"
    elif len(column.units) > 1:
        says += (
            f" Some of the numbers have no unit, and count as '{column.unit}'."
            if column.unit
            else ""
        )
    elif column.unit and column.unit != "%" and not is_currency(column.unit):
        says += f" All of the numbers have the unit '{column.unit}'."
    if others := column.rows - read:
        text = shown.get("comma" if numbers.decimal == "point" else "point", shown.get("none", ""))
        is_none = f"{others:,} of {column.rows:,} completions {'are' if others > 1 else 'is'} no such number"
        says += f" {is_none}, such as {_quoted(text)}; write all of them alike."
        severity = "warning"
    if others := column.held - column.held_reads[numbers.decimal]:
        is_none = f"{others:,} of {column.held:,} held-out completions {'are' if others > 1 else 'is'} no such number"
        text = shown[f"held {numbers.decimal}"]
        says += f" {is_none}, such as {_quoted(text)}; no error is worked out there, so write all of them alike."
        severity = "warning"
    if says:
        yield Finding("numbers", severity, says.strip())


def _lengths(data: Data) -> Iterator[Finding]:
    facts = data.facts
    if long := sum(facts.long.values()):
        rows = sum(facts.read.values())
        count = f"{long:,} of {rows:,} rows ({long / rows:.1%}) are longer than max_tokens"
        says = f"{count}; the longest has {max(facts.lengths):,} tokens, 99 % have at most {fits(facts.lengths, 0.99):,}."
        yield Finding("long", "warning", says)


def _rows(data: Data) -> Iterator[Finding]:
    if data.facts.told:
        yield Finding("files", "warning", f"{_Named(data.facts.told)}.")
    if data.facts.bad:
        count = f"{data.facts.bad:,} malformed row{'s are' if data.facts.bad > 1 else ' is'}"
        says = f"{count} left out: {_Named([said.rstrip('.') for said in data.facts.listed], data.facts.bad)}."
        yield Finding("malformed", "warning", says)
    few = [
        f"{rows} {name}"
        for name in ("validation", "test")
        if (rows := len(data.splits[name])) < FEW_ROWS
    ]
    if few:
        says = f"There are {' and '.join(few)} rows; with fewer than {FEW_ROWS} only large differences can be seen."
        yield Finding("few_rows", "warning", says)


def _remarks(data: Data) -> Iterator[Finding]:
    """What rows say and their texts do not."""
    for kind, says in sentences(data.facts.remarks):
        yield Finding(kind, "note" if kind in ("as_json", "unused") else "warning", says)


class _Named:
    """Counts rows, and names the first of them."""

    def __init__(self, said: Sequence[str] = (), count: int | None = None) -> None:
        self.count = len(said) if count is None else count
        self.first = list(said[:_NAMED])

    def add(self, said: str) -> None:
        self.count += 1
        if len(self.first) < _NAMED:
            self.first.append(said)

    def __str__(self) -> str:
        more = self.count - len(self.first)
        return "; ".join(self.first) + (f"; and {more:,} more" if more > 0 else "")


def _quoted(text: str) -> str:
    short = text if len(text) <= 40 else f"{text[:39]}…"
    return f"'{short}'"
