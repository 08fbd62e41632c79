"""Checks before anything is trained: the base's losses are right, and PEFT reads adapters back.

The untuned losses must be numbers, must be those of the model's own logits, and must not depend on
what comes after a token. Then one adapter for each set of target modules is trained for one step,
saved as a study saves it, and read back by `PeftModel.from_pretrained`. The factors must be the
same, on the same layers, and the losses too. If PEFT puts something elsewhere or nowhere, it shows
here and not after a day; so does a model that cannot generate.

No second base is loaded. PEFT gets a copy of the tree of modules over the same tensors, in which
every linear layer multiplies as the engine does. The copy is discarded with everything that PEFT
did to it, so the base is unchanged. PEFT draws factors from the global random state before it reads
the saved ones, so that state is restored too.
"""

from __future__ import annotations

import copy
import itertools
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from rung.data.batches import collate
from rung.data.example import Example
from rung.engine.adapter_state import AdapterState, fresh_state
from rung.engine.checkpoint import PEFT_PREFIX, save_adapter
from rung.engine.frozen_model import FrozenModel
from rung.engine.generate import generate
from rung.engine.lora import FrozenLinear
from rung.engine.pack import Pack
from rung.engine.probe_model import translate_model_errors
from rung.engine.tiling import TokenLimit
from rung.engine.trainer import Trainer
from rung.errors import ModelError, RungError, TargetError
from rung.model.silence import silence_libraries
from rung.model.targets import last_name
from rung.model.weight_checks import summarize_names
from rung.types import Candidate, Setting

TRIED_ROWS = 3
"""How many rows the checks use: the shortest of the first `ROWS_TO_CHOOSE_FROM`."""
ROWS_TO_CHOOSE_FROM = 256
LEARNING_RATE = 1e-3
"""The rate of the one step: so large that it shows in every number that has a gradient."""


def preflight(
    trainer: Trainer, settings: Sequence[Setting], examples: Sequence[Example], seed: int
) -> list[str]:
    """Check the base, and an adapter for each of the settings' target modules.

    Returns:
        The full names of the layers on which an adapter learns nothing: the text does not pass
        through them, or not as a product.

    Raises:
        ModelError: the untuned model's loss is not a number, or differs from the model's own; or a
            gradient is not a number; or the model cannot generate.
        TargetError: PEFT reads an adapter back as something else.
    """
    first = itertools.islice(examples, ROWS_TO_CHOOSE_FROM)
    rows = sorted(first, key=lambda example: len(example.ids))[:TRIED_ROWS]
    with trainer.frozen.dense_if_it_fits(trainer.base.dtype, trainer.free_memory()):
        _check_base(trainer, rows)
        return _check_adapters(trainer, settings, rows, seed)


@torch.no_grad()
def _check_base(trainer: Trainer, rows: Sequence[Example]) -> None:
    """Check the untuned losses.

    Raises:
        ModelError: see `preflight`.
    """
    model, device, name = trainer.model, trainer.base.device, trainer.base.source
    untuned = trainer.score(rows)[0].losses
    if not all(map(math.isfinite, untuned)):
        raise ModelError(
            f"The untuned model's loss is not a number in {_precision(trainer)}; give a sound "
            "model, or another --precision."
        )
    ids = collate(rows[-1:], device).ids
    whole, shorter = (
        model(input_ids=some, use_cache=False).logits[:, : ids.shape[1] - 1]
        for some in (ids, ids[:, :-1])
    )
    if (whole - shorter).abs().max() > _tolerance(trainer) * whole.abs().max():
        raise ModelError(
            f"The model {name} sees the tokens that it has to predict, so it cannot generate text; "
            "give a causal language model."
        )
    alone = [_model_losses(model, [row], device)[0] for row in rows]
    difference = _largest_difference(untuned, alone)
    if difference > _tolerance(trainer):
        raise ModelError(
            f"The model {name} gives rows in a batch other losses than alone (off by "
            f"{difference:.1%}), which Rung cannot train yet."
        )


