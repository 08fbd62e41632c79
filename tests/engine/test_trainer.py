from __future__ import annotations

import pytest
import torch
from tests.engine.rounding import EXACT

from rung.data.batches import collate
from rung.data.schema import Row
from rung.data.tokenize import render
from rung.engine import trainer as module
from rung.engine.adapter_state import fresh_state
from rung.engine.attention import NAME
from rung.engine.pack import Pack
from rung.engine.trainer import Trainer
from rung.model.load import Base
from rung.types import Candidate, Setting

ROWS = [Row(f"{i} {'x' * (i % 7)}:", "ab" * (1 + i % 3)) for i in range(11)]


def test_scores_are_those_of_the_whole_models_logits_row_by_row(exact_base: Base) -> None:
    examples = render(ROWS, exact_base.tokenizer, 99)
    wanted = []
    for example in examples:
        logits = exact_base.model(torch.tensor([example.ids])).logits[0]
        losses = torch.nn.functional.cross_entropy(
            logits[:-1], torch.tensor(example.ids[1:]), reduction="none"
        )
        wanted.append(float(losses[example.prompt - 1 :].sum()))
    trainer = Trainer(exact_base)
    for size in (1, 4, 100):
        (scores,) = trainer.score(examples, batch_size=size)
        assert scores.losses == pytest.approx(wanted, rel=EXACT)
        assert scores.tokens == tuple(example.completion for example in examples)


def test_the_attention_for_short_rows_and_the_fused_one_are_the_same_function(
    exact_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(exact_base)
    examples = render(ROWS, exact_base.tokenizer, 99)
    (plain,) = trainer.score(examples)
    assert trainer.decoder.config._attn_implementation == NAME
    monkeypatch.setattr(module, "SHORT", 0)
    (fused,) = trainer.score(examples)
    assert trainer.decoder.config._attn_implementation == "sdpa"
    assert fused.losses == pytest.approx(plain.losses, rel=EXACT)


def test_a_step_returns_each_candidates_own_loss(exact_base: Base) -> None:
    trainer = Trainer(exact_base)
    batch = collate(render(ROWS, exact_base.tokenizer, 99))
    candidates = [
        Candidate(Setting(4, 8, "attention", 0.1)),
        Candidate(Setting(4, 8, "attention", 1e-6)),
    ]
    with Pack(
        trainer.frozen, candidates, [fresh_state(trainer.frozen, c, 0) for c in candidates]
    ) as pack:
        first = trainer.step(pack, batch, 1.0)
        second = trainer.step(pack, batch, 1.0)
    assert first[0] == pytest.approx(float(first[1]), rel=EXACT), "fresh adapters say nothing"
    assert second[0] < second[1] - 0.01
    assert second[1] == pytest.approx(float(first[1]), rel=1e-3)


def test_it_writes_what_it_would_write_one_prompt_at_a_time(exact_base: Base) -> None:
    trainer = Trainer(exact_base)
    examples = render(ROWS, exact_base.tokenizer, 99)
    (together,) = trainer.write(examples)
    assert len(together) == len(ROWS)
    longest = max(example.completion for example in examples)
    for example, text in zip(examples, together, strict=True):
        ids = list(example.ids[: example.prompt])
        for _ in range(longest + longest // 4):
            following = int(trainer.model(torch.tensor([ids])).logits[0, -1].argmax())
            if following == exact_base.tokenizer.eos_token_id:
                break
            ids.append(following)
        assert text == exact_base.tokenizer.decode(ids[example.prompt :], skip_special_tokens=True)
