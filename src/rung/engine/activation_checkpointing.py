"""Activation checkpointing: training saves only the inputs of a decoder's transformer blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def transformer_blocks(decoder: nn.Module) -> list[nn.Module]:
    """The transformer blocks from the first to the last: the decoder's longest list of modules."""
    lists = [module for module in decoder.modules() if isinstance(module, nn.ModuleList)]
    return max(map(list, lists), key=len, default=[])


def checkpoint_activations(decoder: nn.Module) -> None:
    """From now on, training saves each block's input and recomputes the block in the backward pass.

    This costs a third more work, and the memory for activations hardly grows with the number of
    blocks (Chen et al., 1604.06174). transformers can do the same, but only for a model in training
    mode, and a frozen base is never in that mode.
    """
    for block in transformer_blocks(decoder):
        block.forward = _checkpointed(block.forward)


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run
