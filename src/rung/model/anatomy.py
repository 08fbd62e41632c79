"""What a model consists of and what each lever costs in it, from its configuration alone.

The model is built on torch's meta device, where a tensor has a shape and a dtype and no memory. So
no weights are downloaded, and the modules are still those of the real model: target modules are
resolved, and bytes counted, as in training.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert
from transformers.quantizers.quantizers_utils import should_convert_module

from rung.errors import ModelError, TargetError
from rung.model.architecture import check_generates_text
from rung.model.silence import silence_libraries
from rung.model.source import read_config
from rung.model.targets import (
    HEAD,
    head_name,
    is_routed,
    is_stacked,
    last_name,
    layer_kind,
    linear_layers,
    peft_target_modules,
    resolve_targets,
    unsupported_layers,
)
from rung.types import TARGET_GROUPS, Setting

NF4_BLOCK, NF4_SCALE_BLOCK = 64, 256
"""NF4 has a scale for 64 weights. Double quantisation keeps the scales in 8 bits, with a scale of
their own for 256 (Dettmers et al., 2305.14314)."""

_LAYER_NUMBER = re.compile(r"\.\d+(?=\.|$)")


@dataclass(frozen=True, slots=True)
class ModuleInfo:
    """Modules of one name, kind and shape, which the model has `count` times.

    Attributes:
        name: the full name, with stars for the numbers of the layers.
        kind: attention, mlp, experts, router, head, embedding, norm or other.
        inputs, outputs: what a matrix maps from and to; None for anything else.
        count: how many such modules there are.
        parameters: the numbers in one of them; 0 where they were counted before, as in a tied head.
    """

    name: str
    kind: str
    inputs: int | None
    outputs: int | None
    count: int
    parameters: int


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of the whole model, by how its linear layers are kept.

    Attributes:
        reported: what `get_memory_footprint()` returns, which leaves out the quantisation scales.
        with_scales: what the model takes in memory.
    """

    reported: dict[str, int]
    with_scales: dict[str, int]


@dataclass(frozen=True, slots=True)
class AdapterModule:
    """The adapters on the `count` modules of one name: rank · in + out · rank numbers on each.

    `parameters` are those of all of them together.
    """

    module: str
    kind: str
    inputs: int
    outputs: int
    count: int
    parameters: int


@dataclass(frozen=True, slots=True)
class Adapter:
    """The adapter of a setting, before any training: its modules and their sizes.

    `target_modules` are PEFT's names for the modules.
    """

    setting: Setting
    target_modules: tuple[str, ...]
    modules: tuple[AdapterModule, ...]

    @property
    def parameters(self) -> int:
        return sum(module.parameters for module in self.modules)

    def arithmetic(self, module: AdapterModule) -> str:
        """How its parameters are counted: `32 × (4096·32 + 32·1024)`."""
        rank = self.setting.rank
        return f"{module.count} × ({module.inputs}·{rank} + {rank}·{module.outputs})"


