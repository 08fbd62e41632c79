"""Packed generation: one batch and one cache for all, and each text as PEFT generates it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.architectures import make
from tests.candidates import candidate_of
from tests.engine.oracle import Alone
from tests.engine.rounding import throughout
from tests.engine.setups import ArchitectureLoader, packed, state_with_b
from tests.odd_tokenizers import words
from tests.tiny import tiny_tokenizer

from rung.data.batches import left_padded
from rung.data.example import Example
from rung.data.rows import Row
from rung.data.tokenize import tokenize_rows
from rung.engine.generate import generate, max_generation_rows
from rung.engine.trainer import Trainer
from rung.errors import TrainingError
from rung.model.load import Base

CANDIDATES = [
    candidate_of(4, 8, "attention", 1e-3),
    candidate_of(8, 64, "all-linear", 1e-3, dropout=0.5),
    candidate_of(4, 32, "attention", 1e-3, seed=3),
    candidate_of(2, 200, "attention+lm_head", 1e-3),
]
ROWS = [Row(f"{i} {'x' * (i % 7)}:", "ab" * (1 + i % 3)) for i in range(11)]


def base_of(name: str) -> Base:
    """In float64: where two tokens differ only by rounding, chance would choose."""
    base = ArchitectureLoader(name, "fp32", torch.float64)()
    return replace(base, tokenizer=tiny_tokenizer())


@pytest.fixture
def trainer() -> Trainer:
    return Trainer(base_of("llama"))


def examples_for(trainer: Trainer) -> list[Example]:
    return tokenize_rows(ROWS, trainer.base.tokenizer, 99)


def watch_generation(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, before: Callable[[int], None]
) -> None:
    """Call `before` with the number of rows whenever the model generates a batch."""
    model_generate = trainer.model.generate

    def watched(ids: torch.Tensor, **options: Any) -> Any:
        before(ids.shape[0])
        return model_generate(ids, **options)

    monkeypatch.setattr(trainer.model, "generate", watched)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "opt", "mistral", "qwen3"])
def test_each_candidate_generates_what_pefts_generate_gives(name: str) -> None:
    trainer = Trainer(base_of(name))
    examples = examples_for(trainer)
    states = {candidate: state_with_b(trainer, candidate) for candidate in CANDIDATES}
    with packed(trainer, CANDIDATES, list(states.values())) as pack:
        # Four rows of each candidate at a time.
        texts = generate(trainer, examples, pack, batch_size=16)
        generated = dict(zip(pack.candidates, texts, strict=True))
    with throughout(torch.float64):
        (untuned,) = generate(trainer, examples)
    longest = max(example.loss_tokens for example in examples)
    ids, mask = left_padded([example.ids[: example.prompt_length] for example in examples])
    for candidate in CANDIDATES:
        alone = Alone(base_of(name), candidate, states[candidate])
        with throughout(torch.float64):
            output = alone.model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=longest + longest // 4,
                do_sample=False,
                pad_token_id=1,
                eos_token_id=1,
            )
        theirs = trainer.base.tokenizer.batch_decode(
            output[:, ids.shape[1] :], skip_special_tokens=True
        )
        assert generated[candidate] == theirs, candidate.id
    assert any(texts != untuned for texts in generated.values()), "an adapter changes the text"


def test_a_batch_of_prompts_generates_what_each_prompt_does_alone(exact_base: Base) -> None:
    trainer = Trainer(exact_base)
    examples = examples_for(trainer)
    (together,) = generate(trainer, examples)
    assert len(together) == len(ROWS)
    tokenizer = exact_base.tokenizer
    longest = max(example.loss_tokens for example in examples)
    for example, text in zip(examples, together, strict=True):
        ids = list(example.ids[: example.prompt_length])
        for _ in range(longest + longest // 4):
            next_token = int(trainer.model(torch.tensor([ids])).logits[0, -1].argmax())
            if next_token == tokenizer.eos_token_id:
                break
            ids.append(next_token)
        assert text == tokenizer.decode(ids[example.prompt_length :], skip_special_tokens=True)


@pytest.mark.parametrize(("memory", "held"), [(10**12, True), (1, False)])
def test_the_dense_weights_are_held_meanwhile_where_memory_is_enough(
    trainer: Trainer, memory: int, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer.memory, seen = memory, []
    watch_generation(trainer, monkeypatch, lambda _: seen.append(trainer.frozen.holds_dense))
    generate(trainer, examples_for(trainer))
    assert set(seen) == {held}
    assert not any(layer.holds_dense for layer in trainer.frozen.layers.values())


def test_texts_do_not_depend_on_how_many_rows_the_memory_allows(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples, sizes = examples_for(trainer), []
    states = [state_with_b(trainer, candidate) for candidate in CANDIDATES]
    with packed(trainer, CANDIDATES, states) as pack:
        watch_generation(trainer, monkeypatch, sizes.append)
        whole = generate(trainer, examples, pack)
        assert sizes == [len(ROWS) * len(CANDIDATES)]
        sizes.clear()
        trainer.memory = 1
        assert max_generation_rows(trainer, 10) == 1
        assert generate(trainer, examples, pack) == whole
    assert sizes == [len(CANDIDATES)] * len(ROWS), "one row of each candidate"


def test_texts_do_not_depend_on_where_memory_ran_out(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples, sizes = examples_for(trainer), []

    def scarce(rows: int) -> None:
        sizes.append(rows)
        if rows > 3 * len(CANDIDATES):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    states = [state_with_b(trainer, candidate) for candidate in CANDIDATES]
    with packed(trainer, CANDIDATES, states) as pack:
        whole = generate(trainer, examples, pack)
        watch_generation(trainer, monkeypatch, scarce)
        assert generate(trainer, examples, pack) == whole
    assert max(sizes) == len(ROWS) * len(CANDIDATES)
    assert min(sizes) <= 3 * len(CANDIDATES)


def test_one_text_that_does_not_fit_is_an_error(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise MemoryError

    watch_generation(trainer, monkeypatch, full)
    message = "Memory ran out with one text of 8 tokens for each of 1; give shorter rows"
    with pytest.raises(TrainingError, match=message):
        generate(trainer, examples_for(trainer))


def test_the_dense_weights_are_released_before_a_text_is_given_up(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, held = examples_for(trainer)[:1], []
    (expected,) = generate(trainer, one)

    def scarce(_: int) -> None:
        held.append(trainer.frozen.holds_dense)
        if held[-1]:
            raise MemoryError

    watch_generation(trainer, monkeypatch, scarce)
    trainer.frozen.hold_dense(torch.float64)
    assert generate(trainer, one) == [expected]
    assert held == [True, False]


def test_an_error_that_is_not_about_memory_is_raised(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    watch_generation(trainer, monkeypatch, fail)
    with pytest.raises(RuntimeError, match="shapes"):
        generate(trainer, examples_for(trainer))


def test_rows_of_a_batch_follow_the_memory_and_the_length(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rung.engine.process_memory.resident_bytes", lambda: 0)
    trainer.memory = 2**30
    short, long = max_generation_rows(trainer, 10), max_generation_rows(trainer, 1000)
    assert short > long > 1
    trainer.memory = 2**29
    assert max_generation_rows(trainer, 1000) == pytest.approx(long / 2, abs=1)
    trainer.memory = 1
    assert max_generation_rows(trainer, 1000) == 1


def test_a_text_ends_where_the_positions_end_and_the_other_texts_are_unchanged() -> None:
    """GPT-2 has learnt its positions: it has none for one more token."""
    trainer = Trainer(Base(make("gpt2"), tiny_tokenizer(), "gpt2", torch.float32))
    rows = [Row("ab:", "x" * 24), *(Row("c" * length, "y") for length in (3, 40, 50, 50, 59))]
    examples = tokenize_rows(rows, trainer.base.tokenizer, 99)
    trainer.positions = None
    (unlimited,) = generate(trainer, examples, ends=[10**6])
    trainer.positions = 64
    (limited,) = generate(trainer, examples, ends=[10**6])
    letters = trainer.base.tokenizer
    assert [len(letters(text)["input_ids"]) for text in limited] == [31, 31, 24, 14, 14, 5]
    assert all(long.startswith(short) for long, short in zip(unlimited, limited, strict=True))
    assert limited[:2] == unlimited[:2]
    trainer.positions = 59
    assert generate(trainer, examples, ends=[10**6])[0][-1] == "", "no position is left"


def test_spaces_before_punctuation_stay_as_they_were_generated() -> None:
    tokenizer = words()
    trainer = Trainer(Base(make("llama"), tokenizer, "llama", torch.float32))
    generated = tokenizer("lima , the cat .", add_special_tokens=False)["input_ids"]
    trainer.model.generate = lambda ids, **_: torch.cat([ids, torch.tensor([generated])], dim=1)
    texts = generate(trainer, tokenize_rows([Row("peru", "lima")], tokenizer, 99))
    assert texts == [["lima , the cat ."]]
