"""What has to hold before anything is trained: the base's losses are numbers, and PEFT reads an adapter back as it is.

A candidate of each set of target modules goes through one step, is saved as a study saves it, and is read back by
`PeftModel.from_pretrained`; then the factors have to be the very same on the very same layers, and the losses too. What
PEFT would put elsewhere, or nowhere, shows here and not after a day.

No second base is loaded: PEFT is given a copy of the tree of modules over the same tensors, in which every linear
layer multiplies as the engine does. The copy is thrown away with all that PEFT did to it, so nothing of it is left in
the base; and the global random state, from which PEFT draws factors before it reads the saved ones, is put back.
"""

from __future__ import annotations

import copy
import itertools
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
from rung.data.prepare import Data
from rung.data.render import Example
from rung.engine.checkpoint import save_adapter
from rung.engine.lora import FrozenLinear
from rung.engine.memory import Room
from rung.engine.pack import AdapterState, Frozen, Pack, fresh_state
from rung.engine.trainer import Trainer
from rung.errors import ModelError, TargetError
from rung.levers import Candidate
from rung.model.quiet import quiet
from rung.model.sound import named
from rung.model.targets import last_name

ROWS, AMONG = 4, 256
"""The shortest rows of so many are tried."""
_PREFIX = "base_model.model."


def check_vocabulary(trainer: Trainer, data: Data) -> None:
    """
    Raises:
        ModelError: a row has a token, or writing would stop at one, that the model has no embedding for.
    """
    embedding, tokenizer = trainer.model.get_input_embeddings(), trainer.base.tokenizer
    known = min(embedding.weight.shape[0], trainer.head.layer.out_features)
    remedy = "give a tokenizer that belongs to the model, or save the model after resize_token_embeddings()"
    for name, rows in data.splits.items():
        if (found := rows.beyond(known)) is not None:
            row, token = found
            what = tokenizer.convert_ids_to_tokens(token)
            raise ModelError(
                f"{rows.texts(row).where} ({name} split) has the token {what!r}, number {token} in the tokenizer, and "
                f"the model has an embedding for {known}; {remedy}."
            )
    for token in (tokenizer.eos_token_id, *data.facts.ends):
        if token >= known:
            raise ModelError(
                f"The end token {tokenizer.convert_ids_to_tokens(token)!r} is number {token} in the tokenizer, and the "
                f"model has an embedding for {known}; {remedy}."
            )


def preflight(trainer: Trainer, candidates: Sequence[Candidate], examples: Sequence[Example], seed: int) -> float:
    """Try the base, and an adapter of each of the candidates' target modules.

    Returns:
        The largest relative difference between a row's loss here and as PEFT has it.

    Raises:
        ModelError: the untuned model's loss, or a gradient, is not a number.
        TargetError: PEFT reads an adapter back as something else.
    """
    some = sorted(itertools.islice(examples, AMONG), key=lambda example: len(example.ids))[:ROWS]
    untuned = trainer.score(some)[0].losses
    precision = str(trainer.base.dtype).removeprefix("torch.")
    if not all(map(_is_number, untuned)):
        raise ModelError(
            f"The untuned model's loss is not a number in {precision}; give a sound model, or another --precision."
        )
    kinds = {candidate.targets: replace(candidate, dropout=0.0) for candidate in candidates}
    states = [_bent(fresh_state(trainer.frozen, candidate, seed), candidate.scale) for candidate in kinds.values()]
    with Pack(trainer.frozen, list(kinds.values()), states, seed=seed) as pack:
        trainer.step(pack, collate(some, trainer.base.device), 1.0)
        if pack.lost:
            why = next(iter(pack.lost.values()))
            raise ModelError(f"After one step in {precision} {why}; give another --precision, or a sound model.")
        scores = trainer.score(some, pack)
        trained = [(c, pack.state(i), scores[i].losses) for i, c in enumerate(pack.candidates)]
    # What did not fit here need not be told to the packs.
    trainer.training_room, trainer.scoring_room = Room(), Room()
    return max(_read_back(trainer, candidate, state, some, losses) for candidate, state, losses in trained)