def _check_adapters(
    trainer: Trainer, settings: Sequence[Setting], rows: Sequence[Example], seed: int
) -> list[str]:
    """Check an adapter for each set of target modules; see `preflight`."""
    by_targets = {setting.targets: setting for setting in settings}
    candidates = [
        Candidate(replace(setting, dropout=0.0, learning_rate=LEARNING_RATE))
        for setting in by_targets.values()
    ]
    before = {
        candidate: _with_visible_b(fresh_state(trainer.frozen, candidate, seed), candidate.scale)
        for candidate in candidates
    }
    after = _train_one_step(trainer, before, rows, seed)
    idle = dict.fromkeys(
        name
        for candidate, state in after.items()
        for name, factor in state.weights.items()
        if name.endswith(".B") and torch.equal(factor, before[candidate].tensors[name])
    )
    # In a study the B of such a layer stays zero.
    states = [_with_zeros(state, idle) for state in after.values()]
    with Pack(trainer.frozen, list(after), states, seed=seed) as pack:
        scores = trainer.score(rows, pack)
        trained = [
            (candidate, pack.state(i), scores[i].losses)
            for i, candidate in enumerate(pack.candidates)
        ]
        _check_generation(trainer, pack, rows[0])
    # Limits that were lowered here say nothing about the packs of the study.
    trainer.training_limit, trainer.scoring_limit = TokenLimit(), TokenLimit()
    for candidate, state, losses in trained:
        _check_read_back(trainer, candidate.setting, state, rows, losses)
    return [name.removesuffix(".B") for name in idle]


def _train_one_step(
    trainer: Trainer,
    states: Mapping[Candidate, AdapterState],
    rows: Sequence[Example],
    seed: int,
) -> dict[Candidate, AdapterState]:
    """The states after one update.

    Raises:
        ModelError: a loss or a gradient is not a number.
    """
    with (
        translate_model_errors(trainer.base.source),
        Pack(trainer.frozen, list(states), list(states.values()), seed=seed) as pack,
    ):
        batch = collate(rows, trainer.base.device)
        # In float16, steps do not update until the loss scale suits the gradient.
        while not pack.diverged and not all(p.updates for p in pack.optimizer.progress):
            trainer.step(pack, batch, 1.0)
        if pack.diverged:
            reason = next(iter(pack.diverged.values()))
            raise ModelError(
                f"In a first step in {_precision(trainer)} {reason}; give another --precision, or "
                "a sound model."
            )
        return {candidate: pack.state(i) for i, candidate in enumerate(pack.candidates)}


def _check_generation(trainer: Trainer, pack: Pack, row: Example) -> None:
    """Generate two tokens, the second one with the cache of the first.

    Raises:
        ModelError: the model cannot generate.
    """
    try:
        generate(trainer, [Example(row.ids[:1] * 3, prompt_length=1)], pack)
    except RungError:
        raise
    except Exception as error:  # an architecture that generate() does not know can break anywhere
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ModelError(
            f"The model {trainer.base.source} cannot generate text ({reason}), so a study could "
            "not show what it learned; give a causal language model."
        ) from error


@torch.no_grad()
def _check_read_back(
    trainer: Trainer,
    setting: Setting,
    state: AdapterState,
    rows: Sequence[Example],
    losses: Sequence[float],
) -> None:
    """Save the adapter, let PEFT read it, and compare factors and losses.

    Raises:
        TargetError: they differ, or PEFT cannot read it.
    """
    frozen, device = trainer.frozen, trainer.base.device
    gpus = [device] if device.type == "cuda" else []
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(gpus), silence_libraries():
        save_adapter(Path(folder), setting, state, frozen, trainer.base.source)
        try:
            peft_model = PeftModel.from_pretrained(_copy_for_peft(frozen), folder).eval()
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            raise TargetError(
                f"PEFT does not read an adapter on '{setting.targets}' back "
                f"({str(error).strip().splitlines()[0]}); give other target modules."
            ) from error
        _check_factors(frozen, setting, state, peft_model)
        peft_losses = _model_losses(peft_model, rows, device)
    difference = _largest_difference(losses, peft_losses)
    if difference > _tolerance(trainer):
        raise TargetError(
            f"An adapter on '{setting.targets}' has other losses when PEFT reads it back (off by "
            f"{difference:.1%}), so the adapter in use would not be the one that was trained; give "
            "other target modules."
        )


