"""The oracle of the packing law: PEFT and torch's AdamW, one candidate at a time, on equal weights.

The oracle is protected from the repacking of bitsandbytes (see rung.engine.lora). Both sides
evaluate in the middle of the training, which is what triggers that fault.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import bitsandbytes
import peft
import pytest
import torch
from tests.engine.rounding import FAIR, TRAINED, WIDE_EPSILON, relative_error, throughout
from tests.engine.setups import (
    CLIP_NORM,
    SCHEDULE,
    SEED,
    STEPS,
    WEIGHT_DECAY,
    Loader,
    batches,
    examples,
    in_dtype,
    packed,
    schedule_of,
)
from torch import Tensor, nn

from rung.data.batches import Batch, collate
from rung.data.example import Example
from rung.engine import optimizer
from rung.engine.adapter_state import AdapterState
from rung.engine.checkpoint import peft_config
from rung.engine.dropout import dropout_mask, stream_key
from rung.engine.optimizer import Schedule
from rung.engine.trainer import Trainer
from rung.model.load import Base, dense_weight
from rung.types import Candidate


class StreamDropout(nn.Module):
    """The dropout of PEFT, but with the masks of the candidate's own stream."""

    def __init__(self, alone: Alone, layer: str) -> None:
        super().__init__()
        self.alone, self.layer = [alone], layer  # in a list, so that it is not a submodule

    def forward(self, x: Tensor) -> Tensor:
        alone = self.alone[0]
        if not alone.training:
            return x
        rows, dropout = alone.rows, alone.candidate.dropout
        shape = (x.numel() // (rows * x.shape[-1]), x.shape[-1])
        key = stream_key(SEED, alone.candidate.seed)
        mask = dropout_mask(key, self.layer, alone.number, range(rows), shape, dropout, x.device)
        return x * mask.view(x.shape) / (1 - dropout)


class Alone:
    """One candidate alone, trained by PEFT and torch.optim.AdamW: the usual way.

    Its attention is the plain one of transformers. Plain weights replace quantised ones where the
    product of bitsandbytes is another function (int8 rounds its inputs) or does not exist
    (float64).
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
            four_bit = isinstance(module, bitsandbytes.nn.Linear4bit)
            eight_bit = isinstance(module, bitsandbytes.nn.Linear8bitLt)
            if eight_bit or (four_bit and base.dtype == torch.float64):
                plain = nn.Linear(
                    module.in_features, module.out_features, bias=False, device="meta"
                )
                plain.weight = nn.Parameter(dense_weight(module, base.dtype), requires_grad=False)
                model.set_submodule(name, plain)
        model.set_attn_implementation("eager")
        layers = sorted({key.rpartition(".")[0] for key in state.weights})
        config = peft_config(candidate.setting, layers)
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
                layer.lora_dropout["default"] = StreamDropout(self, key[:-2])
        assert sum(p.numel() for p in self.model.parameters() if p.requires_grad) == sum(
            tensor.numel() for tensor in state.weights.values()
        ), "PEFT adapts these layers and no other"
        rate = candidate.learning_rate
        self.optimizer = torch.optim.AdamW(
            self.factors.values(), lr=rate, eps=epsilon, weight_decay=WEIGHT_DECAY
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
        # The model's own loss would round float64 logits to float32.
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
        torch.nn.utils.clip_grad_norm_(self.factors.values(), CLIP_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        self.number += 1

    @torch.no_grad()
    def evaluate(self, rows: list[Example]) -> float:
        return float(self.loss(collate(rows)))


@dataclass(frozen=True)
class TrainedAdapter:
    """An adapter's weights at the end of a training, and its loss in the middle of it."""

    weights: Mapping[str, Tensor]
    middle_loss: float


def check_law(
    load: Loader,
    candidates: list[Candidate],
    tolerance: float = TRAINED,
    rows: list[Example] | None = None,
    steps: int = STEPS,
) -> dict[str, float]:
    """Assert the packing law in float64.

    The candidates are trained in one pack and alone, with an evaluation in between, and every
    weight of each adapter is compared.

    Returns:
        The worst relative error of each candidate.
    """
    assert load.dtype == torch.float64, "for narrower ones there is `check_rounding`"
    worst = {}
    trained, states = train_packed(load, candidates, rows, steps)
    for candidate, ours in trained.items():
        theirs = train_alone(load, candidate, states[candidate], rows, steps)
        assert ours.weights.keys() == theirs.weights.keys()
        assert ours.middle_loss == pytest.approx(theirs.middle_loss, rel=tolerance)
        errors = {
            key: relative_error(ours.weights[key], tensor) for key, tensor in theirs.weights.items()
        }
        worst[candidate.id] = max(errors.values())
        where = max(errors, key=errors.__getitem__)
        assert worst[candidate.id] < tolerance, (candidate.id, where, worst)
    return worst


def check_rounding(
    load: Loader, candidates: list[Candidate], fair: float = FAIR
) -> dict[str, float]:
    """Assert that, in the loader's precision, a pack is not further off than PEFT is.

    Both use the wide epsilon.

    Returns:
        For each candidate the error of the pack, relative to the error of PEFT.
    """
    ratios = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimizer, "EPSILON", WIDE_EPSILON)
        trained, states = train_packed(load, candidates)
    for candidate, ours in trained.items():
        theirs, exact = (
            train_alone(loader, candidate, states[candidate], epsilon=WIDE_EPSILON).weights
            for loader in (load, load.exact())
        )
        our_error, their_error = (
            max(relative_error(weights[key], exact[key]) for key in exact)
            for weights in (ours.weights, theirs)
        )
        ratios[candidate.id] = our_error / their_error
        assert our_error < fair * their_error, (candidate.id, our_error, their_error)
    return ratios


def train_packed(
    load: Loader, candidates: list[Candidate], rows: list[Example] | None = None, steps: int = STEPS
) -> tuple[dict[Candidate, TrainedAdapter], Mapping[Candidate, AdapterState]]:
    """Train all candidates in one pack; returns the trained adapters and the states before."""
    trainer, schedule = Trainer(load()), schedule_of(steps)
    rows = rows or examples(trainer.model.config.vocab_size)
    states = dict(zip(candidates, load.states(trainer, candidates), strict=True))
    with packed(trainer, candidates, list(states.values())) as pack:
        losses = []
        for number, batch in enumerate(batches(rows, steps=steps)):
            if number == steps // 2:
                losses = [scores.mean for scores in trainer.score(rows, pack)]
            trainer.step(pack, batch, schedule.rate_factor(number))
        trained = {
            candidate: TrainedAdapter(pack.state(i).weights, losses[i])
            for i, candidate in enumerate(pack.candidates)
        }
    return trained, states


def train_alone(
    load: Loader,
    candidate: Candidate,
    state: AdapterState,
    rows: list[Example] | None = None,
    steps: int = STEPS,
    epsilon: float = 1e-8,
) -> TrainedAdapter:
    """Train one candidate with PEFT."""
    alone = Alone(load(), candidate, in_dtype(state, load.dtype), schedule_of(steps), epsilon)
    rows, loss = rows or examples(alone.base.model.config.vocab_size), 0.0
    for number, batch in enumerate(batches(rows, steps=steps)):
        if number == steps // 2:
            loss = alone.evaluate(rows)
        alone.step(batch)
    weights = {key: parameter.detach() for key, parameter in alone.factors.items()}
    return TrainedAdapter(weights, loss)
