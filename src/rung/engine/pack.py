"""A pack: the adapters of several candidates in one frozen base.

Candidates can be added and removed between two steps. Those that are alike in rank, layers and
dropout form a `CandidateGroup`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rung.engine.adapter_state import AdapterState
from rung.engine.candidate_group import CandidateGroup
from rung.engine.dropout import dropout_mask, stream_key
from rung.engine.frozen_model import FrozenModel
from rung.engine.lora import AdapterGroup, PackedLoraLinear, PassContext
from rung.engine.optimizer import PackedAdamW
from rung.types import Candidate

MAX_RUNAWAY_STEPS = 8
"""A candidate whose loss is above the limit for so many steps in a row has diverged."""

Member = tuple[Candidate, AdapterState]


class Pack:
    """K candidates side by side in a frozen model, with their optimizer.

    It is a context manager: leaving it takes the adapters out of the model.

    Args:
        frozen: the base.
        candidates: any candidates; one may appear twice, with two states.
        states: the state that each of them starts from.
        weight_decay, clip_norm: see `PackedAdamW`.
        seed: the study's seed, from which the dropout masks follow.

    Attributes:
        candidates: in the pack's own order, in which those of one group stand together. Rows,
            losses and states come in this order.
        diverged: the places of the candidates that the last step has shown to have diverged, with
            the reason. The caller drops them.
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
        self.context = PassContext(0, 0, torch.zeros((), requires_grad=True))
        self.candidates: list[Candidate] = []
        self.steps: list[int] = []
        self.groups: list[CandidateGroup] = []
        self.diverged: dict[int, str] = {}
        self.optimizer = PackedAdamW([], [], [], weight_decay, clip_norm)
        self._rebuild(list(zip(candidates, states, strict=True)))

    def __len__(self) -> int:
        return len(self.candidates)

    def __enter__(self) -> Pack:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Put the frozen layers back in the place of the packed ones."""
        for name, layer in self.layers.items():
            self.frozen.model.set_submodule(name, layer.frozen)
        self.layers = {}

    def state(self, index: int) -> AdapterState:
        """The state of candidate `index` now, ready to be saved or put into a pack."""
        tensors = {
            name: view.to("cpu", copy=True).contiguous() for name, view in self._views(index)
        }
        return AdapterState(self.steps[index], tensors, self.optimizer.progress[index])

    def drop(self, indices: Sequence[int]) -> None:
        """Remove candidates. The states of the others are carried over bit by bit."""
        remaining = [index for index in range(len(self)) if index not in indices]
        self._rebuild([(self.candidates[i], self.state(i)) for i in remaining])

    def join(self, candidate: Candidate, state: AdapterState) -> None:
        """Add a candidate: a fresh one, one from a checkpoint, or a copy of a member's state."""
        members = [(member, self.state(i)) for i, member in enumerate(self.candidates)]
        self._rebuild([*members, (candidate, state)])

    @contextlib.contextmanager
    def running_pass(self, training: bool = False) -> Iterator[None]:
        """Set the context to a pass of all candidates, and set it back afterwards."""
        self.context.set_whole_pass(len(self), training)
        try:
            yield
        finally:
            self.context.set_whole_pass(len(self))

    def zero_gradients(self) -> None:
        """Set all gradients to zero, before a step."""
        for group in self.groups:
            group.gradients.zero_()

    def update(self, rate_factors: Sequence[float]) -> Tensor:
        """Update each candidate with its factor of its learning rate.

        Returns:
            (K,) float32: the gradients' norms; see `PackedAdamW.step`.
        """
        for group in self.groups:
            group.scale_gradients()
        norms = self.optimizer.step(rate_factors)
        self.steps = [step + 1 for step in self.steps]
        for group in self.groups:
            group.update_compute_weights()
        return norms

    def check_divergence(
        self, losses: Sequence[float], norms: Sequence[float], limit: float
    ) -> None:
        """Note in `diverged` which candidates the last step has shown to have diverged, and why.

        Args:
            losses: (K,) nats a token.
            norms: (K,) of the gradients.
            limit: a loss above it, in nats a token, is not reasonable; see `divergence`.
        """
        for i, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
            runaway = self.optimizer.progress[i].high + 1 if loss > limit else 0
            self.optimizer.progress[i] = replace(self.optimizer.progress[i], high=runaway)
            scale = self.optimizer.progress[i].loss_scale if self.optimizer.loss_scaling else None
            if reason := divergence(loss, norm, limit, runaway, scale):
                self.diverged[i] = reason

    def _views(self, index: int) -> Iterator[tuple[str, Tensor]]:
        """The tensors of a candidate's `AdapterState`, as views of the rows of its group."""
        group = next(group for group in self.groups if group.start <= index < group.stop)
        rows = {"": group.weights[index - group.start]}
        rows |= {f".{moment}": row for moment, row in self.optimizer.moments(index).items()}
        for suffix, row in rows.items():
            for factor in group.factors:
                yield factor.name + suffix, factor.of(row)

    def _rebuild(self, members: list[Member]) -> None:
        """Form the groups anew and put their layers into the model."""
        self.close()
        self.diverged, self.groups = {}, []
        grouped = _grouped(self.frozen, members)
        ordered = [member for own in grouped.values() for member in own]
        self.candidates = [candidate for candidate, _ in ordered]
        self.steps = [state.step for _, state in ordered]
        self.context.set_whole_pass(len(ordered))
        if not ordered:
            return
        # The dtype of the layers' inputs is that of the parameters outside the linear layers.
        compute_dtype = next(self.frozen.model.get_input_embeddings().parameters()).dtype
        for (_, names, _), own in grouped.items():
            start = self.groups[-1].stop if self.groups else 0
            frozen_layers = {name: self.frozen.layers[name] for name in names}
            candidates, dtype = [candidate for candidate, _ in own], own[0][1].dtype
            self.groups.append(
                CandidateGroup(start, candidates, frozen_layers, dtype, compute_dtype)
            )
        self.optimizer = PackedAdamW(
            [row.requires_grad_() for group in self.groups for row in group.weights.unbind()],
            [row for group in self.groups for row in group.gradients.unbind()],
            [candidate.learning_rate for candidate in self.candidates],
            self.weight_decay,
            self.clip_norm,
            compute_dtype == torch.float16,
        )
        self._restore([state for _, state in ordered])
        self._install_layers()

    @torch.no_grad()
    def _restore(self, states: Sequence[AdapterState]) -> None:
        """Copy the states into the rows."""
        for index, state in enumerate(states):
            self.optimizer.restore(index, state.progress)
            for name, view in self._views(index):
                view.copy_(state.tensors[name])
        for group in self.groups:
            group.update_compute_weights()

    def _install_layers(self) -> None:
        """Put a `PackedLoraLinear` in the place of every adapted layer."""
        device = self.groups[0].weights.device
        self.context.anchor = torch.zeros((), device=device, requires_grad=True)
        adapters: dict[str, list[AdapterGroup]] = {}
        for group in self.groups:
            for name, own in group.adapters(self._dropout_masks).items():
                adapters.setdefault(name, []).append(own)
        for name, groups in adapters.items():
            self.layers[name] = PackedLoraLinear(self.frozen.layers[name], groups, self.context)
            self.frozen.model.set_submodule(name, self.layers[name])

    def _dropout_masks(self, name: str) -> Callable[[int, int, Sequence[int], int], Tensor]:
        """The function that draws the dropout masks of a layer; see `AdapterGroup`."""
        inputs = self.frozen.layers[name].in_features

        def masks(start: int, stop: int, rows: Sequence[int], tokens: int) -> Tensor:
            """(stop − start, rows, tokens, inputs); candidates with one seed and step share one."""
            drawn: dict[tuple[int, int], Tensor] = {}
            streams = [(self.candidates[i].seed, self.steps[i]) for i in range(start, stop)]
            dropout, device = self.candidates[start].dropout, self.context.anchor.device
            for seed, step in dict.fromkeys(streams):
                key = stream_key(self.seed, seed)
                drawn[seed, step] = dropout_mask(
                    key, name, step, rows, (tokens, inputs), dropout, device
                )
            return torch.stack([drawn[stream] for stream in streams])

        return masks


