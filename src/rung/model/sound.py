"""Whether what is loaded is what the files and the configuration say, before anything is trained on it.

transformers draws weights that it does not find at random, leaves out those that it has no place for, and reads 8-bit
numbers without their scales where the configuration does not speak of them. All of that is a model that answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rung.errors import ModelError
from rung.model.files import dtypes, weight_files

GENERATIVE = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""How the names of classes end that write."""
_NUMBER = re.compile(r"\.\d+(?=\.|$)")
_NO_NUMBERS_OF_THEIR_OWN = re.compile(r"[IU]\d+|F8_.*|F4.*|F6.*")
"""Dtypes that weights have beside their scales; the scales are what a quantisation's configuration is for."""
_MADE_FROM = re.compile(r"^base_model:\s*(?:-\s*)?[\"']?([^\s\"'\[\]]+)", re.MULTILINE)
_SUFFIX = re.compile(
    r"[-_](?:gptq|awq|hqq|exl2|fp8|nvfp4|mxfp4|bnb|int[48]|w[48]a\d+|[48]bit|quantized)\b.*$", re.IGNORECASE
)
_SHOWN = 3


def check_writes(spec: str, config: Mapping[str, Any]) -> None:
    """
    Raises:
        ModelError: the checkpoint was trained with another head than one that writes. One without a head may be tied.
    """
    classes = config.get("architectures") or []
    if classes and not any(name.endswith((*GENERATIVE, "Model")) for name in classes):
        raise ModelError(
            f"The model '{spec}' is no causal language model ({classes[0]}), and its head is not one that writes; give "
            "one that writes text."
        )


def check_quantization(spec: str, config: Mapping[str, Any], asked: str, folder: Path | None) -> None:
    """A checkpoint that is quantised already can be used as it is kept, and in no other way.

    Args:
        spec: what the user calls the model.
        config: its `config.json`.
        asked: one of `rung.model.load.QUANTIZATIONS`.
        folder: where its files are, if they are here.

    Raises:
        ModelError: it is kept in another way than was asked for, or in one that Rung cannot train over.
    """
    found = quantization_of(config)
    if found is None or found == asked:
        return
    name = unquantised(spec, folder)
    plain = f"give the model that it was made from{f', {name}' if name else ''}"
    if found in ("nf4", "nf4-single", "int8"):
        raise ModelError(
            f"The model '{spec}' is kept in bitsandbytes' {found}, and cannot be had in {asked}; give --quantization "
            f"{found}, or {plain}."
        )
    raise ModelError(
        f"The model '{spec}' was quantised by {found}, which Rung cannot train over; {plain}, which Rung quantises "
        f"itself ({asked})."
    )


def quantization_of(config: Mapping[str, Any]) -> str | None:
    """How a checkpoint is kept, in Rung's words where it has one, else by the method's own name; None for plain."""
    nested = config.get("text_config")
    own = config.get("quantization_config") or (nested or {}).get("quantization_config")
    own = own or config.get("compression_config")
    if not own:
        return None
    if own.get("load_in_8bit"):
        return "int8"
    if own.get("load_in_4bit"):
        kind, double = own.get("bnb_4bit_quant_type", "fp4"), own.get("bnb_4bit_use_double_quant", False)
        return f"bitsandbytes in {kind}" if kind != "nf4" else "nf4" if double else "nf4-single"
    return str(own.get("quant_method", "a method that its config.json does not name"))


def unquantised(spec: str, folder: Path | None) -> str | None:
    """The model that a quantised one was made from: by its own card, else by its name without what says how."""
    card = folder / "README.md" if folder else None
    if card and card.is_file() and (said := _MADE_FROM.search(card.read_text(encoding="utf-8", errors="replace"))):
        return said[1]
    plain = _SUFFIX.sub("", spec)
    return plain if plain not in (spec, "") and not Path(spec).exists() else None


