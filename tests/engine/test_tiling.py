from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.oracle import CANDIDATES, SEED, Loader, batches, examples, packed
from tests.engine.rounding import TRAINED, forward_tolerance, relative_error

from rung.engine.adapter_state import AdapterState, fresh_state
from rung.engine.process_memory import TokenLimit, is_out_of_memory, peak_bytes, reset_peak, tiles
from rung.engine.trainer import Trainer
from rung.errors import TrainingError
from rung.model.load import load_base
from rung.types import Candidate

CPU = torch.device("cpu")


def test_the_peak_is_that_since_the_last_reset() -> None:
    block = torch.ones(100_000_000, dtype=torch.uint8)
    high = peak_bytes(CPU)
    del block
    reset_peak(CPU)
    assert peak_bytes(CPU) < high - 50_000_000
    block = torch.ones(100_000_000, dtype=torch.uint8)
    assert peak_bytes(CPU) >= int(block.numel())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's settings are Linux's")
@pytest.mark.parametrize(
    ("variables", "took_effect"), [({}, "True"), ({"MALLOC_ARENA_MAX": "2"}, "False")]
)
def test_a_users_own_malloc_settings_are_left_alone(
    variables: dict[str, str], took_effect: str
) -> None:
    program = "from rung.engine.process_memory import keep_freed_memory; print(keep_freed_memory())"
    found = subprocess.run(
        [sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == took_effect


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 40), st.integers(1, 4000))
def test_tiles_cover_a_step_once_and_keep_to_the_room_where_a_row_does(
    candidates: int, rows: int, width: int, room: int
) -> None:
    found = tiles(candidates, rows, width, room)
    cells = [(k, r) for t in found for k in range(t.start, t.stop) for r in range(t.first, t.last)]
    assert sorted(cells) == [(k, r) for k in range(candidates) for r in range(rows)]
    assert all(tile.tokens(width) <= max(room, width) for tile in found)


def test_without_a_bound_a_step_is_one_tile() -> None:
    (tile,) = tiles(8, 4, 64, math.inf)
    assert tile.tokens(64) == 8 * 4 * 64


def test_a_room_that_was_too_small_grows_back_and_is_tried_less_often_each_time() -> None:
    room = TokenLimit(1000)
    for patience in (2 * TokenLimit.PATIENCE, 4 * TokenLimit.PATIENCE):
        room.shrink(1000)
        assert room.tokens == 500
        for _ in range(patience - 1):
            room.worked()
        assert room.tokens == 500
        room.worked()
        assert room.tokens == 1000


@pytest.mark.parametrize(
    ("error", "says_so"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (
            RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."
            ),
            True,
        ),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, says_so: bool) -> None:
    assert is_out_of_memory(error) == says_so


class Shortage:
    """Lets passes of more than `tokens` tokens fail, as a full memory would: on the way up, or on the way back."""

    def __init__(self, trainer: Trainer, tokens: int, backward: bool) -> None:
        self.trainer, self.tokens, self.failed = trainer, tokens, 0
        losses = trainer._losses

        def scarce(batch: Any, pack: Any, tile: Any, factors: Any) -> Any:
            short = tile.tokens(batch.ids.shape[1]) > self.tokens
            if short and not backward:
                self._fail()
            found, total = losses(batch, pack, tile, factors)
            if short and total.requires_grad:
                # After the gradients of the layers above have been added up already.
                total.register_hook(lambda _: self._fail_late(pack))
            return found, total

        trainer._losses = scarce  # type: ignore[method-assign]

    def _fail_late(self, pack: Any) -> None:
        for group in pack.groups:
            group.gradients += 1.0
        self._fail()

    def _fail(self) -> None:
        self.failed += 1
        raise RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
        )


def trained(
    folder: Path,
    tokens: int | None,
    backward: bool = False,
    dense: bool = False,
    quantization: str = "fp32",
) -> tuple[Trainer, dict[Candidate, AdapterState]]:
    load = Loader(str(folder), quantization, torch.float64)
    trainer = Trainer(load())
    trainer.frozen.hold_dense(torch.float64 if dense else None)
    shortage = Shortage(trainer, tokens, backward) if tokens else None
    rows = examples(trainer.model.config.vocab_size)
    with packed(trainer, CANDIDATES, load.states(trainer, CANDIDATES)) as pack:
        for batch in batches(rows, steps=6):
            trainer.step(pack, batch, 1.0)
        scores = trainer.score(rows, pack)
        assert all(math.isfinite(score.mean) for score in scores)
        ended = {candidate: pack.state(i) for i, candidate in enumerate(pack.candidates)}
    assert shortage is None or shortage.failed
    return trainer, ended


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("tokens", [12, 50, 100])
def test_running_out_of_memory_anywhere_changes_no_result(
    tiny_folder: Path, tokens: int, backward: bool
) -> None:
    _, whole = trained(tiny_folder, None)
    trainer, ended = trained(tiny_folder, tokens, backward)
    assert trainer.training_limit.tokens <= tokens
    for candidate, state in whole.items():
        for key, tensor in state.tensors.items():
            assert relative_error(ended[candidate].tensors[key], tensor) < TRAINED, (
                candidate.id,
                key,
            )


