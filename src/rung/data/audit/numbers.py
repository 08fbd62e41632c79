"""How Rung reads the completions, if they are numbers."""

from __future__ import annotations

from collections.abc import Iterator

from rung.data.audit.finding import Finding, quote
from rung.formats.numbers import COMMA, POINT, Column, Convention, is_currency

NUMBERS_SHARE = 0.9
"""Completions are meant as numbers if at least this share of them is."""
UNIFORM_SHARE = 0.9
"""What more than this share of the rows has comes from how the file was written."""
_NAMED_UNITS = 3


def check_numbers(column: Column, given: str) -> Iterator[Finding]:
    """One finding with everything that is to be known of the numbers.

    Args:
        column: what the completions show of how their numbers are written.
        given: how the recipe says that they are read: `auto`, `point` or `comma`.
    """
    if column.numbers < max(1, NUMBERS_SHARE * column.rows):
        return
    convention = column.convention(given)
    reading = _Sentences()
    reading.note(_examples(column, convention, given))
    if given == "auto":
        reading.warn(_ambiguous_marks(column, convention))
        reading.warn(_possible_lists(column))
    if reading.text:
        reading.note("To have them read otherwise, give --numbers point or --numbers comma.")
    reading.warn(_whole_numbers_with_point(column))
    if column.unit is None:
        reading.warn(_several_units(column))
    else:
        reading.note(_one_unit(column, column.unit))
    reading.warn(_other_completions(column, convention))
    reading.warn(_other_held_out_completions(column, convention))
    if reading.text:
        yield Finding(
            "numbers", "warning" if reading.is_warning else "note", " ".join(reading.text)
        )


class _Sentences:
    """The sentences of a finding, and whether one of them is a warning. An empty one is skipped."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.is_warning = False

    def note(self, sentence: str) -> None:
        self.text += [sentence] if sentence else []

    def warn(self, sentence: str) -> None:
        self.note(sentence)
        self.is_warning |= bool(sentence)


def _examples(column: Column, convention: Convention, given: str) -> str:
    """One number of each kind that needs a word, with its value."""
    shown = column.shown
    multiplied = ("times ", "short ") if column.short else ("times ",)
    kinds = [
        convention.decimal,
        *(("either",) if given != "auto" or not column.is_ambiguous else ()),
        *(kind for kind in shown if kind.startswith(multiplied)),
        "negative",
    ]
    texts = dict.fromkeys(text for kind in kinds if (text := shown.get(kind)))
    values = [
        f"{quote(text)} is {value:.10g}"
        for text in texts
        if (value := convention.read(text)) is not None
    ]
    if not values:
        return ""
    return f"The completions are numbers with a decimal {convention.decimal}: {', '.join(values)}."


def _ambiguous_marks(column: Column, convention: Convention) -> str:
    """Numbers whose mark may be a decimal mark or one between thousands."""
    if not column.is_ambiguous:
        return ""
    text = column.shown["either"]
    return (
        f"{quote(text)} is {POINT.read(text):.10g} with a decimal point and "
        f"{COMMA.read(text):.10g} with a decimal comma, and no completion shows which is meant; "
        f"{convention.read(text):.10g} is assumed."
    )


def _possible_lists(column: Column) -> str:
    if not column.may_be_pairs:
        return ""
    return (
        f"Each may be a list of two; if {quote(column.shown['pairs'])} is one, put brackets around "
        "all of them."
    )


def _whole_numbers_with_point(column: Column) -> str:
    if column.floats <= UNIFORM_SHARE * column.rows:
        return ""
    return (
        f"Whole numbers are written as {quote(column.shown['floats'])}, as a table does once one "
        "of them is missing; if that is not meant, write them as texts."
    )


def _several_units(column: Column) -> str:
    units = [f"'{unit}'" if unit else "none" for unit in list(column.units)[:_NAMED_UNITS]]
    return (
        f"The numbers have several units ({', '.join(units)}), so Rung computes no error for them."
    )


def _one_unit(column: Column, unit: str) -> str:
    if len(column.units) > 1:
        return f"Some of the numbers have no unit, and count as '{unit}'." if unit else ""
    if unit and unit != "%" and not is_currency(unit):
        return f"All of the numbers have the unit '{unit}'."
    return ""


def _other_completions(column: Column, convention: Convention) -> str:
    """Training completions that this convention does not read."""
    others = column.rows - column.reads[convention.decimal]
    if not others:
        return ""
    other_mark = "comma" if convention.decimal == "point" else "point"
    text = column.shown.get(other_mark, column.shown.get("none", ""))
    return (
        f"{_not_numbers(others, column.rows, 'completions')}, such as {quote(text)}; write all of "
        "them in one way."
    )


def _other_held_out_completions(column: Column, convention: Convention) -> str:
    others = column.held - column.held_reads[convention.decimal]
    if not others:
        return ""
    text = column.shown[f"held {convention.decimal}"]
    return (
        f"{_not_numbers(others, column.held, 'held-out completions')}, such as {quote(text)}; Rung "
        "computes no error there, so write all of them in one way."
    )


def _not_numbers(count: int, of: int, completions: str) -> str:
    return f"{count:,} of {of:,} {completions} {'are' if count > 1 else 'is'} no such number"
