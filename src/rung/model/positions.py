"""How many positions a model has: the longest row that it can read."""

from __future__ import annotations

from typing import Any


def max_positions(config: Any) -> int | None:
    """The longest row, in tokens, that the text model's configuration allows.

    Scaled rotary positions (RoPE scaling) reach further than the positions of pre-training.

    Returns:
        None where there is no limit, as in a Mamba.
    """
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1:
        return None
    rope = getattr(config, "rope_parameters", None) or {}
    factor, pretrained = rope.get("factor"), rope.get("original_max_position_embeddings")
    if not isinstance(factor, int | float):
        return limit
    return max(limit, int(factor * (pretrained or limit)))
