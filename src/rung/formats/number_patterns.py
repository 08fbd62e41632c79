"""The vocabulary and the regular expressions by which `rung.formats.numbers` reads numbers."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Decimal = Literal["point", "comma"]

MAX_CHARACTERS = 64
"""Characters of a text that may be a number as a whole."""
MAX_DISTANCE = 40
"""Characters before a number in which its sign and its currency are looked for."""

_CHARACTERS = [chr(code) for code in range(0x20000)]
_ASCII = str.maketrans(
    {
        **dict.fromkeys("−﹣－‐‑", "-"),  # a typeset minus
        **dict.fromkeys("\u2007\u2009\u202f", "\u00a0"),  # spaces that do not break
        **dict(zip("．，٫٬’＋％＄", ".,,''+%$", strict=True)),
        # The digits of other scripts.
        **{
            character: str(unicodedata.decimal(character))
            for character in _CHARACTERS
            if unicodedata.category(character) == "Nd"
        },
    }
)


def normalize(text: str) -> str:
    """The text with ASCII digits and signs in the place of those of other scripts."""
    return text.translate(_ASCII)


_SIGN = "[-+–]"
_CURRENCY_SYMBOLS = re.escape(
    "".join(sign for sign in _CHARACTERS if unicodedata.category(sign) == "Sc" and sign != "＄")
)
_CURRENCY_CODES = (
    "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP "
    "BYN BZD CAD CDF CHF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP "
    "GEL GHS GIP GMD GNF GTQ GYD HKD HNL HRK HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS "
    "KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR "
    "MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RMB RON RSD RUB "
    "RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SYP SZL THB TJS TMT TND TOP TRY TTD TWD "
    "TZS UAH UGX USD UYU UZS VES VND VUV WST XAF XCD XOF XPF YER ZAR ZMW ZWL"
)
"""ISO 4217, and RMB. Three capital letters may also be something else, as in `RFC 822`."""
_CURRENCY_NAMES = "Fr Rs Rp RM kr zł Kč Ft dollars dollar euros euro rupees rupee yen yuan 円 元 원"
_MONEY = "|".join(f"{_CURRENCY_CODES} {_CURRENCY_NAMES}".split())
CURRENCY = rf"(?:[A-Z]{{0,3}}[{_CURRENCY_SYMBOLS}]|(?:{_MONEY})\.?)"

_LETTER_FACTORS = {"k": 1e3, "K": 1e3, "M": 1e6, "MM": 1e6, "B": 1e9, "T": 1e12}
_WORDS_OF_FACTOR = {
    12.0: "dozen dozens",
    1e2: "hundred hundreds",
    1e3: "thousand thousands tsd tausend mille mila тыс",
    1e5: "lakh lakhs lac lacs",
    1e6: "mn mln mio million millions millionen millón millones milioni miljoen miljoner млн",
    1e7: "crore crores",
    1e9: "bn bln mrd mld billion billions milliarde milliarden milliard milliards miljard млрд",
    1e12: "tn trn trillion trillions billionen",
}
_WORD_FACTORS = {
    word: factor for factor, words in _WORDS_OF_FACTOR.items() for word in words.split()
}
_SIGN_FACTORS = {
    "百": 1e2,
    "千": 1e3,
    "천": 1e3,
    "万": 1e4,
    "萬": 1e4,
    "만": 1e4,
    "十万": 1e5,
    "百万": 1e6,
    "백만": 1e6,
    "千万": 1e7,
    "천만": 1e7,
    "亿": 1e8,
    "億": 1e8,
    "억": 1e8,
    "十亿": 1e9,
    "兆": 1e12,
    "조": 1e12,
}
AMBIGUOUS_FACTORS = {"m": 1e6, "mm": 1e6, "b": 1e9, "t": 1e12, "L": 1e5, "cr": 1e7, "Cr": 1e7}
"""Letters that multiply a number with a currency, or in a column where other numbers have a factor.
Elsewhere they are units, such as metres, tonnes and litres."""
_FACTORS = {**_LETTER_FACTORS, **_WORD_FACTORS, **_SIGN_FACTORS, **AMBIGUOUS_FACTORS}


def factor_of(word: str) -> float:
    """What a word after a number multiplies it by."""
    return _FACTORS.get(word) or _FACTORS[word.casefold()]


def _any_of(words: Iterable[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


_FACTOR_WORD = rf"(?i:{_any_of(_WORD_FACTORS)})(?![^\W\d_])\.?"
_FACTOR_LETTER = rf"(?:{_any_of([*_LETTER_FACTORS, *AMBIGUOUS_FACTORS])})(?![^\W\d_])\.?"
_FACTOR = rf"(?:{_any_of(_SIGN_FACTORS)}|{_FACTOR_WORD}|{_FACTOR_LETTER})(?:\s{_FACTOR_WORD})?"
_EXPONENT = r"[eE][-+]?\d+(?!\w)|\s?[x×·*]\s?10\^[-+]?\d+"
_SUPERSCRIPT = "[\u00b2\u00b3\u00b9\u2070-\u209f\u00bc-\u00be]"
"""Powers and fractions in one character."""
_CLOCK_OR_ORDINAL = "(?:[ap]m|st|nd|rd|th)"
"""After a number these make it a time of day or an ordinal."""
_UNIT = (
    rf"(?!{_CLOCK_OR_ORDINAL}\b)(?:{CURRENCY}|[^\W\d_]{{1,12}}[²³]?\.?|[%‰]|°[CF]?)"
    r"(?:/[^\W\d_]{1,8})?"
)
_BEFORE_ANSWER = r"(?:[=:≈~]|\b(?:is|are|was|were|be|equals|of|by|to|at))\s*"
"""What stands before the number that a sentence gives as its answer."""
_SPACED_MINUS = rf"(?:^\s*|{_BEFORE_ANSWER})[-–]\s+|\bminus\s+"

RUN = re.compile(
    # Dates, times and fractions.
    r"(?P<other>\d+(?:-\d+){2,}|(?:\d+ )?\d[\d.,]*(?:[:/]\d[\d.,]*)+|0[xX][0-9a-fA-F]+)"
    r"|(?P<body>(?:(?<![\w.,])[.,])?\d+(?:[.,'_\u00a0]\d+|(?P<space> \d{3}(?!\d)))*)"
)
"""A run of digits with what is between them. `body` may be a number; `other` is not one."""
DIGIT = re.compile(r"\d")
NEGATIVE_BEFORE = re.compile(rf"(?:(?<![\w)])[-–]|{_BEFORE_ANSWER}[-–]\s+)(?:{CURRENCY}\s?)?$")
PAIR = re.compile(r"\d,\d")
CLOSING_PARENTHESIS = re.compile(rf"(?:\s?{_UNIT})?\)")
CURRENCY_BEFORE = re.compile(rf"(?<!\w){CURRENCY}\s?$")
CURRENCY_AFTER = re.compile(rf"\s?{CURRENCY}(?!\w)")
PRICE_WITHOUT_CENTS = re.compile(r"(?<=\d)[.,/][-–—]+(?=\D*$)")
"""`5,-` and `5/-`."""


@dataclass(frozen=True, slots=True)
class NumberPatterns:
    """The patterns of one way of writing numbers, for normalized texts.

    Attributes:
        body: a number without sign and currency, in a sentence.
        sign_before: a sign at the end of the text before a number.
        whole: a text that consists of a number, with its sign and unit.
    """

    body: re.Pattern[str]
    sign_before: re.Pattern[str]
    whole: re.Pattern[str]


@functools.cache
def number_patterns(decimal: Decimal, spaced: bool, negative: bool) -> NumberPatterns:
    """Compile the patterns; see `rung.formats.numbers.Convention` for the arguments."""
    point = decimal == "point"
    mark, other_mark = (r"\.", ",") if point else (",", r"\.")
    space = " " if spaced else ""
    # Groups of three with one and the same separator; lakhs and crores, where it is a comma.
    groups = rf"[1-9]\d{{0,2}}(?P<group>[{other_mark}'_\u00a0{space}])\d{{3}}(?:(?P=group)\d{{3}})*"
    lakhs = r"|[1-9]\d?(?:,\d{2})+,\d{3}" if point else ""
    body = (
        rf"(?P<body>(?:{groups}{lakhs}|[1-9]\d*|0)(?!\d)(?:{mark}\d+)?|{mark}\d+)"
        rf"(?!{_SUPERSCRIPT})"
    )
    after = rf"(?P<exponent>{_EXPONENT})?(?:\s?(?P<times>{_FACTOR}))?"
    before = rf"(?<![\w)]){_SIGN}(?:{CURRENCY}\s?)?$|(?<!\w){CURRENCY}\s?{_SIGN}$"
    if negative:
        before += rf"|(?:{_SPACED_MINUS}|(?<!\w)\()(?:{CURRENCY}\s?)?$"
    sign_space = r"\s?" if negative else ""
    whole = (
        rf"(?P<sign>{_SIGN}{sign_space})?(?:(?P<currency>{CURRENCY})\s?)?(?P<open>\()?"
        rf"(?P<inner>{_SIGN}{sign_space})?(?:(?P<within>{CURRENCY})\s?)?"
        rf"{body}{mark}?{after}(?:\s?(?P<unit>{_UNIT}))?(?P<behind>-)?(?P<close>\))?"
    )
    return NumberPatterns(re.compile(body + after), re.compile(before), re.compile(whole))
