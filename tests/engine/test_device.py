"""The CUDA path without a GPU: every tensor of a step is on the right device, in the right dtype.

Under FakeTensorMode torch runs each operation on shapes, dtypes and devices alone, and refuses a
mixture of devices as a real GPU would. It does not see the kernels, their numbers and autograd's
engine: those are for the tests marked `gpu`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from bitsandbytes.functional import QuantState
from tests.architectures import ARCHITECTURES
from tests.candidates import candidate_of
from tests.engine.setups import examples
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM

from rung.data.batches import collate
from rung.engine.adapter_state import fresh_state
from rung.engine.lora import PackedProduct
from rung.engine.loss import CompletionLoss, HeadAdapter
from rung.engine.pack import Pack
from rung.engine.trainer import Trainer
from rung.model.load import Base

CUDA = torch.device("cuda", 0)
CANDIDATES = [
    candidate_of(4, 8, "attention", 1e-3),
    candidate_of(8, 16, "all-linear", 1e-3),
    candidate_of(4, 8, "attention+lm_head", 1e-3),
]

ROWS = examples(97)[:4]


class Devices(TorchDispatchMode):
    """Notes the operations that make tensors outside the GPU, unless they are a few numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.elsewhere: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (
            isinstance(out, torch.Tensor)
            and out.device.type != "cuda"
            and out.numel() > len(CANDIDATES)
        ):
            self.elsewhere.append(str(func))
        return out


