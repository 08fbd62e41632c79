"""The repeated blocks of a decoder, and how to keep only their inputs until the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def blocks(decoder: nn.Module) -> list[nn.Module]:
    """The transformer blocks, from the bottom up: the decoder's longest list of modules."""
    lists = [module for module in decoder.modules() if isinstance(module, nn.ModuleList)]
    return max(map(list, lists), key=len, default=[])


def checkpoint_blocks(decoder: nn.Module) -> None:
    """From now on, training keeps each block's input and computes the block again in the backward pass.

    A third more work, for memory that no longer grows with the number of blocks (Chen et al., 1604.06174). transformers
    has the same, but only for a model in training mode, which a frozen base never is.
    """
    for block in blocks(decoder):
        block.forward = _checkpointed(block.forward)


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run
