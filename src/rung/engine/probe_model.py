"""First passes through a model: which attention suits it, and whether Rung computes its loss right.

A model may do more than its kind of architecture promises: cap its attention scores, or change its
logits after the output head. A few tokens show it before anything is trained.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from rung.engine.attention import ATTENTION_NAME, AttentionKinds
from rung.engine.loss import Head
from rung.engine.process_memory import is_out_of_memory
from rung.errors import ModelError
from rung.model.load import Base

CAPPED_LOGIT = 50.0
"""A logit so large that a cap on the logits shows."""


@torch.no_grad()
def find_attention_kinds(base: Base, decoder: Any, vocabulary: int) -> AttentionKinds:
    """The fastest attention for short rows and for long rows that computes what the model asks for.

    A model may do more in its attention than softmax(q kᵀ) v: cap the scores, add a sink. So each
    kind is compared with the plain one on a few tokens, and the plain one is used where they
    differ.

    Raises:
        ModelError: the model cannot be run over its frozen layers.
    """
    ids = torch.arange(8, device=base.device)[None] % vocabulary

    def hidden_states(kind: str) -> Tensor:
        decoder.set_attn_implementation(kind)
        states: Tensor = decoder(input_ids=ids, use_cache=False).last_hidden_state
        return states

    try:
        plain = hidden_states("eager")
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"The model {base.source} cannot be run on a few tokens over its frozen layers "
            f"({_first_line(error)}); give another --quantization, or another model."
        ) from error
    kinds = []
    for kind in (ATTENTION_NAME if base.device.type == "cpu" else "sdpa", "sdpa"):
        try:
            difference = (hidden_states(kind) - plain).abs().max()
            agrees = bool(difference <= 0.05 * plain.abs().max())
        except (ValueError, TypeError):  # the model refuses this kind, or the kind refuses its call
            agrees = False
        kinds.append(kind if agrees else "eager")
    return AttentionKinds(*kinds)


@torch.no_grad()
def check_head(base: Base, decoder: Any, head: Head) -> None:
    """Compare the logits that Rung computes with the model's own on four tokens.

    Raises:
        ModelError: they differ, so the loss would be wrong.
    """
    ids = torch.arange(4, device=base.device)[None]
    states = decoder(input_ids=ids, use_cache=False).last_hidden_state[0]
    product = states @ head.layer.dense(states.dtype).T
    # The logits of a small model are too small for a cap to show, so they are made large too.
    for scale in (1.0, CAPPED_LOGIT / max(1e-3, float(product.abs().max()))):
        with _scaled_input(head.layer, scale):
            theirs = base.model(input_ids=ids, use_cache=False).logits[0].float()
        ours = head.logits_(scale * product.float())
        if (theirs - ours).abs().max() > 0.01 * ours.abs().max():
            raise ModelError(
                f"The model {base.source} changes its logits after the output head, which Rung "
                "cannot train yet."
            )


@contextlib.contextmanager
def translate_model_errors(source: str) -> Iterator[None]:
    """Run a first pass through a model, and turn what breaks in it into a `ModelError`.

    A model that needs more than tokens and linear layers can break in any way.

    Raises:
        ModelError: the pass failed; it quotes the first line of the error.
    """
    try:
        yield
    except (
        RuntimeError,
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
        AssertionError,
    ) as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"The model {source} cannot be trained over frozen layers ({_first_line(error)}); give "
            "another, or try --quantization bf16."
        ) from error


def _first_line(error: BaseException) -> str:
    """The first line of the error's text, or the name of its class."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].strip('".')


@contextlib.contextmanager
def _scaled_input(layer: nn.Module, scale: float) -> Iterator[None]:
    """Multiply the layer's input by `scale`."""
    hook = layer.register_forward_pre_hook(lambda _, inputs: (inputs[0] * scale,))
    try:
        yield
    finally:
        hook.remove()
