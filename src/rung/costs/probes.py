"""What packs will cost: their memory and their time, from a few steps that are taken here, or from a rehearsal of them.

The probes are the same in both. A rehearsal knows the memory of a step from its shapes, and its time from a device's
peaks by a roofline: an estimate, since no real device reaches its peaks, and each starts operations in its own time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from rung.costs.devices import Device
from rung.costs.memory_model import MemoryModel, fit, longest_rows, measure, need, probe_batch
from rung.costs.time_model import Load, Sizes, Speed, adapter_numbers
from rung.costs.trace import Watch, blank_state, rehearsal
from rung.data.tokenize import Example
from rung.engine.adapter_state import fresh_state
from rung.engine.frozen_model import FrozenModel
from rung.engine.pack import Pack
from rung.engine.trainer import Trainer
from rung.types import Candidate, Setting

PROBES = (
    (1, 8, 64, 1.0),
    (1, 8, 256, 1.0),
    (1, 8, 768, 1.0),
    (1, 8, 512, 0.5),
    (4, 64, 256, 1.0),
    (4, 64, 768, 1.0),
)
"""Candidates of a pack, their rank, tokens of a pass over all of them, and the share of the longest row's length."""
ARITHMETIC_EFFICIENCY = 0.5
"""The share of its peak arithmetic that a device is taken to reach; 0.4 to 0.6 is what large models are trained at."""
BANDWIDTH_EFFICIENCY = 0.7
"""The same of its bandwidth."""
LAUNCH = 8e-6
"""Seconds that PyTorch takes to start an operation on a GPU, one after another from Python."""
CONTEXT = 600_000_000
"""Bytes that CUDA and its libraries hold of a GPU before anything is computed."""


@dataclass(frozen=True)
class DeviceCosts:
    """What packs cost on some device, by `frozen`'s layers. `measured` says whether steps were really taken."""

    frozen: FrozenModel
    dtype: torch.dtype
    memory: MemoryModel
    sizes: Sizes
    training: Speed
    scoring: Speed
    measured: bool


def measured(trainer: Trainer, setting: Setting, examples: Sequence[Example]) -> DeviceCosts:
    """From some real steps, which leave nothing behind.

    Args:
        trainer: with no pack in it.
        setting: of the widest target modules that are to be planned for.
        examples: rows of the data; the longest are taken.
    """
    memory, frozen, sizes = (
        measure(trainer, setting, examples),
        trainer.frozen,
        Sizes.of(trainer.frozen),
    )

    def timed(work: Callable[[], object]) -> float:
        seconds = []
        for _ in range(3):  # the first one allocates
            _wait(trainer.base.device)
            begun = time.perf_counter()
            work()
            _wait(trainer.base.device)
            seconds.append(time.perf_counter() - begun)
        return min(seconds[1:])

    training, scoring = _probed(trainer, setting, examples, _fresh, trainer.step, timed)
    return DeviceCosts(
        frozen, trainer.base.dtype, memory, sizes, _speed(training), _speed(scoring), measured=True
    )


def rehearsed(
    config: Any,
    quantization: str,
    precision: str,
    setting: Setting,
    examples: Sequence[Example],
    device: Device,
    checkpointing: bool = False,
) -> DeviceCosts:
    """From rehearsals of the same steps, for a device that is not here. Args as in `measured` and `rehearsal`;
    `checkpointing` says that the blocks keep no more than their inputs.
    """
    with rehearsal(config, quantization, precision) as (trainer, watch):
        if checkpointing:
            trainer.enable_activation_checkpointing()
        return _rehearsed(trainer, watch, setting, examples, device)


def _rehearsed(
    trainer: Trainer,
    watch: Watch,
    setting: Setting,
    examples: Sequence[Example],
    device: Device,
) -> DeviceCosts:
    base, own = (
        watch.held,
        need(trainer.frozen, replace(setting, rank=PROBES[0][1]), trainer.base.dtype),
    )
    peaks: list[int] = []

    def seen(work: Callable[[], object]) -> float:
        done = watch.see(work)
        peaks.append(done.peak)
        return done.seconds(
            ARITHMETIC_EFFICIENCY * device.tflops * 1e12,
            BANDWIDTH_EFFICIENCY * device.bandwidth_gb * 1e9,
            LAUNCH,
        )

    # The update of AdamW asks for numbers; what it moves is little beside a step, and is added by its bandwidth.
    take = partial(_gradients, trainer)
    training, scoring = _probed(trainer, setting, examples, blank_state, take, seen)
    alone = [i for i, (width, *_) in enumerate(PROBES) if width == 1]
    examples = longest_rows(examples)
    batches = [
        probe_batch(examples, PROBES[i][2], PROBES[i][3], trainer.base.device) for i in alone
    ]
    shapes = [(batch.ids.numel(), batch.ids.shape[1]) for batch in batches]
    lean = [
        peaks[2 * i] - own.per_token * tokens for i, (tokens, _) in zip(alone, shapes, strict=True)
    ]
    memory = MemoryModel(
        base + CONTEXT, fit(shapes, lean), fit(shapes, [peaks[2 * i + 1] for i in alone])
    )
    # Weight, gradient and both moments are read, and all but the gradient written, in float32.
    update = replace(
        _speed(training), per_moved=28 / (BANDWIDTH_EFFICIENCY * device.bandwidth_gb * 1e9)
    )
    sizes = Sizes.of(trainer.frozen)
    return DeviceCosts(
        trainer.frozen, trainer.base.dtype, memory, sizes, update, _speed(scoring), measured=False
    )


Probe = tuple[Load, float]
"""What a pass does, and the seconds that it takes."""


def _probed(
    trainer: Trainer,
    setting: Setting,
    examples: Sequence[Example],
    state: Callable[[FrozenModel, Candidate], Any],
    step: Callable[[Pack, Any, float], object],
    seconds: Callable[[Callable[[], object]], float],
) -> tuple[list[Probe], list[Probe]]:
    """The probes in training and in scoring, one after the other for each."""
    training, scoring, sizes = [], [], Sizes.of(trainer.frozen)
    examples = longest_rows(examples)
    for width, rank, tokens, share in PROBES:
        members = [
            Candidate(replace(setting, rank=rank, alpha=2.0 * rank), seed) for seed in range(width)
        ]
        numbers = adapter_numbers(trainer.frozen, members)
        batch = probe_batch(examples, tokens // width, share, trainer.base.device)
        each, completion = batch.ids.numel(), len(batch.labels)
        with Pack(
            trainer.frozen, members, [state(trainer.frozen, member) for member in members]
        ) as pack:
            training.append(
                (
                    sizes.training(numbers, each, completion),
                    seconds(partial(step, pack, batch, 0.0)),
                )
            )
            scoring.append(
                (
                    sizes.scoring(numbers, each, completion),
                    seconds(partial(trainer.row_losses, pack, batch)),
                )
            )
    return training, scoring


def _fresh(frozen: FrozenModel, candidate: Candidate) -> Any:
    return fresh_state(frozen, candidate, 0)


def _gradients(trainer: Trainer, pack: Pack, batch: Any, _: float) -> None:
    trainer.gradients(pack, batch)


def _speed(probes: Sequence[Probe]) -> Speed:
    return Speed.through([load for load, _ in probes], [seconds for _, seconds in probes])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
