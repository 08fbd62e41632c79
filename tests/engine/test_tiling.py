"""Splitting a step into tiles, and what happens when memory runs out, changes no result."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.rounding import forward_tolerance
from tests.engine.setups import (
    CANDIDATES,
    Loader,
    assert_same_weights,
    batches,
    examples,
    packed,
    states_of,
)

from rung.engine.adapter_state import AdapterState
from rung.engine.pack import Pack
from rung.engine.tiling import Tile, TokenLimit, run_in_tiles, tiles
from rung.engine.trainer import Trainer
from rung.errors import TrainingError
from rung.types import Candidate


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 40), st.integers(1, 4000))
def test_tiles_cover_a_step_once_and_keep_to_the_limit_if_a_row_does(
    candidates: int, rows: int, length: int, limit: int
) -> None:
    step = tiles(candidates, rows, length, limit)
    cells = [(k, r) for t in step for k in range(t.start, t.stop) for r in range(t.first, t.last)]
    assert sorted(cells) == [(k, r) for k in range(candidates) for r in range(rows)]
    assert all(tile.tokens(length) <= max(limit, length) for tile in step)


def test_without_a_limit_a_step_is_one_tile() -> None:
    assert tiles(8, 4, 64, math.inf) == [Tile(0, 8, 0, 4)]


def test_a_step_is_split_by_candidates_before_it_is_split_by_rows() -> None:
    assert tiles(2, 4, 10, 40) == [Tile(0, 1, 0, 4), Tile(1, 2, 0, 4)]
    assert tiles(1, 4, 10, 20) == [Tile(0, 1, 0, 2), Tile(0, 1, 2, 4)]


def test_a_lowered_limit_rises_again_and_later_each_time() -> None:
    limit = TokenLimit(1000)
    for patience in (2 * TokenLimit.PATIENCE, 4 * TokenLimit.PATIENCE):
        limit.shrink(1000)
        assert limit.tokens == 500
        for _ in range(patience - 1):
            limit.count_success()
        assert limit.tokens == 500
        limit.count_success()
        assert limit.tokens == 1000


class Memory:
    """A memory in which a tile of more than `tokens` tokens does not fit."""

    def __init__(self, tokens: int, first: int = 0, last: int = 0) -> None:
        self.tokens = tokens
        self.extra = {"first": first, "last": last}
        self.events: list[str | int] = []

    def run(self, tile: Tile) -> None:
        self.events.append(tile.tokens(10))
        if tile.tokens(10) > self.tokens:
            raise MemoryError

    def free(self, name: str) -> Callable[[], bool]:
        def freed() -> bool:
            self.tokens, more = self.tokens + self.extra[name], self.extra[name] > 0
            self.extra[name] = 0
            self.events += [name] if more else []
            return more

        return freed

    def run_in_tiles(self, limit: TokenLimit) -> None:
        run_in_tiles(
            limit,
            (2, 2, 10),
            lambda: self.events.append("start"),
            self.run,
            self.free("first"),
            self.free("last"),
        )


def test_a_pass_that_runs_out_of_memory_starts_over_in_smaller_tiles() -> None:
    memory, limit = Memory(20), TokenLimit()
    memory.run_in_tiles(limit)
    assert memory.events == ["start", 40, "start", 20, 20]
    assert limit.tokens == 20


def test_memory_is_freed_before_a_pass_is_split() -> None:
    memory, limit = Memory(20, first=20), TokenLimit()
    memory.run_in_tiles(limit)
    assert memory.events == ["start", 40, "first", "start", 40]
    assert limit.tokens == math.inf


def test_the_last_resort_comes_when_one_row_is_too_much() -> None:
    memory, limit = Memory(5, last=5), TokenLimit(10)
    memory.run_in_tiles(limit)
    assert memory.events == ["start", 10, "last", "start", 10, 10, 10, 10]


def test_a_row_that_does_not_fit_at_all_is_an_error() -> None:
    with pytest.raises(TrainingError, match="Memory ran out with one row of 10 tokens; give short"):
        Memory(5).run_in_tiles(TokenLimit())


def test_any_other_error_is_raised() -> None:
    def fail(_: Tile) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    def never() -> bool:
        raise AssertionError("nothing is freed for it")

    with pytest.raises(RuntimeError, match="shapes"):
        run_in_tiles(TokenLimit(), (2, 2, 10), lambda: None, fail, never, never)


class Shortage:
    """Lets passes of more than `tokens` tokens fail as a full memory would.

    They fail in the forward pass, or in the backward pass after some gradients were added.
    """

    def __init__(
        self, trainer: Trainer, monkeypatch: pytest.MonkeyPatch, tokens: int, backward: bool
    ) -> None:
        self.tokens, self.failed = tokens, 0
        losses_of_tile = trainer.losses_of_tile

        def scarce(rows: Any, pack: Any, tile: Tile, weights: Any) -> Any:
            short = tile.tokens(rows.ids.shape[1]) > self.tokens
            if short and not backward:
                self.fail()
            losses, total = losses_of_tile(rows, pack, tile, weights)
            if short and total.requires_grad:
                total.register_hook(lambda _: self.fail_late(pack))
            return losses, total

        monkeypatch.setattr(trainer, "losses_of_tile", scarce)

    def fail_late(self, pack: Pack) -> None:
        for group in pack.groups:
            group.gradients += 1.0
        self.fail()

    def fail(self) -> None:
        self.failed += 1
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes.")


@pytest.fixture(scope="module")
def load(tiny_folder: Path) -> Loader:
    return Loader(str(tiny_folder), "nf4", torch.float64)


@pytest.fixture(scope="module")
def whole(load: Loader) -> dict[Candidate, AdapterState]:
    """The candidates after a training with enough memory."""
    return train(Trainer(load()), load)


def train(trainer: Trainer, load: Loader) -> dict[Candidate, AdapterState]:
    rows = examples(trainer.model.config.vocab_size)
    with packed(trainer, CANDIDATES, load.states(trainer, CANDIDATES)) as pack:
        for batch in batches(rows, steps=6):
            trainer.step(pack, batch, 1.0)
        assert all(math.isfinite(scores.mean) for scores in trainer.score(rows, pack))
        return states_of(pack)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("tokens", [12, 50, 100])
def test_running_out_of_memory_anywhere_changes_no_result(
    load: Loader,
    whole: dict[Candidate, AdapterState],
    tokens: int,
    backward: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = Trainer(load())
    shortage = Shortage(trainer, monkeypatch, tokens, backward)
    assert_same_weights(train(trainer, load), whole)
    assert shortage.failed
    assert trainer.training_limit.tokens <= tokens


def test_dense_weights_that_are_held_change_no_bit(
    load: Loader, whole: dict[Candidate, AdapterState]
) -> None:
    trainer = Trainer(load())
    trainer.frozen.hold_dense(torch.float64)
    held = train(trainer, load)
    assert trainer.frozen.holds_dense
    for candidate, state in whole.items():
        for key, tensor in state.tensors.items():
            assert torch.equal(tensor, held[candidate].tensors[key]), (candidate.id, key)


def test_when_memory_runs_out_the_dense_weights_are_released_first(
    load: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, held = Trainer(load()), []
    losses_of_tile = trainer.losses_of_tile

    def scarce(*args: Any) -> Any:
        held.append(trainer.frozen.holds_dense)
        if trainer.frozen.holds_dense:
            raise MemoryError
        return losses_of_tile(*args)

    monkeypatch.setattr(trainer, "losses_of_tile", scarce)
    trainer.frozen.hold_dense(trainer.base.dtype)
    with packed(trainer, CANDIDATES, load.states(trainer, CANDIDATES)) as pack:
        trainer.step(pack, batches(examples(trainer.model.config.vocab_size))[0], 1.0)
    assert held == [True, False]
    assert trainer.training_limit.tokens == math.inf


def test_when_one_row_does_not_fit_activations_are_recomputed_before_giving_up(
    load: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(load())
    Shortage(trainer, monkeypatch, 1, backward=False)
    batch = batches(examples(trainer.model.config.vocab_size))[0]
    with (
        packed(trainer, CANDIDATES[:1], load.states(trainer, CANDIDATES[:1])) as pack,
        pytest.raises(TrainingError, match="Memory ran out with one row of"),
    ):
        trainer.step(pack, batch, 1.0)
    assert trainer.activation_checkpointing


LIMITED_TRAINING = """
import json, resource, sys
import torch
from rung.data.batches import collate
from rung.data.example import Example
from rung.engine.adapter_state import fresh_state
from rung.engine.pack import Pack
from rung.engine.trainer import Trainer
from rung.model.load import load_base
from tests.candidates import candidate_of