def _bent(state: AdapterState, scale: float) -> AdapterState:
    """With a B that is not zero, so that the adapter shows in the losses: about a tenth of what a layer gives."""
    tensors = dict(state.tensors)
    for name in [name for name in tensors if name.endswith(".B")]:
        rank = tensors[name].shape[1]
        draw = torch.Generator().manual_seed(rank)
        tensors[name] = torch.randn(tensors[name].shape, generator=draw) * (0.2 / (scale * rank**0.5))
    return replace(state, tensors=tensors)


@torch.no_grad()
def _read_back(
    trainer: Trainer, candidate: Candidate, state: AdapterState, rows: Sequence[Example], losses: Sequence[float]
) -> float:
    frozen, device = trainer.frozen, trainer.base.device
    cards = [device] if device.type == "cuda" else []
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(cards), quiet():
        save_adapter(Path(folder), candidate, state, frozen, trainer.base.source)
        try:
            read = PeftModel.from_pretrained(_twin(frozen), folder).eval()
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            raise TargetError(
                f"PEFT does not read an adapter on '{candidate.targets}' back ({str(error).strip().splitlines()[0]}); "
                "give other target modules."
            ) from error
        _check_factors(frozen, candidate, state, read)
        theirs = [_loss(read, row, device) for row in rows]
    off = max(abs(ours - other) / max(abs(ours), 1e-6) for ours, other in zip(losses, theirs, strict=True))
    if not off <= 1e-3 + 4 * torch.finfo(trainer.base.dtype).eps:
        raise TargetError(
            f"An adapter on '{candidate.targets}' has other losses as PEFT reads it back (off by {off:.1%}), so what "
            "is trained here would not be what is used; give other target modules."
        )
    return off


def _check_factors(frozen: Frozen, candidate: Candidate, state: AdapterState, read: nn.Module) -> None:
    """
    Raises:
        TargetError: PEFT has other layers, factors or a scale than were saved.
    """
    found: dict[str, Any] = {
        name.removeprefix(_PREFIX): module for name, module in read.named_modules() if isinstance(module, LoraLayer)
    }
    wanted = frozen.targets(candidate)
    right = [name for name in wanted if name in found and _same(found[name], name, state.weights, candidate.scale)]
    if len(right) == len(wanted) == len(found):
        return
    lost, more = [name for name in wanted if name not in right], [name for name in found if name not in wanted]
    what = f"{named(lost)} come back otherwise" if lost else f"{named(more)} get one too"
    good = sorted({last_name(name) for name in right} - {last_name(name) for name in (*lost, *more)})
    remedy = f"; of these it reads {', '.join(good)} back, so give them" if good else "; give other target modules"
    raise TargetError(f"PEFT reads an adapter on '{candidate.targets}' back as another: {what}{remedy}.")


def _same(layer: Any, name: str, weights: Mapping[str, Tensor], scale: float) -> bool:
    if list(layer.lora_A) != ["default"] or abs(layer.scaling["default"] - scale) > 1e-9 * scale:
        return False
    factors = (("A", layer.lora_A["default"].weight), ("B", layer.lora_B["default"].weight))
    return all(torch.equal(there.cpu().float(), weights[f"{name}.{factor}"]) for factor, there in factors)


def _loss(model: Any, row: Example, device: torch.device) -> float:
    """The summed loss of what is learnt of a row, from the model's own logits."""
    batch = collate([row], device)
    logits = model(input_ids=batch.ids, use_cache=False).logits[0, batch.positions].float()
    return float(nn.functional.cross_entropy(logits, batch.labels, reduction="sum"))


def _twin(frozen: Frozen) -> Any:
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
    """A frozen layer that PEFT takes for a linear one, which it is. It has no weight of its own."""

    def __init__(self, frozen: FrozenLinear) -> None:
        super().__init__(frozen.in_features, frozen.out_features, bias=False, device="meta")
        like = frozen.weight
        dtype = like.dtype if like.is_floating_point() else torch.float32
        self.weight = nn.Parameter(torch.empty(0, device=like.device, dtype=dtype), requires_grad=False)
        self.frozen = frozen

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.frozen(x)
        return y


def _is_number(x: float) -> bool:
    return x - x == 0
