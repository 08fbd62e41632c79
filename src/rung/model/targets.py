"""Which modules an adapter goes on: words, names and patterns ─▶ the linear layers of any architecture.

What counts as a linear layer is what PEFT's `all-linear` means: `nn.Linear`, quantised or not, and the `Conv1D` of
GPT-2. Experts that a model keeps as one stacked parameter (Mixtral, Qwen-MoE) are none, and stay as they are; so does
their router. The output head is a layer too, and is adapted only where it is named.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from rung.errors import TargetError
from rung.levers import WORDS

HEAD = "lm_head"
"""The word for the output head, whatever the architecture calls it."""

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_NUMBER = re.compile(r"\.\d+\.")
_ROUTED = re.compile(r"\.experts\.\d+\.")


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers, by full name: what can be adapted. `model` is a causal language model.

    An expert that is a module of its own sees the tokens that a router sends it, and not whole rows, so it is left out.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and not _ROUTED.search(name)
    }


def head_name(model: nn.Module) -> str | None:
    """What the model calls its output head, if it has one."""
    find: Any = getattr(model, "get_output_embeddings", None)
    head = find() if find else None
    if head is None:
        return None
    return next((name for name, module in model.named_modules() if module is head), None)


def stacked_experts(model: nn.Module) -> list[str]:
    """The modules, one name for all blocks, whose weights are stacked parameters: no adapter goes on them."""
    names = (name.rpartition(".")[0] for name, parameter in model.named_parameters() if parameter.dim() == 3)
    return list(dict.fromkeys(_NUMBER.sub(".*.", name) for name in names))


def resolve(layers: Iterable[str], targets: str, head: str | None = None) -> list[str]:
    """Those of the `layers`, named in full, that `targets` means, in their order.

    `targets` is words (`rung.levers.WORDS`, `lm_head`), names and patterns, joined by commas or plus signs. A name is
    the last one (`q_proj`) or a full one; a pattern (`*_proj`, `model.layers.2?.*`) is matched against both. `head`
    is the full name of the output head, which no word but `lm_head` and no pattern means.

    Raises:
        TargetError: a part that matches no layer; the message lists the valid ones.
    """
    names = list(layers)
    chosen: set[str] = set()
    for part in (part.strip() for part in re.split(r"[,+]", targets)):
        found = {name for name in names if _means(part, name, head)}
        if not found:
            valid = ", ".join(sorted({last_name(name) for name in names if name != head}))
            words = ", ".join((*WORDS, HEAD) if head else WORDS)
            raise TargetError(f"The model has no target module '{part}'; valid targets are {words}, or from {valid}.")
        chosen |= found
    return [name for name in names if name in chosen]


def peft_names(layers: Iterable[str], chosen: Iterable[str]) -> list[str]:
    """The `target_modules` by which PEFT finds the `chosen` of the `layers`, and no other.

    Last names where they say it all, which is what people read and servers know; full names where they do not, as for
    GPT-2, which calls a layer of the attention and one of the MLP `c_proj`.
    """
    wanted = set(chosen)
    last = {last_name(name) for name in wanted}
    meant = {name for name in layers if last_name(name) in last}
    return sorted(last if meant == wanted else wanted)


def _means(part: str, name: str, head: str | None) -> bool:
    if name == head:
        return part in (HEAD, name)
    if part in ("all-linear", kind_of(name)):
        return True
    return fnmatch.fnmatchcase(last_name(name), part) or fnmatch.fnmatchcase(name, part)


def kind_of(name: str) -> str:
    """`attention` where a module that holds the layer is called so; every other layer of a block is `mlp`, and `other`
    what is outside the blocks.
    """
    if not _NUMBER.search(name):
        return "other"
    return "attention" if _ATTENTION.search(name.rpartition(".")[0]) else "mlp"


def last_name(name: str) -> str:
    """`model.layers.0.self_attn.q_proj` ─▶ `q_proj`, which is how PEFT names target modules."""
    return name.rsplit(".", 1)[-1]
