"""The packing law: a candidate trained in a pack ends as it would have ended alone, under PEFT and torch's AdamW."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.architectures import ARCHITECTURES
from tests.engine.oracle import (
    CANDIDATES,
    SCHEDULE,
    SEED,
    STEPS,
    Alone,
    Architecture,
    Loader,
    batches,
    check_law,
    check_rounding,
    examples,
    packed,
    trained_state,
)
from tests.engine.rounding import EXACT, STRICT, TRAINED, relative_error

from rung.data.builtin import pronounce
from rung.data.schema import Row
from rung.data.tokenize import render
from rung.defaults import DEFAULT_MODEL
from rung.engine.checkpoint import load_checkpoint, save_checkpoint
from rung.engine.tiling import TokenLimit
from rung.engine.adapter_state import AdapterState, fresh_state
from rung.engine.trainer import Trainer
from rung.model.load import load_base
from rung.types import Candidate, Setting

HEADS = [
    Candidate(Setting(4, 8, "lm_head", 1e-3)),
    Candidate(Setting(8, 16, "attention+lm_head", 3e-3, dropout=0.2)),
    Candidate(Setting(8, 16, "attention", 3e-3)),
    Candidate(Setting(4, 8, "all-linear,lm_head", 1e-3)),
]
DROPPING = [
    Candidate(Setting(4, 8, "attention", 1e-3, dropout=0.1)),
    Candidate(Setting(4, 8, "attention", 5e-3, dropout=0.1)),
    Candidate(Setting(8, 16, "all-linear", 3e-3, dropout=0.3), seed=2),
    Candidate(Setting(4, 8, "attention", 1e-3)),
]


ARCHITECTURES_CANDIDATES = [
    Candidate(Setting(4, 8, "attention", 1e-3)),
    Candidate(Setting(8, 16, "all-linear", 3e-3, dropout=0.1)),
    Candidate(Setting(2, 4, "attention+lm_head", 1e-3)),
]
EXACTLY, FLOAT32 = torch.float64, torch.float32


@pytest.mark.parametrize(
    "candidates", [CANDIDATES, DROPPING, HEADS], ids=["plain", "dropout", "lm_head"]
)
@pytest.mark.parametrize("quantization", ["fp32", "nf4", "nf4-single", "int8"])
def test_a_candidate_in_a_pack_ends_as_it_would_have_ended_alone_under_peft(
    tiny_folder: Path, quantization: str, candidates: list[Candidate]
) -> None:
    check_law(Loader(str(tiny_folder), quantization, EXACTLY), candidates)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_so_it_does_in_every_architecture(name: str) -> None:
    check_law(Architecture(name, "fp32", EXACTLY), ARCHITECTURES_CANDIDATES)


@pytest.mark.parametrize("rank", [1, 512])
def test_so_it_does_at_the_ends_of_the_ladder(tiny_folder: Path, rank: int) -> None:
    candidates = [Candidate(Setting(rank, 2 * rank, "attention", 1e-3)), CANDIDATES[0]]
    check_law(Loader(str(tiny_folder), "nf4", EXACTLY), candidates)


@pytest.mark.slow
def test_the_law_holds_on_the_real_model_in_nf4() -> None:
    load = Loader(DEFAULT_MODEL, "nf4", EXACTLY)
    rows = render([Row(*pair) for pair in pronounce()[0][:24]], load().tokenizer, 99)
    check_law(load, [*CANDIDATES[:2], HEADS[1]], STRICT, rows, steps=8)


@pytest.mark.parametrize(
    ("quantization", "dtype"),
    [
        *(("nf4", d) for d in (FLOAT32, torch.bfloat16, torch.float16)),
        ("fp32", FLOAT32),
        ("int8", FLOAT32),
    ],
    ids=str,
)
def test_in_the_precisions_that_are_used_it_is_no_further_off_than_rounding_takes_peft_itself(
    tiny_folder: Path, quantization: str, dtype: torch.dtype
) -> None:
    """float16 with loss scaling on both sides: GradScaler's on one, each candidate's own on the other."""
    candidates = [*CANDIDATES, DROPPING[2], HEADS[1]]
    check_rounding(Loader(str(tiny_folder), quantization, dtype), candidates)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_nor_is_it_in_any_architecture(name: str) -> None:
    check_rounding(Architecture(name, "fp32", FLOAT32), ARCHITECTURES_CANDIDATES)


@pytest.mark.parametrize("quantization", ["fp32", "nf4"])
def test_forward_and_gradients_are_those_of_peft(tiny_folder: Path, quantization: str) -> None:
    load = Loader(str(tiny_folder), quantization, EXACTLY)
    trainer = Trainer(load())
    rows = examples(trainer.model.config.vocab_size)
    batch = batches(rows)[0]
    candidates = [*CANDIDATES, *DROPPING, *HEADS]
    states = {candidate: trained_state(trainer, candidate) for candidate in candidates}
    with packed(trainer, candidates, [states[c] for c in candidates]) as pack:
        losses = trainer.gradients(pack, batch)
        own = {
            (candidate, f"{place.layer}.{place.factor}"): place.of(group.gradients[i])
            * (candidate.scale if place.factor == "B" else 1)
            for group in pack.groups
            for i, candidate in enumerate(group.candidates)
            for place in group.places
        }
        found = dict(zip(pack.candidates, losses.tolist(), strict=True))
    for candidate in candidates:
        alone = Alone(load(), candidate, states[candidate])
        alone.evaluate(rows)
        assert found[candidate] == pytest.approx(float(alone.gradients(batch)), rel=EXACT)
        for key, parameter in alone.factors.items():
            assert parameter.grad is not None
            assert relative_error(own[candidate, key], parameter.grad) < EXACT, (candidate.id, key)


def test_how_a_pack_is_split_changes_nothing(tiny_folder: Path) -> None:
    together = train(tiny_folder, CANDIDATES)
    apart = train(tiny_folder, CANDIDATES[:1]) | train(tiny_folder, CANDIDATES[:0:-1])
    assert_close(together, apart)


@pytest.mark.parametrize("room", [1, 13, 30, 100])
def test_how_a_step_is_split_changes_nothing(tiny_folder: Path, room: int) -> None:
    """From one row of one candidate at a time to three candidates at a time."""
    candidates = [*CANDIDATES, DROPPING[0], HEADS[1]]
    whole, split = (train(tiny_folder, candidates, room=tokens) for tokens in (None, room))
    assert_close(whole, split)


def test_keeping_the_blocks_inputs_alone_changes_nothing(tiny_folder: Path) -> None:
    candidates = [*CANDIDATES, DROPPING[0]]
    whole, lean = (train(tiny_folder, candidates, checkpointing=lean) for lean in (False, True))
    assert_close(whole, lean)


@pytest.mark.parametrize(
    "wild",
    [Candidate(Setting(8, 16, "attention", 1e300)), Candidate(Setting(8, 16, "lm_head", 30.0))],
)
def test_a_member_that_diverges_is_told_apart_and_harms_no_other(
    tiny_folder: Path, wild: Candidate
) -> None:
    beside = train(tiny_folder, [CANDIDATES[0], wild, *CANDIDATES[1:]])
    assert wild not in beside
    assert_close(train(tiny_folder, CANDIDATES), beside)


def test_a_member_that_diverges_changes_no_bit_of_the_others(tiny_folder: Path) -> None:
    """The same pack, with a tame member that leaves at the step at which the wild one is found out."""
    wild, tame = (Candidate(Setting(8, 16, "attention", rate)) for rate in (1e30, 1e-3))
    found: list[dict[Candidate, AdapterState]] = []
    left_at = STEPS
    for other in (wild, tame):
        trainer = Trainer(load_base(str(tiny_folder), "nf4", "fp32"))
        members = [CANDIDATES[0], other, *CANDIDATES[1:]]
        states = [fresh_state(trainer.frozen, candidate, SEED) for candidate in members]
        with packed(trainer, members, states) as pack:
            for number, batch in enumerate(batches(examples(trainer.model.config.vocab_size))):
                trainer.step(pack, batch, SCHEDULE.rate_factor(number))
                if pack.diverged:
                    left_at = number
                    assert [pack.candidates[i] for i in pack.diverged] == [wild]
                if number == left_at:
                    pack.drop([pack.candidates.index(other)])
            found.append({candidate: pack.state(i) for i, candidate in enumerate(pack.candidates)})
    assert left_at < STEPS - 5
    for candidate in CANDIDATES:
        for key, tensor in found[0][candidate].tensors.items():
            assert torch.equal(tensor, found[1][candidate].tensors[key]), (candidate.id, key)


def test_a_loss_beyond_all_reason_is_given_up_with_its_step_and_reason(tiny_folder: Path) -> None:
    trainer = Trainer(load_base(str(tiny_folder), "fp32", "fp32"))
    wild = Candidate(Setting(8, 16, "lm_head", 30.0))
    with packed(trainer, [wild], [fresh_state(trainer.frozen, wild, SEED)]) as pack:
        for _number, batch in enumerate(batches(examples(trainer.model.config.vocab_size))):
            trainer.step(pack, batch, 1.0)
            if pack.diverged:
                break
    assert pack.diverged == {0: "the loss stood over 9.2 nats a token for 8 steps"}


def test_a_member_that_leaves_and_one_that_pauses_change_nothing(
    tiny_folder: Path, tmp_path: Path
) -> None:
    whole = train(tiny_folder, CANDIDATES)
    load = Loader(str(tiny_folder), "fp32", EXACTLY)
    trainer = Trainer(load())
    steps = batches(examples(trainer.model.config.vocab_size))
    with packed(trainer, CANDIDATES, load.states(trainer, CANDIDATES)) as pack:
        for number in range(8):
            trainer.step(pack, steps[number], SCHEDULE.rate_factor(number))
        pack.drop([0, 2])
        stayed = list(pack.candidates)
        for i, candidate in enumerate(stayed):
            save_checkpoint(tmp_path / candidate.id, pack.state(i))
    paused = [load_checkpoint(tmp_path / candidate.id) for candidate in stayed]
    assert [state.step for state in paused if state] == [8, 8]
    with packed(trainer, stayed, [state for state in paused if state]) as pack:
        for number in range(8, STEPS):
            trainer.step(pack, steps[number], SCHEDULE.rate_factor(number))
        ended = {candidate: pack.state(i) for i, candidate in enumerate(pack.candidates)}
    assert_close({candidate: whole[candidate] for candidate in stayed}, ended)


def test_a_member_that_joins_and_one_that_branches_go_their_own_ways(tiny_folder: Path) -> None:
    """At step 8 a fresh candidate joins, and a member is branched: its copy's rate decays within four steps."""
    first, late = CANDIDATES[0], CANDIDATES[1]
    load = Loader(str(tiny_folder), "fp32", EXACTLY)
    trainer = Trainer(load())
    steps = batches(examples(trainer.model.config.vocab_size))
    fresh = dict(zip([first, late], load.states(trainer, [first, late]), strict=True))
    with packed(trainer, [first], [fresh[first]]) as pack:
        for number in range(8):
            trainer.step(pack, steps[number], 1.0)
        branched_from = pack.state(0)
        pack.join(first, branched_from)
        pack.join(late, fresh[late])
        assert pack.candidates == [first, first, late]
        assert pack.steps == [8, 8, 0]
        for number in range(8, 12):
            trainer.step(pack, steps[number], [1.0, (12 - number) / 5, 1.0])
        together = [pack.state(i) for i in range(3)]
    alone = [(first, branched_from, [1.0] * 4), (first, branched_from, [0.8, 0.6, 0.4, 0.2])]
    alone.append((late, fresh[late], [1.0] * 4))
    for (candidate, state, shares), found in zip(alone, together, strict=True):
        with packed(trainer, [candidate], [state]) as pack:
            for number, share in enumerate(shares, 8):
                trainer.step(pack, steps[number], share)
            assert_close({candidate: pack.state(0)}, {candidate: found})
            assert pack.state(0).progress == found.progress
    assert not torch.allclose(
        *(state.tensors["model.layers.0.self_attn.q_proj.B"] for state in together[:2])
    )


