"""The dropout of an adapter: each candidate has its own stream of masks, whatever else is packed.

PEFT draws its masks from torch's one global generator, so a candidate's masks depend on everything
else that was drawn. Here a mask follows from the study's seed, the candidate's seed, the layer, the
step and the row's place in its batch, and from nothing else. So it is the same beside any other
candidates, in a batch that is split, and after a pause, and there is no generator whose state would
have to be saved. Candidates with the same seed drop the same inputs, whatever their levers are:
that is less noise between the two sides of a comparison.

A mask is drawn on the device of the rows; a CPU and a GPU draw different masks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

_DRAWS = 1 << 16
"""The values of one draw: 16 bits decide about an input. One 64-bit number gives four draws."""


def dropout_mask(
    key: str,
    layer: str,
    step: int,
    rows: Sequence[int],
    shape: tuple[int, int],
    dropout: float,
    device: torch.device,
) -> Tensor:
    """The mask of one adapter's inputs: True where an input stays.

    Args:
        key: the candidate's key, see `stream_key`.
        layer: the layer's full name.
        step: the step of the candidate's training, from 0.
        rows: the place in the batch of each row.
        shape: (T, I), tokens and inputs of a row.
        dropout: the fraction to drop, in [0, 1).

    Returns:
        (rows, T, I) bool.
    """
    tokens, inputs = shape
    masks = []
    for row in rows:
        digest = hashlib.sha256(f"{key}:{layer}:{step}:{row}".encode()).digest()
        draw = torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))
        numbers = torch.empty(-(-tokens * inputs // 4), dtype=torch.int64, device=device)
        numbers.random_(-(2**63), None, generator=draw)
        draws = numbers.view(torch.int16)[: tokens * inputs]
        masks.append(draws >= round(dropout * _DRAWS) - _DRAWS // 2)
    return torch.stack(masks).view(len(rows), tokens, inputs)


def stream_key(study_seed: int, candidate_seed: int) -> str:
    """The key from which all masks of one candidate follow."""
    return f"dropout:{study_seed}:{candidate_seed}"