def indexed(tensor: torch.Tensor, index: Any) -> torch.Tensor:
    """`tensor[index]` by operations that torch can fake; Python's brackets need a real GPU."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in [part for part in parts if not isinstance(part, torch.Tensor)]:
        at = next(i for i, part in enumerate(parts) if part is Ellipsis)
        named = sum(part is not None for part in parts) - 1
        parts[at : at + 1] = [slice(None)] * (tensor.dim() - named)
    dim, chosen = 0, []
    for part in parts:
        if isinstance(part, int):
            tensor = tensor.select(dim, part)
            continue
        if part is None:
            tensor = tensor.unsqueeze(dim)
        elif isinstance(part, slice):
            tensor = torch.ops.aten.slice.Tensor(tensor, dim, part.start, part.stop, part.step or 1)
        else:
            chosen.append((dim, part))
        dim += 1
    if not chosen:
        return tensor
    by_dim = dict(chosen)
    return torch.ops.aten.index.Tensor(tensor, [by_dim.get(d) for d in range(max(by_dim) + 1)])


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    plain = torch.Tensor.__getitem__
    monkeypatch.setattr(
        torch.Tensor,
        "__getitem__",
        lambda t, i: indexed(t, i) if t.device.type == "cuda" else plain(t, i),
    )

    def copy_(self: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        # The devices may differ, and so may the dtypes.
        torch.broadcast_shapes(self.shape, other.shape)
        return self

    monkeypatch.setattr(torch.Tensor, "copy_", copy_)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def on_cuda(like: torch.Tensor) -> torch.Tensor:
    return torch.empty(like.shape, dtype=like.dtype, device=CUDA)


def in_nf4(layer: nn.Linear) -> None:
    """Give the layer a doubly quantised weight as bitsandbytes stores it.

    The parameters of bitsandbytes cannot be fake.
    """
    count, dtype = layer.weight.numel(), layer.weight.dtype
    blocks = count // 64

    def made(size: int, kind: torch.dtype) -> torch.Tensor:
        return torch.empty(size, dtype=kind, device=CUDA)

    scales = QuantState(made(-(-blocks // 256), torch.float32), None, made(256, torch.float32), 256)
    state = QuantState(
        made(blocks, torch.uint8),
        layer.weight.shape,
        made(16, torch.float32),
        64,
        "nf4",
        dtype,
        torch.empty((), device=CUDA),
        scales,
    )
    scales.dtype = torch.float32
    packed = torch.empty(count // 2, 1, dtype=torch.uint8, device=CUDA)
    layer.weight = nn.Parameter(packed, requires_grad=False)
    layer.weight.quant_state = state  # type: ignore[attr-defined]


def on_gpu(name: str, quantization: str, dtype: torch.dtype) -> Trainer:
    """A trainer over a model on a GPU that does not exist."""
    model = AutoModelForCausalLM.from_config(ARCHITECTURES[name](), dtype=dtype).eval()
    for module in model.modules():
        for key, parameter in module.named_parameters(recurse=False):
            setattr(module, key, nn.Parameter(on_cuda(parameter), requires_grad=False))
        for key, buffer in module.named_buffers(recurse=False):
            setattr(module, key, on_cuda(buffer))
    if quantization == "nf4":
        for layer, module in model.named_modules():
            if isinstance(module, nn.Linear) and layer != "lm_head":
                in_nf4(module)
    # The real attention needs a real GPU; this one returns the queries.
    AttentionInterface.register(
        "given_back", lambda module, query, *_, **__: (query.transpose(1, 2), None)
    )
    AttentionMaskInterface.register("given_back", lambda *_, **__: None)
    return Trainer(Base(model, None, name, dtype), attention=("given_back", "given_back"))


class Context:
    """The context of an autograd function. Autograd needs a real GPU, so the tests call by hand."""

    def __init__(self, needs: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs
        self.saved_tensors: tuple[torch.Tensor | None, ...] = ()

    def save_for_backward(self, *tensors: torch.Tensor | None) -> None:
        self.saved_tensors = tensors

    def mark_non_differentiable(self, *_: torch.Tensor) -> None:
        """Nothing is differentiated here."""


@pytest.fixture
def packed(
    fake: FakeTensorMode, name: str, quantization: str, dtype: torch.dtype
) -> Iterator[tuple[Trainer, Pack]]:
    trainer = on_gpu(name, quantization, dtype)
    states = [fresh_state(trainer.frozen, candidate, 0) for candidate in CANDIDATES]
    with Pack(trainer.frozen, CANDIDATES, states) as pack:
        yield trainer, pack


DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
MODELS = pytest.mark.parametrize(
    ("name", "quantization"), [("llama", "nf4"), ("llama", "dense"), ("gemma2", "dense")]
)


@DTYPES
@MODELS
def test_the_forward_pass_stays_on_the_gpu_and_in_its_dtypes(
    packed: tuple[Trainer, Pack], dtype: torch.dtype
) -> None:
    trainer, pack = packed
    assert trainer.base.device == CUDA
    batch = collate(ROWS, CUDA)
    with Devices() as devices:
        losses = trainer.row_losses(pack, batch)
        pack.zero_gradients()
        for group in pack.groups:
            group.update_compute_weights()
    assert devices.elsewhere == []
    assert (losses.shape, losses.device) == ((3, 4), CUDA)
    for group in pack.groups:
        for tensor in (group.weights, group.gradients, group.compute_weights, group.scale):
            assert isinstance(tensor, FakeTensor)
            assert tensor.device == CUDA
        assert group.weights.dtype == group.gradients.dtype == torch.float32
        assert group.compute_weights.dtype == dtype
    for i in range(len(pack)):
        assert all(
            m.device == CUDA and m.dtype == torch.float32
            for m in pack.optimizer.moments(i).values()
        )


@DTYPES
@MODELS
def test_the_backward_pass_stays_on_the_gpu_and_in_its_dtypes(
    packed: tuple[Trainer, Pack], dtype: torch.dtype
) -> None:
    """Of a layer and of the loss, which are written by hand. The rest is torch's own."""
    trainer, pack = packed
    with torch.no_grad(), Devices() as devices:
        layer = pack.layers["model.layers.1.self_attn.q_proj"]
        pack.context.training = True
        x = torch.empty(12, 5, 64, dtype=dtype, device=CUDA)
        context: Any = Context((True, True))
        y = PackedProduct.forward(
            context,
            x,
            pack.context.anchor,
            layer.frozen,
            layer.active_groups(),
            pack.context,
            False,
        )
        to_x, *_ = PackedProduct.backward(context, y)
        group = pack.layers["lm_head"].active_groups()[0]
        adapters = [None, None, HeadAdapter(group)]
        hidden = torch.empty(3 * 7, 64, dtype=dtype, device=CUDA)
        labels = torch.zeros(3, 7, dtype=torch.int64, device=CUDA)
        weights = torch.ones(3, 7, device=CUDA)
        context = Context((True, True))
        losses, total = CompletionLoss.forward(
            context, hidden, None, labels, weights, trainer.head, adapters
        )
        to_hidden, *_ = CompletionLoss.backward(context, None, total)
    assert devices.elsewhere == []
    assert to_x is not None
    assert to_hidden is not None
    for result, like in ((y, x.new_empty(12, 5, 64)), (to_x, x), (to_hidden, hidden)):
        assert (result.shape, result.dtype, result.device) == (like.shape, dtype, CUDA)
    assert (losses.dtype, losses.device) == (torch.float32, CUDA)


def test_these_tests_would_find_a_tensor_on_the_wrong_device(fake: FakeTensorMode) -> None:
    with pytest.raises(RuntimeError, match="device"):
        torch.ones(3, 3, device=CUDA) @ torch.ones(3, 3)
