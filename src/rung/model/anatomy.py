"""What a model is made of, and what each lever costs in it: from its configuration alone, without weights.

The model is built on torch's meta device, where a tensor has a shape and a dtype and no memory. Its modules are those
of the real one, so target modules are resolved, and bytes counted, by what training itself goes by.
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
from rung.model.silence import quiet
from rung.model.sound import check_writes
from rung.model.source import read_config
from rung.model.targets import (
    HEAD,
    closed_layers,
    head_name,
    is_routed,
    is_stacked,
    kind_of,
    last_name,
    linear_layers,
    peft_names,
    resolve,
)
from rung.types import TARGET_GROUPS, Candidate

BLOCK, DOUBLE_BLOCK = 64, 256
"""NF4 keeps a scale for 64 weights; double quantisation keeps those in 8 bits, with a scale for 256 (2305.14314)."""

_NUMBER = re.compile(r"\.\d+(?=\.|$)")


@dataclass(frozen=True, slots=True)
class Part:
    """Weights that the model has `count` times alike, under one name with stars for the numbers.

    `kind` is attention, mlp, experts, router, head, embedding, norm or other; a matrix maps `inputs` to `outputs`, and
    anything else has none. `parameters` are those of one.
    """

    name: str
    kind: str
    inputs: int | None
    outputs: int | None
    count: int
    parameters: int


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of the whole model by how its linear layers are kept: `printed` by `get_memory_footprint()`, which counts
    no scales, and what is really `held` with them.
    """

    printed: dict[str, int]
    held: dict[str, int]