def _check_factors(
    frozen: FrozenModel, setting: Setting, state: AdapterState, peft_model: nn.Module
) -> None:
    """Compare the layers, factors and scale that PEFT has read with those that were saved.

    Raises:
        TargetError: they differ.
    """
    read: dict[str, Any] = {
        name.removeprefix(PEFT_PREFIX): module
        for name, module in peft_model.named_modules()
        if isinstance(module, LoraLayer)
    }
    saved = frozen.targets(setting)
    equal = [
        name
        for name in saved
        if name in read and _is_same(read[name], name, state.weights, setting.scale)
    ]
    if len(equal) == len(saved) == len(read):
        return
    changed = [name for name in saved if name not in equal]
    added = [name for name in read if name not in saved]
    difference = (
        f"{summarize_names(changed)} differ" if changed else f"{summarize_names(added)} get one too"
    )
    readable = {last_name(name) for name in equal}
    readable -= {last_name(name) for name in (*changed, *added)}
    remedy = "give other target modules"
    if readable:
        remedy = f"of these it reads {', '.join(sorted(readable))} back, so give them"
    raise TargetError(
        f"PEFT reads an adapter on '{setting.targets}' back as another: {difference}; {remedy}."
    )


def _is_same(layer: Any, name: str, weights: Mapping[str, Tensor], scale: float) -> bool:
    if list(layer.lora_A) != ["default"] or abs(layer.scaling["default"] - scale) > 1e-9 * scale:
        return False
    factors = (("A", layer.lora_A["default"].weight), ("B", layer.lora_B["default"].weight))
    return all(
        torch.equal(read.cpu().float(), weights[f"{name}.{factor}"]) for factor, read in factors
    )


def _precision(trainer: Trainer) -> str:
    return str(trainer.base.dtype).removeprefix("torch.")


def _largest_difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The largest relative difference; infinite where one of them is not a number."""
    each = [abs(a - b) / max(abs(a), 1e-6) for a, b in zip(ours, theirs, strict=True)]
    return max(each) if all(map(math.isfinite, each)) else math.inf


def _tolerance(trainer: Trainer) -> float:
    """How far two ways to compute the same thing may differ by rounding."""
    return 1e-3 + 4 * float(torch.finfo(trainer.base.dtype).eps)


def _with_visible_b(state: AdapterState, scale: float) -> AdapterState:
    """The state with a B that is not zero, so that the adapter shows in the losses.

    Its product is about a tenth of what a layer gives.
    """
    tensors = dict(state.tensors)
    for name in [name for name in tensors if name.endswith(".B")]:
        rank = tensors[name].shape[1]
        draw = torch.Generator().manual_seed(rank)
        size = 0.2 / (scale * rank**0.5)
        tensors[name] = torch.randn(tensors[name].shape, generator=draw) * size
    return replace(state, tensors=tensors)


def _with_zeros(state: AdapterState, names: Mapping[str, object]) -> AdapterState:
    """The state with zeros in the tensors of those names."""
    tensors = {name: t * 0 if name in names else t for name, t in state.tensors.items()}
    return replace(state, tensors=tensors)


def _model_losses(model: Any, rows: Sequence[Example], device: torch.device) -> list[float]:
    """The summed loss of each row's completion tokens, from the model's own logits."""
    batch = collate(rows, device)
    every_logit = model(input_ids=batch.ids, use_cache=False).logits.flatten(0, 1)
    logits = every_logit[batch.positions].float()
    losses = nn.functional.cross_entropy(logits, batch.labels, reduction="none").double()
    sums = torch.zeros(len(rows), dtype=torch.float64, device=device)
    row_losses: list[float] = sums.index_add(0, batch.rows, losses).tolist()
    return row_losses


def _copy_for_peft(frozen: FrozenModel) -> Any:
    """A copy of the model's modules over the same tensors, with layers that PEFT can adapt."""
    model = frozen.model
    tensors = itertools.chain(model.parameters(), model.buffers())
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for name in frozen.layers:
        twin.set_submodule(name, _LinearForPeft(twin.get_submodule(name)))
    # PEFT must not move anything, so it does not learn where accelerate has put the model.
    twin.__dict__.pop("hf_device_map", None)
    return twin


class _LinearForPeft(nn.Linear):
    """A frozen layer in the form of the linear layer that it is, for PEFT."""

    def __init__(self, frozen: FrozenLinear) -> None:
        super().__init__(frozen.in_features, frozen.out_features, bias=False, device="meta")
        # Some models multiply by a layer's weight themselves, and add its bias.
        bias: Any = frozen.bias
        self.weight, self.bias = frozen.weight, bias
        self.frozen = frozen

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.frozen(x)
        return y
