"""Candidates, rows, bases, states and packs that the engine's tests share."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import bitsandbytes
import torch
from tests.architectures import make
from tests.candidates import candidate_of
from tests.engine.rounding import TRAINED, relative_error, throughout
from torch import nn

from rung.data.batches import Batch, collate, order
from rung.data.example import Example
from rung.engine.adapter_state import AdapterState, fresh_state
from rung.engine.optimizer import Schedule
from rung.engine.pack import Pack
from rung.engine.trainer import Trainer
from rung.model.load import Base, load_base
from rung.types import Candidate

STEPS, WEIGHT_DECAY, CLIP_NORM, SEED = 20, 0.01, 0.5, 7


def schedule_of(steps: int) -> Schedule:
    return Schedule.ending_at(steps, steps, warmup=0.2, cooldown=0.3)


SCHEDULE = schedule_of(STEPS)

CANDIDATES = [
    candidate_of(4, 8, "attention", 1e-3),
    candidate_of(8, 16, "all-linear", 3e-3),
    candidate_of(2, 8, "mlp", 5e-4, use_rslora=True),
    candidate_of(16, 16, "q_proj,v_proj", 2e-3, seed=1),
]
DROPOUT_CANDIDATES = [
    candidate_of(4, 8, "attention", 1e-3, dropout=0.1),
    candidate_of(4, 8, "attention", 5e-3, dropout=0.1),
    candidate_of(8, 16, "all-linear", 3e-3, seed=2, dropout=0.3),
    candidate_of(4, 8, "attention", 1e-3),
]
HEAD_CANDIDATES = [
    candidate_of(4, 8, "lm_head", 1e-3),
    candidate_of(8, 16, "attention+lm_head", 3e-3, dropout=0.2),
    candidate_of(8, 16, "attention", 3e-3),
    candidate_of(4, 8, "all-linear,lm_head", 1e-3),
]


def examples(vocabulary: int, count: int = 24, longest: int = 12) -> list[Example]:
    """Random rows of 5 to `longest` − 1 tokens, always the same ones."""
    draw = torch.Generator().manual_seed(3)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=draw))

    rows = []
    for _ in range(count):
        length = number(5, longest)
        ids = tuple(number(2, vocabulary) for _ in range(length))
        rows.append(Example(ids, number(1, length - 1)))
    return rows


def batches(rows: list[Example], size: int = 4, steps: int = STEPS) -> list[Batch]:
    lengths = [len(row.ids) for row in rows]
    passes = [b for number in range(steps) for b in order(lengths, size, SEED, 0, number)]
    return [collate([rows[i] for i in b]) for b in passes[:steps]]


class Loader:
    """Gives a base with the same weights at each call: one for the pack, one for each oracle.

    The files are read at the first call; every call gives a copy.
    """

    def __init__(self, model: str, quantization: str, dtype: torch.dtype) -> None:
        self.model, self.quantization, self.dtype = model, quantization, dtype
        self.stored = dtype
        self.read: list[Base] = []

    def exact(self) -> Loader:
        """A loader of the same weights that computes in float64."""
        load = type(self)(self.model, self.quantization, torch.float64)
        load.stored, load.read = self.dtype, self.read
        return load

    def __call__(self) -> Base:
        if not self.read:
            self.read.append(load_base(self.model, self.quantization, "fp32"))
        base = replace(self.read[0], model=copy.deepcopy(self.read[0].model), dtype=self.dtype)
        base.model.apply(self._cast)
        return base

    def _cast(self, module: nn.Module) -> None:
        """Give what is not quantised the dtype; bitsandbytes dequantises to that of the input."""
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(self.stored).to(self.dtype)
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.compute_dtype = self.dtype

    def states(self, trainer: Trainer, candidates: Sequence[Candidate]) -> list[AdapterState]:
        return [
            in_dtype(fresh_state(trainer.frozen, candidate, SEED), self.dtype)
            for candidate in candidates
        ]


class ArchitectureLoader(Loader):
    """Gives a small random instance of an architecture."""

    def __call__(self) -> Base:
        model = make(self.model)
        if self.dtype == torch.float64:
            model.set_experts_implementation("eager")  # torch's grouped product has no float64
        model.apply(self._cast)
        return Base(model, None, self.model, self.dtype)


def in_dtype(state: AdapterState, dtype: torch.dtype) -> AdapterState:
    """The state in float64, or else in float32: adapters are never narrower."""
    wide = torch.promote_types(dtype, torch.float32)
    tensors = {key: tensor.to(wide) for key, tensor in state.tensors.items()}
    return AdapterState(state.step, tensors, state.progress)


@contextlib.contextmanager
def packed(
    trainer: Trainer, candidates: Sequence[Candidate], states: Sequence[AdapterState]
) -> Iterator[Pack]:
    """A pack with the weight decay, the clipping and the seed of these tests."""
    with (
        throughout(trainer.base.dtype),
        Pack(trainer.frozen, candidates, states, WEIGHT_DECAY, CLIP_NORM, SEED) as pack,
    ):
        yield pack


def states_of(pack: Pack) -> dict[Candidate, AdapterState]:
    return {candidate: pack.state(i) for i, candidate in enumerate(pack.candidates)}


def state_with_b(trainer: Trainer, candidate: Candidate) -> AdapterState:
    """A fresh adapter, but with a B that is not zero, so that both factors have a gradient."""
    state = fresh_state(trainer.frozen, candidate, SEED)
    draw = torch.Generator().manual_seed(candidate.rank)
    tensors = {
        key: torch.randn(tensor.shape, generator=draw) * 0.05 if key.endswith(".B") else tensor
        for key, tensor in state.tensors.items()
    }
    return in_dtype(AdapterState(0, tensors), trainer.base.dtype)


def noisy_state(trainer: Trainer, candidate: Candidate) -> AdapterState:
    """A state at step 3 with noise in every tensor, as if it had been trained."""
    state = fresh_state(trainer.frozen, candidate, 0)
    torch.manual_seed(5)
    noisy = {key: tensor + 0.05 * torch.randn_like(tensor) for key, tensor in state.tensors.items()}
    return AdapterState(3, noisy)


def assert_same_weights(
    actual: Mapping[Candidate, AdapterState], expected: Mapping[Candidate, AdapterState]
) -> None:
    """Each expected candidate's weights are there, but for what rounding does in float64."""
    for candidate, state in expected.items():
        for key, tensor in state.weights.items():
            error = relative_error(actual[candidate].tensors[key], tensor)
            assert error < TRAINED, (candidate.id, key, error)
