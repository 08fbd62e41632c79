"""The linear layers of the packed engine, and the plain twin that the tests hold them to.

A pack's rows come grouped by candidate. `PackedLoraLinear` multiplies all of them by the frozen weight at once, which
is dequantised once for the whole pack, and then each group by its own A and B:

    y_k = x_k Wᵀ + scale_k · (x_k A_kᵀ) B_kᵀ                   (Hu et al., 2106.09685)

Candidates of unlike rank are padded with zeros to the widest, and candidates that do not target a layer have rank zero
there. A padded row of A and its column of B are both zero, so each one's gradient, a product with the other, is zero
too, and AdamW leaves both at zero: the padding is inert, exactly.

Both passes are written out as autograd functions, for three reasons. The weight is dequantised again in the backward
pass rather than kept (4 % of a step on two cores, against four times the memory). The layouts are contiguous, where
autograd's own `bmm` copies strided tensors. And the frozen product must never run through bitsandbytes' own forward:
version 0.50.2 on a CPU with AVX512-BF16 repacks the weight at the first evaluation under `no_grad`, and from then on
drops the gradient to the layer's input, in training too.

Shapes: K candidates, N rows of each (batch · tokens), I in, O out, R the widest rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rung.model.load import dense_weight


class FrozenLinear(nn.Module):
    """A linear layer that is never trained: 4-bit or plain. (…, I) ─▶ (…, O), in the dtype of its input."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The weight as a matrix of (O, I)."""
        return dense_weight(self.base, dtype)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _FrozenProduct.apply(x, self)  # type: ignore[no-untyped-call]
        return y if self.base.bias is None else y + self.base.bias.to(y.dtype)


class PackedLoraLinear(nn.Module):
    """A frozen linear layer with the adapters of K candidates, for rows grouped by candidate.

    `A` (K, R, I) and `B` (K, O, R) are parameters, `scale` is (K, 1, 1), all of one dtype: float32, or float64 in a
    test. The products are computed in the dtype of the input: with bfloat16, as PEFT does under autocast.
    """

    scale: Tensor

    def __init__(self, frozen: FrozenLinear, A: Tensor, B: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.frozen = frozen
        self.A = nn.Parameter(A)
        self.B = nn.Parameter(B)
        self.register_buffer("scale", scale.view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _PackedProduct.apply(x, self.A, self.B, self.scale, self.frozen)  # type: ignore[no-untyped-call]
        bias = self.frozen.base.bias
        return y if bias is None else y + bias.to(y.dtype)

    def plain(self, x: Tensor) -> Tensor:
        """The plain twin: one candidate after another, differentiated by autograd."""
        rows = x.chunk(self.A.shape[0])
        A, B = self.A.to(x.dtype), self.B.to(x.dtype)
        weight = self.frozen.dense(x.dtype)
        bias = self.frozen.base.bias
        y = [
            nn.functional.linear(x_k, weight) + s * (x_k @ a.T @ b.T)
            for x_k, a, b, s in zip(rows, A, B, self.scale, strict=True)
        ]
        return torch.cat(y) if bias is None else torch.cat(y) + bias.to(x.dtype)


class _FrozenProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FrozenLinear) -> Tensor:
        ctx.layer = layer
        # As a matrix: given a strided (B, 1, I), matmul would copy the weight once for each of the B rows.
        y = x.reshape(-1, x.shape[-1]) @ layer.dense(x.dtype).T
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad_x = grad.reshape(-1, grad.shape[-1]) @ ctx.layer.dense(grad.dtype)
        return grad_x.view(*grad.shape[:-1], -1), None


class _PackedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, A: Tensor, B: Tensor, scale: Tensor, layer: FrozenLinear) -> Tensor:
        K, _, inputs = A.shape
        weight = layer.dense(x.dtype)
        x_NI = x.reshape(-1, inputs)
        y = x_NI @ weight.T
        x_KNI = x_NI.view(K, -1, inputs)
        # The scale goes into B, the small factor, in float32.
        a, b = A.to(x.dtype), (B * scale).to(x.dtype)
        h_KNR = torch.bmm(x_KNI, a.transpose(1, 2))
        y.view(K, -1, weight.shape[0]).baddbmm_(h_KNR, b.transpose(1, 2))
        ctx.save_for_backward(x_KNI, h_KNR, a, b, scale)
        ctx.layer = layer
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None]:
        x_KNI, h_KNR, a, b, scale = ctx.saved_tensors
        K, _, inputs = x_KNI.shape
        g = grad.reshape(-1, grad.shape[-1])
        g_KNO = g.view(K, -1, g.shape[-1])
        gh_KNR = torch.bmm(g_KNO, b)
        grad_A = torch.bmm(gh_KNR.transpose(1, 2).contiguous(), x_KNI).to(scale.dtype)
        grad_B = torch.bmm(g_KNO.transpose(1, 2), h_KNR).to(scale.dtype) * scale
        if not ctx.needs_input_grad[0]:
            return None, grad_A, grad_B, None, None
        grad_x = g @ ctx.layer.dense(g.dtype)
        grad_x.view(K, -1, inputs).baddbmm_(gh_KNR, a)
        return grad_x.view(*grad.shape[:-1], inputs), grad_A, grad_B, None, None
