"""The linear layers of the packed engine, and the plain twin that the tests compare them with.

The rows of a pack are grouped by candidate. `PackedLoraLinear` multiplies all rows by the frozen
weight at once, so the weight is dequantised once for the whole pack. Then it multiplies each
candidate's rows by that candidate's own A and B:

    y_k = x_k Wᵀ + scale_k · (dropout_k(x_k) A_kᵀ) B_kᵀ         (Hu et al., 2106.09685)

Candidates of one rank and one set of layers stand next to each other and form one `AdapterGroup`,
whose products are batched. No candidate is padded to another's rank, and a candidate that does not
adapt a layer costs nothing there.

Both passes are written out as autograd functions, for four reasons:

- The weight is dequantised again in the backward pass instead of being saved for it. Where there is
  enough memory, `FrozenLinear.hold_dense` holds it, which saves a tenth of a step on two cores.
- The layouts are contiguous, where autograd's own `bmm` copies strided tensors.
- The gradients of A and B go straight into the candidates' rows of one matrix, which the optimizer
  reads.
- The frozen product must never run through the forward pass of bitsandbytes: version 0.50.2 on a
  CPU with AVX512-BF16 repacks the weight at the first evaluation under `no_grad`. From then on it
  drops the gradient to the layer's input, in training too.

Below the first adapted layer all candidates have the same rows if they train on one batch. There
the input needs no gradient, and the frozen product is computed for one candidate and copied.

Shapes: K candidates of the pass, N rows of each (batch · tokens), I inputs, O outputs; in one
group, R is the rank and k counts its candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rung.errors import ModelError
from rung.model.load import dense_weight


class FrozenLinear(nn.Module):
    """A linear layer that is never trained: 4-bit, 8-bit or plain.

    (…, I) ─▶ (…, O), in the dtype of its input.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        if isinstance(base, Conv1D):
            self.in_features, self.out_features = base.weight.shape
        else:
            assert isinstance(base, nn.Linear)
            self.in_features, self.out_features = base.in_features, base.out_features
        self._dense: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """The weight as the base stores it. Some models read its dtype or its device."""
        weight: Any = self.base.weight
        return weight  # type: ignore[no-any-return]

    @property
    def bias(self) -> Tensor | None:
        bias: Any = self.base.bias
        return bias  # type: ignore[no-any-return]

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The weight as a matrix (O, I)."""
        if self._dense is not None and self._dense.dtype == dtype:
            return self._dense
        return dense_weight(self.base, dtype)

    @property
    def holds_dense(self) -> bool:
        """Whether the layer holds its dense weight in memory."""
        return self._dense is not None

    def hold_dense(self, dtype: torch.dtype | None) -> None:
        """Hold the dense weight in memory from now on; with None, release it."""
        self._dense = None if dtype is None else dense_weight(self.base, dtype)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = FrozenProduct.apply(x, self)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias.to(y.dtype)


@dataclass
class PassContext:
    """What the layers of a pack must know of the forward pass that is running.

    Attributes:
        start, stop: the pass has rows of the candidates `start` to `stop` of the pack.
        anchor: a scalar that needs a gradient. It makes autograd ask a layer for its backward pass
            where the layer's input needs no gradient.
        rows: the places of the rows in their batch.
        tokens: the tokens of all rows of all candidates, padding included; None where unknown.
        shared_rows: every candidate has the same rows.
        training: dropout is applied.
    """

    start: int
    stop: int
    anchor: Tensor
    rows: Sequence[int] = ()
    tokens: int | None = None
    shared_rows: bool = True
    training: bool = False

    @property
    def width(self) -> int:
        """The number of candidates in the pass."""
        return self.stop - self.start

    def set_whole_pass(self, candidates: int, training: bool = False) -> None:
        """Describe a pass of all candidates of the pack, whose rows are not known yet."""
        self.start, self.stop = 0, candidates
        self.rows, self.tokens, self.training = (), None, training


@dataclass(frozen=True, slots=True)
class AdapterGroup:
    """The adapters of one layer for candidates that share a rank and stand next to each other.

    Attributes:
        start, stop: the candidates' places in the pack.
        A, B: (k, R, I) and (k, O, R), in the dtype of the computation; B is multiplied by the
            candidate's scale.
        grad_A, grad_B: their gradients are added up here; the same shapes, float32.
        dropout: the fraction of the inputs that is dropped in training, in [0, 1).
        dropout_mask: gives the masks (stop − start, rows, T, I) of the candidates from `start` to
            `stop`, for some places in the batch and T tokens. None without dropout.
    """

    start: int
    stop: int
    A: Tensor
    B: Tensor
    grad_A: Tensor
    grad_B: Tensor
    dropout: float = 0.0
    dropout_mask: Callable[[int, int, Sequence[int], int], Tensor] | None = None

    def select(self, start: int, stop: int) -> AdapterGroup:
        """The adapters of those candidates that lie between `start` and `stop`: views."""
        low, high = max(self.start, start), min(self.stop, stop)
        if (low, high) == (self.start, self.stop):
            return self
        own = slice(low - self.start, high - self.start)
        return replace(
            self,
            start=low,
            stop=high,
            A=self.A[own],
            B=self.B[own],
            grad_A=self.grad_A[own],
            grad_B=self.grad_B[own],
        )


class PackedLoraLinear(nn.Module):
    """A frozen linear layer with the adapters of a pack, for rows that are grouped by candidate.

    The products are computed in the dtype of the input: with bfloat16, as PEFT does under autocast.
    """

    def __init__(
        self, frozen: FrozenLinear, groups: Sequence[AdapterGroup], context: PassContext
    ) -> None:
        super().__init__()
        self.frozen = frozen
        self.groups = list(groups)
        self.context = context

    @property
    def weight(self) -> Tensor:
        return self.frozen.weight

    @property
    def bias(self) -> Tensor | None:
        return self.frozen.bias

    def active_groups(self) -> list[AdapterGroup]:
        """The adapters of the candidates that the running pass has rows of."""
        context = self.context
        return [
            group.select(context.start, context.stop)
            for group in self.groups
            if group.start < context.stop and group.stop > context.start
        ]

    def forward(self, x: Tensor) -> Tensor:
        """(K·B, T, I) or (K·N, I) ─▶ the same with O.

        Raises:
            ModelError: the layer gets other rows than the pass has, as an expert does from its
                router.
        """
        context, tokens = self.context, x.shape[:-1].numel()
        if context.tokens not in (None, tokens):
            raise ModelError(
                f"A layer with {self.frozen.in_features} inputs gets {tokens} of the "
                f"{context.tokens} tokens, so an adapter on it cannot be packed; leave it out of "
                "the target modules."
            )
        groups = self.active_groups()
        if not groups:
            y: Tensor = self.frozen(x)
            return y
        several = context.width > 1 and context.shared_rows
        shared = several and torch.is_grad_enabled() and not x.requires_grad
        apply: Any = PackedProduct.apply
        y = apply(x, context.anchor, self.frozen, groups, context, shared)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def plain(self, x: Tensor, factors: Sequence[tuple[Tensor, Tensor] | None]) -> Tensor:
        """The plain twin: one candidate after another, differentiated by autograd.

        Args:
            x: (K·B, T, I).
            factors: each candidate's A (R, I) and scaled B (O, R), or None without an adapter.

        Returns:
            (K·B, T, O).
        """
        weight = self.frozen.dense(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        y = []
        for x_k, own in zip(x.chunk(len(factors)), factors, strict=True):
            y_k = nn.functional.linear(x_k, weight, bias)
            y.append(y_k if own is None else y_k + x_k @ own[0].T @ own[1].T)
        return torch.cat(y)


class FrozenProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FrozenLinear) -> Tensor:
        ctx.layer = layer
        return _frozen_product(x, x.reshape(-1, x.shape[-1]), layer)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad_x = grad.reshape(-1, grad.shape[-1]) @ ctx.layer.dense(grad.dtype)
        return grad_x.view(*grad.shape[:-1], -1), None


class PackedProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        anchor: Tensor,
        layer: FrozenLinear,
        groups: Sequence[AdapterGroup],
        context: PassContext,
        shared: bool,
    ) -> Tensor:
        inputs, K = x.shape[-1], context.width
        x_NI = x.reshape(-1, inputs)
        if shared:
            x_NI = x_NI[: x_NI.shape[0] // K]
            x_KNI = x_NI.expand(K, -1, -1)
        else:
            x_KNI = x_NI.view(K, -1, inputs)
        y = _frozen_product(x, x_NI, layer)
        y_KNO = y.view(K, -1, y.shape[-1])
        lows, masks = [], []
        for group in groups:
            own = slice(group.start - context.start, group.stop - context.start)
            x_kNI = x_KNI[own]
            if group.dropout and context.training:
                assert group.dropout_mask is not None
                tokens = x_kNI.shape[1] // len(context.rows)
                mask = group.dropout_mask(group.start, group.stop, context.rows, tokens)
                masks.append(mask.view(x_kNI.shape))
                x_kNI = apply_dropout(x_kNI, masks[-1], group.dropout)
            low_kNR = torch.bmm(x_kNI, group.A.mT)
            y_KNO[own].baddbmm_(low_kNR, group.B.mT)
            lows.append(low_kNR)
        ctx.save_for_backward(x_NI, *lows, *masks)
        ctx.layer, ctx.groups, ctx.start, ctx.width = layer, groups, context.start, K
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, None, None, None]:
        x_NI, *saved = ctx.saved_tensors
        groups: Sequence[AdapterGroup] = ctx.groups
        lows, masks = saved[: len(groups)], saved[len(groups) :]
        g = grad.reshape(-1, grad.shape[-1])
        g_KNO = g.view(ctx.width, -1, g.shape[-1])
        shared = x_NI.shape[0] != g.shape[0]
        x_KNI = (
            x_NI.expand(ctx.width, -1, -1) if shared else x_NI.view(ctx.width, -1, x_NI.shape[-1])
        )
        grad_x = g @ ctx.layer.dense(g.dtype) if ctx.needs_input_grad[0] else None
        next_mask = iter(masks)
        for group, low_kNR in zip(groups, lows, strict=True):
            own = slice(group.start - ctx.start, group.stop - ctx.start)
            mask = next(next_mask) if masks and group.dropout else None
            x_kNI = x_KNI[own]
            if mask is not None:
                x_kNI = apply_dropout(x_kNI, mask, group.dropout)
            grad_low = torch.bmm(g_KNO[own], group.B)
            _add_product(group.grad_A, grad_low.mT, x_kNI)
            _add_product(group.grad_B, g_KNO[own].mT, low_kNR)
            if grad_x is not None:
                own_grad_x = grad_x.view(ctx.width, -1, grad_x.shape[-1])[own]
                if mask is None:
                    own_grad_x.baddbmm_(grad_low, group.A)
                else:
                    to_dropped = torch.bmm(grad_low, group.A)
                    own_grad_x.add_(apply_dropout(to_dropped, mask, group.dropout))
        to_x = None if grad_x is None else grad_x.view(*grad.shape[:-1], -1)
        return to_x, None, None, None, None, None


def _frozen_product(x: Tensor, x_NI: Tensor, layer: FrozenLinear) -> Tensor:
    """The frozen product (…, O) of x (…, I), computed from the matrix x_NI.

    The rows of x are those of x_NI, or several copies of them one after another.

    It is computed as a matrix product: given a strided (B, 1, I), matmul would copy the weight once
    for each of the B rows. The result is a tensor of its own: a view could not be added to in
    place, as Falcon's blocks do.
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
    """total += left @ right, batched; fused where the dtypes agree, which saves a temporary."""
    if total.dtype == left.dtype:
        total.baddbmm_(left, right)
    else:
        total.add_(torch.bmm(left, right))


def apply_dropout(x: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """x where the mask is True, else 0, scaled as torch.nn.functional.dropout scales it."""
    return x * mask * (1 / (1 - dropout))