def test_dense_weights_that_are_held_change_no_bit(tiny_folder: Path) -> None:
    _, anew = trained(tiny_folder, None, quantization="nf4")
    trainer, held = trained(tiny_folder, None, dense=True, quantization="nf4")
    assert trainer.frozen.holds_dense
    for candidate, state in anew.items():
        for key, tensor in state.tensors.items():
            assert torch.equal(tensor, held[candidate].tensors[key]), (candidate.id, key)


def test_when_memory_runs_out_the_dense_weights_go_first(tiny_folder: Path) -> None:
    trainer = Trainer(load_base(str(tiny_folder), "nf4", "fp32"))
    losses, held = trainer._losses, []

    def scarce(*args: Any) -> Any:
        held.append(trainer.frozen.holds_dense)
        if trainer.frozen.holds_dense:
            raise MemoryError
        return losses(*args)

    trainer._losses = scarce  # type: ignore[method-assign]
    trainer.frozen.hold_dense(trainer.base.dtype)
    rows = examples(trainer.model.config.vocab_size)
    with packed(
        trainer, CANDIDATES, [fresh_state(trainer.frozen, c, SEED) for c in CANDIDATES]
    ) as pack:
        trainer.step(pack, batches(rows)[0], 1.0)
    assert held == [True, False]
    assert trainer.training_limit.tokens == math.inf


def test_when_not_even_a_row_fits_the_blocks_are_checkpointed_and_then_it_says_so(
    tiny_folder: Path,
) -> None:
    trainer = Trainer(load_base(str(tiny_folder), "fp32", "fp32"))
    Shortage(trainer, 1, False)
    candidate = CANDIDATES[0]
    batch = batches(examples(trainer.model.config.vocab_size))[0]
    with (
        packed(trainer, [candidate], [fresh_state(trainer.frozen, candidate, SEED)]) as pack,
        pytest.raises(TrainingError, match="Memory ran out with one row of"),
    ):
        trainer.step(pack, batch, 1.0)
    assert trainer.activation_checkpointing


LIMITED = """
import json, resource, sys
import torch
from rung.data.batches import collate
from rung.data.tokenize import Example
from rung.engine.adapter_state import fresh_state
from rung.engine.pack import Pack
from rung.engine.trainer import Trainer
from rung.types import Candidate
from rung.model.load import load_base

torch.manual_seed(0)
trainer = Trainer(load_base(sys.argv[1], "fp32", "fp32"))
candidates = [Candidate(4, 8, "attention", 1e-3), Candidate(8, 16, "all-linear", 1e-3)]
small = collate([Example((5, 6, 7, 8), 2)] * 2)
large = collate([Example(tuple(torch.randint(2, 97, (120,)).tolist()), 60) for _ in range(400)])
with Pack(trainer.frozen, candidates, [fresh_state(trainer.frozen, c, 0) for c in candidates]) as pack:
    trainer.step(pack, small, 1.0)
    if sys.argv[2] == "limited":
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 900_000_000, resource.RLIM_INFINITY))
    losses = [trainer.step(pack, large, 1.0).tolist() for _ in range(2)]
print(json.dumps({"losses": losses, "room": trainer.training_limit.tokens}))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the limit on a process's memory is Linux's"
)
def test_a_real_shortage_of_memory_is_lived_through(tiny_folder: Path) -> None:
    """A process that may not have the memory for the whole step: it does it in pieces, with the same losses."""
    found = {}
    for mode in ("free", "limited"):
        command = [sys.executable, "-c", LIMITED, str(tiny_folder), mode]
        out = subprocess.run(command, capture_output=True, text=True, check=False)
        assert out.returncode == 0, out.stderr[-2000:]
        found[mode] = json.loads(out.stdout)
    assert found["free"]["room"] == math.inf
    assert found["limited"]["room"] < 2 * 400 * 120
    for one, other in zip(found["free"]["losses"], found["limited"]["losses"], strict=True):
        # What rounding makes of a step is in numbers whose gradient was next to nothing, and so no part of a loss.
        assert one == pytest.approx(other, rel=forward_tolerance())
