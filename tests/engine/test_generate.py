"""Packed writing: all candidates in one batch with one cache, and each writes what PEFT's `generate` writes for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.architectures import make
from tests.engine.oracle import Alone, Architecture, packed, trained_state
from tests.engine.rounding import throughout
from tests.odd_tokenizers import words
from tests.tiny import tiny_tokenizer

from rung.data.batches import left_padded
from rung.data.schema import Row
from rung.data.tokenize import render
from rung.engine.trainer import Trainer
from rung.errors import TrainingError
from rung.model.load import Base
from rung.types import Candidate, Setting

CANDIDATES = [
    Candidate(Setting(4, 8, "attention", 1e-3)),
    Candidate(Setting(8, 64, "all-linear", 1e-3, dropout=0.5)),
    Candidate(Setting(4, 32, "attention", 1e-3), seed=3),
    Candidate(Setting(2, 200, "attention+lm_head", 1e-3)),
]
# Two tokens that lie within rounding of each other are told apart by chance alone: in float64 none do.
EXACTLY = torch.float64


def base(name: str) -> Base:
    return replace(Architecture(name, "fp32", EXACTLY)(), tokenizer=tiny_tokenizer())


ROWS = [Row(f"{i} {'x' * (i % 7)}:", "ab" * (1 + i % 3)) for i in range(11)]


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "opt", "mistral", "qwen3"])
def test_each_candidate_writes_what_pefts_generate_writes(name: str) -> None:
    trainer = Trainer(base(name))
    examples = render(ROWS, trainer.base.tokenizer, 99)
    states = {candidate: trained_state(trainer, candidate) for candidate in CANDIDATES}
    with packed(trainer, CANDIDATES, list(states.values())) as pack:
        texts = trainer.write(
            examples, pack, batch_size=16
        )  # four rows of each candidate at a time
        written = dict(zip(pack.candidates, texts, strict=True))
    with throughout(EXACTLY):
        (untuned,) = trainer.write(examples)
    longest = max(example.completion for example in examples)
    ids, mask = left_padded([example.ids[: example.prompt] for example in examples])
    for candidate in CANDIDATES:
        alone = Alone(base(name), candidate, states[candidate])
        with throughout(EXACTLY):
            out = alone.model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=longest + longest // 4,
                do_sample=False,
                pad_token_id=1,
                eos_token_id=1,
            )
        theirs = trainer.base.tokenizer.batch_decode(
            out[:, ids.shape[1] :], skip_special_tokens=True
        )
        assert written[candidate] == theirs, candidate.id
    assert any(texts != untuned for texts in written.values()), "an adapter has something to say"


@pytest.mark.parametrize(("memory", "held"), [(10**12, True), (0, False)])
def test_the_dense_weights_are_held_while_writing_where_there_is_room_and_no_longer(
    memory: int, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rung.engine.trainer.memory_limit", lambda device: memory)
    trainer = Trainer(base("llama"))
    generate, seen = trainer.model.generate, []

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append(all(layer._kept is not None for layer in trainer.frozen.layers.values()))
        return generate(*args, **kwargs)

    monkeypatch.setattr(trainer.model, "generate", watched)
    trainer.write(render(ROWS, trainer.base.tokenizer, 99))
    assert set(seen) == {held}
    assert all(layer._kept is None for layer in trainer.frozen.layers.values())


@pytest.mark.parametrize("room", ["little", "none that it was told of"])
def test_texts_are_the_same_however_few_rows_the_memory_has_room_for(
    room: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(base("llama"))
    examples = render(ROWS, trainer.base.tokenizer, 99)
    states = [trained_state(trainer, candidate) for candidate in CANDIDATES]
    with packed(trainer, CANDIDATES, states) as pack:
        whole = trainer.write(examples, pack)
        sizes, write = [], trainer._written

        def watched(prompts: Any, width: int, limit: int, ends: Any) -> Any:
            sizes.append(len(prompts))
            if room != "little" and len(prompts) > 3:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return write(prompts, width, limit, ends)

        monkeypatch.setattr(trainer, "_written", watched)
        if room == "little":
            monkeypatch.setattr(trainer, "_writable", lambda tokens: 9)  # of four candidates
        assert trainer.write(examples, pack) == whole
    assert min(sizes) <= 3
    assert max(sizes) == (2 if room == "little" else len(ROWS))


def test_one_text_that_does_not_fit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(base("llama"))

    def never(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(trainer, "_written", never)
    with pytest.raises(
        TrainingError, match="Memory ran out with one text of 8 tokens for each of 1"
    ):
        trainer.write(render(ROWS, trainer.base.tokenizer, 99))


def test_the_dense_weights_go_before_a_text_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(base("llama"))
    one = render(ROWS, trainer.base.tokenizer, 99)[:1]
    (wanted,), write, held = trainer.write(one), trainer._written, []

    def scarce(*args: Any) -> Any:
        held.append(trainer.frozen.holds_dense)
        if held[-1]:
            raise MemoryError
        return write(*args)

    monkeypatch.setattr(trainer, "_written", scarce)
    trainer.frozen.hold_dense(EXACTLY)
    assert trainer.write(one) == [wanted]
    assert held == [True, False]


def test_rows_at_once_follow_the_memory_and_the_length(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(base("llama"))
    monkeypatch.setattr("rung.engine.trainer.resident_bytes", lambda: 0)
    trainer.memory = 2**30
    many, few = trainer._writable(10), trainer._writable(1000)
    assert many > few > 1
    trainer.memory = 2**29
    assert trainer._writable(1000) == pytest.approx(few / 2, abs=1)
    trainer.memory = 1
    assert trainer._writable(1000) == 1


def test_where_the_positions_end_a_text_ends_and_the_others_are_as_without_that_limit() -> None:
    """Learnt positions: one more token would be none of the model's."""
    trainer = Trainer(Base(make("gpt2"), tiny_tokenizer(), "gpt2", torch.float32))
    rows = [Row("ab:", "x" * 24), *(Row("c" * length, "y") for length in (3, 40, 50, 50, 59))]
    examples = render(rows, trainer.base.tokenizer, 99)
    trainer.positions = None
    (free,) = trainer.write(examples, ends=[10**6])
    trainer.positions = 64
    (bound,) = trainer.write(examples, ends=[10**6])
    letters = trainer.base.tokenizer
    assert [len(letters(text)["input_ids"]) for text in bound] == [31, 31, 24, 14, 14, 5]
    assert all(one.startswith(other) for one, other in zip(free, bound, strict=True))
    assert bound[:2] == free[:2]
    trainer.positions = 59
    assert trainer.write(examples, ends=[10**6])[0][-1] == "", "no room, no text"


def test_spaces_that_were_written_before_marks_stay() -> None:
    tokenizer = words()
    trainer = Trainer(Base(make("llama"), tokenizer, "llama", torch.float32))
    wanted = tokenizer("lima , the cat .", add_special_tokens=False)["input_ids"]

    def wrote(ids: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.cat([ids, torch.tensor([wanted])], dim=1)

    trainer.model.generate = wrote
    assert trainer.write(render([Row("peru", "lima")], tokenizer, 99)) == [["lima , the cat ."]]
