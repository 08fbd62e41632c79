"""A base model whose linear layers are frozen: the layers that adapters can be put on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from rung.engine.lora import FrozenLinear
from rung.model.targets import (
    head_name,
    linear_layers,
    peft_target_modules,
    resolve_targets,
    unsupported_layers,
)
from rung.types import Setting


@dataclass(frozen=True)
class FrozenModel:
    """A model and its frozen linear layers.

    Attributes:
        model: the model; `freeze` has put the layers into it.
        layers: every linear layer, under the name that PEFT knows it by.
        head: the name of the output head, if it is among them.
        unsupported: layers that no adapter can be put on, each with the reason; see
            `rung.model.targets.unsupported_layers`.
    """

    model: Any
    layers: Mapping[str, FrozenLinear]
    head: str | None = None
    unsupported: Mapping[str, str] = field(default_factory=dict)

    def targets(self, setting: Setting) -> dict[str, FrozenLinear]:
        """The layers that the setting adapts.

        Raises:
            TargetError: see `rung.model.targets.resolve_targets`.
        """
        names = resolve_targets(self.layers, setting.targets, self.head, self.unsupported)
        return {name: self.layers[name] for name in names}

    def peft_names(self, setting: Setting) -> list[str]:
        """The layers that the setting adapts, as PEFT's `target_modules`."""
        names = (name for name, _ in self.model.named_modules())
        return peft_target_modules(names, self.targets(setting))

    def parameters(self, setting: Setting) -> int:
        """The number of parameters of the setting's adapter.

        It follows from the shapes: rank · (in + out) of each layer.
        """
        layers = self.targets(setting).values()
        return sum(setting.rank * (layer.in_features + layer.out_features) for layer in layers)

    def dense_bytes(self, dtype: torch.dtype) -> int:
        """The bytes that the dense weights of all layers take in that dtype."""
        numbers = sum(layer.in_features * layer.out_features for layer in self.layers.values())
        return int(numbers * dtype.itemsize)

    @property
    def holds_dense(self) -> bool:
        """Whether every layer holds its dense weight in memory."""
        return all(layer.holds_dense for layer in self.layers.values())

    def hold_dense(self, dtype: torch.dtype | None) -> None:
        """Hold the dense weights in memory from now on; with None, release them.

        The results are the same; only the time and the memory differ.
        """
        if self.holds_dense != (dtype is not None):
            for layer in self.layers.values():
                layer.hold_dense(dtype)

    def release_dense(self) -> bool:
        """Release the dense weights; False where none were held."""
        held = self.holds_dense
        self.hold_dense(None)
        return held

    @contextlib.contextmanager
    def dense_if_it_fits(self, dtype: torch.dtype, free: int) -> Iterator[None]:
        """Hold the dense weights meanwhile, if half of the `free` bytes are enough for them.

        It pays where each weight is used in many small products, as in generation.
        """
        held = self.holds_dense
        if not held and self.dense_bytes(dtype) <= free / 2:
            self.hold_dense(dtype)
        try:
            yield
        finally:
            if not held:
                self.hold_dense(None)


def freeze(model: nn.Module) -> FrozenModel:
    """Replace every linear layer of the model, the output head included, by a `FrozenLinear`."""
    head = head_name(model)
    layers = {name: FrozenLinear(layer) for name, layer in linear_layers(model).items()}
    unsupported = unsupported_layers(model, layers)
    for name, layer in layers.items():
        model.set_submodule(name, layer)
    return FrozenModel(model.requires_grad_(False), layers, head, unsupported)
