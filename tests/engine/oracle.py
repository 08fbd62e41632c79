"""What the packing law is tested against: PEFT and torch's AdamW, one candidate at a time, on the very same weights.

The oracle is guarded against the repacking of bitsandbytes (see rung.engine.lora), and both sides evaluate in the
middle of the training, which is what sets it off.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import bitsandbytes
import peft
import pytest
import torch
from tests.architectures import make
from tests.engine.rounding import FAIR, TRAINED, WIDE_EPSILON, relative_error, throughout
from torch import Tensor, nn

from rung.data.batches import Batch, collate, order
from rung.data.tokenize import Example
from rung.engine import optimizer
from rung.engine.checkpoint import peft_config
from rung.engine.dropout import keep_mask, stream_key
from rung.engine.optimizer import Schedule
from rung.engine.adapter_state import AdapterState, fresh_state
from rung.engine.pack import Pack
from rung.engine.trainer import Trainer
from rung.model.load import Base, dense_weight, load_base
from rung.types import Candidate, Setting

STEPS, DECAY, CLIP, SEED = 20, 0.01, 0.5, 7


def schedule_of(steps: int) -> Schedule:
    return Schedule.ending_at(steps, steps, warmup=0.2, cooldown=0.3)


SCHEDULE = schedule_of(STEPS)
CANDIDATES = [
    Candidate(Setting(4, 8, "attention", 1e-3)),
    Candidate(Setting(8, 16, "all-linear", 3e-3)),
    Candidate(Setting(2, 8, "mlp", 5e-4, use_rslora=True)),
    Candidate(Setting(16, 16, "q_proj,v_proj", 2e-3), seed=1),
]


def examples(vocabulary: int, count: int = 24, longest: int = 12) -> list[Example]:
    draw = torch.Generator().manual_seed(3)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=draw))

    made = []
    for _ in range(count):
        length = number(5, longest)
        made.append(
            Example(tuple(number(2, vocabulary) for _ in range(length)), number(1, length - 1))
        )
    return made


def batches(rows: list[Example], size: int = 4, steps: int = STEPS) -> list[Batch]:
    lengths = [len(row.ids) for row in rows]
    passes = [b for number in range(steps) for b in order(lengths, size, SEED, 0, number)]
    return [collate([rows[i] for i in b]) for b in passes[:steps]]


class Loader:
    """Loads the same weights afresh each time: once for the pack, once for each oracle."""

    def __init__(self, model: str, quantization: str, dtype: torch.dtype) -> None:
        self.model, self.quantization, self.dtype = model, quantization, dtype
        self.stored = dtype

    def exact(self) -> Loader:
        """The very same weights, computed with in float64."""
        load = type(self)(self.model, self.quantization, torch.float64)
        load.stored = self.dtype
        return load

    def __call__(self) -> Base:
        base = load_base(self.model, self.quantization, "fp32")
        base.model.apply(self._cast)
        return replace(base, dtype=self.dtype)

    def _cast(self, module: nn.Module) -> None:
        """Give what is not quantised the dtype; bitsandbytes dequantises to the dtype of the input."""
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


class Architecture(Loader):
    """A small random instance of an architecture."""

    def __call__(self) -> Base:
        model = make(self.model)
        if self.dtype == torch.float64:
            model.set_experts_implementation("eager")  # torch's grouped product knows no float64
        model.apply(self._cast)
        return Base(model, None, self.model, self.dtype)


class Stream(nn.Module):
    """PEFT's dropout, with the masks of the candidate's own stream in the place of torch's global generator."""

    def __init__(self, alone: Alone, layer: str) -> None:
        super().__init__()
        self.alone, self.layer = [alone], layer  # in a list: no submodule

    def forward(self, x: Tensor) -> Tensor:
        alone = self.alone[0]
        if not alone.training:
            return x
        rows, dropout = alone.rows, alone.candidate.dropout
        shape = (x.numel() // (rows * x.shape[-1]), x.shape[-1])
        key = stream_key(SEED, alone.candidate.seed)
        keep = keep_mask(key, self.layer, alone.number, range(rows), shape, dropout, x.device)
        return x * keep.view(x.shape) / (1 - dropout)


class Alone:
    """One candidate under PEFT and torch.optim.AdamW: the usual way.

    Its attention is transformers' plain one. Plain weights stand in the place of quantised ones where bitsandbytes' own
    product is another function (int8 rounds its inputs) or none (float64).
    """

    def __init__(
        self,
        base: Base,
        candidate: Candidate,
        state: AdapterState,
        schedule: Schedule = SCHEDULE,
        epsilon: float = 1e-8,
    ) -> None:
        model: Any = base.model
        for name, module in list(model.named_modules()):
            if isinstance(module, bitsandbytes.nn.Linear4bit):
                module.support_avx512bf16_for_cpu = False
            four = isinstance(module, bitsandbytes.nn.Linear4bit) and base.dtype == torch.float64
            if four or isinstance(module, bitsandbytes.nn.Linear8bitLt):
                plain = nn.Linear(
                    module.in_features, module.out_features, bias=False, device="meta"
                )
                plain.weight = nn.Parameter(dense_weight(module, base.dtype), requires_grad=False)
                model.set_submodule(name, plain)
        model.set_attn_implementation("eager")
        layers = sorted({key.rpartition(".")[0] for key in state.weights})
        config = peft_config(candidate, layers)
        config.inference_mode, config.lora_dropout = False, 0.0
        self.model = peft.get_peft_model(model, config).eval()
        self.candidate, self.base = candidate, base
        self.training, self.number, self.rows = False, 0, 0
        self.factors: dict[str, nn.Parameter] = {}
        for key, tensor in state.weights.items():
            layer = self.model.get_submodule(f"base_model.model.{key[:-2]}")
            parameter = (layer.lora_A if key.endswith(".A") else layer.lora_B)["default"].weight
            parameter.data = tensor.clone()
            self.factors[key] = parameter
            if candidate.dropout:
                layer.lora_dropout["default"] = Stream(self, key[:-2])
        assert sum(p.numel() for p in self.model.parameters() if p.requires_grad) == sum(
            tensor.numel() for tensor in state.weights.values()
        ), "PEFT adapts these layers and no other"
        rate = candidate.learning_rate
        self.optimizer = torch.optim.AdamW(
            self.factors.values(), lr=rate, eps=epsilon, weight_decay=DECAY
        )
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, schedule.rate_factor)
        self.scaler = torch.amp.GradScaler("cpu", enabled=base.dtype == torch.float16)
        narrow = base.dtype in (torch.bfloat16, torch.float16)
        self.cast: Callable[[], contextlib.AbstractContextManager[Any]] = (
            (lambda: torch.autocast("cpu", base.dtype))
            if narrow
            else (lambda: throughout(base.dtype))
        )

    def loss(self, batch: Batch) -> Tensor:
        labels = torch.full(batch.ids.shape, -100)
        labels.view(-1)[batch.positions + 1] = batch.labels
        with self.cast():
            logits = self.model(input_ids=batch.ids, use_cache=False).logits
        # What the model's own loss is, but for its rounding of float64 logits to float32.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        )

    def gradients(self, batch: Batch) -> Tensor:
        self.training, self.rows = True, batch.ids.shape[0]
        loss = self.loss(batch)
        self.scaler.scale(loss).backward()
        self.training = False
        return loss.detach()

    def step(self, batch: Batch) -> None:
        self.optimizer.zero_grad()
        self.gradients(batch)
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.factors.values(), CLIP)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        self.number += 1

    @torch.no_grad()
    def evaluate(self, rows: list[Example]) -> float:
        return float(self.loss(collate(rows)))


