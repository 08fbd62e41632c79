"""Which modules an adapter goes on: words and names ─▶ the linear layers of any architecture."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable

from torch import nn

from rung.errors import TargetError
from rung.levers import WORDS

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_NUMBER = re.compile(r"\.\d+\.")


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers inside the repeated blocks, by full name: what can be adapted. The output head stays out.

    `model` is a causal language model; a quantised layer counts, as it is an `nn.Linear` too.
    """
    return {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Linear) and _NUMBER.search(name)
    }


def resolve(layers: Iterable[str], targets: str) -> list[str]:
    """Those of the `layers`, named in full, that `targets` means, in their order.

    `targets` is one of `rung.levers.WORDS`, or last names and patterns such as `q_proj,v_proj` or `*_proj`, joined by
    commas.

    Raises:
        TargetError: a name that matches no layer; the message lists the valid ones.
    """
    names = list(layers)
    chosen: set[str] = set()
    for part in (part.strip() for part in targets.split(",")):
        found = {
            name for name in names if part in ("all-linear", _kind(name)) or fnmatch.fnmatchcase(last_name(name), part)
        }
        if not found:
            valid = ", ".join(sorted({last_name(name) for name in names}))
            raise TargetError(
                f"The model has no target module '{part}'; valid targets are {', '.join(WORDS)}, or from {valid}."
            )
        chosen |= found
    return [name for name in names if name in chosen]


def _kind(name: str) -> str:
    """`attention` where a module that holds the layer is called so; every other layer of a block is `mlp`."""
    return "attention" if _ATTENTION.search(name.rpartition(".")[0]) else "mlp"


def last_name(name: str) -> str:
    """`model.layers.0.self_attn.q_proj` ─▶ `q_proj`, which is how PEFT names target modules."""
    return name.rsplit(".", 1)[-1]