class Anatomy:
    """A model without its weights.

    Args:
        config: the content of its `config.json`.
        name: how the user names it, for messages.

    Raises:
        ModelError: It is not a causal language model that the installed transformers knows.
    """

    def __init__(self, config: dict[str, Any], name: str) -> None:
        self.name = name
        self.model = _build_on_meta_device(config, name)
        self.config: Any = self.model.config.get_text_config()
        self.architecture = type(self.model).__name__
        self.model_type = str(self.model.config.model_type)
        self.quantized_by = (config.get("quantization_config") or {}).get("quant_method")
        self._layers = linear_layers(self.model)
        self.unsupported_layers = unsupported_layers(self.model, self._layers)
        self.head = head_name(self.model)
        self.modules = list(self._modules())

    @property
    def parameters(self) -> int:
        """How many there are; a tied head counts once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def tied(self) -> bool:
        """Whether the output head is the embedding."""
        head, embedding = self.model.get_output_embeddings(), self.model.get_input_embeddings()
        return head is not None and head.weight is embedding.weight

    def footprint(self) -> Footprint:
        """The sizes by `float32`, `bfloat16`, `int8`, `nf4` and `nf4_single`.

        Weights that are not quantised are kept in bfloat16. transformers chooses which those are:
        the head, and experts that are stacked parameters.
        """
        buffers = sum(buffer.numel() * buffer.element_size() for buffer in self.model.buffers())
        # A buffer in bfloat16 follows the model's dtype.
        wider_buffers = sum(
            2 * buffer.numel() for buffer in self.model.buffers() if buffer.dtype == torch.bfloat16
        )
        parameters = self.parameters
        quantized = self._quantized_weights()
        unquantized = 2 * (parameters - sum(weight.numel() for weight in quantized)) + buffers
        four_bit = unquantized + sum(-(-weight.numel() // 2) for weight in quantized)
        eight_bit = unquantized + sum(weight.numel() for weight in quantized)
        block_counts = [-(-weight.numel() // NF4_BLOCK) for weight in quantized]
        # Each layer has the 16 values that its 4-bit numbers stand for. With double quantisation
        # it also has 256 values for its scales, and their mean.
        single = sum(4 * blocks + 4 * 16 for blocks in block_counts)
        double = sum(
            blocks + 4 * -(-blocks // NF4_SCALE_BLOCK) + 4 * (16 + 256 + 1)
            for blocks in block_counts
        )
        reported = {
            "float32": 4 * parameters + buffers + wider_buffers,
            "bfloat16": 2 * parameters + buffers,
            "int8": eight_bit,
            "nf4": four_bit,
            "nf4_single": four_bit,
        }
        rows = sum(int(weight.shape[0]) for weight in quantized)
        scales = {"int8": 4 * rows, "nf4": double, "nf4_single": single}
        return Footprint(
            reported, {kind: size + scales.get(kind, 0) for kind, size in reported.items()}
        )

    @property
    def packed_parameters(self) -> int:
        """What counting the parameters of the loaded NF4 model gives: a byte holds two weights."""
        return self.parameters - sum(weight.numel() // 2 for weight in self._quantized_weights())

    def _quantized_weights(self) -> list[torch.Tensor]:
        """The weights that bitsandbytes quantises."""
        skipped = get_keys_to_not_convert(self.model)
        return [
            module.weight
            for name, module in self.model.named_modules()
            if (type(module) is nn.Linear or isinstance(module, Conv1D))
            and should_convert_module(name, skipped)
        ]

    def groups(self) -> dict[str, tuple[str, ...]]:
        """The PEFT names of each group of target modules; groups that are absent are left out."""
        groups = {}
        for group in (*TARGET_GROUPS, HEAD):
            try:
                groups[group] = tuple(self._peft_names(self._resolve(group)))
            except TargetError:
                continue
        return groups

    def adapter(self, setting: Setting) -> Adapter:
        """The adapter that the setting would train.

        Raises:
            TargetError: See `rung.model.targets.resolve_targets`.
        """
        layers = self._resolve(setting.targets)
        counts = Counter(
            (last_name(name), self._kind(name), *_in_and_out(self._layers[name])) for name in layers
        )
        modules = tuple(
            AdapterModule(
                name, kind, inputs, outputs, count, count * setting.rank * (inputs + outputs)
            )
            for (name, kind, inputs, outputs), count in counts.items()
        )
        return Adapter(setting, tuple(self._peft_names(layers)), modules)

    def multiply_adds(self, targets: str) -> int:
        """Multiply-adds per token in the frozen layers that `targets` selects.

        They are as many as the layers have weights.

        Raises:
            TargetError: See `rung.model.targets.resolve_targets`.
        """
        shapes = (_in_and_out(self._layers[name]) for name in self._resolve(targets))
        return sum(inputs * outputs for inputs, outputs in shapes)

    def _resolve(self, targets: str) -> list[str]:
        return resolve_targets(self._layers, targets, self.head, self.unsupported_layers)

    def _peft_names(self, layers: list[str]) -> list[str]:
        return peft_target_modules((name for name, _ in self.model.named_modules()), layers)

    def _modules(self) -> Iterator[ModuleInfo]:
        """In the model's order; a tied head is listed with no parameters of its own."""
        counts: Counter[tuple[str, str, int | None, int | None, int]] = Counter()
        counted: set[int] = set()
        for name, module in self.model.named_modules():
            own = dict(module.named_parameters(recurse=False))
            sizes = {key: p.numel() if id(p) not in counted else 0 for key, p in own.items()}
            counted |= {id(p) for p in own.values()}
            pattern, total = _LAYER_NUMBER.sub(".*", name), sum(sizes.values())
            if isinstance(module, nn.Linear | Conv1D):
                counts[(pattern, self._kind(name), *_in_and_out(module), total)] += 1
            elif isinstance(module, nn.Embedding):
                counts[
                    pattern, "embedding", module.num_embeddings, module.embedding_dim, total
                ] += 1
            elif is_stacked(module):
                for key, p in own.items():
                    shape = (p.shape[2], p.shape[1]) if p.dim() == 3 else (None, None)
                    counts[(f"{pattern}.{key}", "experts", *shape, sizes[key])] += 1
            elif own:
                counts[pattern, _kind_without_matrix(name, own), None, None, total] += 1
        for (name, kind, inputs, outputs, parameters), count in counts.items():
            yield ModuleInfo(name, kind, inputs, outputs, count, parameters)

    def _kind(self, name: str) -> str:
        if name == self.head:
            return "head"
        if name in self._layers:
            return layer_kind(name)
        return "experts" if is_routed(name) else "other"


