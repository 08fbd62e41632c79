"""The words that every layer shares: what is tried, what was measured, what that showed.

Frozen values on the standard library alone, so that the strategies stay pure and `import rung` stays fast.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

WORDS = ("attention", "mlp", "all-linear")
"""The words for groups of target modules; anything else is names of modules, but for `lm_head`, the output head."""

LARGEST_RANK = 65_536
LOWEST_RATE = 1e-9
ALPHAS = (1e-3, 1e6)
"""The lowest and the highest alpha; a rate is below 1."""
LONGEST = 100
"""Bytes that the target modules may have in the id of a candidate: a file's name may have 255 in all."""

Status = Literal["trained", "diverged"]
Outcome = Literal["better", "no_worthwhile_gain", "undecided"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One setting of every lever, plus a seed.

    The update is `scale · B A` with A of (rank, in) and B of (out, rank). `targets` is words (`attention`, `mlp`,
    `all-linear`, `lm_head`), module names or patterns, joined by commas or plus signs. `dropout` is the share of an
    adapter's inputs that are zeroed in training.
    """

    rank: int
    alpha: float
    targets: str
    learning_rate: float
    use_rslora: bool = False
    dropout: float = 0.0
    seed: int = 0

    @property
    def scale(self) -> float:
        """alpha / rank, or alpha / √rank under rsLoRA (Kalajdzievski, 2312.03732)."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)

    @property
    def id(self) -> str:
        """A name that is readable, unique among candidates, and fit for a folder: `r8-a16-attention-lr1e-03-s0`."""
        parts = [f"r{self.rank}", f"a{_exact(self.alpha)}", _label(self.targets), f"lr{_exact(self.learning_rate)}"]
        if self.use_rslora:
            parts.append("rslora")
        if self.dropout:
            parts.append(f"d{_exact(self.dropout)}")
        return "-".join([*parts, f"s{self.seed}"])

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Scores:
    """The loss of each validation row, in the order of the file: what paired comparisons are made of.

    `losses` are sums over a row's completion tokens, in nats; `tokens` counts those tokens, the end token included.
    `sources` says which rows share a source, and so count as one where errors are taken: a number for each row, or
    nothing where no two do.
    """

    losses: tuple[float, ...]
    tokens: tuple[int, ...]
    sources: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.losses) != len(self.tokens) or not self.tokens or len(self.sources) not in (0, len(self.tokens)):
            raise ValueError(f"{len(self.losses)} losses for {len(self.tokens)} rows")

    @property
    def mean(self) -> float:
        """Nats per completion token, over all rows."""
        return math.fsum(self.losses) / sum(self.tokens)


def shared_sources(sources: Sequence[str]) -> tuple[int, ...]:
    """A number for each row, the same where rows share a source; nothing where no two do. One without is its own."""
    numbers: dict[str | int, int] = {}
    found = tuple(numbers.setdefault(source or row, row) for row, source in enumerate(sources))
    return found if len(numbers) < len(found) else ()


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a runner found out about one candidate at one point of its training.

    `fraction` is the share of the full budget that the candidate has been trained for, in (0, 1], and cooled down at
    its end; `steps` and `tokens` count from the start of its training. `spent` counts the tokens that the heat trained
    on for it: when it goes on later it does so from where the cooling began, so they add up to more than `tokens`.
    `scores` is None where the candidate diverged; `reason` says then why, and `steps` when. `seconds` is its share of
    the time of the heat's pack, scoring included, and `peak_memory_bytes` the most that the process held during it.
    """

    candidate: Candidate
    fraction: float
    steps: int
    tokens: int
    spent: int
    status: Status
    scores: Scores | None
    parameters: int
    adapter_bytes: int
    peak_memory_bytes: int
    seconds: float
    reason: str = ""

    @property
    def loss(self) -> float:
        """Nats per completion token on the validation rows; infinite where the candidate diverged."""
        return self.scores.mean if self.scores else math.inf


@dataclass(frozen=True, slots=True)
class Spectrum:
    """How much of its rank a trained adapter uses: its effective rank, and its validation loss when it is cut down to a
    lower one, by that rank, in nats a token. Evidence to show, never to decide by.
    """

    effective_rank: float
    cut: dict[int, float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one comparison showed: how much lower the loss of `to` is, in nats per token, with its interval."""

    lever: str
    before: Any
    to: Any
    gain: float
    low: float
    high: float
    margin: float
    outcome: Outcome
    rows: int
    seeds: int
    says: str

    def as_dict(self) -> dict[str, Any]:
        """The form of `result.json`, where `before` is called `from`."""
        found = asdict(self)
        return {"lever": found.pop("lever"), "from": found.pop("before"), **found}