torch.manual_seed(0)
trainer = Trainer(load_base(sys.argv[1], "fp32", "fp32"))
candidates = [candidate_of(4, 8, "attention", 1e-3), candidate_of(8, 16, "all-linear", 1e-3)]
states = [fresh_state(trainer.frozen, candidate, 0) for candidate in candidates]
small = collate([Example((5, 6, 7, 8), 2)] * 2)
large = collate([Example(tuple(torch.randint(2, 97, (120,)).tolist()), 60) for _ in range(400)])
with Pack(trainer.frozen, candidates, states) as pack:
    trainer.step(pack, small, 1.0)
    if sys.argv[2] == "limited":
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 900_000_000, resource.RLIM_INFINITY))
    losses = [trainer.step(pack, large, 1.0).tolist() for _ in range(2)]
limit = trainer.training_limit.tokens
print(json.dumps({"losses": losses, "limit": limit}))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the limit on a process's memory is Linux's"
)
def test_a_process_with_too_little_memory_trains_in_tiles_to_the_same_losses(
    tiny_folder: Path,
) -> None:
    results = {}
    for mode in ("free", "limited"):
        command = [sys.executable, "-c", LIMITED_TRAINING, str(tiny_folder), mode]
        child = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
        )
        assert child.returncode == 0, child.stderr[-2000:]
        results[mode] = json.loads(child.stdout)
    assert results["free"]["limit"] == math.inf
    assert results["limited"]["limit"] < 2 * 400 * 120
    for free, limited in zip(*(results[mode]["losses"] for mode in results), strict=True):
        # Rounding moves the weights whose gradient is almost zero, and those do not show in a loss.
        assert limited == pytest.approx(free, rel=forward_tolerance())
