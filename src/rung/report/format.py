"""How numbers, durations, sizes and settings are written, in all that Rung prints."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len

from rung.metrics.registry import SHARES
from rung.search.verdicts import NATS
from rung.tuning.result import StudyResult
from rung.types import Lever, Setting

LEVER_NAMES: dict[Lever, str] = {
    "learning_rate": "learning rate",
    "targets": "target modules",
    "rank": "rank",
    "alpha": "alpha",
}
_FRACTIONS = {
    1 / 16: "a sixteenth",
    1 / 8: "an eighth",
    1 / 4: "a quarter",
    1 / 3: "a third",
    1 / 2: "half",
}
MAX_DECIMALS = 6


# Numbers.


def decimals_for(margin: float) -> int:
    """The decimals at which a number as small as the margin still shows.

    Three where the margin is 1 % of a loss between 0.4 and 40; more or fewer beyond.
    """
    if not 0 < margin < math.inf or 0.004 <= margin < 0.4:
        return 3
    return min(MAX_DECIMALS, max(0, 1 - math.floor(math.log10(2.5 * margin))))


def loss_decimals(result: StudyResult) -> int:
    """The decimals of all losses of a study."""
    best = result.recommendation
    loss = best.validation_loss.mean if best.validation_loss else best.adapter_validation_loss
    return decimals_for(abs(loss) / 100)


def fixed(value: float, decimals: int = 3) -> str:
    """A number with a typographic minus, and none before a zero: `−0.010`, `1,250.0`."""
    # Rounding makes -0.0 of a small negative number, and adding zero makes that 0.0.
    return f"{round(value, decimals) + 0.0:,.{decimals}f}".replace("-", "−")


def plus_minus(mean: float | None, half_width: float | None, decimals: int) -> str:
    """`1.363 ± 0.030`."""
    if mean is None:
        return "–"
    if half_width is None:
        return fixed(mean, decimals)
    return f"{fixed(mean, decimals)} ± {fixed(half_width, decimals)}"


def count(number: int, noun: str) -> str:
    """A number of things: `1 seed`, `1,200 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def is_share(name: str) -> bool:
    """Whether a metric is shown in per cent."""
    return name in SHARES or name.endswith("error_rate")


def metric_name(name: str) -> str:
    """A metric's name as words; of a user's own metric the name of the function."""
    return name.rpartition(":")[2].replace("_", " ")


def metric_value(name: str, value: float, like: float | None = None) -> str:
    """A metric's value: shares in per cent.

    Args:
        like: write as many decimals as this value would have.
    """
    if not math.isfinite(value):
        return "–"
    if is_share(name):
        return f"{fixed(100 * value, 1)}%"
    return fixed(value, metric_decimals(value if like is None else like))


def metric_decimals(value: float) -> int:
    """Three decimals, or fewer where the value is large: `0.125`, `1,250`."""
    if not math.isfinite(value):
        return 3
    return max(0, 3 - int(math.log10(max(1.0, abs(value)))))


@dataclass(frozen=True, slots=True)
class Unit:
    """How a gain is written: in nats a token, in percentage points, or in a metric's own unit.

    Attributes:
        name: `nats a token`, or a metric's name.
        decimals: of its numbers; those of shares are percentage points.
    """

    name: str
    decimals: int

    @classmethod
    def of(cls, name: str, margin: float) -> Unit:
        """The unit of that name, with as many decimals as the margin needs."""
        return cls(name, 1 if is_share(name) else decimals_for(margin))

    @property
    def words(self) -> str:
        """What stands behind a number: `nats a token`, `points of exact match`, `in r2`."""
        if self.name == NATS:
            return NATS
        return f"{'points of' if is_share(self.name) else 'in'} {metric_name(self.name)}"

    def number(self, value: float) -> str:
        return fixed(100 * value if is_share(self.name) else value, self.decimals)

    def interval(self, low: float, high: float) -> str:
        """`−0.010 to 0.074`."""
        return f"{self.number(low)} to {self.number(high)}"


# Words.


def fraction_words(fraction: float) -> str:
    """A share of the budget as people say it."""
    return _FRACTIONS.get(fraction, f"{fraction:.0%}")


def fraction_figures(fraction: float) -> str:
    """A share of the budget in few characters: `1/4`, `30%`."""
    parts = 1 / fraction
    whole = math.isclose(parts, round(parts)) and round(parts) < 100
    return f"1/{round(parts)}" if whole else f"{fraction:.0%}"


def duration(seconds: float) -> str:
    """`3 min 05 s`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def gigabytes(size: float, decimals: int = 1) -> str:
    """`2.5 GB`."""
    return f"{size / 1e9:,.{decimals}f} GB"


def parameter_count(number: int) -> str:
    """`19.5M`, `4.1k`."""
    if number >= 1e5:
        return f"{number / 1e6:,.1f}M"
    return f"{number / 1e3:.1f}k" if number >= 1000 else str(number)


def file_size(size: float) -> str:
    """`1.50 GB` or `12.3 MB`."""
    return gigabytes(size, 2) if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def shortened(text: str, limit: int) -> str:
    """The text on one line and in at most `limit` cells; an ellipsis ends it where it is cut."""
    line = " ".join(text.split())
    if cell_len(line) <= limit:
        return line
    while cell_len(line) > limit - 1:
        line = line[:-1]
    return f"{line}…"


# Settings.


def rate_words(learning_rate: float) -> str:
    return f"{learning_rate:g}"


def alpha_words(setting: Setting) -> str:
    """`64`, or `16 rsLoRA`."""
    return f"{setting.alpha:g}{' rsLoRA' if setting.use_rslora else ''}"


def setting_words(setting: Setting) -> str:
    """`rank 32, alpha 64, all-linear, learning rate 0.001`."""
    parts = [
        f"rank {setting.rank}",
        f"alpha {alpha_words(setting)}",
        setting.targets,
        f"learning rate {rate_words(setting.learning_rate)}",
    ]
    if setting.dropout:
        parts.append(f"dropout {setting.dropout:g}")
    return ", ".join(parts)


def targets_cell(targets: str, width: int = 18) -> str:
    """Target modules for a narrow column: broken into lines behind plus signs and commas."""
    lines = [""]
    for name in re.findall(r"[^+,]+[+,]?|[+,]", targets):
        if lines[-1] and len(lines[-1]) + len(name.rstrip("+,")) > width:
            lines.append("")
        lines[-1] += name
    return "\n".join(lines)


def alphas_follow_rank(settings: Sequence[Setting]) -> bool:
    """Whether the alphas of these settings were given as multiples of the rank, as far as one sees.

    They were if there are no more different multiples than there are different alphas.
    """
    plain = [setting for setting in settings if not setting.use_rslora]
    multiples = {f"{setting.alpha / setting.rank:.6g}" for setting in plain}
    return len(multiples) <= len({setting.alpha for setting in plain})


def lever_words(setting: Setting, lever: Lever, alpha_per_rank: bool = False) -> str:
    """The setting's value of a lever.

    Args:
        alpha_per_rank: write alpha as a multiple of the rank: `2r`.
    """
    if lever == "learning_rate":
        return rate_words(setting.learning_rate)
    if lever == "targets":
        return setting.targets
    if lever == "rank":
        return str(setting.rank)
    if alpha_per_rank and not setting.use_rslora:
        multiple = f"{setting.alpha / setting.rank:.4g}"
        return "r" if multiple == "1" else f"{multiple}r"
    return alpha_words(setting)