@dataclass(frozen=True, slots=True)
class LeverSpace:
    """The values that a strategy may try.

    `ranks` and `learning_rates` from small to large; `targets` and `alphas` from where a climb begins. An alpha is
    written as a multiple of the rank (`2r`, `r`) or as a number, with `rslora` behind it where it is scaled by √rank;
    `rslora` alone is alpha 16, as in its paper. `pinned` says that no rate may be tried but those that are named, and
    `head` that the data ask for the output head to be tried.
    """

    ranks: tuple[int, ...]
    learning_rates: tuple[float, ...]
    targets: tuple[str, ...] = ("attention",)
    alphas: tuple[str, ...] = ("2r",)
    dropout: float = 0.0
    pinned: bool = False
    head: bool = False

    def candidate(
        self, rank: int, learning_rate: float, targets: str | None = None, alpha: str | None = None, seed: int = 0
    ) -> Candidate:
        """A setting of the space; targets and alpha are the first ones where none are given."""
        number, use_rslora = read_alpha(alpha or self.alphas[0], rank)
        return Candidate(rank, number, targets or self.targets[0], learning_rate, use_rslora, self.dropout, seed)

    def candidates(self) -> tuple[Candidate, ...]:
        """Every setting of the space once, by the first of its names, with seed 0."""
        product = itertools.product(self.ranks, self.targets, self.alphas, self.learning_rates)
        return tuple(unlike(self.candidate(rank, rate, targets, alpha) for rank, targets, alpha, rate in product))

    @property
    def combinations(self) -> int:
        """How many there are of ranks, targets, alphas and rates; some may be one setting by two names."""
        return len(self.ranks) * len(self.targets) * len(self.alphas) * len(self.learning_rates)


def unlike(settings: Iterable[Candidate]) -> list[Candidate]:
    """The settings, but for those that differ in nothing but how a scale is written."""
    found: dict[tuple[object, ...], Candidate] = {}
    for s in settings:
        found.setdefault((shape(s), s.learning_rate), s)
    return list(found.values())


def shape(setting: Candidate) -> tuple[object, ...]:
    """What a setting is, but for its rate, however its scale is written: 2r at rank 8 is 16."""
    # Two scales that differ by rounding alone are one.
    return setting.rank, setting.targets, f"{setting.scale:.6g}"


def short_name(text: str, limit: int) -> str:
    """The text where it has no more bytes than `limit`; else its beginning, and a hash in the place of the rest."""
    if len(text.encode()) <= limit:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{text.encode()[: limit - 13].decode(errors='ignore')}~{digest}"


def _label(targets: str) -> str:
    """Target modules in a file's name. What no name may have is written as x, and then a hash tells it apart."""
    if re.fullmatch(r"[\w.+-]*", targets, re.ASCII):
        return short_name(targets, LONGEST)
    plain = re.sub(r"[^\w.+-]", "x", targets, flags=re.ASCII)
    return f"{short_name(plain, LONGEST - 13)}~{hashlib.sha256(targets.encode()).hexdigest()[:12]}"


def _exact(number: float) -> str:
    """A number as it is read, in six digits or in as many as it takes."""
    return f"{number:.6g}" if float(f"{number:.6g}") == number else repr(number)


def read_alpha(text: str, rank: int) -> tuple[float, bool]:
    """What an alpha of `LeverSpace` is at a rank, and whether it is scaled by √rank.

    Raises:
        ValueError: it is none.
    """
    number, _, rslora = text.strip().lower().partition("rslora")
    found = re.fullmatch(r"(\d+(?:\.\d+)?)?(r?)", number.strip() or "16")
    if rslora or not found or not (found[1] or found[2]) or float(found[1] or 1) == 0 or not text.strip():
        raise ValueError(f"{text!r} is no alpha; write a multiple of the rank such as 2r, a number, or rslora")
    return float(found[1] or 1) * (rank if found[2] else 1), "rslora" in text.lower()
