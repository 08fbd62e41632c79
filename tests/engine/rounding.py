"""How far two correct computations may differ by rounding: derived, not found by trial.

A bound that was found by trial holds on the processor where it was found. Another processor adds
in another order, and a rounding error that is harmless in a gradient can grow: AdamW divides by
√v + ε. Where a gradient is smaller than ε, its error δ becomes δ/ε of a step. A gradient of about
1e-3 that is the sum of some hundred terms has a δ of 1e-9 to 1e-8 in float32, as large as ε =
1e-8 itself. There rounding decides the sign of a whole step, and no two implementations agree. So
the law is tested in two ways that avoid this:

- In float64, with the usual ε. δ is at most 1e-17, so an element may be off by δ/ε = 1e-9 of a
  step (`STRICT`), and only where its gradient was almost zero in the first steps, before v
  remembers a larger one. Such elements are rare. With one in the smallest tensor of the tests,
  of 32 numbers that made some ten steps each, that tensor is off by 1e-9 / (√32 · 10) = 2e-11
  (`TRAINED`). What the models compute in float32 whatever their dtype (norms, softmax,
  rotations) is computed in float64 too (`throughout`): rounding to float32 on the way can turn
  a difference in the last digit into one of 6e-8.
- In the precisions that users train in, with `WIDE_EPSILON`, the size of a typical gradient, on
  both sides. Then δ/ε is 1e-5 of a step in float32 and no element is far off, so errors are
  norms over thousands of independent roundings and hardly vary. The pack may be at most `FAIR`
  times as far from the exact end, which float64 gives, as PEFT is in the same precision on the
  same processor.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

FLOAT = Tensor.float

EXACT = 1e-12
"""The error of a forward and backward pass in float64, relative to the norm.

`forward_tolerance` would give 2e-14; the rest is reserve."""

TRAINED = 2e-11
"""The error after training a tiny model in float64: of any tensor of the adapter, relative to its
norm."""

STRICT = 1e-9
"""The same where it is unknown how many gradients are almost zero."""

WIDE_EPSILON = 1e-3

FAIR = 4.0
"""A sum of n numbers is off by about √n roundings when it is added one by one, and by about
√(log₂ n) when it is added in pairs. The sums here have 64 to 128 terms, so the errors of two
correct kernels can differ by a factor of √128 / √7 = 4.3."""


@contextlib.contextmanager
def throughout(dtype: torch.dtype) -> Iterator[None]:
    """In float64 nothing is rounded to less: where transformers asks for float32, it gets float64.

    Rung's own code is not changed: a float32 there is a fault that the law must find.
    """
    with pytest.MonkeyPatch.context() as patch:
        if dtype == torch.float64 and Tensor.float is FLOAT:  # not twice
            for owner, name in (
                (Tensor, "to"),
                (Tensor, "float"),
                (torch, "softmax"),
                (nn.functional, "softmax"),
            ):
                patch.setattr(owner, name, _widened(getattr(owner, name)))
        yield


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The norm of the difference, relative to the norm of what is expected."""
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


def forward_tolerance(terms: int = 128, products: int = 13) -> float:
    """The error that a float32 pass may have, relative to the norm.

    Each product has √terms roundings of half an eps, and `products` of them in a row have √products
    times that. The defaults are the tiny models' 6 products in each of two layers, and the head:
    1e-5.
    """
    return FAIR * (terms * products) ** 0.5 * torch.finfo(torch.float32).eps / 2


def _widened(function: Callable[..., Any]) -> Callable[..., Any]:
    def wide(value: Any) -> Any:
        return torch.float64 if value is torch.float32 else value

    def called(*args: Any, **kwargs: Any) -> Any:
        if not str(sys._getframe(1).f_globals.get("__name__")).startswith("transformers."):
            return function(*args, **kwargs)
        if function is FLOAT:
            return args[0].double()
        return function(*map(wide, args), **{name: wide(value) for name, value in kwargs.items()})

    return called
