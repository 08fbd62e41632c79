"""A pack: the adapters of several candidates in one frozen base. Put them in, take them out, branch them.

Candidates of one rank, one set of layers and one dropout make a `Group`. Each one's whole adapter is a row of the
group's matrix, every A first and then every B, and its gradient and AdamW's moments are rows like it: so a candidate's
norm is one reduction, its update one pass over the memory, joining and leaving are copies of rows, and what one
candidate does to its numbers can reach no other's.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from rung.engine.dropout import keep_mask, stream_key
from rung.engine.lora import FrozenLinear, PackedLoraLinear, Part, PassContext
from rung.engine.optimizer import PackedAdamW, Progress
from rung.model.targets import (
    head_name,
    linear_layers,
    peft_target_modules,
    resolve_targets,
    unsupported_layers,
)
from rung.types import Candidate, Setting

RUNAWAY_STEPS = 8
"""So many steps of a loss beyond all reason, and a candidate is given up."""

FACTORS = ("A", "B")
MOMENTS = ("first", "second")


@dataclass(frozen=True)
class AdapterState:
    """One candidate's training at the end of a step, alone, in its own rank, on the CPU.

    `step` counts the batches that it has seen. `tensors` has, for each adapted layer and each factor, `<layer>.A`
    (rank, in) and `<layer>.B` (out, rank), and with `.first` and `.second` behind them AdamW's two moments.
    """

    step: int
    tensors: Mapping[str, Tensor] = field(repr=False)
    progress: Progress = field(default_factory=Progress)

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.tensors.values())).dtype

    @property
    def weights(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self.tensors.items() if name.endswith(FACTORS)}


@dataclass(frozen=True)
class FrozenModel:
    """A model whose linear layers stand still, those layers under the names that PEFT knows them by, and its head's.

    No adapter goes on those that are `closed`; see `rung.model.targets.unsupported_layers`.
    """

    model: Any
    layers: Mapping[str, FrozenLinear]
    head: str | None = None
    closed: Mapping[str, str] = field(default_factory=dict)

    def targets(self, setting: Setting) -> dict[str, FrozenLinear]:
        """The layers that the candidate adapts.

        Raises:
            TargetError: see `rung.model.targets.resolve_targets`.
        """
        chosen = resolve_targets(self.layers, setting.targets, self.head, self.closed)
        return {name: self.layers[name] for name in chosen}

    def peft_names(self, setting: Setting) -> list[str]:
        """The candidate's layers as `target_modules`."""
        modules = (name for name, _ in self.model.named_modules())
        return peft_target_modules(modules, self.targets(setting))

    def parameters(self, setting: Setting) -> int:
        """How many numbers the candidate's adapter has: rank · (in + out) of each layer, counted from the shapes."""
        layers = self.targets(setting).values()
        return sum(setting.rank * (layer.in_features + layer.out_features) for layer in layers)

    def dense_bytes(self, dtype: torch.dtype) -> int:
        """What all weights take that are dense, in that dtype."""
        numbers = sum(layer.in_features * layer.out_features for layer in self.layers.values())
        return int(numbers * dtype.itemsize)

    @property
    def holds_dense(self) -> bool:
        return all(layer.keeps for layer in self.layers.values())

    def hold_dense(self, dtype: torch.dtype | None) -> None:
        """From now on hold the dense weights, or with None no longer: other times, and the same results."""
        if self.holds_dense != (dtype is not None):
            for layer in self.layers.values():
                layer.keep(dtype)


def freeze(model: nn.Module) -> FrozenModel:
    """Put a `FrozenLinear` in the place of every linear layer, the output head among them, for good."""
    head = head_name(model)
    layers = {name: FrozenLinear(layer) for name, layer in linear_layers(model).items()}
    closed = unsupported_layers(model, layers)
    for name, layer in layers.items():
        model.set_submodule(name, layer)
    return FrozenModel(model.requires_grad_(False), layers, head, closed)


