"""The values that every layer shares: settings, candidates, scores, measurements, verdicts.

They are frozen data on the standard library alone, so that the search stays pure and `import rung`
stays fast. None of them holds a sentence: `rung.report.sentences` makes those.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

TARGET_GROUPS = ("attention", "mlp", "all-linear")
"""The words for groups of target modules. `lm_head` is the output head; anything else is a name or
a pattern of modules."""

MAX_RANK = 65_536
MIN_LEARNING_RATE = 1e-9
ALPHA_RANGE = (1e-3, 1e6)
"""The lowest and the highest alpha."""
MAX_TARGETS_BYTES = 100
"""Bytes that the target modules may take in a label: a file's name may have 255 in all."""

Lever = Literal["learning_rate", "targets", "rank", "alpha"]
Status = Literal["trained", "diverged"]
Outcome = Literal["better", "no_worthwhile_gain", "undecided"]
VerdictKind = Literal["race", "matched_parameters", "confirmation", "untuned"]
"""What was compared.

`race`: two values of a lever, on the surface through the race. `matched_parameters`: the same for
two sets of target modules, at ranks that give them as many parameters. `confirmation`: two
finalists, trained in full with several seeds. `untuned`: the recommended setting and the base."""
Reason = Literal["gain", "worse", "below_margin", "one_seed", "no_information", "wide_interval"]
"""Why a verdict is as it is.

`gain`: better. `worse` and `below_margin`: no worthwhile gain. The others are undecided: with
`one_seed` nothing can be told from luck, with `no_information` a gain as large as the whole loss
would go unseen, and with `wide_interval` the interval holds both zero and the margin."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One value of every lever.

    The update of a layer is `scale · B A`, with A of (rank, in) and B of (out, rank).

    Attributes:
        targets: groups (`attention`, `mlp`, `all-linear`, `lm_head`), names or patterns of
            modules, joined by commas or plus signs.
        dropout: the share of an adapter's inputs that is zeroed in training.
    """

    rank: int
    alpha: float
    targets: str
    learning_rate: float
    use_rslora: bool = False
    dropout: float = 0.0

    @property
    def scale(self) -> float:
        """alpha / rank, or alpha / √rank under rsLoRA (Kalajdzievski, 2312.03732)."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)

    @property
    def label(self) -> str:
        """A name that is readable, unique among settings, and fit for a folder.

        Such as `r8-a16-attention-lr0.001`.
        """
        parts = [
            f"r{self.rank}",
            f"a{_exact(self.alpha)}",
            _targets_label(self.targets),
            f"lr{_exact(self.learning_rate)}",
        ]
        if self.use_rslora:
            parts.append("rslora")
        if self.dropout:
            parts.append(f"d{_exact(self.dropout)}")
        return "-".join(parts)

    @property
    def effect(self) -> tuple[int, str, str]:
        """What the setting is, but for its learning rate, however its scale is written.

        Alpha 2r and alpha 16 are one setting at rank 8. Scales that differ by rounding are one.
        """
        return self.rank, self.targets, f"{self.scale:.6g}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A setting and the seed that it is trained with. The levers are also at hand here."""

    setting: Setting
    seed: int = 0

    @property
    def rank(self) -> int:
        return self.setting.rank

    @property
    def alpha(self) -> float:
        return self.setting.alpha

    @property
    def targets(self) -> str:
        return self.setting.targets

    @property
    def learning_rate(self) -> float:
        return self.setting.learning_rate

    @property
    def use_rslora(self) -> bool:
        return self.setting.use_rslora

    @property
    def dropout(self) -> float:
        return self.setting.dropout

    @property
    def scale(self) -> float:
        return self.setting.scale

    @property
    def id(self) -> str:
        """The setting's label and the seed: `r8-a16-attention-lr0.001-s0`. Fit for a folder."""
        return f"{self.setting.label}-s{self.seed}"


@dataclass(frozen=True, slots=True)
class Scores:
    """The loss of each row, in the order of the file: what paired comparisons are made of.

    Attributes:
        losses: for each row the sum over its completion tokens, in nats.
        tokens: for each row the number of those tokens, the end token included.
        sources: for each row a number that says which source it is from. Rows that share a source
            count as one where errors are computed. Empty where no two rows share one.

    Raises:
        ValueError: the three do not have the same length, or there are no rows.
    """

    losses: tuple[float, ...]
    tokens: tuple[int, ...]
    sources: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        rows = len(self.tokens)
        if len(self.losses) != rows or not rows or len(self.sources) not in (0, rows):
            raise ValueError(f"{len(self.losses)} losses for {rows} rows")

    @property
    def mean(self) -> float:
        """Nats per completion token, over all rows."""
        return math.fsum(self.losses) / sum(self.tokens)


def shared_sources(sources: Sequence[str]) -> tuple[int, ...]:
    """Number the sources of rows, for `Scores.sources`.

    A row without a source is a source of its own. Empty where no two rows share one.
    """
    numbers: dict[str | int, int] = {}
    of_rows = tuple(numbers.setdefault(source or row, row) for row, source in enumerate(sources))
    return of_rows if len(numbers) < len(of_rows) else ()


