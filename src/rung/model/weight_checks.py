"""Whether the loaded weights are what the files and the configuration say, before any training.

transformers draws weights that it does not find at random, ignores those that the model has no
place for, and reads 8-bit numbers without their scales where the configuration does not mention
them. Each of these gives a model that runs and is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rung.errors import ModelError
from rung.model.files import weight_dtypes, weight_files

_LAYER_NUMBER = re.compile(r"\.\d+(?=\.|$)")
_FLOATS = {"F16", "BF16", "F32", "F64", "float16", "bfloat16", "float32", "float64"}
"""Dtypes that need no scales. Others do, and a quantisation's configuration says which."""
_MAX_SHOWN = 3
"""Names that `summarize_names` shows."""


def check_stored_dtypes(model_name: str, folder: Path, model: nn.Module) -> None:
    """Refuse weights in a dtype that needs scales, where no configuration mentions any.

    Raises:
        ModelError: There are such weights.
    """
    # Some files also hold masks and positions, which are not weights.
    parameters = {name for name, _ in model.named_parameters()}
    for file in weight_files(folder):
        for name, dtype in weight_dtypes(file).items():
            is_weight = name in parameters or name.endswith("weight")
            if is_weight and dtype not in _FLOATS:
                raise ModelError(
                    f"The model '{model_name}' stores {name} in {dtype}, and its config.json has "
                    "no quantization_config that says how to read it; give the model that it was "
                    "made from."
                )


def check_loaded_weights(
    model_name: str, model: nn.Module, loading_info: Mapping[str, Any]
) -> list[str]:
    """Check that every weight of a loaded model came from its files.

    Args:
        model_name: how the user names the model.
        model: the loaded model.
        loading_info: what `from_pretrained` returns with `output_loading_info=True`.

    Returns:
        Notes for the user of this model.

    Raises:
        ModelError: Weights are in no file, or have other shapes there.
    """
    mismatched = [*loading_info["mismatched_keys"], *_mismatched_quantized_weights(model)]
    for name, stored, expected in sorted(mismatched):
        raise ModelError(
            f"The weight {name} of '{model_name}' is {tuple(stored)} in its file and "
            f"{tuple(expected)} by its config.json; correct the config.json, or restore the one "
            "that belongs to these weights."
        )
    buffers = {name for name, _ in model.named_buffers()}
    missing, unexpected = set(loading_info["missing_keys"]), loading_info["unexpected_keys"]
    if missing - buffers:
        instead = f", while the file has {summarize_names(unexpected)}" if unexpected else ""
        raise ModelError(
            f"Weights of '{model_name}' are not in the file and would be drawn at random: "
            f"{summarize_names(missing - buffers)}{instead}; save the whole model with "
            "save_pretrained, or give another."
        )
    notes = []
    if missing:
        notes.append(
            f"{summarize_names(missing)}: not in the file of '{model_name}', so they have the "
            "architecture's initial values"
        )
    if unexpected:
        notes.append(
            f"{summarize_names(unexpected)}: in the file of '{model_name}', but not part of the "
            "model: ignored"
        )
    return notes


def _mismatched_quantized_weights(
    model: nn.Module,
) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Quantised weights of another shape than their layer's, which transformers accepts.

    Yields the name of the weight, its shape, and the layer's.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not module.weight.is_floating_point():
            state: Any = getattr(module.weight, "quant_state", None)
            stored = tuple(module.weight.shape if state is None else state.shape)
            if stored != (module.out_features, module.in_features):
                yield f"{name}.weight", stored, (module.out_features, module.in_features)


def check_finite(model_name: str, model: nn.Module) -> None:
    """Refuse weights, and scales of quantised weights, that are not finite.

    Raises:
        ModelError: One of them is NaN or infinite.
    """
    for name, tensor in _weights_and_scales(model):
        # A sum is NaN or infinite where one of its terms is, and needs no memory.
        if tensor.is_floating_point() and not torch.isfinite(tensor.sum(dtype=torch.float32)):
            kind = "NaN" if torch.isnan(tensor).any() else "infinite numbers"
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise ModelError(
                f"The weight {name} of '{model_name}' has {kind} in it, as {dtype}; give a model "
                "that is intact, or another --precision if this one is too narrow for the model."
            )


def _weights_and_scales(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
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


def summarize_names(names: Iterable[str]) -> str:
    """The first few names, with stars for layer numbers, and how many there are in all."""
    names = list(names)
    patterns = sorted({_LAYER_NUMBER.sub(".*", name) for name in names})
    hidden = len(patterns) - _MAX_SHOWN
    more = f" and {hidden} more names" if hidden > 0 else ""
    return f"{', '.join(patterns[:_MAX_SHOWN])}{more} ({len(names)} weights)"
