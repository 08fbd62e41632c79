"""The dropout of an adapter: a stream of masks for each candidate, so that it never depends on the pack.

PEFT draws its masks from torch's one global generator, so what a candidate gets depends on what else was drawn. Here a
mask follows from the study's seed, the candidate's seed, the layer, the step and the row's place in its batch, and from
nothing else: the same in any company, in a batch that is split, and after a pause. So there is no generator whose state
would have to be saved. Candidates that differ in their levers alone drop the same inputs, which is less noise between
the two sides of a comparison.

A mask is drawn on the device of the rows; a CPU and a GPU draw other masks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

_DRAWS = 1 << 16
"""An input is kept by a draw of 16 bits, four of which are cut from one of 64."""


def keep_mask(
    key: str,
    layer: str,
    step: int,
    rows: Sequence[int],
    shape: tuple[int, int],
    dropout: float,
    device: torch.device,
) -> Tensor:
    """Which inputs an adapter keeps.

    Args:
        key: the candidate's, see `stream_key`.
        layer: its full name.
        step: of the candidate's training, from 0.
        rows: the places in the batch, one for each row.
        shape: (T, I), tokens and inputs of a row.
        dropout: the share to drop, in [0, 1).

    Returns:
        (rows, T, I) bool.
    """
    tokens, inputs = shape
    masks = []
    for row in rows:
        digest = hashlib.sha256(f"{key}:{layer}:{step}:{row}".encode()).digest()
        draw = torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))
        drawn = torch.empty(-(-tokens * inputs // 4), dtype=torch.int64, device=device).random_(
            -(2**63), None, generator=draw
        )
        masks.append(
            drawn.view(torch.int16)[: tokens * inputs] >= round(dropout * _DRAWS) - _DRAWS // 2
        )
    return torch.stack(masks).view(len(rows), tokens, inputs)


def stream_key(study_seed: int, candidate_seed: int) -> str:
    """What all masks of one candidate follow from."""
    return f"dropout:{study_seed}:{candidate_seed}"
