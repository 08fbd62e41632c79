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
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from torch import Tensor, nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from rung.errors import ModelError
from rung.model.files import dtypes, weight_files

GENERATIVE = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""How the names of classes end that write."""
_NUMBER = re.compile(r"\.\d+(?=\.|$)")
_NUMBERS_OF_THEIR_OWN = {"F16", "BF16", "F32", "F64", "float16", "bfloat16", "float32", "float64"}
"""Dtypes of weights that say it all; others need scales, which are what a quantisation's configuration is for."""
_MADE_FROM = re.compile(r"^base_model:\s*(?:-\s*)?[\"']?([^\s\"'\[\]]+)", re.MULTILINE)
_SUFFIX = re.compile(
    r"[-_](?:gptq|awq|hqq|exl2|fp8|nvfp4|mxfp4|bnb|int[48]|w[48]a\d+|[48]bit|quantized)\b.*$",
    re.IGNORECASE,
)
_SHOWN = 3


def check_writes(spec: str, config: Mapping[str, Any]) -> None:
    """
    Raises:
        ModelError: the checkpoint was trained with another head than one that writes, or has an encoder, which would be
            left out. One without a head, the plain decoder, may be tied.
    """
    classes, kind = config.get("architectures") or [], config.get("model_type")
    encoder = (
        getattr(CONFIG_MAPPING[kind], "is_encoder_decoder", False)
        if kind in CONFIG_MAPPING
        else False
    )
    if config.get("is_encoder_decoder", encoder):
        raise ModelError(
            f"The model '{spec}' is no causal language model ({classes[0] if classes else kind}): it has an encoder "
            "and a decoder, and Rung trains decoders alone; give one that writes text."
        )
    plain = MODEL_MAPPING_NAMES.get(kind or "", ())
    if classes and not any(
        name.endswith(GENERATIVE) or name == plain or name in plain for name in classes
    ):
        raise ModelError(
            f"The model '{spec}' is no causal language model ({classes[0]}), and its head is not one that writes; give "
            "one that writes text."
        )


def check_quantization(
    spec: str, config: Mapping[str, Any], asked: str, folder: Path | None
) -> None:
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
        kind, double = (
            own.get("bnb_4bit_quant_type", "fp4"),
            own.get("bnb_4bit_use_double_quant", False),
        )
        return f"bitsandbytes in {kind}" if kind != "nf4" else "nf4" if double else "nf4-single"
    return str(own.get("quant_method", "a method that its config.json does not name"))


def unquantised(spec: str, folder: Path | None) -> str | None:
    """The model that a quantised one was made from: by its own card, else by its name without what says how."""
    card = folder / "README.md" if folder else None
    if (
        card
        and card.is_file()
        and (said := _MADE_FROM.search(card.read_text(encoding="utf-8", errors="replace")))
    ):
        return said[1]
    plain = _SUFFIX.sub("", spec)
    return plain if plain not in (spec, "") and not Path(spec).exists() else None


def check_stored(spec: str, folder: Path, model: nn.Module) -> None:
    """
    Raises:
        ModelError: weights are kept in a dtype that needs scales, and no configuration speaks of that.
    """
    # Masks and places, which some files have too, are none.
    parameters = {name for name, _ in model.named_parameters()}
    for file in weight_files(folder):
        for name, dtype in dtypes(file).items():
            if (
                name in parameters or name.endswith("weight")
            ) and dtype not in _NUMBERS_OF_THEIR_OWN:
                raise ModelError(
                    f"The model '{spec}' keeps {name} in {dtype}, and its config.json has no quantization_config that "
                    "says how to read it; give the model that it was made from."
                )


def check_loaded(spec: str, model: nn.Module, info: Mapping[str, Any]) -> list[str]:
    """Hold a loaded model to its files, by what `from_pretrained` says with `output_loading_info`.

    Returns:
        What somebody who uses this model should be told.

    Raises:
        ModelError: weights are in no file, or have other shapes there.
    """
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
        told.append(
            f"{named(missing)}: not in the file of '{spec}', and taken as the architecture begins with"
        )
    if info["unexpected_keys"]:
        told.append(
            f"{named(info['unexpected_keys'])}: in the file of '{spec}', and no part of the model: left out"
        )
    return told


def check_quantised(spec: str, model: nn.Module, asked: str) -> None:
    """Hold the layers of a checkpoint that is quantised already to what its configuration says, which was `asked` for.

    Raises:
        ModelError: their weights are plain numbers, or of another kind of 4 bits, or in other blocks.
    """
    wanted = f"nf4, blocks of 64{', double' if asked == 'nf4' else ''}"
    for name, module in model.named_modules():
        if not isinstance(module, Linear4bit | Linear8bitLt):
            continue
        state: Any = getattr(module.weight, "quant_state", None)
        if module.weight.is_floating_point():
            found = f"plain {str(module.weight.dtype).removeprefix('torch.')}"
        elif isinstance(module, Linear8bitLt) and getattr(module.weight, "SCB", None) is None:
            found = "int8 without its scales"
        elif state is None:
            continue
        else:
            found = f"{state.quant_type}, blocks of {state.blocksize}{', double' if state.nested else ''}"
        if found != wanted:
            raise ModelError(
                f"The weight {name}.weight of '{spec}' is {found} in its file, and {asked} by the quantization_config "
                "of its config.json; put that right, or give the model that it was made from."
            )


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
