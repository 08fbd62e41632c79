"""What a text that the model wrote is worth, beside the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence


def text_metrics(written: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
    """The metrics that fit the data.

    Always `exact_match`, the share of rows where the text is the completion but for white space at its ends. Where
    every completion is a number, also `mean_absolute_error` and `rmsle` over the rows where the model wrote a number,
    and their share `answered`.
    """
    pairs = [(text.strip(), target.strip()) for text, target in zip(written, wanted, strict=True)]
    found = {"exact_match": sum(text == target for text, target in pairs) / len(pairs)}
    targets = [_number(target) for _, target in pairs]
    if all(target is not None for target in targets):
        numbers = [
            (n, t)
            for (text, _), t in zip(pairs, targets, strict=True)
            if (n := _number(text)) is not None and t is not None
        ]
        found["answered"] = len(numbers) / len(pairs)
        if numbers:
            found["mean_absolute_error"] = math.fsum(abs(n - t) for n, t in numbers) / len(numbers)
        if numbers and all(n > -1 and t > -1 for n, t in numbers):
            squares = (math.log1p(n) - math.log1p(t) for n, t in numbers)
            found["rmsle"] = math.sqrt(math.fsum(s * s for s in squares) / len(numbers))
    return found


def _number(text: str) -> float | None:
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
