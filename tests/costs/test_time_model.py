"""Timed passes predict the time of others."""

from __future__ import annotations

from dataclasses import fields

import pytest

from rung.costs.time_model import ModelSize, TimeModel, Workload, adapter_parameters
from rung.engine.trainer import Trainer
from rung.model.load import Base
from rung.types import Candidate, Setting

SIZE = ModelSize(10**8, 10**7)


def test_workloads_add_up_and_fitted_times_predict_them() -> None:
    true = TimeModel(0.1, 1e-12, 3e-12, 1e-9)
    workloads = [
        SIZE.training([r * 10**5] * k, tokens, tokens / 4)
        for k, r, tokens in ((1, 8, 256), (1, 8, 768), (1, 64, 512), (4, 64, 192), (4, 16, 100))
    ]
    fitted = TimeModel.fit(workloads, [true.seconds(workload) for workload in workloads])
    for field in fields(TimeModel):
        assert getattr(fitted, field.name) == pytest.approx(getattr(true, field.name), rel=1e-6)
    total = sum(workloads, Workload())
    assert fitted.seconds(total) == pytest.approx(sum(map(true.seconds, workloads)))
    assert fitted.seconds(workloads[0].times(2)) == pytest.approx(2 * true.seconds(workloads[0]))


def test_a_training_step_multiplies_frozen_weights_twice_and_adapters_three_times() -> None:
    training = SIZE.training([100, 300], tokens=64, completion=16)
    frozen = 2 * (64 * 10**8 + 16 * 10**7)
    assert training == Workload(1, 2 * frozen, 3 * 64 * 400, 400)
    assert SIZE.scoring([100, 300], 64, 16) == Workload(1, frozen, 64 * 400, 0)


def test_the_sizes_are_those_of_the_model(tiny_base: Base) -> None:
    frozen = Trainer(tiny_base).frozen
    size = ModelSize.of(frozen)
    hidden, intermediate, vocabulary = 64, 128, 98
    attention = 2 * hidden * hidden + 2 * hidden * hidden // 2
    assert size == ModelSize(2 * (attention + 3 * hidden * intermediate), hidden * vocabulary)
    candidate = Candidate(Setting(4, 8, "q_proj", 1e-3))
    assert adapter_parameters(frozen, [candidate] * 2) == [2 * 4 * 2 * hidden] * 2