def check_stored(spec: str, folder: Path) -> None:
    """
    Raises:
        ModelError: weights are kept in so few bits that they need scales, and no configuration speaks of that.
    """
    for file in weight_files(folder):
        if file.suffix != ".safetensors":
            continue
        for name, dtype in dtypes(file).items():
            if name.endswith("weight") and _NO_NUMBERS_OF_THEIR_OWN.fullmatch(dtype):
                raise ModelError(
                    f"The model '{spec}' keeps {name} in {dtype}, and its config.json has no quantization_config that "
                    "says how to read it; give the model that it was made from."
                )


def check_loaded(spec: str, model: nn.Module, info: Mapping[str, Any]) -> list[str]:
    """Hold a loaded model to its files, by what `from_pretrained` says with `output_loading_info`.

    Returns:
        What somebody who uses this model should be told.

    Raises:
        ModelError: weights are in no file, or have other shapes there, or an adapter came with them.
    """
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ModelError(
            f"The model '{spec}' has a LoRA adapter beside it (adapter_config.json), and an adapter of an adapter is "
            "not what a study is of; take that file away, or merge the adapter with PEFT's merge_and_unload() and save "
            "the model."
        )
    for name, stored, wanted in sorted([*info["mismatched_keys"], *_quantised_amiss(model)]):
        raise ModelError(
            f"The weight {name} of '{spec}' is {tuple(stored)} in its file and {tuple(wanted)} by its config.json; put "
            "the config.json right, or the one back that belongs to these weights."
        )
    buffers = {name for name, _ in model.named_buffers()}
    missing = set(info["missing_keys"])
    if missing - buffers:
        raise ModelError(
            f"Weights of '{spec}' are not in the file and would be drawn at random: {named(missing - buffers)}"
            f"{_instead(info['unexpected_keys'])}; save the whole model with save_pretrained, or give another."
        )
    told = []
    if missing:
        told.append(f"{named(missing)}: not in the file of '{spec}', and taken as the architecture begins with")
    if info["unexpected_keys"]:
        told.append(f"{named(info['unexpected_keys'])}: in the file of '{spec}', and no part of the model: left out")
    return told


def _quantised_amiss(model: nn.Module) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Quantised weights of another shape than their layer's, which transformers lets pass: name, shape, layer's."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not module.weight.is_floating_point():
            state: Any = getattr(module.weight, "quant_state", None)
            stored = tuple(module.weight.shape if state is None else state.shape)
            if stored != (module.out_features, module.in_features):
                yield f"{name}.weight", stored, (module.out_features, module.in_features)


def check_finite(spec: str, model: nn.Module) -> None:
    """
    Raises:
        ModelError: a weight, or a scale of quantised weights, is no number.
    """
    for name, tensor in _numbers(model):
        # A sum is NaN or infinite where one of its terms is, and takes no memory.
        if tensor.is_floating_point() and not torch.isfinite(tensor.sum(dtype=torch.float32)):
            kind = "NaN" if torch.isnan(tensor).any() else "infinite numbers"
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise ModelError(
                f"The weight {name} of '{spec}' has {kind} in it, as {dtype}; give a model that is whole, or another "
                "--precision if that one is too narrow for it."
            )


def _numbers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in model.named_parameters():
        yield name, parameter.detach()
        state, scales = getattr(parameter, "quant_state", None), getattr(parameter, "SCB", None)
        if scales is not None:
            yield name, scales
        while state is not None:
            yield name, state.absmax
            if state.offset is not None:
                yield name, state.offset
            state = state.state2


def named(keys: Iterable[str]) -> str:
    """The first of the names, those of alike blocks once, and how many weights they are in all."""
    names = list(keys)
    alike = sorted({_NUMBER.sub(".*", name) for name in names})
    more = f" and {len(alike) - _SHOWN} more names" if len(alike) > _SHOWN else ""
    return f"{', '.join(alike[:_SHOWN])}{more} ({len(names)} weights)"


def _instead(unexpected: Iterable[str]) -> str:
    """What the file has in their place, which mostly says what happened."""
    return f", while the file has {named(unexpected)}" if unexpected else ""
