"""A pack: the adapters of several candidates in one frozen base. Put them in, take them out, let one leave."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from rung.engine.lora import FrozenLinear, PackedLoraLinear
from rung.engine.optimizer import PackedAdamW
from rung.levers import Candidate
from rung.model.targets import linear_layers, resolve

FACTORS = ("A", "B")


@dataclass(frozen=True)
class AdapterState:
    """One candidate's training at the end of a step, alone, in its own rank, on the CPU.

    `tensors` has, for each adapted layer and each factor, `<layer>.A` (rank, in) and `<layer>.B` (out, rank), and with
    `.first` and `.second` behind them AdamW's two moments.
    """

    step: int
    tensors: Mapping[str, Tensor] = field(repr=False)

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.tensors.values())).dtype

    @property
    def weights(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self.tensors.items() if name.endswith(FACTORS)}


@dataclass(frozen=True)
class Frozen:
    """A model whose linear layers stand still, and those layers under the names that PEFT knows them by."""

    model: nn.Module
    layers: Mapping[str, FrozenLinear]

    def targets(self, candidate: Candidate) -> dict[str, nn.Linear]:
        """The layers that the candidate adapts.

        Raises:
            TargetError: see `rung.model.targets.resolve`.
        """
        return {name: self.layers[name].base for name in resolve(self.layers, candidate.targets)}

    def parameters(self, candidate: Candidate) -> int:
        """How many numbers the candidate's adapter has: rank · (in + out) of each layer, counted from the shapes."""
        layers = self.targets(candidate).values()
        return sum(candidate.rank * (layer.in_features + layer.out_features) for layer in layers)


def freeze(model: nn.Module) -> Frozen:
    """Put a `FrozenLinear` in the place of every linear layer inside the blocks, for good."""
    layers = {name: FrozenLinear(layer) for name, layer in linear_layers(model).items()}
    for name, layer in layers.items():
        model.set_submodule(name, layer)
    return Frozen(model.requires_grad_(False), layers)


def fresh_state(frozen: Frozen, candidate: Candidate, study_seed: int) -> AdapterState:
    """An untrained adapter: A as PEFT draws it (uniform within ±1/√in), B zero.

    Each layer's draw depends on the study's seed, the candidate's seed and the layer alone. So candidates that differ
    in their rate start from the same numbers, and a smaller rank from the first rows of a larger one: less noise
    between the two sides of a comparison.
    """
    tensors: dict[str, Tensor] = {}
    for name, layer in frozen.targets(candidate).items():
        digest = hashlib.sha256(f"{study_seed}:{candidate.seed}:{name}".encode()).digest()
        draw = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        bound = layer.in_features**-0.5
        tensors[f"{name}.A"] = torch.empty(candidate.rank, layer.in_features).uniform_(-bound, bound, generator=draw)
        tensors[f"{name}.B"] = torch.zeros(layer.out_features, candidate.rank)
    moments = {f"{key}.{moment}": torch.zeros_like(t) for key, t in tensors.items() for moment in ("first", "second")}
    return AdapterState(0, tensors | moments)


class Pack:
    """K candidates side by side in a frozen model, with their optimizer. A context manager: leaving takes them out.

    All of them stand at the same step, since they see the same batches.
    """

    def __init__(
        self,
        frozen: Frozen,
        candidates: Sequence[Candidate],
        states: Sequence[AdapterState],
        weight_decay: float = 0.0,
        clip_norm: float = 1.0,
    ) -> None:
        assert len({state.step for state in states}) == 1, "the candidates of a pack stand at the same step"
        self.frozen = frozen
        self.weight_decay, self.clip_norm = weight_decay, clip_norm
        self.candidates: list[Candidate] = []
        self.layers: dict[str, PackedLoraLinear] = {}
        self._names = {candidate.id: set(frozen.targets(candidate)) for candidate in candidates}
        self._fill(list(candidates), list(states))

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
        """What candidate `index` is at now, ready to be saved or to be put into another pack."""
        candidate = self.candidates[index]
        tensors: dict[str, Tensor] = {}
        kinds = {"": self.optimizer.parameters, ".first": self.optimizer.first, ".second": self.optimizer.second}
        for place, (name, factor) in enumerate((n, f) for n in self.layers for f in FACTORS):
            if name in self._names[candidate.id]:
                for suffix, stacks in kinds.items():
                    own = stacks[place].detach()[index]
                    cut = own[: candidate.rank] if factor == "A" else own[:, : candidate.rank]
                    tensors[f"{name}.{factor}{suffix}"] = cut.cpu().clone()
        return AdapterState(self.optimizer.steps, tensors)

    def drop(self, indices: Sequence[int]) -> None:
        """Let candidates leave. What the others hold is carried over bit by bit."""
        stay = [i for i in range(len(self)) if i not in indices]
        candidates, states = [self.candidates[i] for i in stay], [self.state(i) for i in stay]
        self.close()
        if candidates:
            self._fill(candidates, states)
        else:
            self.candidates = []

    def _fill(self, candidates: list[Candidate], states: list[AdapterState]) -> None:
        self.candidates = candidates
        wanted = set().union(*(self._names[candidate.id] for candidate in candidates))
        first: list[Tensor] = []
        second: list[Tensor] = []
        for name in (name for name in self.frozen.layers if name in wanted):
            module = self.frozen.layers[name]
            ranks = [c.rank if name in self._names[c.id] else 0 for c in candidates]
            device = module.base.weight.device
            scale = torch.tensor([c.scale for c in candidates], dtype=states[0].dtype, device=device)
            stacks = {
                suffix: [_stack(states, f"{name}.{f}", suffix, ranks, module.base).to(device) for f in FACTORS]
                for suffix in ("", ".first", ".second")
            }
            A, B = stacks[""]
            self.layers[name] = layer = PackedLoraLinear(module, A, B, scale)
            self.frozen.model.set_submodule(name, layer)
            first += stacks[".first"]
            second += stacks[".second"]
        parameters: list[Tensor] = [p for layer in self.layers.values() for p in (layer.A, layer.B)]
        rates = [candidate.learning_rate for candidate in candidates]
        self.optimizer = PackedAdamW(parameters, rates, self.weight_decay, self.clip_norm)
        self.optimizer.first, self.optimizer.second = first, second
        self.optimizer.steps = states[0].step


def _stack(states: Sequence[AdapterState], key: str, suffix: str, ranks: Sequence[int], base: nn.Linear) -> Tensor:
    """The candidates' tensors in one, padded with zeros to the widest rank."""
    down = key.endswith(".A")
    shape = (max(ranks), base.in_features) if down else (base.out_features, max(ranks))
    stack = torch.zeros(len(states), *shape, dtype=states[0].dtype)
    for own, state, rank in zip(stack, states, ranks, strict=True):
        if rank:
            (own[:rank] if down else own[:, :rank]).copy_(state.tensors[key + suffix])
    return stack
