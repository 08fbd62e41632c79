"""Checkpoints that are quantised already: how they are stored, and whether that can be used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitsandbytes.nn import Linear4bit, Linear8bitLt
from torch import nn

from rung.errors import ModelError

_BASE_MODEL = re.compile(r"^base_model:\s*(?:-\s*)?[\"']?([^\s\"'\[\]]+)", re.MULTILINE)
_QUANTIZED_SUFFIX = re.compile(
    r"[-_](?:gptq|awq|hqq|exl2|fp8|nvfp4|mxfp4|bnb|int[48]|w[48]a\d+|[48]bit|quantized)\b.*$",
    re.IGNORECASE,
)


def stored_quantization(config: Mapping[str, Any]) -> str | None:
    """How the checkpoint with this `config.json` is stored; None where it is not quantised.

    One of `rung.model.load.QUANTIZATIONS` where Rung has a word for it, else the method's own name.
    """
    text_config = config.get("text_config")
    stored = config.get("quantization_config") or (text_config or {}).get("quantization_config")
    stored = stored or config.get("compression_config")
    if not stored:
        return None
    if stored.get("load_in_8bit"):
        return "int8"
    if stored.get("load_in_4bit"):
        kind = stored.get("bnb_4bit_quant_type", "fp4")
        if kind != "nf4":
            return f"bitsandbytes in {kind}"
        return "nf4" if stored.get("bnb_4bit_use_double_quant", False) else "nf4-single"
    return str(stored.get("quant_method", "a method that its config.json does not name"))


def check_quantization(
    model_name: str, config: Mapping[str, Any], quantization: str, folder: Path | None
) -> None:
    """Check that a quantised checkpoint is stored in the quantization that the user asks for.

    Args:
        model_name: how the user names the model.
        config: its `config.json`.
        quantization: one of `rung.model.load.QUANTIZATIONS`.
        folder: where its files are, if they are on this machine.

    Raises:
        ModelError: It is stored in another way, or in one that Rung cannot train over.
    """
    stored = stored_quantization(config)
    if stored is None or stored == quantization:
        return
    original = unquantized_model(model_name, folder)
    remedy = f"give the model that it was made from{f', {original}' if original else ''}"
    if stored in ("nf4", "nf4-single", "int8"):
        raise ModelError(
            f"The model '{model_name}' is stored in bitsandbytes' {stored} and cannot be loaded in "
            f"{quantization}; give --quantization {stored}, or {remedy}."
        )
    raise ModelError(
        f"The model '{model_name}' was quantised by {stored}, which Rung cannot train over; "
        f"{remedy}, which Rung quantises itself ({quantization})."
    )


def unquantized_model(model_name: str, folder: Path | None) -> str | None:
    """The model that a quantised one was made from, if its model card or its name tells.

    The name tells where it ends in the method, such as `-AWQ` or `-bnb-4bit`.
    """
    card = folder / "README.md" if folder else None
    if card and card.is_file():
        base = _BASE_MODEL.search(card.read_text(encoding="utf-8", errors="replace"))
        if base:
            return base[1]
    plain = _QUANTIZED_SUFFIX.sub("", model_name)
    return plain if plain not in (model_name, "") and not Path(model_name).exists() else None


def check_quantized_weights(model_name: str, model: nn.Module, quantization: str) -> None:
    """Check that the weights of a quantised checkpoint are stored as its configuration says.

    Args:
        model_name: how the user names the model.
        model: the loaded model.
        quantization: what the configuration says and the user asked for.

    Raises:
        ModelError: Weights are plain numbers, have another kind of 4 bits, or other blocks.
    """
    expected = f"nf4, blocks of 64{', double' if quantization == 'nf4' else ''}"
    for name, module in model.named_modules():
        if not isinstance(module, Linear4bit | Linear8bitLt):
            continue
        state: Any = getattr(module.weight, "quant_state", None)
        if module.weight.is_floating_point():
            stored = f"plain {str(module.weight.dtype).removeprefix('torch.')}"
        elif isinstance(module, Linear8bitLt) and getattr(module.weight, "SCB", None) is None:
            stored = "int8 without its scales"
        elif state is None:
            continue
        else:
            double = ", double" if state.nested else ""
            stored = f"{state.quant_type}, blocks of {state.blocksize}{double}"
        if stored != expected:
            raise ModelError(
                f"The weight {name}.weight of '{model_name}' is {stored} in its file, but "
                f"{quantization} by the quantization_config of its config.json; correct the "
                "config.json, or give the model that it was made from."
            )
