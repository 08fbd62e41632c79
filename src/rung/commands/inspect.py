"""What `rung inspect` computes: a model, and what each lever costs in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rung.model.anatomy import AdapterModule, Anatomy, ModuleInfo
from rung.model.serving import ServerSupport, server_support
from rung.model.targets import HEAD, stacked_experts, star_numbers
from rung.types import Setting

SCHEMA = 2
RANKS = (8, 16, 32, 64, 128)
"""The ranks that are shown beside the one that was asked for."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of the model's configuration; None where the architecture has no such size."""

    hidden_size: int
    layers: int
    vocabulary: int
    attention_heads: int | None
    key_value_heads: int | None


@dataclass(frozen=True, slots=True)
class HeadInfo:
    """The output head's name, if there is one, and whether it is the embedding."""

    name: str | None
    tied: bool


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """The adapter that was asked for.

    Attributes:
        target_modules: the names of modules in PEFT's terms.
        arithmetic: for each of `modules` how its parameters are computed.
        bytes: of the adapter, by dtype.
    """

    setting: Setting
    scale: float
    target_modules: tuple[str, ...]
    parameters: int
    bytes: Mapping[str, int]
    modules: tuple[AdapterModule, ...]
    arithmetic: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    """Everything about a model and one adapter for it. Sizes are in bytes.

    Attributes:
        packed_parameters: what a count of the loaded parameters says in NF4, which packs two
            weights into a byte.
        footprint_bytes: what `get_memory_footprint()` returns, by how linear layers are kept.
        held_bytes: what the model takes in memory, with the scales of quantised weights.
        target_groups: the module names of each group of target modules.
        multiply_adds: of a token with the frozen weights, by group.
        parameters_by_rank: of an adapter, by group and then by rank.
        notes: what a user would stumble over.
    """

    schema: int
    model: str
    architecture: str
    model_type: str
    parameters: int
    packed_parameters: int
    shape: Shape
    footprint_bytes: Mapping[str, int]
    held_bytes: Mapping[str, int]
    modules: tuple[ModuleInfo, ...]
    target_groups: Mapping[str, tuple[str, ...]]
    multiply_adds: Mapping[str, int]
    head: HeadInfo
    adapter: AdapterInfo
    parameters_by_rank: Mapping[str, Mapping[int, int]]
    servers: tuple[ServerSupport, ...]
    notes: tuple[str, ...]


def inspect_model(model: Anatomy, setting: Setting) -> Inspection:
    """Look at a model and one adapter for it.

    Raises:
        TargetError: the model has no such target modules.
    """
    config, footprint, groups = model.config, model.footprint(), model.groups()
    adapter = _adapter(model, setting)
    on_head = any(module.kind == "head" for module in adapter.modules)
    servers = server_support(setting, model.model_type, model.architecture, on_head, model.tied)
    return Inspection(
        schema=SCHEMA,
        model=model.name,
        architecture=model.architecture,
        model_type=model.model_type,
        parameters=model.parameters,
        packed_parameters=model.packed_parameters,
        shape=Shape(
            hidden_size=config.hidden_size,
            layers=config.num_hidden_layers,
            vocabulary=config.vocab_size,
            attention_heads=getattr(config, "num_attention_heads", None),
            key_value_heads=getattr(config, "num_key_value_heads", None),
        ),
        footprint_bytes=footprint.reported,
        held_bytes=footprint.with_scales,
        modules=tuple(model.modules),
        target_groups=groups,
        multiply_adds={group: model.multiply_adds(group) for group in groups},
        head=HeadInfo(model.head, model.tied),
        adapter=adapter,
        parameters_by_rank=_parameters_by_rank(model, setting),
        servers=tuple(servers),
        notes=tuple(_notes(model)),
    )


def _adapter(model: Anatomy, setting: Setting) -> AdapterInfo:
    adapter = model.adapter(setting)
    parameters = adapter.parameters
    return AdapterInfo(
        setting=setting,
        scale=setting.scale,
        target_modules=adapter.target_modules,
        parameters=parameters,
        bytes={"float32": 4 * parameters, "bfloat16": 2 * parameters},
        modules=adapter.modules,
        arithmetic=tuple(adapter.arithmetic(module) for module in adapter.modules),
    )


def _parameters_by_rank(model: Anatomy, setting: Setting) -> dict[str, dict[int, int]]:
    ranks = sorted({*RANKS, setting.rank})
    rate = setting.learning_rate
    return {
        targets: {
            rank: model.adapter(Setting(rank, 2 * rank, targets, rate)).parameters for rank in ranks
        }
        for targets in dict.fromkeys((*model.groups(), setting.targets))
    }


def _notes(model: Anatomy) -> list[str]:
    notes = []
    if experts := stacked_experts(model.model):
        notes.append(
            f"{', '.join(experts)}: these experts are one stacked parameter. No adapter goes on "
            "them, and they are not kept in 4 bits."
        )
    for why in dict.fromkeys(model.unsupported_layers.values()):
        names = star_numbers(name for name, own in model.unsupported_layers.items() if own == why)
        notes.append(f"{', '.join(names)}: {why}, so no adapter goes on them.")
    if model.head and model.tied:
        notes.append(
            f"{HEAD} is tied to the embedding: its parameters count once, and an adapter on it "
            "makes the two differ."
        )
    if model.quantized_by:
        notes.append(
            f"The checkpoint is already quantised by {model.quantized_by}; the footprints are of "
            "plain weights."
        )
    return notes
