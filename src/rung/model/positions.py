"""How many tokens of a row a model can tell the places of."""

from __future__ import annotations

from typing import Any


def positions_of(config: Any) -> int | None:
    """The longest row by the text model's configuration; None where there is no limit, as in a Mamba.

    Rotary positions that are scaled reach further than those that the model was first trained on.
    """
    most = getattr(config, "max_position_embeddings", None)
    if not isinstance(most, int) or most < 1:
        return None
    rotary = getattr(config, "rope_parameters", None) or {}
    factor, first = rotary.get("factor"), rotary.get("original_max_position_embeddings")
    return max(most, int(factor * (first or most))) if isinstance(factor, int | float) else most