def anatomy(model_name: str) -> Anatomy:
    """Read a model's configuration and build it on the meta device.

    Raises:
        ModelError: See `read_config` and `Anatomy`.
    """
    return Anatomy(read_config(model_name), model_name)


def _build_on_meta_device(config: dict[str, Any], name: str) -> Any:
    model_type, classes = config["model_type"], config.get("architectures") or []
    if model_type not in CONFIG_MAPPING:
        problem = (
            "needs code of its own, which Rung never runs"
            if "auto_map" in config
            else "has an unknown architecture"
        )
        raise ModelError(
            f"The model '{name}' {problem} (model_type '{model_type}'); give a model that the "
            "installed transformers knows."
        )
    check_generates_text(name, config)
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        what = classes[0] if classes else f"model_type '{model_type}'"
        raise ModelError(
            f"The model '{name}' is not a causal language model ({what}); give a model that "
            "generates text."
        )
    # A checkpoint that is quantised already has the same architecture.
    plain = {
        key: value
        for key, value in config.items()
        if key not in ("quantization_config", "dtype", "torch_dtype")
    }
    try:
        with silence_libraries(), torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                CONFIG_MAPPING[model_type].from_dict(plain),
                dtype=torch.bfloat16,
                trust_remote_code=False,
            )
    except Exception as error:  # wrong values in a configuration raise any kind of exception
        why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ModelError(
            f"transformers builds no model from the configuration of '{name}' ({why}); check its "
            "values."
        ) from error


def _in_and_out(layer: Any) -> tuple[int, int]:
    """The sizes of a layer's input and output; `Conv1D` stores its weight transposed."""
    if isinstance(layer, Conv1D):
        return int(layer.weight.shape[0]), int(layer.weight.shape[1])
    return int(layer.in_features), int(layer.out_features)


def _kind_without_matrix(name: str, parameters: dict[str, nn.Parameter]) -> str:
    """The kind of a module that is neither a linear layer, an embedding nor stacked experts."""
    if all(p.dim() < 2 for p in parameters.values()):
        return "norm"
    return "router" if last_name(name) in ("gate", "router") else "other"
