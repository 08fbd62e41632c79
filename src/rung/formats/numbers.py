"""Numbers in texts: how a column of them is written, and what one text says by that.

`3,14` is 3.14 where a comma is the decimal mark, `1,234` is 1234 where it parts thousands, and one text alone cannot
say which. So every text is tried in both ways, and the column decides: what only one way can read is evidence for it.
What both can read in two senses, and nothing in the column decides, is for the user to say.

A number may have a sign, a currency, groups of three, an exponent, a word such as `k` or `million`, and a unit. Dates,
times, fractions, versions, lists (`3,1,2`) and codes with leading zeros are none.
"""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

Decimal = Literal["point", "comma"]

_LARGEST = 1e50
"""What nobody means overflows what is made of it."""
_LONGEST = 64
"""Characters of a text that may be a number as a whole."""
_CHARACTERS = [chr(code) for code in range(0x20000)]
_SAME = str.maketrans(
    {
        **dict.fromkeys("−﹣－‐‑", "-"),  # a minus that is typeset
        **dict.fromkeys("\u2007\u2009\u202f", "\u00a0"),  # spaces that do not break
        **dict(zip("．，٫٬’＋％＄", ".,,''+%$", strict=True)),
        # The digits of other scripts.
        **{
            sign: str(unicodedata.decimal(sign))
            for sign in _CHARACTERS
            if unicodedata.category(sign) == "Nd"
        },
    }
)
_SIGN = "[-+–]"
_SYMBOLS = re.escape(
    "".join(sign for sign in _CHARACTERS if unicodedata.category(sign) == "Sc" and sign != "＄")
)
_CODES = (
    "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF "
    "CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HRK "
    "HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL "
    "MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RMB "
    "RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH "
    "UGX USD UYU UZS VES VND VUV WST XAF XCD XOF XPF YER ZAR ZMW ZWL"
)
"""ISO 4217, and RMB. Three capital letters alone may also be a code, as in `RFC 822`."""
_MONEY = (
    f"{_CODES} Fr Rs Rp RM kr zł Kč Ft dollars dollar euros euro rupees rupee yen yuan 円 元 원"
)
_CURRENCY = rf"(?:[A-Z]{{0,3}}[{_SYMBOLS}]|(?:{_MONEY.replace(' ', '|')})\.?)"
_LETTERS = {"k": 1e3, "K": 1e3, "M": 1e6, "MM": 1e6, "B": 1e9, "T": 1e12}
_NAMES = {
    12.0: "dozen dozens",
    1e2: "hundred hundreds",
    1e3: "thousand thousands tsd tausend mille mila тыс",
    1e5: "lakh lakhs lac lacs",
    1e6: "mn mln mio million millions millionen millón millones milioni miljoen miljoner млн",
    1e7: "crore crores",
    1e9: "bn bln mrd mld billion billions milliarde milliarden milliard milliards miljard млрд",
    1e12: "tn trn trillion trillions billionen",
}
_WORDS = {word: factor for factor, words in _NAMES.items() for word in words.split()}
_SIGNS = {
    **{
        "百": 1e2,
        "千": 1e3,
        "천": 1e3,
        "万": 1e4,
        "萬": 1e4,
        "만": 1e4,
        "十万": 1e5,
        "百万": 1e6,
        "백만": 1e6,
    },
    **{
        "千万": 1e7,
        "천만": 1e7,
        "亿": 1e8,
        "億": 1e8,
        "억": 1e8,
        "十亿": 1e9,
        "兆": 1e12,
        "조": 1e12,
    },
}
_SHORT = {"m": 1e6, "mm": 1e6, "b": 1e9, "t": 1e12, "L": 1e5, "cr": 1e7, "Cr": 1e7}
"""With a currency, or where others of the column have a factor; metres, tonnes and litres elsewhere."""
_TIMES = {**_LETTERS, **_WORDS, **_SIGNS, **_SHORT}
"""What a word behind a number multiplies it by."""