def fresh_state(frozen: FrozenModel, candidate: Candidate, study_seed: int) -> AdapterState:
    """An untrained adapter: A as PEFT draws it (uniform within ±1/√in), B zero.

    Each layer's draw depends on the study's seed, the candidate's seed and the layer alone. So candidates that differ
    in their rate start from the same numbers, and a smaller rank from the first rows of a larger one: less noise
    between the two sides of a comparison.
    """
    tensors: dict[str, Tensor] = {}
    for name, layer in frozen.targets(candidate.setting).items():
        digest = hashlib.sha256(f"{study_seed}:{candidate.seed}:{name}".encode()).digest()
        draw = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        bound = layer.in_features**-0.5
        tensors[f"{name}.A"] = torch.empty(candidate.rank, layer.in_features).uniform_(
            -bound, bound, generator=draw
        )
        tensors[f"{name}.B"] = torch.zeros(layer.out_features, candidate.rank)
    moments = {
        f"{key}.{moment}": torch.zeros_like(t) for key, t in tensors.items() for moment in MOMENTS
    }
    return AdapterState(0, tensors | moments)


@dataclass(frozen=True)
class Place:
    """Where one factor of one layer lies in a candidate's row."""

    layer: str
    factor: str
    offset: int
    shape: tuple[int, int]

    def of(self, rows: Tensor) -> Tensor:
        """The factor in one row (P,) or in several (k, P): a view."""
        size = self.shape[0] * self.shape[1]
        return rows[..., self.offset : self.offset + size].view(*rows.shape[:-1], *self.shape)


class Group:
    """Candidates `start` to `start + k` of a pack, alike in rank, layers and dropout; their adapters as rows (k, P).

    `weights` and `gradients` are float32 (float64 in a test). `used` are the weights as the layers multiply by them:
    in the dtype that is computed in, B times the candidate's scale.
    """

    def __init__(
        self,
        start: int,
        candidates: Sequence[Candidate],
        layers: Mapping[str, FrozenLinear],
        dtype: torch.dtype,
        used_dtype: torch.dtype,
    ) -> None:
        self.start, self.stop = start, start + len(candidates)
        self.candidates = list(candidates)
        self.places: list[Place] = []
        rank, offset = candidates[0].rank, 0
        for factor in FACTORS:
            if factor == "B":
                self.split = offset
            for name, layer in layers.items():
                shape = (rank, layer.in_features) if factor == "A" else (layer.out_features, rank)
                self.places.append(Place(name, factor, offset, shape))
                offset += shape[0] * shape[1]
        device = next(iter(layers.values())).weight.device
        shape = (len(candidates), offset)
        self.weights = torch.zeros(shape, dtype=dtype, device=device)
        self.gradients = torch.zeros_like(self.weights)
        self.scale = torch.tensor([[c.scale] for c in candidates], dtype=dtype).to(device)
        self.used = torch.empty_like(self.weights, dtype=used_dtype)

    def refresh(self) -> None:
        """Bring `used` up to date with the weights."""
        self.used[:, : self.split].copy_(self.weights[:, : self.split])
        # Layer by layer: narrowing the dtype takes a copy of what is multiplied.
        for place in self.places:
            if place.factor == "B":
                torch.mul(place.of(self.weights), self.scale[:, :, None], out=place.of(self.used))