def _grouped(
    frozen: FrozenModel, members: list[Member]
) -> dict[tuple[int, tuple[str, ...], float], list[Member]]:
    """The members by rank, names of layers and dropout, in the order of these keys."""
    grouped: dict[tuple[int, tuple[str, ...], float], list[Member]] = {}
    for candidate, state in members:
        names = tuple(frozen.targets(candidate.setting))
        key = (candidate.rank, names, candidate.dropout)
        grouped.setdefault(key, []).append((candidate, state))
    return dict(sorted(grouped.items()))


def divergence(
    loss: float, norm: float, limit: float, runaway_steps: int, loss_scale: float | None = None
) -> str:
    """Why a candidate has diverged, or "" if it has not.

    It has diverged if its loss or its gradient is not finite, or if its loss was above `limit` for
    `MAX_RUNAWAY_STEPS` steps in a row. With a loss scale the gradient may overflow until the scale
    is below 1.
    """
    if not math.isfinite(loss):
        return "the loss is not a number"
    if loss_scale is not None and loss_scale < 1:
        return "no loss scale keeps the gradient finite in float16"
    if loss_scale is None and not math.isfinite(norm):
        return "the gradient is not a number"
    if runaway_steps >= MAX_RUNAWAY_STEPS:
        return f"the loss was above {limit:.1f} nats a token for {runaway_steps} steps in a row"
    return ""
