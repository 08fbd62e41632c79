"""A training step that nobody runs: what it would hold and what it would do, from shapes alone.

The real engine takes its real step on torch's fake tensors, which have shapes and dtypes and no memory. `Watch` sees
every operation: how much of what it made is still held, its floating point operations, and the bytes that it reads and
writes. The weights are nowhere, so a model of any size is looked at in seconds on any machine.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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
from rung.model.silence import quiet
from rung.types import Candidate


@dataclass(frozen=True, slots=True)
class Work:
    """What was seen of some operations: the most bytes held at a time beyond what was held before, and for each
    operation its floating point operations and the bytes that it reads and writes.
    """

    peak: int
    operations: tuple[tuple[int, int], ...]

    def seconds(self, flops: float, bandwidth: float, launch: float) -> float:
        """By a roofline for each operation (Williams et al., 2009): it is bound by arithmetic or by memory. `flops` and
        `bandwidth` are a second's, and `launch` is what starting an operation takes.
        """
        return sum(max(f / flops, b / bandwidth) + launch for f, b in self.operations)


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees all operations while it is entered; `held` is what of their results is there."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held = 0
        self._sizes: dict[int, int] = {}
        self._peak = 0
        self._operations: list[tuple[int, int]] = []

    def see(self, work: Callable[[], object]) -> Work:
        """Do it, and say what it took."""
        before, self._peak, self._operations = self.held, self.held, []
        work()
        return Work(self._peak - before, tuple(self._operations))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        for tensor in made:
            self._keep(tensor)
        if made and not func.is_view and not func.name().startswith(_NOTHING_DONE):
            given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            moved = sum(tensor.numel() * tensor.element_size() for tensor in (*given, *made))
            self._operations.append((_flops(func, args, kwargs, out), moved))
        return out

    def _keep(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.held += storage.nbytes()
            self._peak = max(self._peak, self.held)
            weakref.finalize(storage, self._let_go, key)

    def _let_go(self, key: int) -> None:
        self.held -= self._sizes.pop(key)


_NOTHING_DONE = ("aten::empty", "aten::new_empty", "aten::detach", "aten::_unsafe_view", "prim::")
"""Operations that no kernel runs for."""


def _flops(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    """Of an operation that torch counts, in place or not."""
    packet = func._overloadpacket
    plain = getattr(torch.ops.aten, packet.__name__.removesuffix("_"), packet)
    count = flop_registry.get(packet) or flop_registry.get(plain)
    return int(count(*args, **kwargs, out_val=out)) if count else 0


@contextmanager
def rehearsal(config: Any, quantization: str, precision: str) -> Iterator[tuple[Trainer, Watch]]:
    """A trainer on a model of this configuration that has shapes alone, and what watches it. `Watch.held` is the base.

    Inside, everything that torch makes is fake.

    Args:
        config: transformers' own, of a causal language model.
        quantization, precision: see `rung.model.load.load_base`; `nf4` stands for `nf4-single` too, but for its scales.
    """
    dtype = PRECISIONS[precision]
    with quiet(), FakeTensorMode(allow_non_fake_inputs=True), Watch() as watch:
        model, attention = _made(config, PRECISIONS.get(quantization, dtype))
        left_out = get_keys_to_not_convert(model)
        for name, module in list(model.named_modules()):
            if (
                type(module) is nn.Linear
                and should_convert_module(name, left_out)
                and quantization not in PRECISIONS
            ):
                (_in_int8 if quantization == "int8" else _in_nf4)(module)
        yield (
            Trainer(
                Base(model.eval(), None, "a rehearsal", dtype), attention=(attention, attention)
            ),
            watch,
        )


def _made(config: Any, dtype: torch.dtype) -> tuple[Any, str]:
    """The model, and the attention that it has: torch's own, or else the plain one."""
    make = AutoModelForCausalLM.from_config
    try:
        return make(
            config, dtype=dtype, attn_implementation="sdpa", trust_remote_code=False
        ), "sdpa"
    except ValueError:  # a model that refuses it
        return make(
            config, dtype=dtype, attn_implementation="eager", trust_remote_code=False
        ), "eager"


def blank_state(frozen: FrozenModel, candidate: Candidate) -> AdapterState:
    """An adapter that has its shapes; its numbers are whatever is there."""
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


def _in_nf4(layer: nn.Linear) -> None:
    """Give the layer a weight as bitsandbytes keeps one, doubly quantised; its own parameters cannot be fake."""
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


def _in_int8(layer: nn.Linear) -> None:
    """A weight of bytes stands for bitsandbytes' own, whose module cannot be fake either."""
    layer.weight = _frozen(torch.empty(layer.weight.shape, dtype=torch.int8))


def _frozen(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight, requires_grad=False)
