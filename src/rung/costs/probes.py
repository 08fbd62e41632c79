"""What packs cost on a device, in memory and in time: measured here, or estimated for another one.

Both take the same few probes. `measure_costs` runs them. `estimate_costs` traces them on shapes
alone, and works out their time from the device's peaks by a roofline. That is an estimate: no real
device reaches its peaks, and each takes a time of its own to start operations.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch

from rung.costs.devices import Device
from rung.costs.memory_model import MemoryModel, candidate_memory, fit_activations
from rung.costs.memory_probes import longest_rows, measure_memory, probe_batch
from rung.costs.time_model import ModelSize, TimeModel, Workload, adapter_parameters
from rung.costs.trace import OperationTracer, blank_state, fake_trainer
from rung.data.batches import Batch
from rung.data.example import Example
from rung.engine.adapter_state import AdapterState, fresh_state
from rung.engine.frozen_model import FrozenModel
from rung.engine.pack import Pack
from rung.engine.trainer import Trainer
from rung.types import Candidate, Setting


class Probe(NamedTuple):
    """One probed pack and batch.

    Attributes:
        width: candidates of the pack.
        rank: of each.
        tokens: of the pass, over all candidates.
        length_share: the length of the rows, as a share of the longest row's.
    """

    width: int
    rank: int
    tokens: int
    length_share: float


PROBES = (
    Probe(1, 8, 64, 1.0),
    Probe(1, 8, 256, 1.0),
    Probe(1, 8, 768, 1.0),
    Probe(1, 8, 512, 0.5),
    Probe(4, 64, 256, 1.0),
    Probe(4, 64, 768, 1.0),
)
ARITHMETIC_EFFICIENCY = 0.5
"""The share of its peak arithmetic that a device is assumed to reach; large models are trained at
0.4 to 0.6."""
BANDWIDTH_EFFICIENCY = 0.7
"""The same for its bandwidth."""
LAUNCH_SECONDS = 8e-6
"""What PyTorch takes to start an operation on a GPU, one after another from Python."""
CUDA_CONTEXT_BYTES = 600_000_000
"""What CUDA and its libraries hold of a GPU before anything is computed."""
UPDATE_BYTES = 28
"""AdamW reads weight, gradient and both moments of a parameter, and writes all but the gradient,
in float32."""


@dataclass(frozen=True)
class DeviceCosts:
    """What packs cost on a device.

    Attributes:
        frozen: the model's layers.
        dtype: of the computation.
        memory: bytes.
        size: of the model; it makes the workloads that `training` and `scoring` take.
        training, scoring: seconds.
        measured: whether real steps were run, on this device.
    """

    frozen: FrozenModel
    dtype: torch.dtype
    memory: MemoryModel
    size: ModelSize
    training: TimeModel
    scoring: TimeModel
    measured: bool


def measure_costs(trainer: Trainer, setting: Setting, examples: Sequence[Example]) -> DeviceCosts:
    """Run some real steps here. They change no weights.

    Args:
        trainer: with no pack in it.
        setting: of the widest target modules that are to be planned for.
        examples: rows of the data; the longest are used.
    """
    memory = measure_memory(trainer, setting, examples)
    device = trainer.base.device

    def timed(work: Callable[[], object]) -> float:
        seconds = []
        for _ in range(3):  # the first run allocates
            _synchronize(device)
            begun = time.perf_counter()
            work()
            _synchronize(device)
            seconds.append(time.perf_counter() - begun)
        return min(seconds[1:])

    def fresh(frozen: FrozenModel, candidate: Candidate) -> AdapterState:
        return fresh_state(frozen, candidate, 0)

    def step(pack: Pack, batch: Batch) -> None:
        trainer.step(pack, batch, 0.0)

    training, scoring = _run_probes(trainer, setting, examples, fresh, step, timed)
    size = ModelSize.of(trainer.frozen)
    return DeviceCosts(
        trainer.frozen,
        trainer.base.dtype,
        memory,
        size,
        _fit_times(training),
        _fit_times(scoring),
        measured=True,
    )


def estimate_costs(
    config: Any,
    quantization: str,
    precision: str,
    setting: Setting,
    examples: Sequence[Example],
    device: Device,
    checkpointing: bool = False,
) -> DeviceCosts:
    """Trace the same steps, for a device that is not here.

    Args:
        config, quantization, precision: see `fake_trainer`.
        setting, examples: see `measure_costs`.
        checkpointing: whether activation checkpointing is on.
    """
    with fake_trainer(config, quantization, precision) as (trainer, tracer):
        if checkpointing:
            trainer.enable_activation_checkpointing()
        return _trace_costs(trainer, tracer, setting, examples, device)


def _trace_costs(
    trainer: Trainer,
    tracer: OperationTracer,
    setting: Setting,
    examples: Sequence[Example],
    device: Device,
) -> DeviceCosts:
    frozen, dtype = trainer.frozen, trainer.base.dtype
    flops = ARITHMETIC_EFFICIENCY * device.tflops * 1e12
    bandwidth = BANDWIDTH_EFFICIENCY * device.bandwidth_gb * 1e9
    base = tracer.held
    peaks: list[int] = []

    def traced(work: Callable[[], object]) -> float:
        trace = tracer.trace(work)
        peaks.append(trace.peak)
        return trace.seconds(flops, bandwidth, LAUNCH_SECONDS)

    # AdamW's update needs numbers, and these have none. It moves little beside a step; its time
    # is added from the bandwidth.
    training, scoring = _run_probes(
        trainer, setting, examples, blank_state, trainer.gradients, traced
    )
    update = replace(_fit_times(training), per_update=UPDATE_BYTES / bandwidth)
    memory = _fit_memory(trainer, setting, examples, base, peaks)
    size = ModelSize.of(frozen)
    return DeviceCosts(frozen, dtype, memory, size, update, _fit_times(scoring), measured=False)


def _fit_memory(
    trainer: Trainer,
    setting: Setting,
    examples: Sequence[Example],
    base: int,
    peaks: Sequence[int],
) -> MemoryModel:
    """Fit the peaks of traced probes, a training and a scoring pass of each."""
    own = candidate_memory(
        trainer.frozen, replace(setting, rank=PROBES[0].rank), trainer.base.dtype
    )
    longest = longest_rows(examples)
    shapes, training, scoring = [], [], []
    for i, probe in enumerate(PROBES):
        if probe.width == 1:
            batch = probe_batch(longest, probe.tokens, probe.length_share, trainer.base.device)
            tokens, length = batch.ids.numel(), batch.ids.shape[1]
            shapes.append((tokens, length))
            training.append(peaks[2 * i] - own.per_token * tokens)
            scoring.append(peaks[2 * i + 1])
    return MemoryModel(
        base + CUDA_CONTEXT_BYTES,
        fit_activations(shapes, training),
        fit_activations(shapes, scoring),
    )


TimedWorkload = tuple[Workload, float]
"""What a pass does, and the seconds that it takes."""


def _run_probes(
    trainer: Trainer,
    setting: Setting,
    examples: Sequence[Example],
    make_state: Callable[[FrozenModel, Candidate], AdapterState],
    step: Callable[[Pack, Batch], object],
    seconds: Callable[[Callable[[], object]], float],
) -> tuple[list[TimedWorkload], list[TimedWorkload]]:
    """Take each probe, first in training and then in scoring. `seconds` does the work."""
    training, scoring, size = [], [], ModelSize.of(trainer.frozen)
    longest = longest_rows(examples)
    for probe in PROBES:
        own = replace(setting, rank=probe.rank, alpha=2.0 * probe.rank)
        members = [Candidate(own, seed) for seed in range(probe.width)]
        adapters = adapter_parameters(trainer.frozen, members)
        tokens_each = probe.tokens // probe.width
        batch = probe_batch(longest, tokens_each, probe.length_share, trainer.base.device)
        tokens, completion = batch.ids.numel(), len(batch.labels)
        with Pack(
            trainer.frozen, members, [make_state(trainer.frozen, member) for member in members]
        ) as pack:
            workload = size.training(adapters, tokens, completion)
            training.append((workload, seconds(partial(step, pack, batch))))
            workload = size.scoring(adapters, tokens, completion)
            scoring.append((workload, seconds(partial(trainer.row_losses, pack, batch))))
    return training, scoring


def _fit_times(passes: Sequence[TimedWorkload]) -> TimeModel:
    return TimeModel.fit([workload for workload, _ in passes], [seconds for _, seconds in passes])


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
