from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.data.audit.rows import by_kind, read, splits_with

from rung.data.audit import Finding, audit
from rung.data.audit.numbers import check_numbers
from rung.formats.numbers import Column

ROWS = 300
HELD_OUT_ROWS = 240


def check(
    completions: list[str], given: str = "auto", held_out: list[str] | None = None
) -> Finding | None:
    """The finding on completions that are these in turn; the held-out ones may be others."""
    column = Column()
    for i in range(ROWS):
        column.add(completions[i % len(completions)])
    for i in range(HELD_OUT_ROWS):
        values = held_out or completions
        column.add(values[i % len(values)], held=True)
    findings = list(check_numbers(column, given))
    assert len(findings) <= 1
    assert all(finding.kind == "numbers" for finding in findings)
    return findings[0] if findings else None


def note(*arguments: Any, **options: Any) -> str:
    """The message of a note."""
    finding = check(*arguments, **options)
    assert finding is not None
    assert finding.severity == "note"
    return finding.message


def warning(*arguments: Any, **options: Any) -> str:
    """The message of a warning."""
    finding = check(*arguments, **options)
    assert finding is not None
    assert finding.severity == "warning"
    return finding.message


@pytest.mark.parametrize("completions", [["12", "7"], ["a 3,14", "b"]])
def test_plain_numbers_and_texts_have_no_finding(completions: list[str]) -> None:
    assert check(completions) is None


def test_a_note_shows_how_numbers_are_read() -> None:
    assert (
        "numbers with a decimal comma: '3,14' is 3.14, '200k' is 200000, '(5)' is -5. "
        "To have them read otherwise"
    ) in note(["3,14", "1.234,5", "200k", "(5)"])


@pytest.mark.parametrize(
    "completions",
    [
        ["5", "7", "2020"],
        ["$1,234.56", "$12.50", "-$5.00"],
        ["1.234,56 €", "12,50 €"],
        ["12 %", "12.5 %"],
        ["1", "2", "5"],
        ["1,3", "2,7", "1"],
        ["-5", "12"],
        ["5 kg", "7 kg"],
        ["$2.5m", "$100k"],
        ["$5", "7"],
    ],
)
def test_ordinary_numbers_have_no_warning(completions: list[str]) -> None:
    finding = check(completions)
    assert finding is None or finding.severity == "note", finding


# What the completions do not decide.


def test_a_mark_that_may_be_between_thousands_is_a_warning() -> None:
    message = warning(["1,234", "2,345"])
    assert "'1,234' is 1234 with a decimal point and 1.234 with a decimal comma, and no" in message
    assert (
        "1234 is assumed. To have them read otherwise, give --numbers point or --numbers comma."
    ) in message
    assert "'1,234' is 1.234" in note(["1,234", "2,345"], "comma"), "the user has decided"


def test_numbers_that_may_be_lists_are_a_warning() -> None:
    assert (
        "'3,4' is 3.4. Each may be a list of two; if '3,4' is one, put brackets around all of them."
    ) in warning(["3,4", "1,2"])
    note(["3,4", "1,2"], "comma")


# Numbers that cannot be compared.


@pytest.mark.parametrize(
    ("completions", "sentence"),
    [
        (
            ["5 kg", "300 g"],
            "The numbers have several units ('kg', 'g'), so Rung computes no error for them.",
        ),
        (["3,5"] * 30 + ["2.5"], "9 of 300 completions are no such number, such as '2.5'"),
        (["3,5"] * 30 + ["3,1,2"], "9 of 300 completions are no such number, such as '3,1,2'"),
        (
            ["3,5", "2.5"],
            "150 of 300 completions are no such number, such as '3,5'; write all of them in one",
        ),
        (
            ["7.0", "12.0", "3.0"],
            "Whole numbers are written as '7.0', as a table does once one of them is missing",
        ),
    ],
)
def test_numbers_that_cannot_be_compared_are_a_warning(
    completions: list[str], sentence: str
) -> None:
    assert sentence in warning(completions)


def test_held_out_numbers_that_are_written_differently_are_a_warning() -> None:
    assert (
        "120 of 240 held-out completions are no such number, such as '12.34'; Rung computes no "
        "error there"
    ) in warning(["12,34", "5,6", "1"], held_out=["12.34", "5,6"])
    assert "several units ('kg', 'g')" in warning(["5 kg"], held_out=["5 g"])


# Units.


@pytest.mark.parametrize(
    ("completions", "sentence"),
    [
        (["5 kg", "7 kg"], "All of the numbers have the unit 'kg'."),
        (["$5", "7"], "Some of the numbers have no unit, and count as '$'."),
        (["2.5m", "100k"], "'2.5m' is 2500000, '100k' is 100000."),
        (["3 M€", "200 T€"], ": '3 M€' is 3000000, '200 T€' is 2e+14."),
    ],
)
def test_a_note_names_the_unit(completions: list[str], sentence: str) -> None:
    assert sentence in note(completions)


# In the whole audit.


def test_training_and_held_out_rows_are_told_apart_when_data_are_read(tmp_path: Path) -> None:
    train, validation, _ = splits_with([" 12,34", " 5,6", " 1"])
    test = splits_with([" 12.34", " 5,6"])[2]
    data = read(tmp_path, train, validation, test)
    finding = by_kind(audit(data))["numbers"]
    assert finding.severity == "warning"
    assert "60 of 240 held-out completions are no such number, such as '12.34'" in finding.message


def test_the_audit_reads_numbers_as_the_recipe_says(tmp_path: Path) -> None:
    data = read(tmp_path, *splits_with([" 1,234", " 2,345"]))
    assert by_kind(audit(data))["numbers"].severity == "warning"
    assert by_kind(audit(data, numbers="comma"))["numbers"].severity == "note"
