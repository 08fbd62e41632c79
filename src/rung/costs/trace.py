"""Trace a training step that nobody runs: what it would hold and compute, from shapes alone.

The real engine takes its real step on torch's fake tensors, which have shapes and dtypes and no
memory. An `OperationTracer` sees every operation: how much of what it made is still held, its
floating point operations, and the bytes that it reads and writes. No weights are loaded, so a model
of any size is traced in seconds on any machine.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from bitsandbytes.functional import QuantState
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import AutoModelForCausalLM
from transformers.quantizers.base import get_keys_to_not_convert
from transformers.quantizers.quantizers_utils import should_convert_module

from rung.engine.adapter_state import FACTORS, MOMENTS, AdapterState
from rung.engine.frozen_model import FrozenModel
from rung.engine.trainer import Trainer
from rung.model.load import PRECISIONS, Base
from rung.model.silence import silence_libraries
from rung.types import Candidate

NO_KERNEL = ("aten::empty", "aten::new_empty", "aten::detach", "aten::_unsafe_view", "prim::")
"""How the names of operations begin that start no kernel."""


class Operation(NamedTuple):
    """One operation: its floating point operations, and the bytes that it reads and writes."""

    flops: int
    moved_bytes: int


@dataclass(frozen=True, slots=True)
class Trace:
    """What some work did.

    Attributes:
        peak: the most bytes held at a time, beyond what was held before.
        operations: in their order.
    """

    peak: int
    operations: tuple[Operation, ...]

    def seconds(self, flops: float, bandwidth: float, launch: float) -> float:
        """How long the work takes, by a roofline for each operation (Williams et al., 2009).

        An operation is bound either by arithmetic or by memory.

        Args:
            flops: floating point operations in a second.
            bandwidth: bytes in a second.
            launch: seconds that it takes to start an operation.
        """
        return sum(max(f / flops, b / bandwidth) + launch for f, b in self.operations)


class OperationTracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Traces all operations while it is entered.

    Attributes:
        held: bytes of their results that exist now.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held = 0
        self._sizes: dict[int, int] = {}
        self._peak = 0
        self._operations: list[Operation] = []

    def trace(self, work: Callable[[], object]) -> Trace:
        """Do the work, and say what it did."""
        before, self._peak, self._operations = self.held, self.held, []
        work()
        return Trace(self._peak - before, tuple(self._operations))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        for tensor in made:
            self._count(tensor)
        if made and not func.is_view and not func.name().startswith(NO_KERNEL):
            given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            moved = sum(tensor.numel() * tensor.element_size() for tensor in (*given, *made))
            self._operations.append(Operation(_flops(func, args, kwargs, out), moved))
        return out

    def _count(self, tensor: Tensor) -> None:
        """Count the tensor's storage as held, until it is freed."""
        storage = tensor.untyped_storage()
        key = id(storage)
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.held += storage.nbytes()
            self._peak = max(self._peak, self.held)
            weakref.finalize(storage, self._discount, key)

    def _discount(self, key: int) -> None:
        self.held -= self._sizes.pop(key)


def _flops(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    """The floating point operations that torch counts for an operation, in place or not."""
    packet = func._overloadpacket
    plain = getattr(torch.ops.aten, packet.__name__.removesuffix("_"), packet)
    count = flop_registry.get(packet) or flop_registry.get(plain)
    return int(count(*args, **kwargs, out_val=out)) if count else 0


@contextmanager
def fake_trainer(
    config: Any, quantization: str, precision: str
) -> Iterator[tuple[Trainer, OperationTracer]]:
    """A trainer on a model of this configuration that has shapes alone, and its tracer.

    When it is entered, `OperationTracer.held` is the base. All tensors made inside are fake.

    Args:
        config: of transformers, for a causal language model.
        quantization, precision: see `rung.model.load.load_base`. `nf4` stands for `nf4-single` too;
            only the scales differ.
    """
    dtype = PRECISIONS[precision]
    with (
        silence_libraries(),
        FakeTensorMode(allow_non_fake_inputs=True),
        OperationTracer() as tracer,
    ):
        model, attention = _make_model(config, PRECISIONS.get(quantization, dtype))
        not_quantized = get_keys_to_not_convert(model)
        for name, module in list(model.named_modules()):
            if (
                type(module) is nn.Linear
                and should_convert_module(name, not_quantized)
                and quantization not in PRECISIONS
            ):
                (_to_int8 if quantization == "int8" else _to_nf4)(module)
        base = Base(model.eval(), None, config.model_type, dtype)
        yield Trainer(base, attention=(attention, attention)), tracer


def _make_model(config: Any, dtype: torch.dtype) -> tuple[Any, str]:
    """The model and its kind of attention: torch's own, or the plain one if the model refuses."""
    make = AutoModelForCausalLM.from_config
    try:
        kind = "sdpa"
        return make(config, dtype=dtype, attn_implementation=kind, trust_remote_code=False), kind
    except ValueError:
        kind = "eager"
        return make(config, dtype=dtype, attn_implementation=kind, trust_remote_code=False), kind


def blank_state(frozen: FrozenModel, candidate: Candidate) -> AdapterState:
    """An adapter of the right shapes, with uninitialised numbers."""
    tensors: dict[str, Tensor] = {}
    for name, layer in frozen.targets(candidate.setting).items():
        shapes = (candidate.rank, layer.in_features), (layer.out_features, candidate.rank)
        tensors |= {
            f"{name}.{factor}": torch.empty(shape)
            for factor, shape in zip(FACTORS, shapes, strict=True)
        }
    moments = {
        f"{key}.{moment}": torch.empty_like(t) for key, t in tensors.items() for moment in MOMENTS
    }
    return AdapterState(0, tensors | moments)


def _to_nf4(layer: nn.Linear) -> None:
    """Give the layer a weight as bitsandbytes stores one, with double quantisation.

    Its own parameter class cannot hold fake tensors.
    """
    count, shape, dtype = layer.weight.numel(), layer.weight.shape, layer.weight.dtype
    blocks = -(-count // 64)
    scales = QuantState(torch.empty(-(-blocks // 256)), None, torch.empty(256), 256)
    scales.dtype = torch.float32
    state = QuantState(
        torch.empty(blocks, dtype=torch.uint8),
        shape,
        torch.empty(16),
        64,
        "nf4",
        dtype,
        torch.empty(()),
        scales,
    )
    layer.weight = _frozen(torch.empty(-(-count // 2), 1, dtype=torch.uint8))
    layer.weight.quant_state = state  # type: ignore[attr-defined]


def _to_int8(layer: nn.Linear) -> None:
    """Give the layer a weight of bytes: bitsandbytes' own module cannot hold fake tensors."""
    layer.weight = _frozen(torch.empty(layer.weight.shape, dtype=torch.int8))


def _frozen(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight, requires_grad=False)
