"""How far two right computations may lie apart, worked out rather than tried out.

A bound that was found by trial holds on the processor where it was found: another one adds up in another order, and a
rounding error that is harmless in a gradient need not stay so. AdamW divides by √v + ε. Where a gradient is smaller
than ε, its error δ becomes δ/ε of a step; with a gradient of about 1e-3, made of some hundred terms, δ is 1e-9 to 1e-8
in float32, as large as ε = 1e-8 itself: there rounding decides the sign of a whole step, and no two implementations
agree. So the law is held in two ways that have no such place in them:

- In float64, with the ε that is used. δ is at most 1e-17, so an element may be off by δ/ε = 1e-9 of a step (`STRICT`),
  and that only where its gradient was next to nothing in the first steps, before v remembers another. Such elements are
  rare: with one in the smallest tensor here, of 32 numbers that made some ten steps each, that tensor is off by
  1e-9 / (√32 · 10), which is 2e-11 (`TRAINED`). What the models do in float32 whatever their dtype (norms, softmax,
  rotations) is done in float64 too (`throughout`): a number that is rounded to float32 on the way can fall to the other
  side, which is 6e-8 again.
- In the precisions that are used, with `WIDE_EPSILON`, the size of a typical gradient, on both sides. δ/ε is then 1e-5
  of a step in float32 and no element is far off, so errors are norms over thousands of independent roundings and hardly
  vary. The pack may be no further from the exact end, which float64 gives, than `FAIR` times PEFT is in the same
  precision on the same processor.
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
"""What a pass forward and back is off by in float64, relative to the norm, and room: see `forward_tolerance`, 2e-14."""

TRAINED = 2e-11
"""What a training of a tiny model is off by in float64: any tensor of the adapter, relative to its norm."""

STRICT = 1e-9
"""The same where nothing is known of how many gradients are next to nothing."""

WIDE_EPSILON = 1e-3

FAIR = 4.0
"""A sum of n numbers is off by some √n roundings when it is added up one by one, and by some √(log₂ n) in pairs. The
sums here have 64 to 128 terms: √128 / √7 = 4.3 is how far two fair kernels lie apart if all else were without error.
"""


@contextlib.contextmanager
def throughout(dtype: torch.dtype) -> Iterator[None]:
    """In float64 nothing is rounded to less: where transformers asks for float32, it is given float64.

    Rung's own code is left alone: a float32 there is what the law is to find.
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


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def forward_tolerance(terms: int = 128, products: int = 13) -> float:
    """What a float32 pass may be off by, relative to the norm: each of its products in a row by √terms roundings of
    half an eps, and all of them by √products times that. By default the tiny models' 6 products in each of two layers,
    and the head: 1e-5.
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
