"""What has to hold before anything is trained: the base's losses are right, and PEFT reads an adapter back as it is.

The untuned losses have to be numbers, those of the model's own logits, and blind to what comes after a token. Then a
candidate of each set of target modules goes through one step, is saved as a study saves it, and is read back by
`PeftModel.from_pretrained`: the factors have to be the very same on the very same layers, and the losses too. What PEFT
would put elsewhere, or nowhere, shows here and not after a day; and so does a model that cannot write.

No second base is loaded: PEFT is given a copy of the tree of modules over the same tensors, in which every linear
layer multiplies as the engine does. The copy is thrown away with all that PEFT did to it, so nothing of it is left in
the base; and the global random state, from which PEFT draws factors before it reads the saved ones, is put back.
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
from rung.engine.checkpoint import save_adapter
from rung.engine.lora import FrozenLinear
from rung.engine.memory import TokenLimit
from rung.engine.pack import AdapterState, FrozenModel, Pack, fresh_state
from rung.engine.trainer import Trainer, runs
from rung.errors import ModelError, RungError, TargetError
from rung.model.silence import silence_libraries
from rung.model.targets import last_name
from rung.model.weight_checks import summarize_names
from rung.types import Candidate, Setting

ROWS, AMONG = 3, 256
"""The shortest rows of so many are tried."""
RATE = 1e-3
"""Of the step: large enough to show in every number that has a gradient."""
_PREFIX = "base_model.model."


def preflight(
    trainer: Trainer, settings: Sequence[Setting], examples: Sequence[Example], seed: int
) -> list[str]:
    """Try the base, and an adapter of each of the candidates' target modules.

    Returns:
        The layers, in full, on which an adapter learns nothing: text does not go through them, or not as products.

    Raises:
        ModelError: the untuned model's loss is not a number, or not what the model itself says, or a gradient is none,
            or the model cannot write.
        TargetError: PEFT reads an adapter back as something else.
    """
    some = sorted(itertools.islice(examples, AMONG), key=lambda example: len(example.ids))[:ROWS]
    with trainer.dense_where_room():
        _check_base(trainer, some)
        return _check_adapters(trainer, settings, some, seed)


def _check_adapters(
    trainer: Trainer, settings: Sequence[Setting], some: Sequence[Example], seed: int
) -> list[str]:
    """See `preflight`."""
    precision = str(trainer.base.dtype).removeprefix("torch.")
    kinds = {
        one.targets: Candidate(replace(one, dropout=0.0, learning_rate=RATE)) for one in settings
    }
    states = [
        _bent(fresh_state(trainer.frozen, candidate, seed), candidate.scale)
        for candidate in kinds.values()
    ]
    before = dict(zip(kinds.values(), states, strict=True))
    with runs(trainer.base.source), Pack(trainer.frozen, list(before), states, seed=seed) as pack:
        # In float16 steps are passed over until the loss scale suits the gradient.
        while not pack.lost and not all(progress.updates for progress in pack.optimizer.progress):
            trainer.step(pack, collate(some, trainer.base.device), 1.0)
        if pack.lost:
            why = next(iter(pack.lost.values()))
            raise ModelError(
                f"In a first step in {precision} {why}; give another --precision, or a sound model."
            )
        after = {candidate: pack.state(i) for i, candidate in enumerate(pack.candidates)}
    idle = dict.fromkeys(
        name
        for candidate, state in after.items()
        for name, factor in state.weights.items()
        if name.endswith(".B") and torch.equal(factor, before[candidate].tensors[name])
    )
    # A study leaves the B of such a layer at zero.
    still = [
        replace(
            state, tensors={name: t * 0 if name in idle else t for name, t in state.tensors.items()}
        )
        for state in after.values()
    ]
    with Pack(trainer.frozen, list(after), still, seed=seed) as pack:
        scores = trainer.score(some, pack)
        trained = [
            (candidate, pack.state(i), scores[i].losses)
            for i, candidate in enumerate(pack.candidates)
        ]
        _check_writing(trainer, pack, some[0])
    # What did not fit here need not be told to the packs.
    trainer.training_room, trainer.scoring_room = TokenLimit(), TokenLimit()
    for candidate, state, losses in trained:
        _read_back(trainer, candidate, state, some, losses)
    return [name.removesuffix(".B") for name in idle]


@torch.no_grad()
def _check_base(trainer: Trainer, rows: Sequence[Example]) -> None:
    """
    Raises:
        ModelError: see `preflight`.
    """
    model, device, name = trainer.model, trainer.base.device, trainer.base.source
    untuned, precision = (
        trainer.score(rows)[0].losses,
        str(trainer.base.dtype).removeprefix("torch."),
    )
    if not all(map(math.isfinite, untuned)):
        raise ModelError(
            f"The untuned model's loss is not a number in {precision}; give a sound model, or another --precision."
        )
    ids = collate(rows[-1:], device).ids
    whole, shorter = (
        model(input_ids=some, use_cache=False).logits[:, : ids.shape[1] - 1]
        for some in (ids, ids[:, :-1])
    )
    if (whole - shorter).abs().max() > _tolerance(trainer) * whole.abs().max():
        raise ModelError(
            f"The model {name} looks at the tokens that it is to write, so it is no model that writes text."
        )
    theirs = [_losses(model, [row], device)[0] for row in rows]
    if (off := _off(untuned, theirs)) > _tolerance(trainer):
        raise ModelError(
            f"The model {name} gives rows in a batch other losses than alone (off by {off:.1%}), which Rung cannot "
            "train yet."
        )


def _check_writing(trainer: Trainer, pack: Pack, row: Example) -> None:
    """Write two tokens, the second one over the cache of the first.

    Raises:
        ModelError: the model cannot write.
    """
    try:
        trainer.write([Example(row.ids[:1] * 3, prompt=1)], pack)
    except RungError:
        raise
    except Exception as error:  # an architecture that generate() does not know breaks it in any way
        why = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ModelError(
            f"The model {trainer.base.source} cannot write text ({why}), so what a study writes in the end would be "
            "missing; give a causal language model."
        ) from error


def _off(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The largest relative difference; infinite where one is no number."""
    each = [abs(a - b) / max(abs(a), 1e-6) for a, b in zip(ours, theirs, strict=True)]
    return max(each) if all(map(math.isfinite, each)) else math.inf