@pytest.mark.parametrize("room", [None, 30], ids=["one pass", "tiles"])
def test_members_that_train_on_other_rows_end_as_they_do_alone(
    tiny_folder: Path, room: int | None
) -> None:
    """Two orders of the rows in one pack: batches of unlike lengths, and at times one row fewer, side by side."""
    load = Loader(str(tiny_folder), "nf4", EXACTLY)
    one = [*CANDIDATES, DROPPING[0], HEADS[1]]
    members = [*one, *(replace(candidate, seed=1) for candidate in one)]
    rows = examples(load().model.config.vocab_size)
    orders = {0: batches(rows), 1: batches(rows[::-1][:-3])}
    assert any(a.ids.shape != b.ids.shape for a, b in zip(orders[0], orders[1], strict=True))

    def end(candidates: list[Candidate], room: int | None) -> dict[Candidate, AdapterState]:
        trainer = Trainer(load())
        trainer.training_limit = TokenLimit(room)
        with packed(trainer, candidates, load.states(trainer, candidates)) as pack:
            for number in range(8):
                own = [orders[candidate.seed][number] for candidate in pack.candidates]
                trainer.step(pack, own, SCHEDULE.rate_factor(number))
            return {candidate: pack.state(i) for i, candidate in enumerate(pack.candidates)}

    together = end(members, room)
    for seed in (0, 1):
        assert_close(end([c for c in members if c.seed == seed], None), together)


def train(
    folder: Path, candidates: list[Candidate], room: int | None = None, checkpointing: bool = False
) -> dict[Candidate, AdapterState]:
    """Where the candidates that do not diverge end, trained in one pack; in float64, which leaves no excuse."""
    load = Loader(str(folder), "fp32", EXACTLY)
    trainer = Trainer(load())
    trainer.training_limit = trainer.scoring_limit = TokenLimit(room)
    if checkpointing:
        trainer.enable_activation_checkpointing()
    with packed(trainer, candidates, load.states(trainer, candidates)) as pack:
        for number, batch in enumerate(batches(examples(trainer.model.config.vocab_size))):
            trainer.step(pack, batch, SCHEDULE.rate_factor(number))
            if pack.diverged:
                pack.drop(list(pack.diverged))
        return {candidate: pack.state(i) for i, candidate in enumerate(pack.candidates)}


def assert_close(one: dict[Candidate, AdapterState], other: dict[Candidate, AdapterState]) -> None:
    for candidate, state in one.items():
        for key, tensor in state.weights.items():
            assert relative_error(other[candidate].tensors[key], tensor) < TRAINED, (
                candidate.id,
                key,
            )
