"""Which layers get an adapter: groups, names and patterns ─▶ linear layers of any architecture.

A linear layer is what PEFT's `all-linear` means by it: `nn.Linear`, quantised or not, and GPT-2's
`Conv1D`, in the part of the model that text goes through: the decoder, and not a vision tower next
to it. Experts that a model keeps as one stacked parameter (Mixtral, Qwen-MoE) are not linear
layers and get no adapter, nor does their router. The output head is a linear layer too, and gets an
adapter only where it is named. A layer is unsupported where PEFT would not load its adapter again.
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
"""The user's word for the output head, whatever the architecture calls it."""

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_LAYER_NUMBER = re.compile(r"\.\d+\.")
_ROUTED_EXPERT = re.compile(r"\.experts\.\d+\.")


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers that text goes through, by full name, in the model's order.

    An expert that is a module of its own is left out: it gets the tokens that a router sends to it,
    and not whole rows.

    Args:
        model: a causal language model.
    """
    decoder, head = decoder_of(model) or model, head_name(model)
    decoder_name = next((name for name, module in model.named_modules() if module is decoder), "")
    # A model inside the decoder is for something else than text, such as images or sounds.
    other_models = tuple(
        f"{decoder_name}.{name}." if decoder_name else f"{name}."
        for name, module in decoder.named_modules()
        if isinstance(module, PreTrainedModel) and module is not decoder and decoder is not model
    )
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and _is_plain_product(module)
        and not is_routed(name)
        and (name == head or not decoder_name or name.startswith(f"{decoder_name}."))
        and not name.startswith(other_models)
    }


def _is_plain_product(module: nn.Module) -> bool:
    """Whether the layer only multiplies; a model's subclass may do more, as routers do."""
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


def unsupported_layers(model: nn.Module, layers: Iterable[str]) -> dict[str, str]:
    """Those of the `layers` whose adapter PEFT would not load again, with the reason.

    Two cases are known. In transformers 5 the experts of a mixture are stacked parameters, and PEFT
    takes the names of the layers that they were stacked from (`gate_proj`) for the experts,
    wherever in the model the name is: the dense layers of such a model and its shared experts
    cannot be named. And PEFT refuses the names of layers that Mamba's kernels multiply by
    themselves.
    """
    try:
        from peft import LoraConfig
        from peft.tuners.tuners_utils import _check_lora_target_modules_mamba
        from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
    except ImportError:  # this version of PEFT accepts every name
        return {}
    reasons: dict[str, str] = {}
    names = list(layers)
    for last in dict.fromkeys(map(last_name, names)):
        config: Any = LoraConfig(target_modules=[last])
        try:
            _check_lora_target_modules_mamba(config, model, last)
        except ValueError:
            reasons[last] = "PEFT refuses an adapter on it in this architecture"
            continue
        try:
            convert_peft_config_for_transformers(config, model, [])
            unchanged = set(config.target_modules) == {last}
        except ValueError:  # the layer is half of a pair that is one parameter now
            unchanged = False
        if not unchanged:
            reasons[last] = "PEFT takes its name for the stacked experts of this architecture"
    return {name: reasons[last_name(name)] for name in names if last_name(name) in reasons}


def decoder_of(model: Any) -> nn.Module | None:
    """The part of the model that makes hidden states from tokens; None if it has none."""
    get_decoder: Any = getattr(model, "get_decoder", None)
    head: Any = model.get_output_embeddings() if get_decoder else None
    # In some architectures `get_decoder` returns the model itself, or its head.
    candidates = (get_decoder() if get_decoder else None, getattr(model, "model", None))
    return next(
        (
            module
            for module in candidates
            if isinstance(module, nn.Module) and module is not model and module is not head
        ),
        None,
    )


def head_name(model: nn.Module) -> str | None:
    """The full name of the model's output head; None where it has none."""
    get_head: Any = getattr(model, "get_output_embeddings", None)
    head = get_head() if get_head else None
    if head is None:
        return None
    return next((name for name, module in model.named_modules() if module is head), None)


def is_routed(name: str) -> bool:
    """Whether the layer is in an expert that is a module of its own."""
    return bool(_ROUTED_EXPERT.search(name))


