"""The packing law: a candidate in a pack ends where PEFT and torch's AdamW take it alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.architectures import ARCHITECTURES
from tests.candidates import candidate_of
from tests.engine.oracle import Alone, check_law, check_rounding
from tests.engine.rounding import EXACT, STRICT, relative_error
from tests.engine.setups import (
    CANDIDATES,
    DROPOUT_CANDIDATES,
    HEAD_CANDIDATES,
    SCHEDULE,
    STEPS,
    ArchitectureLoader,
    Loader,
    assert_same_weights,
    batches,
    examples,
    packed,
    state_with_b,
    states_of,
)

from rung.data.builtin import pronounce
from rung.data.rows import Row
from rung.data.tokenize import tokenize_rows
from rung.defaults import DEFAULT_MODEL
from rung.engine.adapter_state import AdapterState
from rung.engine.checkpoint import load_checkpoint, save_checkpoint
from rung.engine.tiling import TokenLimit
from rung.engine.trainer import Trainer
from rung.types import Candidate

FLOAT64, FLOAT32 = torch.float64, torch.float32
Train = Callable[[list[Candidate]], dict[Candidate, AdapterState]]
CANDIDATES_OF_ANY_ARCHITECTURE = [
    candidate_of(4, 8, "attention", 1e-3),
    candidate_of(8, 16, "all-linear", 3e-3, dropout=0.1),
    candidate_of(2, 4, "attention+lm_head", 1e-3),
]


@pytest.fixture(scope="module")
def loaders(tiny_folder: Path) -> dict[str, Loader]:
    """A loader of the tiny model in float64 for each quantization; each reads the files once."""
    names = ("fp32", "nf4", "nf4-single", "int8")
    return {name: Loader(str(tiny_folder), name, FLOAT64) for name in names}


@pytest.fixture(scope="module")
def in_one_pass(loaders: dict[str, Loader]) -> Train:
    """Trains candidates in one pack, with each step in one pass; each list of them only once."""

    @functools.cache
    def trained(candidates: tuple[Candidate, ...]) -> dict[Candidate, AdapterState]:
        return train(loaders["fp32"], list(candidates))

    return lambda candidates: trained(tuple(candidates))


@pytest.mark.parametrize(
    "candidates",
    [CANDIDATES, DROPOUT_CANDIDATES, HEAD_CANDIDATES],
    ids=["plain", "dropout", "lm_head"],
)
@pytest.mark.parametrize("quantization", ["fp32", "nf4", "nf4-single", "int8"])
def test_a_candidate_in_a_pack_ends_as_it_does_alone_under_peft(
    loaders: dict[str, Loader], quantization: str, candidates: list[Candidate]
) -> None:
    check_law(loaders[quantization], candidates)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_law_holds_in_every_architecture(name: str) -> None:
    check_law(ArchitectureLoader(name, "fp32", FLOAT64), CANDIDATES_OF_ANY_ARCHITECTURE)


@pytest.mark.parametrize("rank", [1, 512])
def test_the_law_holds_at_the_lowest_rank_and_above_the_layers_width(
    loaders: dict[str, Loader], rank: int
) -> None:
    check_law(loaders["nf4"], [candidate_of(rank, 2 * rank, "attention", 1e-3), CANDIDATES[0]])


@pytest.mark.slow
def test_the_law_holds_on_the_real_model_in_nf4() -> None:
    load = Loader(DEFAULT_MODEL, "nf4", FLOAT64)
    rows = tokenize_rows([Row(*pair) for pair in pronounce()[0][:12]], load().tokenizer, 99)
    check_law(load, [*CANDIDATES[:2], HEAD_CANDIDATES[1]], STRICT, rows, steps=8)


@pytest.mark.parametrize(
    ("quantization", "dtype"),
    [
        ("nf4", torch.float32),
        ("nf4", torch.bfloat16),
        ("nf4", torch.float16),
        ("fp32", torch.float32),
        ("int8", torch.float32),
    ],
    ids=str,
)
def test_in_the_precisions_that_are_used_a_pack_is_not_further_off_than_peft(
    tiny_folder: Path, quantization: str, dtype: torch.dtype
) -> None:
    """With loss scaling in float16: GradScaler's for PEFT, each candidate's own in the pack."""
    candidates = [*CANDIDATES, DROPOUT_CANDIDATES[2], HEAD_CANDIDATES[1]]
    check_rounding(Loader(str(tiny_folder), quantization, dtype), candidates)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_in_float32_a_pack_is_not_further_off_than_peft_in_every_architecture(name: str) -> None:
    check_rounding(ArchitectureLoader(name, "fp32", FLOAT32), CANDIDATES_OF_ANY_ARCHITECTURE)


@pytest.mark.parametrize("quantization", ["fp32", "nf4"])
def test_losses_and_gradients_of_one_step_are_those_of_peft(
    loaders: dict[str, Loader], quantization: str
) -> None:
    load = loaders[quantization]
    trainer = Trainer(load())
    rows = examples(trainer.model.config.vocab_size)
    batch = batches(rows)[0]
    candidates = [*CANDIDATES, *DROPOUT_CANDIDATES, *HEAD_CANDIDATES]
    states = {candidate: state_with_b(trainer, candidate) for candidate in candidates}
    with packed(trainer, candidates, [states[c] for c in candidates]) as pack:
        losses = dict(zip(pack.candidates, trainer.gradients(pack, batch).tolist(), strict=True))
        for group in pack.groups:
            group.scale_gradients()
        gradients = {
            (candidate, factor.name): factor.of(group.gradients[i])
            for group in pack.groups
            for i, candidate in enumerate(group.candidates)
            for factor in group.factors
        }
    for candidate in candidates:
        alone = Alone(load(), candidate, states[candidate])
        alone.evaluate(rows)
        assert losses[candidate] == pytest.approx(float(alone.gradients(batch)), rel=EXACT)
        for key, parameter in alone.factors.items():
            assert parameter.grad is not None
            error = relative_error(gradients[candidate, key], parameter.grad)
            assert error < EXACT, (candidate.id, key)


def test_the_results_do_not_depend_on_how_candidates_are_packed(
    in_one_pass: Train,
) -> None:
    apart = in_one_pass(CANDIDATES[:1]) | in_one_pass(CANDIDATES[:0:-1])
    assert_same_weights(in_one_pass(CANDIDATES), apart)


@pytest.mark.parametrize("limit", [1, 13, 30, 100])
def test_the_results_do_not_depend_on_how_a_step_is_split(
    loaders: dict[str, Loader], in_one_pass: Train, limit: int
) -> None:
    """From one row of one candidate at a time to three candidates at a time."""
    candidates = [*CANDIDATES, DROPOUT_CANDIDATES[0], HEAD_CANDIDATES[1]]
    split = train(loaders["fp32"], candidates, limit)
    assert_same_weights(split, in_one_pass(candidates))


def test_activation_checkpointing_changes_no_result(
    loaders: dict[str, Loader], in_one_pass: Train
) -> None:
    candidates = [*CANDIDATES, DROPOUT_CANDIDATES[0]]
    recomputed = train(loaders["fp32"], candidates, checkpointing=True)
    assert_same_weights(recomputed, in_one_pass(candidates))


@pytest.mark.parametrize(
    "wild",
    [candidate_of(8, 16, "attention", 1e300), candidate_of(8, 16, "lm_head", 30.0)],
    ids=lambda candidate: candidate.id,
)
def test_a_candidate_that_diverges_is_found_and_does_not_change_the_others(
    in_one_pass: Train, wild: Candidate
) -> None:
    beside = in_one_pass([CANDIDATES[0], wild, *CANDIDATES[1:]])
    assert wild not in beside
    assert_same_weights(beside, in_one_pass(CANDIDATES))


def test_a_candidate_that_diverges_changes_no_bit_of_the_others(tiny_folder: Path) -> None:
    """Compared with a pack whose tame candidate leaves at the step where the wild one diverges."""
    wild, tame = (candidate_of(8, 16, "attention", rate) for rate in (1e30, 1e-3))
    load = Loader(str(tiny_folder), "nf4", FLOAT32)
    ended: list[dict[Candidate, AdapterState]] = []
    left_at = STEPS
    for other in (wild, tame):
        trainer = Trainer(load())
        members = [CANDIDATES[0], other, *CANDIDATES[1:]]
        with packed(trainer, members, load.states(trainer, members)) as pack:
            for number, batch in enumerate(batches(examples(trainer.model.config.vocab_size))):
                trainer.step(pack, batch, SCHEDULE.rate_factor(number))
                if pack.diverged:
                    left_at = number
                    assert [pack.candidates[i] for i in pack.diverged] == [wild]
                if number == left_at:
                    pack.drop([pack.candidates.index(other)])
            ended.append(states_of(pack))
    assert left_at < STEPS - 5
    for candidate in CANDIDATES:
        for key, tensor in ended[0][candidate].tensors.items():
            assert torch.equal(tensor, ended[1][candidate].tensors[key]), (candidate.id, key)


def test_a_candidate_that_leaves_and_one_that_pauses_change_no_result(
    loaders: dict[str, Loader], in_one_pass: Train, tmp_path: Path
) -> None:
    load, whole = loaders["fp32"], in_one_pass(CANDIDATES)
    trainer = Trainer(load())
    steps = batches(examples(trainer.model.config.vocab_size))
    with packed(trainer, CANDIDATES, load.states(trainer, CANDIDATES)) as pack:
        for number in range(8):
            trainer.step(pack, steps[number], SCHEDULE.rate_factor(number))
        pack.drop([0, 2])
        stayed = list(pack.candidates)
        for i, candidate in enumerate(stayed):
            save_checkpoint(tmp_path / candidate.id, pack.state(i))
    loaded = [load_checkpoint(tmp_path / candidate.id) for candidate in stayed]
    resumed = [state for state in loaded if state]
    assert [state.step for state in resumed] == [8, 8]
    with packed(trainer, stayed, resumed) as pack:
        for number in range(8, STEPS):
            trainer.step(pack, steps[number], SCHEDULE.rate_factor(number))
        assert_same_weights(states_of(pack), {candidate: whole[candidate] for candidate in stayed})


def test_a_candidate_that_joins_and_a_copy_that_cools_down_end_as_they_do_alone(
    loaders: dict[str, Loader],
) -> None:
    """At step 8 a fresh candidate joins, and a copy of a member, whose rate falls in four steps."""
    first, late = CANDIDATES[0], CANDIDATES[1]
    load = loaders["fp32"]
    trainer = Trainer(load())
    steps = batches(examples(trainer.model.config.vocab_size))
    fresh = dict(zip([first, late], load.states(trainer, [first, late]), strict=True))
    with packed(trainer, [first], [fresh[first]]) as pack:
        for number in range(8):
            trainer.step(pack, steps[number], 1.0)
        copied = pack.state(0)
        pack.join(first, copied)
        pack.join(late, fresh[late])
        assert pack.candidates == [first, first, late]
        assert pack.steps == [8, 8, 0]
        for number in range(8, 12):
            trainer.step(pack, steps[number], [1.0, (12 - number) / 5, 1.0])
        together = [pack.state(i) for i in range(3)]
    alone = [
        (first, copied, [1.0] * 4),
        (first, copied, [0.8, 0.6, 0.4, 0.2]),
        (late, fresh[late], [1.0] * 4),
    ]
    for (candidate, state, rate_factors), ended in zip(alone, together, strict=True):
        with packed(trainer, [candidate], [state]) as pack:
            for number, rate_factor in enumerate(rate_factors, 8):
                trainer.step(pack, steps[number], rate_factor)
            assert_same_weights({candidate: ended}, {candidate: pack.state(0)})
            assert pack.state(0).progress == ended.progress
    B = "model.layers.0.self_attn.q_proj.B"
    assert not torch.allclose(together[0].tensors[B], together[1].tensors[B])


@pytest.mark.parametrize("limit", [None, 30], ids=["one pass", "tiles"])
def test_candidates_with_different_rows_end_as_they_do_alone(
    loaders: dict[str, Loader], limit: int | None
) -> None:
    """Two orders of the rows in one pack: batches differ in length, and some lack a row."""
    load = loaders["nf4"]
    seed_0 = [*CANDIDATES, DROPOUT_CANDIDATES[0], HEAD_CANDIDATES[1]]
    members = [*seed_0, *(replace(candidate, seed=1) for candidate in seed_0)]
    rows = examples(load().model.config.vocab_size)
    orders = {0: batches(rows), 1: batches(rows[::-1][:-3])}
    assert any(a.ids.shape != b.ids.shape for a, b in zip(orders[0], orders[1], strict=True))

    def end(candidates: list[Candidate], limit: int | None) -> dict[Candidate, AdapterState]:
        trainer = Trainer(load())
        trainer.training_limit = TokenLimit(limit)
        with packed(trainer, candidates, load.states(trainer, candidates)) as pack:
            for number in range(8):
                own = [orders[candidate.seed][number] for candidate in pack.candidates]
                trainer.step(pack, own, SCHEDULE.rate_factor(number))
            return states_of(pack)

    together = end(members, limit)
    for seed in (0, 1):
        alone = end([candidate for candidate in members if candidate.seed == seed], None)
        assert_same_weights(together, alone)


def train(
    load: Loader, candidates: list[Candidate], limit: int | None = None, checkpointing: bool = False
) -> dict[Candidate, AdapterState]:
    """Train the candidates in one pack; returns the states of those that do not diverge."""
    trainer = Trainer(load())
    trainer.training_limit = trainer.scoring_limit = TokenLimit(limit)
    if checkpointing:
        trainer.enable_activation_checkpointing()
    with packed(trainer, candidates, load.states(trainer, candidates)) as pack:
        for number, batch in enumerate(batches(examples(trainer.model.config.vocab_size))):
            trainer.step(pack, batch, SCHEDULE.rate_factor(number))
            if pack.diverged:
                pack.drop(list(pack.diverged))
        return states_of(pack)