def check_law(
    load: Loader,
    candidates: list[Candidate],
    tolerance: float = TRAINED,
    rows: list[Example] | None = None,
    steps: int = STEPS,
) -> dict[str, float]:
    """In float64: train in a pack and alone, with an evaluation in between, and compare every adapter weight.

    Returns:
        The worst relative error of each candidate.
    """
    assert load.dtype == torch.float64, "narrower ones: `check_rounding`"
    worst = {}
    ended, states = train_packed(load, candidates, rows, steps)
    for candidate, (weights, score) in ended.items():
        wanted, its_score = train_alone(load, candidate, states[candidate], rows, steps)
        assert weights.keys() == wanted.keys()
        assert score == pytest.approx(its_score, rel=tolerance)
        errors = {key: relative_error(weights[key], tensor) for key, tensor in wanted.items()}
        worst[candidate.id] = max(errors.values())
        assert worst[candidate.id] < tolerance, (
            candidate.id,
            max(errors, key=errors.__getitem__),
            worst,
        )
    return worst


def check_rounding(
    load: Loader, candidates: list[Candidate], fair: float = FAIR
) -> dict[str, float]:
    """In a precision that is used: a pack is no further off than PEFT is, with the wide epsilon on both sides.

    Returns:
        For each candidate, how many times as far off as PEFT it is.
    """
    ratios = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimizer, "EPSILON", WIDE_EPSILON)
        ended, states = train_packed(load, candidates)
    for candidate, (weights, _) in ended.items():
        alike = [
            train_alone(one, candidate, states[candidate], epsilon=WIDE_EPSILON)
            for one in (load, load.exact())
        ]
        (theirs, _), (exact, _) = alike
        error, own = (
            max(relative_error(ends[key], exact[key]) for key in exact)
            for ends in (weights, theirs)
        )
        ratios[candidate.id] = error / own
        assert error < fair * own, (candidate.id, error, own)
    return ratios