@dataclass(frozen=True, slots=True)
class Measurement:
    """The result of one candidate at one point of its training.

    Attributes:
        fraction: the share of the full budget that the candidate has been trained for, in (0, 1].
            The learning rate has cooled down at its end.
        steps, tokens: counted from the start of its training.
        spent: the tokens that this stage trained for it. A candidate that goes on later does so
            from where the cooldown started, so the `spent` of its stages add up to more than
            `tokens`.
        scores: None where the candidate diverged; then `steps` says when and `reason` why.
        parameters: the numbers of the adapter.
        peak_memory_bytes: the most that the process held meanwhile.
        seconds: the candidate's share of the time of its pack, scoring included.
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
        """Nats per completion token on the validation rows; infinite where it diverged."""
        return self.scores.mean if self.scores else math.inf


@dataclass(frozen=True, slots=True)
class Generation:
    """The text that a model generated after a prompt, and the text that was wanted there.

    `where` names the row for messages; `source` is the row's source, see `Scores.sources`.
    """

    text: str
    wanted: str
    prompt: str = ""
    where: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class RankUse:
    """How much of its rank a trained adapter uses. Evidence to show, never to decide by.

    Attributes:
        effective_rank: see `rung.engine.effective_rank`.
        truncated_losses: for each lower rank the validation loss of the adapter cut to it by SVD,
            in nats per token.
    """

    effective_rank: float
    truncated_losses: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class RequiredSample:
    """How many rows, or how many seeds, would decide an undecided comparison.

    They are totals. None where that alone never would.
    """

    rows: int | None
    seeds: int | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one comparison showed: by how much the loss of `after` is below that of `before`.

    Attributes:
        lever: the lever that differs; `setting` where several do, `adapter` against the base.
        before, after: the two sides; `before` is None for the untuned model.
        fraction: the share of the full budget at which they were compared.
        gain, low, high: the estimate and its interval, in `unit`.
        margin: the smallest gain that is worth having, in `unit`.
        rows, seeds: how many there were.
        unit: `nats a token`, or the name of the metric that judges.
        detectable: the true gain that four of five such comparisons would show; None where the
            noise of seeds is unknown.
        required: what would decide it; None where it is decided or unknown.
    """

    kind: VerdictKind
    lever: Lever | Literal["setting", "adapter"]
    before: Setting | None
    after: Setting
    fraction: float
    gain: float
    low: float
    high: float
    margin: float
    outcome: Outcome
    reason: Reason
    rows: int
    seeds: int
    unit: str
    detectable: float | None = None
    required: RequiredSample | None = None


@dataclass(frozen=True, slots=True)
class LeverSpace:
    """The values that a strategy may try.

    Attributes:
        ranks, learning_rates: from small to large.
        targets, alphas: in the order of preference; the first is the default. An alpha is a
            multiple of the rank (`2r`, `r`) or a number, with `rslora` behind it where the scale
            is alpha / √rank; `rslora` alone is alpha 16, as in its paper.
        rates_fixed: try no learning rates but those that are listed.
        try_lm_head: the data suggest that the output head is tried too.
    """

    ranks: tuple[int, ...]
    learning_rates: tuple[float, ...]
    targets: tuple[str, ...] = ("attention",)
    alphas: tuple[str, ...] = ("2r",)
    dropout: float = 0.0
    rates_fixed: bool = False
    try_lm_head: bool = False

    def setting(
        self, rank: int, learning_rate: float, targets: str | None = None, alpha: str | None = None
    ) -> Setting:
        """A setting of the space; targets and alpha are the first ones where none are given."""
        number, use_rslora = read_alpha(alpha or self.alphas[0], rank)
        return Setting(
            rank, number, targets or self.targets[0], learning_rate, use_rslora, self.dropout
        )

    def settings(self) -> tuple[Setting, ...]:
        """Every setting of the space once, by the first of its names."""
        product = itertools.product(self.ranks, self.targets, self.alphas, self.learning_rates)
        return tuple(
            distinct_settings(
                self.setting(rank, rate, targets, alpha) for rank, targets, alpha, rate in product
            )
        )

    @property
    def combinations(self) -> int:
        """How many combinations of values there are; some may be one setting by two names."""
        lengths = map(len, (self.ranks, self.targets, self.alphas, self.learning_rates))
        return math.prod(lengths)


def distinct_settings(settings: Iterable[Setting]) -> list[Setting]:
    """The settings in their order, the first of those that differ in how a scale is written."""
    first: dict[tuple[object, ...], Setting] = {}
    for setting in settings:
        first.setdefault((setting.effect, setting.learning_rate), setting)
    return list(first.values())


def read_alpha(text: str, rank: int) -> tuple[float, bool]:
    """The value of an alpha of `LeverSpace` at a rank, and whether it is scaled by √rank.

    Raises:
        ValueError: the text is no alpha.
    """
    number, _, rest = text.strip().lower().partition("rslora")
    match = re.fullmatch(r"(\d+(?:\.\d+)?)?(r?)", number.strip() or "16")
    empty = not text.strip() or not match or not (match[1] or match[2])
    if rest or not match or empty or float(match[1] or 1) == 0:
        raise ValueError(
            f"{text!r} is no alpha; write a multiple of the rank such as 2r, a number, or rslora"
        )
    return float(match[1] or 1) * (rank if match[2] else 1), "rslora" in text.lower()


def short_name(text: str, limit: int) -> str:
    """The text where it has at most `limit` bytes; else its start and a hash of the whole."""
    if len(text.encode()) <= limit:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{text.encode()[: limit - 13].decode(errors='ignore')}~{digest}"


def _targets_label(targets: str) -> str:
    """Target modules as a part of a file's name.

    Characters that a name may not have become x, and then a hash tells the texts apart.
    """
    if re.fullmatch(r"[\w.+-]*", targets, re.ASCII):
        return short_name(targets, MAX_TARGETS_BYTES)
    plain = re.sub(r"[^\w.+-]", "x", targets, flags=re.ASCII)
    digest = hashlib.sha256(targets.encode()).hexdigest()[:12]
    return f"{short_name(plain, MAX_TARGETS_BYTES - 13)}~{digest}"


def _exact(number: float) -> str:
    """The number in six digits, or in as many as it takes to be read back."""
    return f"{number:.6g}" if float(f"{number:.6g}") == number else repr(number)
