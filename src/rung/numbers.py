"""Numbers in texts: how a column of them is written, and what one text says by that.

`3,14` is 3.14 where a comma is the decimal mark, `1,234` is 1234 where it parts thousands, and one text alone cannot
say which. So every text is tried in both ways, and the column decides: what only one way can read is evidence for it.
What both can read in two senses, and nothing in the column decides, is for the user to say.

A number may have a sign, a currency, groups of three, an exponent, a word such as `k` or `million`, and a unit. Dates,
times, fractions, versions, lists (`3,1,2`) and codes with leading zeros are none.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

Decimal = Literal["point", "comma"]

_LARGEST = 1e50
"""What nobody means overflows what is made of it."""
_LONGEST = 64
"""Characters of a text that may be a number as a whole."""
_SAME = str.maketrans(
    {
        **dict.fromkeys("−﹣－‐‑", "-"),  # a minus that is typeset
        **dict.fromkeys("\u2007\u2009\u202f", "\u00a0"),  # spaces that do not break
        **dict(zip("．，٫٬’＋％＄", ".,,''+%$", strict=True)),
        # The digits of other scripts: full width, Arabic, Persian, Devanagari.
        **{chr(zero + digit): str(digit) for zero in (0xFF10, 0x0660, 0x06F0, 0x0966) for digit in range(10)},
    }
)
_SIGN = "[-+–]"
_CURRENCY = (
    r"(?:(?:US|CA|A|C|NZ|HK|S|R)?\$|[€£¥₩₹₽₺₫₴฿]|"
    r"(?:USD|EUR|GBP|JPY|CNY|RMB|KRW|INR|CHF|CAD|AUD|NZD|BRL|RUB|SEK|NOK|DKK|PLN|CZK|HUF|TRY|MXN|ZAR|Rs|kr|zł)\.?)"
)
_TIMES = {
    **dict.fromkeys(("k", "K", "thousand", "tsd", "Tsd"), 1e3),
    **dict.fromkeys(("M", "mn", "Mn", "mln", "mio", "Mio", "million", "millions"), 1e6),
    **dict.fromkeys(("B", "bn", "Bn", "billion", "billions", "mrd", "Mrd"), 1e9),
    **dict.fromkeys(("T", "tn", "trillion", "trillions"), 1e12),
    **{"lakh": 1e5, "crore": 1e7, "万": 1e4, "만": 1e4, "亿": 1e8, "億": 1e8, "억": 1e8},
}
"""What a word behind a number multiplies it by."""
_WORD = rf"(?:{'|'.join(sorted(_TIMES, key=len, reverse=True))})(?![^\W\d_])\.?"
_EXPONENT = r"[eE][-+]?\d+(?!\w)|\s?[x×·*]\s?10\^[-+]?\d+"
_HIGH = "[\u00b2\u00b3\u00b9\u2070-\u209f\u00bc-\u00be]"
"""Powers and fractions in one character."""
_CLOCK = "(?:[ap]m|st|nd|rd|th)"
"""Behind a number these make a time of day or a place in an order of it."""
_UNIT = rf"(?!{_CLOCK}\b)(?:{_CURRENCY}|[^\W\d_]{{1,12}}[²³]?|[%‰]|°[CF]?)(?:/[^\W\d_]{{1,8}})?"
_RUN = re.compile(
    r"(?P<other>\d+(?:-\d+){2,}|(?:\d+ )?\d[\d.,]*(?:[:/]\d[\d.,]*)+|0[xX][0-9a-fA-F]+)"  # dates, times, fractions
    r"|(?P<body>(?:(?<![\w.,])[.,])?\d+(?:[.,'_\u00a0]\d+|(?P<space> \d{3}(?!\d)))*)"
)
_DIGIT = re.compile(r"\d")


@dataclass(frozen=True, slots=True)
class Number:
    """What a text says: the value, its unit, and whether thousands are parted by plain spaces."""

    value: float
    unit: str = ""
    times: str = ""
    spaced: bool = False


@dataclass(frozen=True, slots=True)
class Convention:
    """How numbers are written: the decimal mark, and whether a plain space may part thousands."""

    decimal: Decimal = "point"
    spaced: bool = False

    def read(self, text: str) -> float | None:
        """The number that a text consists of; None where it is none."""
        found = self.whole(text)
        return found.value if found else None

    def first(self, text: str) -> float | None:
        """The number that a text consists of, or else the first one in it."""
        if not _DIGIT.search(text):
            return None
        if (whole := self.read(text)) is not None:
            return whole
        text, patterns = text.translate(_SAME), _patterns(self)
        for run in _RUN.finditer(text):
            found = patterns.body.match(text, run.start()) if run["body"] else None
            # Where a space parts no thousands, what comes behind it is another number.
            end = run.start("space") if found and run["space"] and not self.spaced else run.end()
            if found is None or found.end("body") != end:
                continue
            sign = patterns.before.search(text, 0, run.start())
            return self._value(found, negative=bool(sign and set("-–") & set(sign[0])))
        return None

    def whole(self, text: str) -> Number | None:
        """What a text that is nothing but a number says."""
        text = text.strip()
        if len(text) > _LONGEST or not _DIGIT.search(text):
            return None
        # A price without cents: 5,-
        text = re.sub(r"(?<=\d)[.,][-–—]+(?=\D*$)", "", text.translate(_SAME))
        found = _patterns(self).whole.fullmatch(text)
        if not found or bool(found["open"]) != bool(found["close"]):
            return None
        signs = [sign for sign in (found["sign"], found["inner"], found["open"], found["behind"]) if sign]
        value = self._value(found, negative=bool(signs) and signs[0] != "+")
        if len(signs) > 1 or value is None:
            return None
        unit = (found["currency"] or found["unit"] or "").strip(". ")
        # One day, two days.
        unit = unit.removesuffix("s") if len(unit) > 2 else unit
        return Number(value, unit, (found["times"] or "").strip("."), " " in found["body"])

    def write(self, value: float) -> str:
        """A number as it stands in such a column."""
        text = f"{value:.10g}"
        return text.replace(".", ",") if self.decimal == "comma" else text

    def _value(self, found: re.Match[str], negative: bool) -> float | None:
        mark = "." if self.decimal == "point" else ","
        digits = "".join("." if sign == mark else sign for sign in found["body"] if sign.isdigit() or sign == mark)
        power = re.sub(r"^\D*?10\^|^[eE]", "e", found["exponent"] or "")
        value = float(digits + power) * _TIMES.get((found["times"] or "").strip("."), 1.0)
        return None if abs(value) >= _LARGEST else -value if negative else value


POINT, COMMA = Convention("point"), Convention("comma")


@dataclass(frozen=True, slots=True)
class _Patterns:
    body: re.Pattern[str]
    before: re.Pattern[str]
    whole: re.Pattern[str]


@functools.cache
def _patterns(convention: Convention) -> _Patterns:
    point = convention.decimal == "point"
    mark, other = (r"\.", ",") if point else (",", r"\.")
    space = " " if convention.spaced else ""
    # Groups of three, parted by one and the same sign; lakhs and crores, where commas part them.
    groups = rf"[1-9]\d{{0,2}}(?P<group>[{other}'_\u00a0{space}])\d{{3}}(?:(?P=group)\d{{3}})*"
    lakhs = r"|[1-9]\d?(?:,\d{2})+,\d{3}" if point else ""
    body = rf"(?P<body>(?:{groups}{lakhs}|[1-9]\d*|0)(?!\d)(?:{mark}\d+)?|{mark}\d+)(?!{_HIGH})"
    behind = rf"(?P<exponent>{_EXPONENT})?(?:\s?(?P<times>{_WORD}))?"
    before = rf"(?<![\w)]){_SIGN}(?:{_CURRENCY}\s?)?$|(?<!\w){_CURRENCY}\s?{_SIGN}$"
    whole = (
        rf"(?P<sign>{_SIGN})?(?:(?P<currency>{_CURRENCY})\s?)?(?P<open>\()?(?P<inner>{_SIGN})?(?:{_CURRENCY}\s?)?"
        rf"{body}{mark}?{behind}(?:\s?(?P<unit>{_UNIT}))?(?P<behind>-)?(?P<close>\))?"
    )
    return _Patterns(re.compile(body + behind), re.compile(before), re.compile(whole))


@dataclass
class Column:
    """What a column of texts shows of how its numbers are written.

    Attributes:
        rows: texts in all.
        point: texts that only a decimal point makes a number; `comma`, those that only a decimal comma does.
        either: texts that both make a number, but not the same one.
        spaced: numbers that have plain spaces between thousands; `floats`, whole ones such as `7.0`.
        reads: texts that are nothing but a number, by the decimal mark; `numbers`, those that are by one or the other.
        units: the units and currencies behind or before the numbers, with how often each stands there.
        shown: the first text of each kind.
    """

    rows: int = 0
    numbers: int = 0
    point: int = 0
    comma: int = 0
    either: int = 0
    spaced: int = 0
    floats: int = 0
    reads: dict[str, int] = field(default_factory=lambda: {"point": 0, "comma": 0})
    units: dict[str, int] = field(default_factory=dict)
    shown: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, texts: Iterable[str]) -> Column:
        """Of all the texts."""
        column = cls()
        for text in texts:
            column.add(text)
        return column

    def add(self, text: str, held: bool = False) -> None:
        """One more text; one that is `held` out is evidence of the decimal mark and no more."""
        column = Column() if held else self
        column.rows += 1
        by = {one.decimal: replace(one, spaced=True).whole(text) for one in (POINT, COMMA)}
        for decimal, found in by.items():
            column.reads[decimal] += found is not None
        found = by["point"] or by["comma"]
        if found is None:
            column._show("none", text)
            self._first(text)
            return
        column.numbers += 1
        column.spaced += found.spaced
        column.units[found.unit] = column.units.get(found.unit, 0) + 1
        if text.endswith(".0") and text.count(".") == 1:
            column.floats += 1
            column._show("floats", text)
        if found.times:
            column._show("times", text)
        if found.value < 0 and text.strip()[-1:] in ("-", ")"):
            column._show("negative", text)
        self._tell(text, *(found.value if found else None for found in by.values()))

    def _first(self, text: str) -> None:
        """By the first number in a sentence."""
        digit = _DIGIT.search(text)
        if not digit:
            return
        same = text[max(0, digit.start() - 2) : digit.start() + _LONGEST].translate(_SAME)
        run = next((run for run in _RUN.finditer(same) if run["body"]), None)
        if run:
            body = run["body"].partition(" ")[0]
            self._tell(body, POINT.read(body), COMMA.read(body))

    def _tell(self, text: str, point: float | None, comma: float | None) -> None:
        if point != comma:
            kind = "point" if comma is None else "comma" if point is None else "either"
            setattr(self, kind, getattr(self, kind) + 1)
            self._show(kind, text)

    def _show(self, kind: str, text: str) -> None:
        self.shown.setdefault(kind, text.strip()[:_LONGEST])

    def convention(self, given: str = "auto") -> Convention:
        """How the numbers are to be read: as the user says, or as most of those that can tell are written."""
        comma = given == "comma" or (given == "auto" and self.comma > self.point)
        return Convention("comma" if comma else "point", self.spaced > 0)

    @property
    def unit(self) -> str | None:
        """The one unit that the numbers have, if any; None where they have several, and cannot be compared."""
        own = set(self.units) - ({""} if "%" not in self.units else set())
        return next(iter(own), "") if len(own) <= 1 else None

    @property
    def asked(self) -> bool:
        """Whether nothing in the column tells the decimal mark, and it matters."""
        return self.either > 0 and self.point == self.comma == 0

    def numeric(self, convention: Convention) -> bool:
        """Whether every text is a number, and all are of one unit."""
        return 0 < self.rows == self.reads[convention.decimal] and self.unit is not None