Ended = tuple[Mapping[str, Tensor], float]
"""An adapter's weights at the end, and its loss in the middle."""


def train_packed(
    load: Loader, candidates: list[Candidate], rows: list[Example] | None = None, steps: int = STEPS
) -> tuple[dict[Candidate, Ended], Mapping[Candidate, AdapterState]]:
    """Where each candidate ends in one pack, and where it began."""
    trainer, schedule = Trainer(load()), schedule_of(steps)
    rows = rows or examples(trainer.model.config.vocab_size)
    states = dict(zip(candidates, load.states(trainer, candidates), strict=True))
    with packed(trainer, candidates, list(states.values())) as pack:
        scored = {}
        for number, batch in enumerate(batches(rows, steps=steps)):
            if number == steps // 2:
                scored = dict(
                    zip(pack.candidates, [s.mean for s in trainer.score(rows, pack)], strict=True)
                )
            trainer.step(pack, batch, schedule.rate_factor(number))
        ended = {c: (pack.state(i).weights, scored[c]) for i, c in enumerate(pack.candidates)}
    return ended, states


def train_alone(
    load: Loader,
    candidate: Candidate,
    state: AdapterState,
    rows: list[Example] | None = None,
    steps: int = STEPS,
    epsilon: float = 1e-8,
) -> Ended:
    """Where PEFT takes the candidate."""
    alone = Alone(load(), candidate, in_dtype(state, load.dtype), schedule_of(steps), epsilon)
    rows, score = rows or examples(alone.base.model.config.vocab_size), 0.0
    for number, batch in enumerate(batches(rows, steps=steps)):
        if number == steps // 2:
            score = alone.evaluate(rows)
        alone.step(batch)
    return {key: parameter.detach() for key, parameter in alone.factors.items()}, score


def in_dtype(state: AdapterState, dtype: torch.dtype) -> AdapterState:
    """In float64, or else in float32: adapters are never narrower."""
    wide = torch.promote_types(dtype, torch.float32)
    return AdapterState(
        state.step, {key: tensor.to(wide) for key, tensor in state.tensors.items()}, state.progress
    )


@contextlib.contextmanager
def packed(
    trainer: Trainer, candidates: Sequence[Candidate], states: Sequence[AdapterState]
) -> Iterator[Pack]:
    with (
        throughout(trainer.base.dtype),
        Pack(trainer.frozen, candidates, states, DECAY, CLIP, SEED) as pack,
    ):
        yield pack


def trained_state(trainer: Trainer, candidate: Candidate) -> AdapterState:
    """An adapter with a B that is not zero, so that both factors have a gradient."""
    state = fresh_state(trainer.frozen, candidate, SEED)
    draw = torch.Generator().manual_seed(candidate.rank)
    tensors = {
        key: torch.randn(tensor.shape, generator=draw) * 0.05 if key.endswith(".B") else tensor
        for key, tensor in state.tensors.items()
    }
    return in_dtype(AdapterState(0, tensors), trainer.base.dtype)