@dataclass(frozen=True, slots=True)
class Share:
    """What an adapter has on the `count` modules of one name: rank · in + out · rank on each."""

    module: str
    kind: str
    inputs: int
    outputs: int
    count: int
    parameters: int


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter that nobody has trained: its modules, and what they add up to."""

    candidate: Candidate
    target_modules: tuple[str, ...]
    shares: tuple[Share, ...]

    @property
    def parameters(self) -> int:
        return sum(share.parameters for share in self.shares)

    def arithmetic(self, share: Share) -> str:
        """`32 × (4096·32 + 32·1024)`."""
        rank = self.candidate.rank
        return f"{share.count} × ({share.inputs}·{rank} + {rank}·{share.outputs})"


class Anatomy:
    """A model without its weights.

    Args:
        config: what its `config.json` says.
        name: what the user calls it, for messages.

    Raises:
        ModelError: it is no causal language model that the installed transformers knows.
    """

    def __init__(self, config: dict[str, Any], name: str) -> None:
        self.name = name
        self.model = _on_meta(config, name)
        self.config: Any = self.model.config.get_text_config()
        self.architecture = type(self.model).__name__
        self.model_type = str(self.model.config.model_type)
        self.quantized_by = (config.get("quantization_config") or {}).get("quant_method")
        self._layers = linear_layers(self.model)
        self.closed = closed_layers(self.model, self._layers)
        self.head = head_name(self.model)
        self.parts = list(self._parts())

    @property
    def parameters(self) -> int:
        """A tied head counts once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def tied(self) -> bool:
        """Whether the output head is the embedding."""
        head, embedding = self.model.get_output_embeddings(), self.model.get_input_embeddings()
        return head is not None and head.weight is embedding.weight

    def footprint(self) -> Footprint:
        """By `float32`, `bfloat16`, `int8`, `nf4` and `nf4_single`. What is not quantised is kept in bfloat16, and
        which layers are is transformers' own choice: not the head, nor experts that are stacked parameters.
        """
        buffers = sum(buffer.numel() * buffer.element_size() for buffer in self.model.buffers())
        # A buffer in bfloat16 follows the model's dtype.
        wider = sum(
            2 * buffer.numel() for buffer in self.model.buffers() if buffer.dtype == torch.bfloat16
        )
        numbers = self.parameters
        quantized = self._quantized()
        rest = 2 * (numbers - sum(weight.numel() for weight in quantized)) + buffers
        four = rest + sum(-(-weight.numel() // 2) for weight in quantized)
        eight = rest + sum(weight.numel() for weight in quantized)
        blocks = [-(-weight.numel() // BLOCK) for weight in quantized]
        # Each layer has the 16 values that its numbers stand for; with double quantisation 256 for its scales, and
        # their mean.
        single = sum(4 * count + 4 * 16 for count in blocks)
        double = sum(count + 4 * -(-count // DOUBLE_BLOCK) + 4 * (16 + 256 + 1) for count in blocks)
        printed = {
            "float32": 4 * numbers + buffers + wider,
            "bfloat16": 2 * numbers + buffers,
            "int8": eight,
            "nf4": four,
            "nf4_single": four,
        }
        scales = {"int8": 4 * sum(map(_rows, quantized)), "nf4": double, "nf4_single": single}
        return Footprint(
            printed, {kind: size + scales.get(kind, 0) for kind, size in printed.items()}
        )

    @property
    def packed_parameters(self) -> int:
        """What a count of the loaded model says in NF4, where two weights lie in a byte."""
        return self.parameters - sum(weight.numel() // 2 for weight in self._quantized())

    def _quantized(self) -> list[torch.Tensor]:
        """The weights that bitsandbytes takes."""
        left_out = get_keys_to_not_convert(self.model)
        return [
            module.weight
            for name, module in self.model.named_modules()
            if (type(module) is nn.Linear or isinstance(module, Conv1D))
            and should_convert_module(name, left_out)
        ]

    def groups(self) -> dict[str, tuple[str, ...]]:
        """What each word for target modules means here, by PEFT's names; a word that means nothing is left out."""
        found = {}
        for word in (*TARGET_GROUPS, HEAD):
            try:
                found[word] = tuple(self._names(self._chosen(word)))
            except TargetError:
                continue
        return found

    def adapter(self, candidate: Candidate) -> Adapter:
        """What the candidate's adapter would be.

        Raises:
            TargetError: see `rung.model.targets.resolve`.
        """
        chosen = self._chosen(candidate.targets)
        alike = Counter(
            (last_name(name), self._kind(name), *_shape(self._layers[name])) for name in chosen
        )
        shares = tuple(
            Share(name, kind, inputs, outputs, count, count * candidate.rank * (inputs + outputs))
            for (name, kind, inputs, outputs), count in alike.items()
        )
        return Adapter(candidate, tuple(self._names(chosen)), shares)

    def products(self, targets: str) -> int:
        """The numbers of the frozen weights under those target modules: multiply-adds for each token."""
        return sum(i * o for i, o in (_shape(self._layers[n]) for n in self._chosen(targets)))

    def _chosen(self, targets: str) -> list[str]:
        return resolve(self._layers, targets, self.head, self.closed)

    def _names(self, chosen: list[str]) -> list[str]:
        return peft_names((name for name, _ in self.model.named_modules()), chosen)

    def _parts(self) -> Iterator[Part]:
        """In the model's order; a tied head stands there with no parameters of its own."""
        alike: Counter[tuple[str, str, int | None, int | None, int]] = Counter()
        counted: set[int] = set()
        for name, module in self.model.named_modules():
            own = dict(module.named_parameters(recurse=False))
            sizes = {key: p.numel() if id(p) not in counted else 0 for key, p in own.items()}
            counted |= {id(p) for p in own.values()}
            folded, whole = _NUMBER.sub(".*", name), sum(sizes.values())
            if isinstance(module, nn.Linear | Conv1D):
                alike[(folded, self._kind(name), *_shape(module), whole)] += 1
            elif isinstance(module, nn.Embedding):
                alike[folded, "embedding", module.num_embeddings, module.embedding_dim, whole] += 1
            elif is_stacked(module):
                for key, p in own.items():
                    shape = (p.shape[2], p.shape[1]) if p.dim() == 3 else (None, None)
                    alike[(f"{folded}.{key}", "experts", *shape, sizes[key])] += 1
            elif own:
                flat = all(p.dim() < 2 for p in own.values())
                kind = (
                    "norm"
                    if flat
                    else "router"
                    if last_name(name) in ("gate", "router")
                    else "other"
                )
                alike[folded, kind, None, None, whole] += 1
        for (name, kind, inputs, outputs, numbers), count in alike.items():
            yield Part(name, kind, inputs, outputs, count, numbers)

    def _kind(self, name: str) -> str:
        if name == self.head:
            return "head"
        return kind_of(name) if name in self._layers else "experts" if is_routed(name) else "other"


def anatomy(spec: str) -> Anatomy:
    """Read a model's configuration and build it on the meta device.

    Raises:
        ModelError: see `read_config` and `Anatomy`.
    """
    return Anatomy(read_config(spec), spec)


def _on_meta(raw: dict[str, Any], name: str) -> Any:
    kind, classes = raw["model_type"], raw.get("architectures") or []
    if kind not in CONFIG_MAPPING:
        code = (
            "needs code of its own, which Rung never runs"
            if "auto_map" in raw
            else "is of an unknown architecture"
        )
        raise ModelError(
            f"The model '{name}' {code} (model_type '{kind}'); give one that the installed transformers knows."
        )
    check_writes(name, raw)
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        what = classes[0] if classes else f"model_type '{kind}'"
        raise ModelError(
            f"The model '{name}' is no causal language model ({what}); give one that writes text."
        )
    # A checkpoint that is quantised already has the same architecture.
    plain = {
        key: value
        for key, value in raw.items()
        if key not in ("quantization_config", "dtype", "torch_dtype")
    }
    try:
        with quiet(), torch.device("meta"):
            config = CONFIG_MAPPING[kind].from_dict(plain)
            return AutoModelForCausalLM.from_config(
                config, dtype=torch.bfloat16, trust_remote_code=False
            )
    except Exception as error:  # a configuration with wrong values breaks the library in any way
        why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ModelError(
            f"The configuration of '{name}' makes no model ({why}); check its values."
        ) from error


def _shape(layer: Any) -> tuple[int, int]:
    """In and out; `Conv1D` keeps its weight the other way round."""
    if isinstance(layer, Conv1D):
        return int(layer.weight.shape[0]), int(layer.weight.shape[1])
    return int(layer.in_features), int(layer.out_features)


def _rows(weight: torch.Tensor) -> int:
    return int(weight.shape[0])