class Pack:
    """K candidates side by side in a frozen model, with their optimizer. A context manager: leaving takes them out.

    `candidates` are in the pack's own order, in which those of one group stand together; rows, losses and states come
    in that order. `lost` has those that the last step has shown to be lost, with the reason; they are to be dropped.

    Args:
        frozen: the base.
        candidates: any; the same one may be there twice, from two states.
        states: where each stands.
        weight_decay, clip_norm: see `PackedAdamW`.
        seed: the study's, from which the dropout streams follow.
    """

    def __init__(
        self,
        frozen: FrozenModel,
        candidates: Sequence[Candidate],
        states: Sequence[AdapterState],
        weight_decay: float = 0.0,
        clip_norm: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.frozen = frozen
        self.weight_decay, self.clip_norm, self.seed = weight_decay, clip_norm, seed
        self.layers: dict[str, PackedLoraLinear] = {}
        self.turn = PassContext(0, 0, torch.zeros((), requires_grad=True))
        self.candidates: list[Candidate] = []
        self.steps: list[int] = []
        self.groups: list[Group] = []
        self.lost: dict[int, str] = {}
        self.optimizer = PackedAdamW([], [], [], weight_decay, clip_norm)
        self._fill(list(zip(candidates, states, strict=True)))

    def __len__(self) -> int:
        return len(self.candidates)

    def __enter__(self) -> Pack:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the frozen layers back their places."""
        for name, layer in self.layers.items():
            self.frozen.model.set_submodule(name, layer.frozen)
        self.layers = {}

    def state(self, index: int) -> AdapterState:
        """What candidate `index` is at now, ready to be saved or to be put into a pack."""
        group = self._group(index)
        kinds = {"": group.weights[index - group.start]}
        kinds |= {f".{name}": row for name, row in self.optimizer.moments(index).items()}
        tensors = {
            f"{place.layer}.{place.factor}{kind}": place.of(row).to("cpu", copy=True).contiguous()
            for kind, row in kinds.items()
            for place in group.places
        }
        return AdapterState(self.steps[index], tensors, self.optimizer.progress[index])

    def drop(self, indices: Sequence[int]) -> None:
        """Let candidates leave. What the others hold is carried over bit by bit."""
        self._fill(
            [(self.candidates[i], self.state(i)) for i in range(len(self)) if i not in indices]
        )

    def join(self, candidate: Candidate, state: AdapterState) -> None:
        """Let a candidate in: fresh, from a checkpoint, or as a branch of a member, with that one's state."""
        self._fill(
            [*((c, self.state(i)) for i, c in enumerate(self.candidates)), (candidate, state)]
        )

    def begin(self) -> None:
        """Forget the gradients of the step before."""
        for group in self.groups:
            group.gradients.zero_()

    def update(self, shares: Sequence[float]) -> Tensor:
        """Move each candidate by its share of its learning rate. See `PackedAdamW.step`."""
        for group in self.groups:
            # The layers multiply by scale · B, and collect the gradient to that.
            group.gradients[:, group.split :].mul_(group.scale)
        norms = self.optimizer.step(shares)
        self.steps = [step + 1 for step in self.steps]
        self._refresh()
        return norms

    def watch(self, losses: Sequence[float], norms: Sequence[float], limit: float) -> None:
        """Note in `lost` which candidates have come to nothing in the step that was just made, and why.

        A loss or a gradient that is not a number, or a loss over `limit` for `RUNAWAY_STEPS` steps on end.
        """
        scaling = self.optimizer.scaling
        for i, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
            progress = self.optimizer.progress[i]
            high = progress.high + 1 if loss > limit else 0
            self.optimizer.progress[i] = progress = replace(progress, high=high)
            if not math.isfinite(loss):
                self.lost[i] = "the loss is not a number"
            elif scaling and progress.loss_scale < 1:
                self.lost[i] = "no loss scale keeps the gradient finite in float16"
            elif not scaling and not math.isfinite(norm):
                self.lost[i] = "the gradient is not a number"
            elif high >= RUNAWAY_STEPS:
                self.lost[i] = f"the loss stood over {limit:.1f} nats a token for {high} steps"

    @property
    def loss_scales(self) -> list[float]:
        """What each candidate's loss is multiplied by: 1, but where float16 is computed in."""
        return [p.loss_scale if self.optimizer.scaling else 1.0 for p in self.optimizer.progress]

    def _group(self, index: int) -> Group:
        return next(group for group in self.groups if group.start <= index < group.stop)

    def _refresh(self) -> None:
        for group in self.groups:
            group.refresh()

    def _fill(self, members: list[tuple[Candidate, AdapterState]]) -> None:
        """Form the groups anew, and put the layers in."""
        self.close()
        self.lost = {}
        kinds: dict[tuple[int, tuple[str, ...], float], list[tuple[Candidate, AdapterState]]] = {}
        for candidate, state in members:
            layers = tuple(self.frozen.targets(candidate.setting))
            kinds.setdefault((candidate.rank, layers, candidate.dropout), []).append(
                (candidate, state)
            )
        ordered = [member for _, alike in sorted(kinds.items()) for member in alike]
        self.candidates = [candidate for candidate, _ in ordered]
        self.steps = [state.step for _, state in ordered]
        self.groups = []
        self.turn.start, self.turn.stop = 0, len(ordered)
        if not ordered:
            return
        # What the layers' inputs are in: the dtype of the parameters outside the linear layers.
        used = next(self.frozen.model.get_input_embeddings().parameters()).dtype
        for (_, names, _), alike in sorted(kinds.items()):
            start = self.groups[-1].stop if self.groups else 0
            layers_of = {name: self.frozen.layers[name] for name in names}
            self.groups.append(
                Group(
                    start, [candidate for candidate, _ in alike], layers_of, alike[0][1].dtype, used
                )
            )
        rows = [row.requires_grad_() for group in self.groups for row in group.weights.unbind()]
        gradients = [row for group in self.groups for row in group.gradients.unbind()]
        rates = [candidate.learning_rate for candidate in self.candidates]
        scaling = used == torch.float16
        self.optimizer = PackedAdamW(
            rows, gradients, rates, self.weight_decay, self.clip_norm, scaling
        )
        self._restore([state for _, state in ordered])
        self._refresh()
        self._put_in()

    @torch.no_grad()
    def _restore(self, states: Sequence[AdapterState]) -> None:
        for index, state in enumerate(states):
            group = self._group(index)
            self.optimizer.restore(index, state.progress)
            kinds = {"": group.weights[index - group.start]}
            kinds |= {f".{name}": row for name, row in self.optimizer.moments(index).items()}
            for kind, row in kinds.items():
                for place in group.places:
                    place.of(row).copy_(state.tensors[f"{place.layer}.{place.factor}{kind}"])

    def _put_in(self) -> None:
        parts: dict[str, list[Part]] = {}
        for group in self.groups:
            places = {(place.layer, place.factor): place for place in group.places}
            for name in dict.fromkeys(place.layer for place in group.places):
                A, B = places[name, "A"], places[name, "B"]
                parts.setdefault(name, []).append(
                    Part(
                        group.start,
                        group.stop,
                        A.of(group.used),
                        B.of(group.used),
                        A.of(group.gradients),
                        B.of(group.gradients),
                        group.candidates[0].dropout,
                        self._keeps(name),
                    )
                )
        device = self.groups[0].weights.device
        self.turn.anchor = torch.zeros((), device=device, requires_grad=True)
        for name, own in parts.items():
            self.layers[name] = layer = PackedLoraLinear(self.frozen.layers[name], own, self.turn)
            self.frozen.model.set_submodule(name, layer)

    def _keeps(self, name: str) -> Callable[[int, int, Sequence[int], int], Tensor]:
        inputs = self.frozen.layers[name].in_features

        def keeps(start: int, stop: int, rows: Sequence[int], tokens: int) -> Tensor:
            """(stop − start, rows, tokens, inputs); drawn once for candidates that share their stream and step."""
            drawn: dict[tuple[int, int], Tensor] = {}
            for index in range(start, stop):
                candidate, step = self.candidates[index], self.steps[index]
                if (candidate.seed, step) not in drawn:
                    key = stream_key(self.seed, candidate.seed)
                    device = self.turn.anchor.device
                    drawn[candidate.seed, step] = keep_mask(
                        key, name, step, rows, (tokens, inputs), candidate.dropout, device
                    )
            return torch.stack(
                [drawn[self.candidates[i].seed, self.steps[i]] for i in range(start, stop)]
            )

        return keeps
