from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.architectures import make
from tests.tiny import tiny_tokenizer

from rung.engine.attention import ATTENTION_NAME, SHORT_ROW_TOKENS
from rung.engine.probe_model import translate_model_errors
from rung.engine.trainer import Trainer
from rung.errors import ModelError
from rung.model.load import Base


def trainer_of(model: Any) -> Trainer:
    return Trainer(Base(model, tiny_tokenizer(), "a model", torch.float32))


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("llama", (ATTENTION_NAME, "sdpa")),
        ("mistral", (ATTENTION_NAME, "sdpa")),
        ("gpt2", (ATTENTION_NAME, "sdpa")),
        ("gemma2", ("eager", "eager")),  # it caps its scores
    ],
)
def test_a_model_gets_the_fast_attention_unless_its_own_computes_more(
    name: str, kinds: tuple[str, str]
) -> None:
    trainer = trainer_of(make(name))
    assert trainer.attention_kinds == kinds
    for tokens, kind in ((SHORT_ROW_TOKENS, kinds[0]), (SHORT_ROW_TOKENS + 1, kinds[1])):
        trainer.attention_kinds.set_on(trainer.decoder, tokens)
        assert trainer.decoder.config._attn_implementation == kind


def test_a_model_that_cannot_run_over_frozen_layers_is_refused_in_one_sentence() -> None:
    """RWKV divides its weights before it generates, which foreign layers need not allow."""
    model = make("llama")

    def forward(*args: object, **kwargs: object) -> None:
        raise KeyError("attribute 'weight' already exists")

    model.model.forward = forward
    message = "a model cannot be run on a few tokens .*'weight' already exists"
    with pytest.raises(ModelError, match=message):
        trainer_of(model)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            AttributeError("no attribute 'x'.\nmore"),
            r"over frozen layers \(no attribute 'x'\); give",
        ),
        (AssertionError(), r"\(AssertionError\)"),
    ],
)
def test_what_breaks_in_a_first_pass_becomes_an_error_of_the_model(
    error: Exception, message: str
) -> None:
    with pytest.raises(ModelError, match=message), translate_model_errors("a model"):
        raise error


def test_running_out_of_memory_in_a_first_pass_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="allocate"), translate_model_errors("a model"):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")


def test_an_unknown_cap_is_found_although_a_small_models_logits_hardly_show_it() -> None:
    model = make("llama")
    forward = model.forward

    def capped(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits = 60 * torch.tanh(output.logits / 60)
        return output

    ids = torch.arange(4)[None]
    plain = forward(ids).logits
    assert (capped(ids).logits - plain).abs().max() < 0.01 * plain.abs().max()
    model.forward = capped
    with pytest.raises(ModelError, match="changes its logits after the output head"):
        trainer_of(model)
