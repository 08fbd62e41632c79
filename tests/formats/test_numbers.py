"""Numbers are read from texts in any usual notation, and a column tells which notation it is."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.formats.numbers import COMMA, POINT, Column, Convention

SPACED = Convention("comma", spaced=True)


@pytest.mark.parametrize(
    ("text", "point", "comma"),
    [
        ("64", 64, 64),
        (" $1,299.50 ", 1299.5, None),
        ("-3e2", -300, -300),
        ("3.14", 3.14, None),
        ("3,14", None, 3.14),
        ("1,234", 1234, 1.234),
        ("1.234", 1.234, 1234),
        ("1,234.5", 1234.5, None),
        ("1.234,5", None, 1234.5),
        ("1.234.567", None, 1234567),
        ("1,234,567", 1234567, None),
        ("1,00,000", 100000, None),
        ("1'234.5", 1234.5, None),
        ("1’234,50", None, 1234.5),
        ("1\u202f234\u202f567,5", None, 1234567.5),
        ("0,123", None, 0.123),
        ("0.123", 0.123, None),
        ("12345,678", None, 12345.678),
        (".5", 0.5, None),
        ("5.", 5, None),
        ("1e3", 1000, 1000),
        ("2.5E-3", 0.0025, None),
        ("1.5×10^3", 1500, None),
        ("200k", 200_000, 200_000),
        ("1.5M", 1.5e6, None),
        ("1,5 Mio. €", None, 1.5e6),
        ("3 million", 3e6, 3e6),
        ("$2bn", 2e9, 2e9),
        ("3만", 30_000, 30_000),
        ("−5", -5, -5),
        ("–5", -5, -5),
        ("-$5", -5, -5),
        ("$-5", -5, -5),
        ("−5,50 €", None, -5.5),
        ("(5)", -5, -5),
        ("($5.20)", -5.2, None),
        ("5-", -5, -5),
        ("+5", 5, 5),
        ("5,-", 5, 5),
        ("50 %", 50, 50),
        ("€ 5", 5, 5),
        ("US$5", 5, 5),
        ("12 USD", 12, 12),
        ("90 km/h", 90, 90),
        ("5 m", 5, 5),
        ("200 kg", 200, 200),
        ("１２", 12, 12),
        ("١٢٫٥", None, 12.5),
    ],
)
def test_the_number_that_a_text_gives_by_either_decimal_mark(
    text: str, point: float | None, comma: float | None
) -> None:
    assert POINT.read(text) == (None if point is None else pytest.approx(point))
    assert COMMA.read(text) == (None if comma is None else pytest.approx(comma))


@pytest.mark.parametrize(
    "text",
    [
        "3,1,2",
        "1,2,3,4",
        "1.2.3",
        "v1.2",
        "2024-01-05",
        "10.12.2024",
        "05/01/2024",
        "12:30",
        "5 pm",
        "1st",
        "1/2",
        "3 1/2",
        "007",
        "01234",
        "3-5",
        "4 or 5",
        "--5",
        "-(5)",
        "(5",
        "0x1F",
        "192.168.1.1",
        "none",
        "nan",
        "inf",
        "",
        "1e400",
        "it costs about 12 dollars",
        "½",
        "10²",
    ],
)
def test_lists_dates_codes_and_sentences_are_not_numbers(text: str) -> None:
    assert (POINT.read(text), COMMA.read(text)) == (None, None)


def test_a_space_separates_thousands_where_the_column_has_such_numbers() -> None:
    assert (COMMA.read("1 234,5"), SPACED.read("1 234,5")) == (None, 1234.5)
    column = Column.of(["1 234,5", "12 000", "999"])
    assert column.convention() == SPACED
    assert column.is_numeric(SPACED)
    assert SPACED.read_first("some 12 000 men") == 12000
    assert COMMA.read_first("5 600 of them") == 5


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("about 1,300.00", 1300),
        ("it costs -$5 now", -5),
        ("−5 degrees", -5),
        ("GPT-4 costs 5", 4),
        ("On 2024-01-05 at 12:30 it was 7", 7),
        ("version 1.2.3 has 4", 4),
        ("1/2 cup of 3", 3),
        ("I paid 200k.", 200_000),
        ("I paid 200 kilos", 200),
        ("In 2024, five", 2024),
        ("see (5)", 5),
        ("3,1,2", None),
        ("at 12:30", None),
        ("none", None),
    ],
)
def test_the_first_number_in_a_text(text: str, number: float | None) -> None:
    assert POINT.read_first(text) == number


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["$2.5m", "$100k"], [2.5e6, 1e5]),
        (["2.5m", "100k"], [2.5e6, 1e5]),
        (["2m", "$5"], [2e6, 5]),
        (["2 m", "5 m"], [2, 5]),
        (["1 lakh", "3 lakhs", "2 crores", "1 L", "1.5 Cr"], [1e5, 3e5, 2e7, 1e5, 1.5e7]),
        (["₹2 Cr", "₹1 L"], [2e7, 1e5]),
        (["3 Million", "1 million", "7"], [3e6, 1e6, 7]),
        (["2 Thousand", "5 Millionen", "3 hundred", "2 dozen", "9"], [2000, 5e6, 300, 24, 9]),
        (["3 hundred thousand", "4 MILLION"], [3e5, 4e6]),
        (["$3MM", "$2b", "$1T"], [3e6, 2e9, 1e12]),
        (["5万", "6千", "5百万", "7"], [5e4, 6e3, 5e6, 7]),
        (["5万円", "300円"], [5e4, 300]),
        (["200 k€", "1.5 m€"], [2e5, 1.5e6]),
        (["2m dollars", "5k dollars"], [2e6, 5e3]),
        (["Rs 1,00,000/-", "Rs. 5 lakhs"], [1e5, 5e5]),
    ],
)
def test_a_word_after_a_number_multiplies_it(texts: list[str], values: list[float]) -> None:
    column = Column.of(texts)
    assert [column.convention().read(text) for text in texts] == values
    assert [column.convention().read_first(f"some {text}") for text in texts] == values
    assert column.is_numeric(column.convention())


@pytest.mark.parametrize(
    "text", ["Fr. 12.50", "₱12.50", "AED 12.50", "১২.৫", "१२.५", "12.50 руб.", "CHF\u00a012.5"]
)
def test_numbers_of_any_currency_and_script(text: str) -> None:
    assert POINT.read(text) == 12.5
    assert Column.of([text]).is_numeric(POINT)


def test_capital_letters_of_a_name_are_not_taken_for_a_currency() -> None:
    assert POINT.read("RFC 822") is None
    assert POINT.read("GPT-4") is None


@pytest.mark.parametrize(
    ("text", "negative", "otherwise"),
    [
        ("- 5", -5, 5),
        ("- $5", -5, 5),
        ("- 5 apples", -5, 5),
        ("The change is - 5 points", -5, 5),
        ("x = – 5", -5, 5),
        ("loss (5)", -5, 5),
        ("a loss ($5.00) in all", -5, 5),
        ("minus 5", -5, 5),
        ("The change is -5", -5, -5),
        ("5 - 3", 5, 5),
        ("(5 apples and more)", 5, 5),
        ("f(5)", 5, 5),
        ("pages - 5", 5, 5),
    ],
)
def test_a_minus_may_have_a_space_after_it_where_the_column_has_numbers_below_zero(
    text: str, negative: float, otherwise: float
) -> None:
    for wanted in (["-5", "7"], ["- 5", "7"], ["(5)", "7"]):
        assert Column.of(wanted).convention().read_first(text) == negative
    assert Column.of(["5", "7"]).convention().read_first(text) == otherwise


def test_numbers_below_zero_are_also_noticed_in_sentences() -> None:
    assert (
        Column.of(["The change is - 5 points", "It is 7"])
        .convention()
        .read_first("a change by - 3")
        == -3
    )
    assert Column.of(["It is -5", "It is 7"]).convention().read_first("- 3") == -3
    assert (
        Column.of(["- 5 apples and pears", "- 7 of them"]).convention().read_first("- 3 plums") == 3
    )


def test_a_column_may_be_lists_of_two_if_every_text_may() -> None:
    assert Column.of(["3,4", "1,2"]).may_be_pairs
    assert not Column.of(["3,4", "1,25"]).may_be_pairs
    assert not Column.of(["3.4", "1.2"]).may_be_pairs


@pytest.mark.parametrize(
    ("texts", "decimal", "ambiguous"),
    [
        (["3,14", "1,234", "2,7"], "comma", False),
        (["1.234", "1.234.567"], "comma", False),
        (["1.234", "0.5"], "point", False),
        (["1,234", "2,345"], "point", True),
        (["1.234", "12.345"], "point", True),
        (["1,234", "567"], "point", True),
        (["1,234", "1,234,567"], "point", False),
        (["12", "1500"], "point", False),
        (["1 234,567", "2,345"], "comma", False),
        (["1,5", "2,5", "3.5"], "comma", False),
        (["it costs 3,50 €", "it costs 1,250 €"], "comma", False),
    ],
)
def test_the_whole_column_tells_the_decimal_mark(
    texts: list[str], decimal: str, ambiguous: bool
) -> None:
    column = Column.of(texts)
    assert (column.convention().decimal, column.is_ambiguous) == (decimal, ambiguous)
    assert column.convention("comma").decimal == "comma", "the user decides"
    assert column.convention("point").decimal == "point"


def test_held_out_texts_are_evidence_of_the_notation_and_are_counted_separately() -> None:
    column = Column.of(["1,234", "2,345"])
    column.add("3,14", held=True)
    column.add("no number", held=True)
    assert (column.convention(), column.is_ambiguous) == (COMMA, False)
    assert (column.rows, column.reads, column.unit) == (2, {"point": 2, "comma": 2}, "")
    assert (column.held, column.held_reads) == (2, {"point": 0, "comma": 1})
    column.add("3 kg", held=True)
    assert not column.is_numeric(COMMA), "the held-out text has another unit"
    column = Column.of(["-1", "1"])
    column.add("- 1 000", held=True)
    assert column.convention().read("- 1 000") == -1000


def test_a_column_is_numeric_if_its_numbers_have_one_unit() -> None:
    def is_numeric(*texts: str) -> bool:
        column = Column.of(texts)
        return column.is_numeric(column.convention())

    assert is_numeric("5 kg", "7 kg")
    assert is_numeric("$5", "7")
    assert not is_numeric("5 kg", "7 kg", "9"), "9 may be of any unit"
    assert not is_numeric("3 gross", "7")
    assert not is_numeric("€5", "(-$5)")
    assert not is_numeric("$5 CAD", "$5 USD")
    assert is_numeric("1 day", "2 days")
    assert is_numeric("$5", "$1.5M")
    assert not is_numeric("5 kg", "300 g")
    assert not is_numeric("$5", "€5")
    assert not is_numeric("50%", "0.5")
    assert not is_numeric("5", "five")
    assert not is_numeric("1,5", "2.5"), "one of them cannot be read"
    assert not is_numeric("00123", "45678"), "a code"
    assert not is_numeric()


@given(st.floats(-1e15, 1e15), st.sampled_from([POINT, COMMA]))
def test_a_written_number_is_read_back(value: float, convention: Convention) -> None:
    assert convention.read(convention.write(value)) == pytest.approx(value, rel=1e-9, abs=1e-300)


@given(
    st.integers(-(10**12), 10**12),
    st.integers(0, 99),
    st.sampled_from([",", "'", "\u202f", "_", ""]),
)
def test_thousands_may_have_any_usual_separator(whole: int, cents: int, mark: str) -> None:
    text = f"{abs(whole):,}".replace(",", mark) + f".{cents:02}"
    assert POINT.read(("-" if whole < 0 else "") + text) == pytest.approx(
        (abs(whole) + cents / 100) * (-1 if whole < 0 else 1)
    )


@given(st.text(st.sampled_from("0123456789.,'-+()$€% kMme:/abLCr万\u2212\u202f"), max_size=80))
def test_reading_any_text_raises_nothing(text: str) -> None:
    for convention in (POINT, COMMA, SPACED, Convention("point", True, True, True)):
        whole, first = convention.read(text), convention.read_first(text)
        assert whole is None or first == whole
        assert first is None or abs(first) < 1e50
    Column.of([text])


def test_reading_a_long_run_of_digits_is_fast() -> None:
    started = time.monotonic()
    for text in ("9" * 100_000, "1," * 50_000, "1-" * 50_000, "1.2" * 30_000, " 1" * 50_000):
        POINT.read_first(text)
        Column.of([text])
    assert time.monotonic() - started < 20
