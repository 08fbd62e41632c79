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
from torch import Tensor, nn

from rung.data.batches import Batch, collate, order
from rung.data.render import Example
from rung.engine.checkpoint import peft_config
from rung.engine.dropout import keep_mask, stream_key
from rung.engine.optimizer import Schedule
from rung.engine.pack import AdapterState, Pack, fresh_state
from rung.engine.trainer import Trainer
from rung.levers import Candidate
from rung.model.load import Base, dense_weight, load_base

STEPS, DECAY, CLIP, SEED = 20, 0.01, 0.5, 7
SCHEDULE = Schedule.to(STEPS, STEPS, warmup=0.2, cooldown=0.3)
CANDIDATES = [
    Candidate(4, 8, "attention", 1e-3),
    Candidate(8, 16, "all-linear", 3e-3),
    Candidate(2, 8, "mlp", 5e-4, use_rslora=True),
    Candidate(16, 16, "q_proj,v_proj", 2e-3, seed=1),
]


def examples(vocabulary: int, count: int = 24, longest: int = 12) -> list[Example]:
    draw = torch.Generator().manual_seed(3)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=draw))

    made = []
    for _ in range(count):
        length = number(5, longest)
        made.append(Example(tuple(number(2, vocabulary) for _ in range(length)), number(1, length - 1)))
    return made


def batches(rows: list[Example], size: int = 4, steps: int = STEPS) -> list[Batch]:
    lengths = [len(row.ids) for row in rows]
    passes = [b for number in range(steps) for b in order(lengths, size, SEED, 0, number)]
    return [collate([rows[i] for i in b]) for b in passes[:steps]]


class Loader:
    """Loads the same weights afresh each time: once for the pack, once for each oracle."""

    def __init__(self, model: str, quantization: str, dtype: torch.dtype = torch.float32) -> None:
        self.model, self.quantization, self.dtype = model, quantization, dtype

    def __call__(self) -> Base:
        base = load_base(self.model, self.quantization, "fp32")
        base.model.apply(self._cast)
        return replace(base, dtype=self.dtype)

    def _cast(self, module: nn.Module) -> None:
        """Give what is not quantised the dtype; bitsandbytes dequantises to the dtype of the input."""
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(self.dtype)
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.compute_dtype = self.dtype

    def states(self, trainer: Trainer, candidates: Sequence[Candidate]) -> list[AdapterState]:
        fresh = [fresh_state(trainer.frozen, candidate, SEED) for candidate in candidates]
        if self.dtype == torch.float64:
            return [AdapterState(0, {key: t.double() for key, t in state.tensors.items()}) for state in fresh]
        return fresh


class Architecture(Loader):
    """A small random instance of an architecture, in float32."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "fp32")

    def __call__(self) -> Base:
        return Base(make(self.model), None, self.model, torch.float32)


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

    `dense` puts plain weights in the place of the quantised ones, where bitsandbytes' own product is another function
    (int8 rounds its inputs) or none (float64).
    """

    def __init__(
        self,
        base: Base,
        candidate: Candidate,
        state: AdapterState,
        dense: bool = False,
        attention: str = "eager",
    ) -> None:
        model: Any = base.model
        for name, module in list(model.named_modules()):
            if isinstance(module, bitsandbytes.nn.Linear4bit):
                module.support_avx512bf16_for_cpu = False
            if dense and isinstance(module, bitsandbytes.nn.Linear4bit | bitsandbytes.nn.Linear8bitLt):
                plain = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
                plain.weight = nn.Parameter(dense_weight(module, base.dtype), requires_grad=False)
                model.set_submodule(name, plain)
        model.set_attn_implementation(attention)
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
        self.optimizer = torch.optim.AdamW(self.factors.values(), lr=candidate.learning_rate, weight_decay=DECAY)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, SCHEDULE.share)
        self.scaler = torch.amp.GradScaler("cpu", enabled=base.dtype == torch.float16)
        narrow = base.dtype in (torch.bfloat16, torch.float16)
        self.cast: Callable[[], contextlib.AbstractContextManager[Any]] = (
            (lambda: torch.autocast("cpu", base.dtype)) if narrow else contextlib.nullcontext
        )

    def loss(self, batch: Batch) -> Tensor:
        labels = torch.full(batch.ids.shape, -100)
        labels.view(-1)[batch.positions + 1] = batch.labels
        with self.cast():
            logits = self.model(input_ids=batch.ids, use_cache=False).logits
        # What the model's own loss is, but for its rounding of float64 logits to float32.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

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


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def check_law(
    load: Loader,
    candidates: list[Candidate],
    tolerance: float,
    rows: list[Example] | None = None,
    dense: bool = False,
    attention: str | None = None,
) -> dict[str, float]:
    """Train in a pack and alone, with an evaluation in between, and compare every adapter weight.

    `attention` is the oracle's: by default the pack's own, since another kernel rounds otherwise, and AdamW makes a
    whole step of what is nothing but rounding.

    Returns:
        The worst relative error of each candidate.
    """
    trainer = Trainer(load())
    rows = rows or examples(trainer.model.config.vocab_size)
    steps = batches(rows)
    ended, scored, states = train_packed(trainer, load, candidates, steps, rows)
    worst = {}
    for candidate in candidates:
        alone = Alone(load(), candidate, states[candidate], dense, attention or trainer._kinds[0])
        for number, batch in enumerate(steps):
            if number == STEPS // 2:
                assert alone.evaluate(rows) == pytest.approx(scored[candidate], rel=max(1e-5, tolerance))
            alone.step(batch)
        assert ended[candidate].weights.keys() == alone.factors.keys()
        errors = {
            key: relative_error(ended[candidate].tensors[key], parameter.detach())
            for key, parameter in alone.factors.items()
        }
        worst[candidate.id] = max(errors.values())
        assert worst[candidate.id] < tolerance, (candidate.id, max(errors, key=errors.__getitem__), worst)
    return worst


def train_packed(
    trainer: Trainer, load: Loader, candidates: list[Candidate], steps: list[Batch], rows: list[Example]
) -> tuple[dict[Candidate, AdapterState], dict[Candidate, float], Mapping[Candidate, AdapterState]]:
    """Where each candidate ends in one pack, its loss in the middle, and where it began."""
    states = dict(zip(candidates, load.states(trainer, candidates), strict=True))
    with packed(trainer, candidates, list(states.values())) as pack:
        scored = {}
        for number, batch in enumerate(steps):
            if number == STEPS // 2:
                scored = dict(zip(pack.candidates, [s.mean for s in trainer.score(rows, pack)], strict=True))
            trainer.step(pack, batch, SCHEDULE.share(number))
        ended = {candidate: pack.state(i) for i, candidate in enumerate(pack.candidates)}
    return ended, scored, states


@contextlib.contextmanager
def packed(trainer: Trainer, candidates: Sequence[Candidate], states: Sequence[AdapterState]) -> Iterator[Pack]:
    with Pack(trainer.frozen, candidates, states, DECAY, CLIP, SEED) as pack:
        yield pack


def trained_state(trainer: Trainer, candidate: Candidate) -> AdapterState:
    """An adapter with a B that is not zero, so that both factors have a gradient."""
    state = fresh_state(trainer.frozen, candidate, SEED)
    draw = torch.Generator().manual_seed(candidate.rank)
    tensors = {
        key: torch.randn(tensor.shape, generator=draw) * 0.05 if key.endswith(".B") else tensor
        for key, tensor in state.tensors.items()
    }
    return AdapterState(0, tensors)
