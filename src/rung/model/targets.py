"""Which modules an adapter goes on: words, names and patterns ─▶ the linear layers of any architecture.

What counts as a linear layer is what PEFT's `all-linear` means: `nn.Linear`, quantised or not, and the `Conv1D` of
GPT-2, in what text goes through: the decoder, and not a vision tower beside it. Experts that a model keeps as one
stacked parameter (Mixtral, Qwen-MoE) are none, and stay as they are; so does their router. The output head is a layer
too, and is adapted only where it is named. A layer whose adapter PEFT would not read back is closed: nothing goes on
it.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rung.errors import TargetError
from rung.types import TARGET_GROUPS

HEAD = "lm_head"
"""The word for the output head, whatever the architecture calls it."""

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_NUMBER = re.compile(r"\.\d+\.")
_ROUTED = re.compile(r"\.experts\.\d+\.")


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers that text goes through, by full name. `model` is a causal language model.

    An expert that is a module of its own sees the tokens that a router sends it, and not whole rows, so it is left out.
    """
    decoder, head = decoder_of(model) or model, head_name(model)
    within = next((name for name, module in model.named_modules() if module is decoder), "")
    # A model inside the decoder is of something else than text: images, sounds.
    others = tuple(
        f"{within}.{name}." if within else f"{name}."
        for name, module in decoder.named_modules()
        if isinstance(module, PreTrainedModel) and module is not decoder and decoder is not model
    )
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and _is_a_product(module)
        and not is_routed(name)
        and (name == head or not within or name.startswith(f"{within}."))
        and not name.startswith(others)
    }


def _is_a_product(module: nn.Module) -> bool:
    """Whether a layer does what its name says: a model's own kind of it may do more, as routers do."""
    kind: Any = type(module)
    plain = kind in (nn.Linear, Conv1D) or kind.forward is nn.Linear.forward
    if plain or kind.__module__.startswith("bitsandbytes."):
        return True
    layer: Any = module
    try:
        y = layer(
            torch.ones(1, layer.in_features, dtype=layer.weight.dtype, device=layer.weight.device)
        )
    except (RuntimeError, ValueError, TypeError):
        return False
    return isinstance(y, torch.Tensor) and y.shape == (1, layer.out_features)


def closed_layers(model: nn.Module, layers: Iterable[str]) -> dict[str, str]:
    """Those of the `layers` that no adapter goes on since PEFT would not read it back, and why.

    In transformers 5 the experts of a mixture are stacked parameters, and PEFT takes the names of what they were
    stacked from (`gate_proj`) for them, wherever in the model they stand: the dense layers of such a model and its
    shared experts cannot be named. Of layers that Mamba's kernels multiply by themselves it refuses the names.
    """
    try:
        from peft import LoraConfig
        from peft.tuners.tuners_utils import _check_lora_target_modules_mamba
        from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
    except ImportError:  # a version that takes every name as it is
        return {}
    why: dict[str, str] = {}
    names = list(layers)
    for last in dict.fromkeys(map(last_name, names)):
        config: Any = LoraConfig(target_modules=[last])
        try:
            _check_lora_target_modules_mamba(config, model, last)
        except ValueError:
            why[last] = "PEFT refuses an adapter on it in this architecture"
            continue
        try:
            convert_peft_config_for_transformers(config, model, [])
            kept = set(config.target_modules) == {last}
        except ValueError:  # it is the half of a pair that is one parameter now
            kept = False
        if not kept:
            why[last] = "PEFT takes its name for the stacked experts of this architecture"
    return {name: why[last_name(name)] for name in names if last_name(name) in why}


def decoder_of(model: Any) -> nn.Module | None:
    """What makes hidden states of tokens, if that is a part of the model."""
    find: Any = getattr(model, "get_decoder", None)
    head: Any = model.get_output_embeddings() if find else None
    # Some architectures find themselves, or their head, which they call so.
    found = (find() if find else None, getattr(model, "model", None))
    return next(
        (
            one
            for one in found
            if isinstance(one, nn.Module) and one is not model and one is not head
        ),
        None,
    )


def head_name(model: nn.Module) -> str | None:
    """What the model calls its output head, if it has one."""
    find: Any = getattr(model, "get_output_embeddings", None)
    head = find() if find else None
    if head is None:
        return None
    return next((name for name, module in model.named_modules() if module is head), None)


def is_routed(name: str) -> bool:
    """Whether the layer is in an expert that is a module of its own."""
    return bool(_ROUTED.search(name))


def is_stacked(module: nn.Module) -> bool:
    """Whether the module keeps several matrices as one parameter; a convolution's kernel is none."""
    own = module.parameters(recurse=False)
    return not isinstance(module, _ConvNd) and any(parameter.dim() == 3 for parameter in own)


def stacked_experts(model: nn.Module) -> list[str]:
    """The modules, one name for all blocks, whose weights are stacked parameters: no adapter goes on them."""
    return folded(name for name, module in model.named_modules() if is_stacked(module))


def folded(names: Iterable[str]) -> list[str]:
    """One name for all blocks."""
    return list(dict.fromkeys(_NUMBER.sub(".*.", name) for name in names))


def resolve(
    layers: Iterable[str],
    targets: str,
    head: str | None = None,
    closed: Mapping[str, str] | None = None,
) -> list[str]:
    """Those of the `layers`, named in full, that `targets` means, in their order.

    `targets` is words (`rung.types.TARGET_GROUPS`, `lm_head`), names and patterns, joined by commas or plus signs. A name is
    the last one (`q_proj`) or a full one; a pattern (`*_proj`, `model.layers.2?.*`) is matched against both. `head`
    is the full name of the output head, which no word but `lm_head` and no pattern means. Nothing means what is
    `closed`; see `closed_layers`.

    Raises:
        TargetError: a part that matches no layer that is open; the message lists the valid ones.
    """
    closed = closed or {}
    names = [name for name in layers if name not in closed]
    chosen: set[str] = set()
    for part in (part.strip() for part in re.split(r"[,+]", targets)):
        found = {name for name in names if _means(part, name, head)}
        if not found:
            valid = ", ".join(sorted({last_name(name) for name in names if name != head}))
            words = ", ".join(
                word
                for word in (*TARGET_GROUPS, HEAD)
                if any(_means(word, name, head) for name in names)
            )
            if shut := [name for name in closed if _means(part, name, head)]:
                raise TargetError(
                    f"No adapter can go on '{part}' in this model ({closed[shut[0]]}); valid targets are {words}, or "
                    f"from {valid}."
                )
            raise TargetError(
                f"The model has no target module '{part}'; valid targets are {words}, or from {valid}."
            )
        chosen |= found
    return [name for name in names if name in chosen]


def peft_names(modules: Iterable[str], chosen: Iterable[str]) -> list[str]:
    """The `target_modules` by which PEFT finds the `chosen` of a model's `modules`, and no other.

    Last names where they say it all, which is what people read and servers know; full names where they do not, as for
    GPT-2, which calls a layer of the attention and one of the MLP `c_proj`, or where a vision tower has a `q_proj` too.
    """
    wanted = set(chosen)
    last = {last_name(name) for name in wanted}
    meant = {name for name in modules if last_name(name) in last}
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
