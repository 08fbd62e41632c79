from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.architectures import make
from tests.engine.rounding import EXACT, throughout
from tests.tiny import tiny_tokenizer
from torch import nn
from transformers.models.llama.modeling_llama import eager_attention_forward

from rung.engine.attention import NAME, SHORT, attend
from rung.engine.trainer import Trainer
from rung.errors import ModelError
from rung.model.load import Base


class Layer(nn.Module):
    """What transformers' plain attention reads of a layer."""

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
    """With keys of earlier tokens too, as in writing with a cache, and from strided inputs, as models give them."""
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
    found = []
    for attention in (attend, eager_attention_forward):
        inputs = [x.clone().requires_grad_() for x in made]
        with throughout(torch.float64):
            y, _ = attention(
                Layer(groups), *(x.transpose(1, 2) for x in inputs), mask, scaling=0.3, dropout=0.0
            )
        (y * weights).sum().backward()
        found.append([y.detach(), *(x.grad for x in inputs)])
    for fast, plain in zip(*found, strict=True):
        assert fast is not None
        assert torch.allclose(fast, plain, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("llama", (NAME, "sdpa")),
        ("mistral", (NAME, "sdpa")),
        ("gpt2", (NAME, "sdpa")),
        ("gemma2", ("eager", "eager")),  # it caps its scores
    ],
)
def test_a_model_that_asks_for_more_keeps_its_own(name: str, kinds: tuple[str, str]) -> None:
    trainer = Trainer(Base(make(name), tiny_tokenizer(), name, torch.float32))
    assert trainer._kinds == kinds
    for tokens, kind in ((SHORT, kinds[0]), (SHORT + 1, kinds[1])):
        trainer._attention(tokens)
        assert trainer.decoder.config._attn_implementation == kind


def test_a_model_that_breaks_over_frozen_layers_is_one_sentence() -> None:
    """RWKV divides its weights before it writes, which layers that are not its own need not allow."""
    model = make("llama")

    def forward(*args: object, **kwargs: object) -> None:
        raise KeyError("attribute 'weight' already exists")

    model.model.forward = forward
    with pytest.raises(
        ModelError, match="a model cannot be run on a few tokens .*'weight' already exists"
    ):
        Trainer(Base(model, tiny_tokenizer(), "a model", torch.float32))
