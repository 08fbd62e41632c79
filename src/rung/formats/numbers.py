"""Numbers in texts: how a column of texts writes them, and which number one text gives.

`3,14` is 3.14 where a comma is the decimal mark, `1,234` is 1234 where it separates thousands, and
one text alone cannot tell. So Rung reads every text both ways and lets the column decide: a text
that can be read in one way only is evidence for that way. Where both ways give different numbers
and nothing in the column decides, the user has to say.

A number may have a sign, a currency, groups of three digits, an exponent, a factor such as `k` or
`million`, and a unit. Dates, times, fractions, versions, lists (`3,1,2`) and codes with leading
zeros are not numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from rung.formats.number_patterns import (
    AMBIGUOUS_FACTORS,
    CLOSING_PARENTHESIS,
    CURRENCY,
    CURRENCY_AFTER,
    CURRENCY_BEFORE,
    DIGIT,
    MAX_CHARACTERS,
    MAX_DISTANCE,
    NEGATIVE_BEFORE,
    PAIR,
    PRICE_WITHOUT_CENTS,
    RUN,
    Decimal,
    NumberPatterns,
    factor_of,
    normalize,
    number_patterns,
)

MAX_VALUE = 1e50
"""Larger numbers are not read: nobody means them, and sums and squares of them overflow."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number as a text gives it.

    Attributes:
        unit: its units or currencies, joined by spaces, in the singular; empty where it has none.
        times: the words that multiply it, such as `k`.
        spaced: whether plain spaces separate its thousands.
    """

    value: float
    unit: str = ""
    times: str = ""
    spaced: bool = False


@dataclass(frozen=True, slots=True)
class Convention:
    """How numbers are written.

    Attributes:
        decimal: the decimal mark.
        spaced: whether a plain space may separate thousands.
        negative: whether numbers below zero occur. Then a minus may have a space after it: `- 5` is
            -5, and an item of a list otherwise. In a sentence that holds at its start, after `=`,
            `:` and words such as *is* and *by*; and `(5)` is -5 there too.
        short: whether a letter such as a small `m` is a factor of a million without a currency too.
    """

    decimal: Decimal = "point"
    spaced: bool = False
    negative: bool = False
    short: bool = False

    def read(self, text: str) -> float | None:
        """The number that the text consists of; None where it is not a number."""
        number = self.parse(text)
        return number.value if number else None

    def read_first(self, text: str) -> float | None:
        """The number that the text consists of, or else the first one in it; None without one."""
        if not DIGIT.search(text):
            return None
        if (whole := self.read(text)) is not None:
            return whole
        text, patterns = normalize(text), self._patterns
        for run in RUN.finditer(text):
            match = patterns.body.match(text, run.start()) if run["body"] else None
            # Where a space separates no thousands, another number follows it.
            ends_at_space = match and run["space"] and not self.spaced
            end = run.start("space") if ends_at_space else run.end()
            if match is None or match.end("body") != end:
                continue
            before = max(0, run.start() - MAX_DISTANCE), run.start()
            sign = patterns.sign_before.search(text, *before)
            negative = bool(sign and "+" not in sign[0])
            if sign and "(" in sign[0]:
                negative = bool(CLOSING_PARENTHESIS.match(text, match.end()))
            has_currency = bool(
                CURRENCY_BEFORE.search(text, *before) or CURRENCY_AFTER.match(text, match.end())
            )
            return self._value(match, negative, has_currency)
        return None

    def parse(self, text: str) -> Number | None:
        """The number that the text consists of, with its unit; None where it is not a number."""
        text = text.strip()
        if len(text) > MAX_CHARACTERS or not DIGIT.search(text):
            return None
        match = self._patterns.whole.fullmatch(PRICE_WITHOUT_CENTS.sub("", normalize(text)))
        if not match or bool(match["open"]) != bool(match["close"]):
            return None
        signs = [
            sign for sign in (match["sign"], match["inner"], match["open"], match["behind"]) if sign
        ]
        units = [
            unit.strip(". ")
            for unit in (match["currency"] or match["within"], match["unit"])
            if unit
        ]
        times, has_currency = _times(match), any(map(is_currency, units))
        value = self._value(match, bool(signs) and signs[0][0] != "+", has_currency)
        if len(signs) > 1 or value is None:
            return None
        if times in AMBIGUOUS_FACTORS and not (has_currency or self.short):
            units, times = [times, *units], ""
        unit = " ".join(units)
        # `days` and `day` are one unit.
        unit = unit.removesuffix("s") if len(unit) > 2 and unit.isalpha() else unit
        return Number(value, unit, times, " " in match["body"])

    def write(self, value: float) -> str:
        """The number as a text, with the decimal mark."""
        text = f"{value:.10g}"
        return text.replace(".", ",") if self.decimal == "comma" else text

    @property
    def _patterns(self) -> NumberPatterns:
        return number_patterns(self.decimal, self.spaced, self.negative)

    def _value(self, match: re.Match[str], negative: bool, has_currency: bool) -> float | None:
        mark = "." if self.decimal == "point" else ","
        digits = "".join(
            "." if character == mark else character
            for character in match["body"]
            if character.isdigit() or character == mark
        )
        exponent = re.sub(r"^\D*?10\^|^[eE]", "e", match["exponent"] or "")
        times = _times(match)
        if times in AMBIGUOUS_FACTORS and not (has_currency or self.short):
            times = ""
        value = float(digits + exponent) * math.prod(factor_of(word) for word in times.split())
        if abs(value) >= MAX_VALUE:
            return None
        return -value if negative else value


def _times(match: re.Match[str]) -> str:
    """The words after a number that multiply it, without their full stops."""
    return (match["times"] or "").replace(".", "").strip()


def is_currency(unit: str) -> bool:
    """Whether a unit is a currency."""
    return re.fullmatch(CURRENCY, unit) is not None


POINT, COMMA = Convention("point"), Convention("comma")


@dataclass
class Column:
    """What the texts of a column show about how its numbers are written.

    It can be written as JSON and read back.

    Attributes:
        rows: all texts but those that are held out.
        held: the held-out texts, which belong to other splits.
        numbers: the rows that are nothing but a number, by one of the decimal marks.
        point: texts that are a number only with a decimal point.
        comma: texts that are a number only with a decimal comma.
        either: texts that are a number with both, but not the same one.
        pairs: rows such as `3,4`, which may be lists of two.
        spaced: numbers with plain spaces between thousands.
        floats: rows that are whole numbers written as `7.0`.
        negative: numbers below zero.
        times: numbers with a word that multiplies them.
        reads: the rows that are nothing but a number, by the decimal mark.
        held_reads: the same of the held-out texts.
        units: how often each unit or currency occurs; "" is for numbers without one.
        shown: the first text of each kind, and of each word that multiplies, for messages.
    """

    rows: int = 0
    held: int = 0
    numbers: int = 0
    point: int = 0
    comma: int = 0
    either: int = 0
    pairs: int = 0
    spaced: int = 0
    floats: int = 0
    negative: int = 0
    times: int = 0
    reads: dict[str, int] = field(default_factory=lambda: {"point": 0, "comma": 0})
    held_reads: dict[str, int] = field(default_factory=lambda: {"point": 0, "comma": 0})
    units: dict[str, int] = field(default_factory=dict)
    shown: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, texts: Iterable[str]) -> Column:
        """A column of these texts."""
        column = cls()
        for text in texts:
            column.add(text)
        return column

    def add(self, text: str, held: bool = False) -> None:
        """Add a text.

        A held-out one is evidence of how numbers are written, and is not counted among the rows.
        """
        parsed = {
            convention.decimal: replace(convention, spaced=True, negative=True).parse(text)
            for convention in (POINT, COMMA)
        }
        for decimal, number in parsed.items():
            (self.held_reads if held else self.reads)[decimal] += number is not None
            if held and number is None:
                self._show(f"held {decimal}", text)
        self.held += held
        self.rows += not held
        number = parsed["point"] or parsed["comma"]
        if number is None:
            if not held:
                self._show("none", text)
            self._count_first_number(text)
            return
        self.numbers += not held
        self.spaced += number.spaced
        self.units[number.unit] = self.units.get(number.unit, 0) + 1
        if not held:
            self._count_ambiguous_forms(text)
        if number.unit in AMBIGUOUS_FACTORS:
            self._show(f"short {number.unit}", text)
        if number.times:
            self.times += 1
            self._show(f"times {number.times}", text)
        if number.value < 0:
            self.negative += 1
            if not re.match(r"[-−–]\S", text.strip()):
                self._show("negative", text)
        values = {decimal: own.value if own else None for decimal, own in parsed.items()}
        self._count_decimal_mark(text, values["point"], values["comma"])

    def _count_ambiguous_forms(self, text: str) -> None:
        """Count a text that may be something else than it seems."""
        if PAIR.fullmatch(text.strip()):
            self.pairs += 1
            self._show("pairs", text)
        if text.endswith(".0") and text.count(".") == 1:
            self.floats += 1
            self._show("floats", text)

    def _count_first_number(self, text: str) -> None:
        """Count the first number in a text that is more than a number."""
        digit = DIGIT.search(text)
        if not digit:
            return
        start = max(0, digit.start() - MAX_DISTANCE)
        near = normalize(text[start : digit.start() + MAX_CHARACTERS])
        run = next((run for run in RUN.finditer(near) if run["body"]), None)
        if run:
            body = run["body"].partition(" ")[0]
            self.negative += bool(NEGATIVE_BEFORE.search(near, 0, run.start()))
            self._count_decimal_mark(body, POINT.read(body), COMMA.read(body))

    def _count_decimal_mark(self, text: str, point: float | None, comma: float | None) -> None:
        """Count which decimal mark the two readings of a text speak for."""
        if point == comma:
            return
        if comma is None:
            self.point += 1
            self._show("point", text)
        elif point is None:
            self.comma += 1
            self._show("comma", text)
        else:
            self.either += 1
            self._show("either", text)

    def _show(self, kind: str, text: str) -> None:
        self.shown.setdefault(kind, text.strip()[:MAX_CHARACTERS])

    def convention(self, given: str = "auto") -> Convention:
        """How the numbers are written.

        Args:
            given: the decimal mark as the user says it, or `auto` for the one that most texts speak
                for, which is the point where as many speak for either.
        """
        comma = given == "comma" or (given == "auto" and self.comma > self.point)
        return Convention(
            "comma" if comma else "point", self.spaced > 0, self.negative > 0, self.short
        )

    @property
    def short(self) -> bool:
        """Whether a letter such as `m` after a number multiplies it.

        It does in a column where other numbers have a factor or a currency.
        """
        return any(unit in AMBIGUOUS_FACTORS for unit in self.units) and (
            self.times > 0 or any(map(is_currency, self.units))
        )

    @property
    def unit(self) -> str | None:
        """The one unit of all numbers, which may be ""; None where they cannot be compared.

        They cannot where there are several units. A unit that some numbers lack also counts as
        several, unless it is a currency.
        """
        units = {"" if self.short and unit in AMBIGUOUS_FACTORS else unit for unit in self.units}
        if len(units) == 2 and "" in units and is_currency(max(units)):
            return max(units)
        return next(iter(units), "") if len(units) <= 1 else None

    @property
    def is_ambiguous(self) -> bool:
        """Whether nothing in the column tells the decimal mark, and it makes a difference."""
        return self.either > 0 and self.point == self.comma == 0

    @property
    def may_be_pairs(self) -> bool:
        """Whether every row may be a list of two."""
        return 0 < self.rows == self.pairs

    def is_numeric(self, convention: Convention) -> bool:
        """Whether every row is a number, and all have one unit."""
        return 0 < self.rows == self.reads[convention.decimal] and self.unit is not None