def _tolerance(trainer: Trainer) -> float:
    """How far apart two ways of computing the same thing may be, by rounding alone."""
    return 1e-3 + 4 * float(torch.finfo(trainer.base.dtype).eps)


def _bent(state: AdapterState, scale: float) -> AdapterState:
    """With a B that is not zero, so that the adapter shows in the losses: about a tenth of what a layer gives."""
    tensors = dict(state.tensors)
    for name in [name for name in tensors if name.endswith(".B")]:
        rank = tensors[name].shape[1]
        draw = torch.Generator().manual_seed(rank)
        tensors[name] = torch.randn(tensors[name].shape, generator=draw) * (
            0.2 / (scale * rank**0.5)
        )
    return replace(state, tensors=tensors)


@torch.no_grad()
def _read_back(
    trainer: Trainer,
    candidate: Candidate,
    state: AdapterState,
    rows: Sequence[Example],
    losses: Sequence[float],
) -> None:
    frozen, device = trainer.frozen, trainer.base.device
    cards = [device] if device.type == "cuda" else []
    with (
        tempfile.TemporaryDirectory() as folder,
        torch.random.fork_rng(cards),
        silence_libraries(),
    ):
        save_adapter(Path(folder), candidate, state, frozen, trainer.base.source)
        try:
            read = PeftModel.from_pretrained(_twin(frozen), folder).eval()
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            raise TargetError(
                f"PEFT does not read an adapter on '{candidate.targets}' back ({str(error).strip().splitlines()[0]}); "
                "give other target modules."
            ) from error
        _check_factors(frozen, candidate, state, read)
        theirs = _losses(read, rows, device)
    if (off := _off(losses, theirs)) > _tolerance(trainer):
        raise TargetError(
            f"An adapter on '{candidate.targets}' has other losses as PEFT reads it back (off by {off:.1%}), so what "
            "is trained here would not be what is used; give other target modules."
        )


def _check_factors(
    frozen: FrozenModel, candidate: Candidate, state: AdapterState, read: nn.Module
) -> None:
    """
    Raises:
        TargetError: PEFT has other layers, factors or a scale than were saved.
    """
    found: dict[str, Any] = {
        name.removeprefix(_PREFIX): module
        for name, module in read.named_modules()
        if isinstance(module, LoraLayer)
    }
    wanted = frozen.targets(candidate.setting)
    right = [
        name
        for name in wanted
        if name in found and _same(found[name], name, state.weights, candidate.scale)
    ]
    if len(right) == len(wanted) == len(found):
        return
    lost, more = (
        [name for name in wanted if name not in right],
        [name for name in found if name not in wanted],
    )
    what = (
        f"{summarize_names(lost)} come back otherwise"
        if lost
        else f"{summarize_names(more)} get one too"
    )
    good = sorted(
        {last_name(name) for name in right} - {last_name(name) for name in (*lost, *more)}
    )
    remedy = (
        f"; of these it reads {', '.join(good)} back, so give them"
        if good
        else "; give other target modules"
    )
    raise TargetError(
        f"PEFT reads an adapter on '{candidate.targets}' back as another: {what}{remedy}."
    )


def _same(layer: Any, name: str, weights: Mapping[str, Tensor], scale: float) -> bool:
    if list(layer.lora_A) != ["default"] or abs(layer.scaling["default"] - scale) > 1e-9 * scale:
        return False
    factors = (("A", layer.lora_A["default"].weight), ("B", layer.lora_B["default"].weight))
    return all(
        torch.equal(there.cpu().float(), weights[f"{name}.{factor}"]) for factor, there in factors
    )


def _losses(model: Any, rows: Sequence[Example], device: torch.device) -> list[float]:
    """The summed loss of what is learnt of each row, from the model's own logits."""
    batch = collate(rows, device)
    logits = (
        model(input_ids=batch.ids, use_cache=False).logits.flatten(0, 1)[batch.positions].float()
    )
    each = nn.functional.cross_entropy(logits, batch.labels, reduction="none").double()
    sums: list[float] = (
        torch.zeros(len(rows), dtype=torch.float64, device=device)
        .index_add(0, batch.rows, each)
        .tolist()
    )
    return sums


def _twin(frozen: FrozenModel) -> Any:
    """The model's modules once more, over the same tensors."""
    model = frozen.model
    tensors = itertools.chain(model.parameters(), model.buffers())
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for name in frozen.layers:
        twin.set_submodule(name, _AsLinear(twin.get_submodule(name)))
    # Where accelerate put the model is nothing to PEFT: nothing is to be moved.
    twin.__dict__.pop("hf_device_map", None)
    return twin


class _AsLinear(nn.Linear):
    """A frozen layer that PEFT takes for a linear one, which it is."""

    def __init__(self, frozen: FrozenLinear) -> None:
        super().__init__(frozen.in_features, frozen.out_features, bias=False, device="meta")
        # Some models multiply by a layer's weight themselves, and add its bias.
        bias: Any = frozen.bias
        self.weight, self.bias = frozen.weight, bias
        self.frozen = frozen

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.frozen(x)
        return y