def _any(words: Iterable[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


_LONG_WORD = rf"(?i:{_any(_WORDS)})(?![^\W\d_])\.?"
_WORD = rf"(?:{_any(_SIGNS)}|{_LONG_WORD}|(?:{_any([*_LETTERS, *_SHORT])})(?![^\W\d_])\.?)(?:\s{_LONG_WORD})?"
_EXPONENT = r"[eE][-+]?\d+(?!\w)|\s?[x×·*]\s?10\^[-+]?\d+"
_HIGH = "[\u00b2\u00b3\u00b9\u2070-\u209f\u00bc-\u00be]"
"""Powers and fractions in one character."""
_CLOCK = "(?:[ap]m|st|nd|rd|th)"
"""Behind a number these make a time of day or a place in an order of it."""
_UNIT = rf"(?!{_CLOCK}\b)(?:{_CURRENCY}|[^\W\d_]{{1,12}}[²³]?\.?|[%‰]|°[CF]?)(?:/[^\W\d_]{{1,8}})?"
_ANSWERED = r"(?:[=:≈~]|\b(?:is|are|was|were|be|equals|of|by|to|at))\s*"
"""What stands before a number that a sentence says."""
_SPACED_MINUS = rf"(?:^\s*|{_ANSWERED})[-–]\s+|\bminus\s+"
_NEAR = 40
"""Characters before a number that its sign is looked for in."""
_RUN = re.compile(
    r"(?P<other>\d+(?:-\d+){2,}|(?:\d+ )?\d[\d.,]*(?:[:/]\d[\d.,]*)+|0[xX][0-9a-fA-F]+)"  # dates, times, fractions
    r"|(?P<body>(?:(?<![\w.,])[.,])?\d+(?:[.,'_\u00a0]\d+|(?P<space> \d{3}(?!\d)))*)"
)
_DIGIT = re.compile(r"\d")
_SIGNED = re.compile(rf"(?:(?<![\w)])[-–]|{_ANSWERED}[-–]\s+)(?:{_CURRENCY}\s?)?$")
_PAIR = re.compile(r"\d,\d")
_CLOSED = re.compile(rf"(?:\s?{_UNIT})?\)")
_MONEY_BEFORE, _MONEY_BEHIND = (
    re.compile(rf"(?<!\w){_CURRENCY}\s?$"),
    re.compile(rf"\s?{_CURRENCY}(?!\w)"),
)


@dataclass(frozen=True, slots=True)
class Number:
    """What a text says: the value, its unit, and whether thousands are parted by plain spaces."""

    value: float
    unit: str = ""
    times: str = ""
    spaced: bool = False


@dataclass(frozen=True, slots=True)
class Convention:
    """How numbers are written: the decimal mark, and whether a plain space may part thousands.

    Where numbers are `negative` at times, a minus may have a space behind it: `- 5` is -5, which is an item of a list
    elsewhere. In a sentence it is one at its start, behind `=`, `:` and words such as *is* and *by*; and `(5)` is -5
    there too. Where they are `short`, a small `m` is a million, as it is with a currency.
    """

    decimal: Decimal = "point"
    spaced: bool = False
    negative: bool = False
    short: bool = False

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
            near = max(0, run.start() - _NEAR), run.start()
            sign = patterns.before.search(text, *near)
            negative = bool(sign and "+" not in sign[0])
            if sign and "(" in sign[0]:
                negative = bool(_CLOSED.match(text, found.end()))
            money = bool(
                _MONEY_BEFORE.search(text, *near) or _MONEY_BEHIND.match(text, found.end())
            )
            return self._value(found, negative, money)
        return None

    def whole(self, text: str) -> Number | None:
        """What a text that is nothing but a number says."""
        text = text.strip()
        if len(text) > _LONGEST or not _DIGIT.search(text):
            return None
        # A price without cents: 5,- and 5/-
        text = re.sub(r"(?<=\d)[.,/][-–—]+(?=\D*$)", "", text.translate(_SAME))
        found = _patterns(self).whole.fullmatch(text)
        if not found or bool(found["open"]) != bool(found["close"]):
            return None
        signs = [
            sign for sign in (found["sign"], found["inner"], found["open"], found["behind"]) if sign
        ]
        units = [
            unit.strip(". ")
            for unit in (found["currency"] or found["within"], found["unit"])
            if unit
        ]
        times, money = _word(found), any(map(is_currency, units))
        value = self._value(found, bool(signs) and signs[0][0] != "+", money)
        if len(signs) > 1 or value is None:
            return None
        if times in _SHORT and not (money or self.short):
            units, times = [times, *units], ""
        unit = " ".join(units)
        # One day, two days.
        unit = unit.removesuffix("s") if len(unit) > 2 and unit.isalpha() else unit
        return Number(value, unit, times, " " in found["body"])

    def write(self, value: float) -> str:
        """A number as it stands in such a column."""
        text = f"{value:.10g}"
        return text.replace(".", ",") if self.decimal == "comma" else text

    def _value(self, found: re.Match[str], negative: bool, money: bool) -> float | None:
        mark = "." if self.decimal == "point" else ","
        digits = "".join(
            "." if sign == mark else sign
            for sign in found["body"]
            if sign.isdigit() or sign == mark
        )
        power = re.sub(r"^\D*?10\^|^[eE]", "e", found["exponent"] or "")
        times = "" if _word(found) in _SHORT and not (money or self.short) else _word(found)
        value = float(digits + power) * math.prod(_factor(word) for word in times.split())
        return None if abs(value) >= _LARGEST else -value if negative else value


def _word(found: re.Match[str]) -> str:
    """The words behind a number that multiply it, without their full stops."""
    return (found["times"] or "").replace(".", "").strip()


def _factor(word: str) -> float:
    return _TIMES.get(word) or _TIMES[word.casefold()]


def is_currency(unit: str) -> bool:
    """Whether a unit is money."""
    return re.fullmatch(_CURRENCY, unit) is not None


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
    if convention.negative:
        before += rf"|(?:{_SPACED_MINUS}|(?<!\w)\()(?:{_CURRENCY}\s?)?$"
    after = r"\s?" if convention.negative else ""
    whole = (
        rf"(?P<sign>{_SIGN}{after})?(?:(?P<currency>{_CURRENCY})\s?)?(?P<open>\()?(?P<inner>{_SIGN}{after})?"
        rf"(?:(?P<within>{_CURRENCY})\s?)?"
        rf"{body}{mark}?{behind}(?:\s?(?P<unit>{_UNIT}))?(?P<behind>-)?(?P<close>\))?"
    )
    return _Patterns(re.compile(body + behind), re.compile(before), re.compile(whole))


@dataclass
class Column:
    """What a column of texts shows of how its numbers are written.

    Attributes:
        rows: texts in all; `held`, those beside them that are held out.
        point: texts that only a decimal point makes a number; `comma`, those that only a decimal comma does.
        either: texts that both make a number, but not the same one.
        pairs: texts such as `3,4`, which may be lists of two.
        spaced: numbers that have plain spaces between thousands; `floats`, whole ones such as `7.0`.
        negative: numbers below zero; `times`, those with a word that multiplies them.
        reads: texts that are nothing but a number, by the decimal mark; `numbers`, those that are by one or the other;
            `held_reads`, those held out that are.
        units: the units and currencies behind or before the numbers, with how often each stands there.
        shown: the first text of each kind, and of each word that multiplies.
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
        """Of all the texts."""
        column = cls()
        for text in texts:
            column.add(text)
        return column

    def add(self, text: str, held: bool = False) -> None:
        """One more text. One that is `held` out is evidence of how numbers are written, and has to be readable."""
        by = {
            one.decimal: replace(one, spaced=True, negative=True).whole(text)
            for one in (POINT, COMMA)
        }
        for decimal, found in by.items():
            (self.held_reads if held else self.reads)[decimal] += found is not None
            if held and found is None:
                self._show(f"held {decimal}", text)
        found = by["point"] or by["comma"]
        self.held += held
        self.rows += not held
        if found is None:
            if not held:
                self._show("none", text)
            self._first(text)
            return
        self.numbers += not held
        self.spaced += found.spaced
        self.units[found.unit] = self.units.get(found.unit, 0) + 1
        if not held:
            self._shapes(text)
        if found.unit in _SHORT:
            self._show(f"short {found.unit}", text)
        if found.times:
            self.times += 1
            self._show(f"times {found.times}", text)
        if found.value < 0:
            self.negative += 1
            if not re.match(r"[-−–]\S", text.strip()):
                self._show("negative", text)
        self._tell(text, *(found.value if found else None for found in by.values()))

    def _shapes(self, text: str) -> None:
        """What may stand for something else."""
        if _PAIR.fullmatch(text.strip()):
            self.pairs += 1
            self._show("pairs", text)
        if text.endswith(".0") and text.count(".") == 1:
            self.floats += 1
            self._show("floats", text)

    def _first(self, text: str) -> None:
        """By the first number in a sentence."""
        digit = _DIGIT.search(text)
        if not digit:
            return
        same = text[max(0, digit.start() - _NEAR) : digit.start() + _LONGEST].translate(_SAME)
        run = next((run for run in _RUN.finditer(same) if run["body"]), None)
        if run:
            body = run["body"].partition(" ")[0]
            self.negative += bool(_SIGNED.search(same, 0, run.start()))
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
        return Convention(
            "comma" if comma else "point", self.spaced > 0, self.negative > 0, self.short
        )

    @property
    def short(self) -> bool:
        """Whether a letter such as `m` behind a number multiplies it, as `k` does beside it."""
        return any(unit in _SHORT for unit in self.units) and (
            self.times > 0 or any(map(is_currency, self.units))
        )

    @property
    def unit(self) -> str | None:
        """The one unit that the numbers have, if any; None where they have several, and cannot be compared. What some
        have and others lack is one of several too, but for a currency.
        """
        own = {"" if self.short and unit in _SHORT else unit for unit in self.units}
        if len(own) == 2 and "" in own and is_currency(max(own)):
            return max(own)
        return next(iter(own), "") if len(own) <= 1 else None

    @property
    def asked(self) -> bool:
        """Whether nothing in the column tells the decimal mark, and it matters."""
        return self.either > 0 and self.point == self.comma == 0

    @property
    def listed(self) -> bool:
        """Whether every text may be a list of two."""
        return 0 < self.rows == self.pairs

    def numeric(self, convention: Convention) -> bool:
        """Whether every text is a number, and all are of one unit."""
        return 0 < self.rows == self.reads[convention.decimal] and self.unit is not None