def is_stacked(module: nn.Module) -> bool:
    """Whether the module keeps several matrices as one parameter. A convolution does not."""
    own = module.parameters(recurse=False)
    return not isinstance(module, _ConvNd) and any(parameter.dim() == 3 for parameter in own)


def stacked_experts(model: nn.Module) -> list[str]:
    """The modules whose weights are stacked parameters, with stars; no adapter goes on them."""
    return star_numbers(name for name, module in model.named_modules() if is_stacked(module))


def star_numbers(names: Iterable[str]) -> list[str]:
    """The names with `*` for the number of the layer, each once, in their order."""
    return list(dict.fromkeys(_LAYER_NUMBER.sub(".*.", name) for name in names))


def resolve_targets(
    layers: Iterable[str],
    targets: str,
    head: str | None = None,
    unsupported: Mapping[str, str] | None = None,
) -> list[str]:
    """The full names of the `layers` that `targets` selects, in the order of `layers`.

    Args:
        layers: the full names of the model's linear layers.
        targets: groups (`rung.types.TARGET_GROUPS`, `lm_head`), names and patterns, joined by
            commas or plus signs. A name is a last name (`q_proj`) or a full one. A pattern
            (`*_proj`, `model.layers.2?.*`) is matched against both.
        head: the full name of the output head. Only `lm_head` and that name select it.
        unsupported: layers that are never selected, with the reason; see `unsupported_layers`.

    Raises:
        TargetError: A part of `targets` selects no supported layer; the message lists the valid
            ones.
    """
    unsupported = unsupported or {}
    names = [name for name in layers if name not in unsupported]
    selected: set[str] = set()
    for part in (part.strip() for part in re.split(r"[,+]", targets)):
        matches = {name for name in names if _matches(part, name, head)}
        if not matches:
            raise _no_such_target(part, names, head, unsupported)
        selected |= matches
    return [name for name in names if name in selected]


def _no_such_target(
    part: str, names: list[str], head: str | None, unsupported: Mapping[str, str]
) -> TargetError:
    last_names = ", ".join(sorted({last_name(name) for name in names if name != head}))
    groups = ", ".join(
        group
        for group in (*TARGET_GROUPS, HEAD)
        if any(_matches(group, name, head) for name in names)
    )
    valid = f"valid targets are {groups}, or from {last_names}."
    reason = next((why for name, why in unsupported.items() if _matches(part, name, head)), None)
    if reason:
        return TargetError(f"No adapter can go on '{part}' in this model ({reason}); {valid}")
    return TargetError(f"The model has no target module '{part}'; {valid}")


def peft_target_modules(modules: Iterable[str], layers: Iterable[str]) -> list[str]:
    """The `target_modules` by which PEFT finds these layers, and no others.

    They are last names where those are enough: people read them, and servers know them. They are
    full names where they are not enough, as in GPT-2, where `c_proj` is a layer of the attention
    and one of the MLP, or where a vision tower has a `q_proj` too.

    Args:
        modules: the full names of all modules of the model.
        layers: the full names of the layers to find.
    """
    wanted = set(layers)
    last_names = {last_name(name) for name in wanted}
    found_by_last_name = {name for name in modules if last_name(name) in last_names}
    return sorted(last_names if found_by_last_name == wanted else wanted)


def _matches(part: str, name: str, head: str | None) -> bool:
    if name == head:
        return part in (HEAD, name)
    if part in ("all-linear", layer_kind(name)):
        return True
    return fnmatch.fnmatchcase(last_name(name), part) or fnmatch.fnmatchcase(name, part)


def layer_kind(name: str) -> str:
    """`attention`, `mlp` or `other`, by the full name.

    A layer is `attention` where a module around it is called so, `mlp` where it is any other layer
    of a block, and `other` outside the blocks.
    """
    if not _LAYER_NUMBER.search(name):
        return "other"
    return "attention" if _ATTENTION.search(name.rpartition(".")[0]) else "mlp"


def last_name(name: str) -> str:
    """`model.layers.0.self_attn.q_proj` ─▶ `q_proj`, which is how PEFT names target modules."""
    return name.rsplit(".", 1)[-1]
