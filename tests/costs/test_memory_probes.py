"""Measured passes, against what packs really take."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.engine.setups import examples

from rung.costs.memory_model import candidate_memory
from rung.costs.memory_policy import upper_bound
from rung.costs.memory_probes import longest_rows, measure_memory, probe_batch
from rung.data.batches import collate
from rung.data.example import Example
from rung.engine.adapter_state import fresh_state
from rung.engine.pack import Pack
from rung.engine.process_memory import give_back_freed_memory, peak_bytes, reset_peak
from rung.engine.trainer import SCORING_BATCH_SIZE, Trainer
from rung.model.load import load_base
from rung.types import Candidate, Setting


def test_a_probe_batch_has_the_length_and_the_tokens_that_are_asked_for() -> None:
    rows = [Example((1, 2, 3, 4, 5, 6, 7, 8), 3), Example((9, 10, 11), 1)]
    batch = probe_batch(rows, 24, 1.0, torch.device("cpu"))
    assert batch.ids.shape == (3, 8), "the second row is repeated to the length of the first"
    short = probe_batch(rows, 24, 0.5, torch.device("cpu"))
    assert short.ids.shape == (6, 4)
    for each in (batch, short):
        assert sorted(set(each.rows.tolist())) == list(range(len(each.ids))), (
            "each row has a token to complete"
        )


def test_the_longest_rows_come_first() -> None:
    rows = [Example(tuple(range(n)), 1) for n in (3, 9, 5, 7)]
    assert [len(row.ids) for row in longest_rows(rows, 3)] == [9, 7, 5]


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "width", "length"), [(4, 8, 12), (64, 4, 100), (16, 8, 100)])
def test_the_peak_of_a_pack_is_predicted(
    tiny_folder: Path, rank: int, width: int, length: int
) -> None:
    """Loosely: a tiny model is small beside the process. `benchmarks/plan.py` has real models."""
    trainer = Trainer(load_base(str(tiny_folder), "nf4", "fp32"))
    rows = [e for e in examples(97, 64, length + 1) if len(e.ids) >= 5]
    model = measure_memory(trainer, Setting(8, 16, "attention", 1e-3), rows)
    setting = Setting(rank, 2 * rank, "attention", 1e-3)
    candidates = [Candidate(setting, seed) for seed in range(width)]
    batch = collate(rows[:16])
    memory = [candidate_memory(trainer.frozen, setting, torch.float32)] * width
    predicted = model.peak(memory, *batch.ids.shape)
    with Pack(
        trainer.frozen, candidates, [fresh_state(trainer.frozen, c, 0) for c in candidates]
    ) as pack:
        give_back_freed_memory()
        reset_peak(trainer.base.device)
        trainer.step(pack, batch, 1.0)
        peak = peak_bytes(trainer.base.device)
    assert predicted == pytest.approx(peak, rel=0.15)
    rows_of_batch, longest = batch.ids.shape
    assert upper_bound(trainer, memory, rows_of_batch, SCORING_BATCH_SIZE, longest) > peak
