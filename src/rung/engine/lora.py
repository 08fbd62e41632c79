"""The linear layers of the packed engine, and the plain twin that the tests hold them to.

A pack's rows come grouped by candidate. `PackedLoraLinear` multiplies all of them by the frozen weight at once, which
is dequantised once for the whole pack, and then each candidate's rows by its own A and B:

    y_k = x_k Wᵀ + scale_k · (drop_k(x_k) A_kᵀ) B_kᵀ            (Hu et al., 2106.09685)

Candidates of one rank and one set of targets stand next to each other and make one `Part`, whose products are batched;
nothing is padded to another's rank, and a candidate that does not target a layer costs nothing there.

Both passes are written out as autograd functions, for four reasons. The weight is dequantised again in the backward
pass rather than kept for it; where there is memory in plenty, `FrozenLinear.keep` holds it, which saves a tenth of a
step on two cores. The layouts are contiguous, where autograd's own `bmm` copies strided tensors. The gradients of A and
B go straight into the candidates' rows of one matrix, which is what the optimizer reads. And the frozen product must
never run through bitsandbytes' own forward: version 0.50.2 on a CPU with AVX512-BF16 repacks the weight at the first
evaluation under `no_grad`, and from then on drops the gradient to the layer's input, in training too.

Below the first adapted layer all candidates' rows are the same, where they train on one batch. There the input needs
no gradient, and the frozen product is done for one candidate and copied for the others.

Shapes: K candidates, N rows of each (batch · tokens), I in, O out, R the part's rank, k its candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rung.errors import ModelError
from rung.model.load import dense_weight


class FrozenLinear(nn.Module):
    """A linear layer that is never trained: 4-bit, 8-bit or plain. (…, I) ─▶ (…, O), in the dtype of its input."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        if isinstance(base, Conv1D):
            self.in_features, self.out_features = base.weight.shape
        else:
            assert isinstance(base, nn.Linear)
            self.in_features, self.out_features = base.in_features, base.out_features
        self._kept: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """As the base keeps it. Some models ask a layer for its weight's dtype or device."""
        weight: Any = self.base.weight
        return weight  # type: ignore[no-any-return]

    @property
    def bias(self) -> Tensor | None:
        bias: Any = self.base.bias
        return bias  # type: ignore[no-any-return]

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The weight as a matrix of (O, I)."""
        if self._kept is not None and self._kept.dtype == dtype:
            return self._kept
        return dense_weight(self.base, dtype)

    @property
    def keeps(self) -> bool:
        """Whether it holds the dense weight."""
        return self._kept is not None

    def keep(self, dtype: torch.dtype | None) -> None:
        """Hold the dense weight in memory; or, with None, let it go."""
        self._kept = None if dtype is None else dense_weight(self.base, dtype)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _FrozenProduct.apply(x, self)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias.to(y.dtype)


@dataclass
class PassContext:
    """What the layers of a pack need to know of the pass that is running.

    The rows are those of the candidates `start` to `stop` of the pack, and of the places `rows` in the batch. `tokens`
    counts all of them with their padding, and `alike` says that every candidate has the same rows. `anchor` is a scalar
    that needs a gradient: it makes autograd ask a layer for its backward pass where the layer's input needs none.
    """

    start: int
    stop: int
    anchor: Tensor
    rows: Sequence[int] = ()
    tokens: int | None = None
    alike: bool = True
    training: bool = False

    @property
    def width(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Part:
    """Candidates `start` to `stop` of the pack, which share a rank and stand next to each other, at one layer.

    `A` (k, R, I) and `B` (k, O, R) are in the dtype that is computed in, B times the candidate's scale; `grad_A` and
    `grad_B` are where their gradients are added up, of the same shapes, in float32. `keeps` gives the dropout masks
    (k, rows, T, I) of the candidates from `start` to `stop` for places in the batch, where there is dropout.
    """

    start: int
    stop: int
    A: Tensor
    B: Tensor
    grad_A: Tensor
    grad_B: Tensor
    dropout: float = 0.0
    keeps: Callable[[int, int, Sequence[int], int], Tensor] | None = None

    def cut(self, start: int, stop: int) -> Part:
        """The share of it that is among the candidates `start` to `stop`."""
        low, high = max(self.start, start), min(self.stop, stop)
        if (low, high) == (self.start, self.stop):
            return self
        own = slice(low - self.start, high - self.start)
        return Part(
            low,
            high,
            self.A[own],
            self.B[own],
            self.grad_A[own],
            self.grad_B[own],
            self.dropout,
            self.keeps,
        )


class PackedLoraLinear(nn.Module):
    """A frozen linear layer with the adapters of a pack, for rows grouped by candidate.

    The products are computed in the dtype of the input: with bfloat16, as PEFT does under autocast.
    """

    def __init__(self, frozen: FrozenLinear, parts: Sequence[Part], turn: PassContext) -> None:
        super().__init__()
        self.frozen = frozen
        self.parts = list(parts)
        self.turn = turn

    @property
    def weight(self) -> Tensor:
        return self.frozen.weight

    @property
    def bias(self) -> Tensor | None:
        return self.frozen.bias

    def active(self) -> list[Part]:
        """The parts that the running pass has rows of."""
        turn = self.turn
        return [
            p.cut(turn.start, turn.stop)
            for p in self.parts
            if p.start < turn.stop and p.stop > turn.start
        ]

    def forward(self, x: Tensor) -> Tensor:
        """(K·B, T, I) or (K·N, I) ─▶ the same with O.

        Raises:
            ModelError: the layer was given other rows than the pass has, as an expert is by its router.
        """
        turn = self.turn
        if turn.tokens not in (None, x.shape[:-1].numel()):
            raise ModelError(
                f"A layer with {self.frozen.in_features} inputs sees {x.shape[:-1].numel()} tokens of {turn.tokens}, "
                "so an adapter on it cannot be packed; leave it out of the target modules."
            )
        parts = self.active()
        if not parts:
            y: Tensor = self.frozen(x)
            return y
        shared = turn.width > 1 and turn.alike and torch.is_grad_enabled() and not x.requires_grad
        y = _PackedProduct.apply(x, turn.anchor, self.frozen, parts, turn, shared)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def plain(self, x: Tensor, factors: Sequence[tuple[Tensor, Tensor] | None]) -> Tensor:
        """The plain twin: one candidate after another, with its A (R, I) and scaled B (O, R), left to autograd."""
        weight = self.frozen.dense(x.dtype)
        y = []
        for x_k, own in zip(x.chunk(len(factors)), factors, strict=True):
            y_k = nn.functional.linear(
                x_k, weight, None if self.bias is None else self.bias.to(x.dtype)
            )
            y.append(y_k if own is None else y_k + x_k @ own[0].T @ own[1].T)
        return torch.cat(y)


class _FrozenProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FrozenLinear) -> Tensor:
        ctx.layer = layer
        return _product(x, x.reshape(-1, x.shape[-1]), layer)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad_x = grad.reshape(-1, grad.shape[-1]) @ ctx.layer.dense(grad.dtype)
        return grad_x.view(*grad.shape[:-1], -1), None


class _PackedProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        anchor: Tensor,
        layer: FrozenLinear,
        parts: Sequence[Part],
        turn: PassContext,
        shared: bool,
    ) -> Tensor:
        inputs, K = x.shape[-1], turn.width
        x_NI = x.reshape(-1, inputs)
        if shared:
            x_NI = x_NI[: x_NI.shape[0] // K]
            x_KNI = x_NI.expand(K, -1, -1)
        else:
            x_KNI = x_NI.view(K, -1, inputs)
        y = _product(x, x_NI, layer)
        y_KNO = y.view(K, -1, y.shape[-1])
        lows, keeps = [], []
        for part in parts:
            own = slice(part.start - turn.start, part.stop - turn.start)
            x_k = x_KNI[own]
            if part.dropout and turn.training:
                assert part.keeps is not None
                keep = part.keeps(
                    part.start, part.stop, turn.rows, x_k.shape[1] // len(turn.rows)
                ).view(x_k.shape)
                keeps.append(keep)
                x_k = drop(x_k, keep, part.dropout)
            low = torch.bmm(x_k, part.A.mT)
            y_KNO[own].baddbmm_(low, part.B.mT)
            lows.append(low)
        ctx.save_for_backward(x_NI, *lows, *keeps)
        ctx.layer, ctx.parts, ctx.start, ctx.width = layer, parts, turn.start, K
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, None, None, None]:
        x_NI, *kept = ctx.saved_tensors
        parts: Sequence[Part] = ctx.parts
        lows, keeps = kept[: len(parts)], kept[len(parts) :]
        g = grad.reshape(-1, grad.shape[-1])
        g_KNO = g.view(ctx.width, -1, g.shape[-1])
        shared = x_NI.shape[0] != g.shape[0]
        x_KNI = (
            x_NI.expand(ctx.width, -1, -1) if shared else x_NI.view(ctx.width, -1, x_NI.shape[-1])
        )
        grad_x = g @ ctx.layer.dense(g.dtype) if ctx.needs_input_grad[0] else None
        masks = iter(keeps)
        for part, low in zip(parts, lows, strict=True):
            own = slice(part.start - ctx.start, part.stop - ctx.start)
            keep = next(masks) if keeps and part.dropout else None
            x_k = x_KNI[own] if keep is None else drop(x_KNI[own], keep, part.dropout)
            grad_low = torch.bmm(g_KNO[own], part.B)
            _add_product(part.grad_A, grad_low.mT, x_k)
            _add_product(part.grad_B, g_KNO[own].mT, low)
            if grad_x is not None:
                own_grad_x = grad_x.view(ctx.width, -1, grad_x.shape[-1])[own]
                if keep is None:
                    own_grad_x.baddbmm_(grad_low, part.A)
                else:
                    own_grad_x.add_(drop(torch.bmm(grad_low, part.A), keep, part.dropout))
        return (
            None if grad_x is None else grad_x.view(*grad.shape[:-1], -1),
            None,
            None,
            None,
            None,
            None,
        )


def _product(x: Tensor, x_NI: Tensor, layer: FrozenLinear) -> Tensor:
    """The frozen product (…, O) of x (…, I), whose rows are those of the matrix x_NI, or some copies of them.

    As a matrix: given a strided (B, 1, I), matmul would copy the weight once for each of the B rows. And in a tensor of
    its own: a view could not be added to in place, as Falcon's blocks do.
    """
    weight = layer.dense(x.dtype)
    y = x.new_empty(*x.shape[:-1], weight.shape[0])
    rows = x_NI.shape[0]
    if y.shape[:-1].numel() == rows:
        torch.mm(x_NI, weight.T, out=y.view(rows, -1))
    else:
        y.view(-1, rows, weight.shape[0]).copy_(x_NI @ weight.T)
    return y


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, batched; at once where they are of one dtype, which spares touching the product."""
    if total.dtype == left.dtype:
        total.baddbmm_(left, right)
    else:
        total.add_(torch.bmm(left, right))


def drop(x: Tensor, keep: Tensor, dropout: float) -> Tensor:
    """What dropout leaves of x, scaled up as torch.nn.functional.dropout does."""
    return x * keep * (1 / (1 - dropout))
