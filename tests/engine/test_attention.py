from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.rounding import EXACT, throughout
from torch import nn
from transformers.models.llama.modeling_llama import eager_attention_forward

from rung.engine.attention import attend


class Layer(nn.Module):
    """The part of a layer that the plain attention of transformers reads."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups = groups
        self.eval()


@settings(max_examples=40)
@given(
    rows=st.integers(1, 3),
    keys=st.integers(1, 3),
    groups=st.integers(1, 3),
    tokens=st.integers(1, 7),
    before=st.integers(0, 5),
    masked=st.sampled_from(["none", "causal", "by row"]),
)
def test_forward_and_gradients_are_those_of_transformers_plain_attention(
    rows: int, keys: int, groups: int, tokens: int, before: int, masked: str
) -> None:
    """Also with keys of earlier tokens, as in generation with a cache, and from strided inputs."""
    torch.manual_seed(tokens)
    size, seen = 8, before + tokens
    made = [
        torch.randn(rows, length, heads, size, dtype=torch.float64)
        for heads, length in ((keys * groups, tokens), (keys, seen), (keys, seen))
    ]
    mask = None
    if masked != "none":
        hidden = torch.ones(tokens, seen, dtype=torch.bool).triu(before + 1)
        mask = torch.zeros(1 if masked == "causal" else rows, 1, tokens, seen, dtype=torch.float64)
        mask.masked_fill_(hidden, torch.finfo(torch.float64).min)
    weights = torch.randn(rows, tokens, keys * groups, size, dtype=torch.float64)
    results = []
    for attention in (attend, eager_attention_forward):
        inputs = [x.clone().requires_grad_() for x in made]
        with throughout(torch.float64):
            y, _ = attention(
                Layer(groups), *(x.transpose(1, 2) for x in inputs), mask, scaling=0.3, dropout=0.0
            )
        (y * weights).sum().backward()
        results.append([y.detach(), *(x.grad for x in inputs)])
    for fast, plain in zip(*results, strict=True):
        assert fast is not None
        assert torch.allclose(fast, plain, rtol=EXACT, atol=EXACT)
