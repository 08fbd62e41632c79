from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.candidates import candidate_of
from tests.engine.rounding import EXACT
from tests.engine.setups import batches, examples
from transformers import BertConfig, BertModel

from rung.data.batches import collate
from rung.data.rows import Row
from rung.data.tokenize import tokenize_rows
from rung.engine import attention
from rung.engine.adapter_state import fresh_state
from rung.engine.attention import ATTENTION_NAME
from rung.engine.pack import MAX_RUNAWAY_STEPS, Pack
from rung.engine.trainer import Trainer
from rung.errors import ModelError
from rung.model.load import Base, load_base

ROWS = [Row(f"{i} {'x' * (i % 7)}:", "ab" * (1 + i % 3)) for i in range(11)]


def test_scores_are_those_of_the_whole_models_logits_row_by_row(exact_base: Base) -> None:
    examples = tokenize_rows(ROWS, exact_base.tokenizer, 99)
    expected = []
    for example in examples:
        logits = exact_base.model(torch.tensor([example.ids])).logits[0]
        losses = torch.nn.functional.cross_entropy(
            logits[:-1], torch.tensor(example.ids[1:]), reduction="none"
        )
        expected.append(float(losses[example.prompt_length - 1 :].sum()))
    trainer = Trainer(exact_base)
    for batch_size in (1, 4, 100):
        (scores,) = trainer.score(examples, batch_size=batch_size)
        assert scores.losses == pytest.approx(expected, rel=EXACT)
        assert scores.tokens == tuple(example.loss_tokens for example in examples)


def test_the_attention_for_short_rows_and_the_fused_one_are_the_same_function(
    exact_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(exact_base)
    examples = tokenize_rows(ROWS, exact_base.tokenizer, 99)
    (short,) = trainer.score(examples)
    assert trainer.decoder.config._attn_implementation == ATTENTION_NAME
    monkeypatch.setattr(attention, "SHORT_ROW_TOKENS", 0)
    (fused,) = trainer.score(examples)
    assert trainer.decoder.config._attn_implementation == "sdpa"
    assert fused.losses == pytest.approx(short.losses, rel=EXACT)


def test_a_step_returns_each_candidates_own_loss_before_its_update(exact_base: Base) -> None:
    trainer = Trainer(exact_base)
    batch = collate(tokenize_rows(ROWS, exact_base.tokenizer, 99))
    candidates = [candidate_of(4, 8, "attention", rate) for rate in (0.1, 1e-6)]
    states = [fresh_state(trainer.frozen, candidate, 0) for candidate in candidates]
    with Pack(trainer.frozen, candidates, states) as pack:
        first = trainer.step(pack, batch, 1.0)
        second = trainer.step(pack, batch, 1.0)
    assert first[0] == pytest.approx(float(first[1]), rel=EXACT), "fresh adapters change nothing"
    assert second[0] < second[1] - 0.01
    assert second[1] == pytest.approx(float(first[1]), rel=1e-3)


def test_a_loss_that_stays_far_too_high_counts_as_diverged(tiny_folder: Path) -> None:
    """The limit is twice the loss of a model that gives every token the same probability."""
    trainer = Trainer(load_base(str(tiny_folder), "fp32", "fp32"))
    wild = candidate_of(8, 16, "lm_head", 30.0)
    with Pack(trainer.frozen, [wild], [fresh_state(trainer.frozen, wild, 7)], seed=7) as pack:
        for batch in batches(examples(trainer.model.config.vocab_size)):
            trainer.step(pack, batch, 1.0)
            if pack.diverged:
                break
    above = "the loss was above 9.2 nats a token"
    assert pack.diverged == {0: f"{above} for {MAX_RUNAWAY_STEPS} steps in a row"}


def test_a_model_without_an_output_head_is_refused() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    model = BertModel(BertConfig(vocab_size=20, num_hidden_layers=1, **sizes))
    with pytest.raises(ModelError, match="not a causal language model with a decoder and an outp"):
        Trainer(Base(model, None, "a model", torch.float32))
