"""The document of `rung inspect`: a model, and what each lever costs in it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rung.model.anatomy import Adapter, Anatomy
from rung.model.serving import server_support
from rung.model.targets import HEAD, stacked_experts, star_numbers
from rung.types import Setting

RANKS = (8, 16, 32, 64, 128)
"""The ladder that is shown beside the rank that was asked for."""


def inspection(model: Anatomy, setting: Setting) -> dict[str, Any]:
    """Everything about a model and one adapter of it, ready for JSON. Sizes are in bytes.

    Raises:
        TargetError: the model has no such target modules.
    """
    adapter, footprint, groups = model.adapter(setting), model.footprint(), model.groups()
    config = model.config
    on_head = any(module.kind == "head" for module in adapter.modules)
    served = server_support(setting, model.model_type, model.architecture, on_head, model.tied)
    ranks = sorted({*RANKS, setting.rank})
    return {
        "schema": 1,
        "model": model.name,
        "architecture": model.architecture,
        "model_type": model.model_type,
        "parameters": model.parameters,
        "packed_parameters": model.packed_parameters,
        "shape": {
            "hidden_size": config.hidden_size,
            "layers": config.num_hidden_layers,
            "vocabulary": config.vocab_size,
            "attention_heads": getattr(config, "num_attention_heads", None),
            "key_value_heads": getattr(config, "num_key_value_heads", None),
        },
        "footprint_bytes": footprint.reported,
        "held_bytes": footprint.with_scales,
        "modules": [_renamed(asdict(module)) for module in model.modules],
        "target_groups": {word: list(names) for word, names in groups.items()},
        "products": model.multiply_adds("all-linear"),
        "products_by_targets": {
            word: model.multiply_adds(word) for word in groups if word != "all-linear"
        },
        "head": {"name": model.head, "tied": model.tied},
        "adapter": _adapter(adapter),
        "parameters_by_rank": {
            targets: {
                str(rank): model.adapter(
                    Setting(rank, 2 * rank, targets, setting.learning_rate)
                ).parameters
                for rank in ranks
            }
            for targets in dict.fromkeys((*groups, setting.targets))
        },
        "servers": [asdict(one) for one in served],
        "notes": _notes(model),
    }


def _adapter(adapter: Adapter) -> dict[str, Any]:
    setting, parameters = adapter.setting, adapter.parameters
    return {
        "rank": setting.rank,
        "alpha": setting.alpha,
        "scale": setting.scale,
        "use_rslora": setting.use_rslora,
        "targets": setting.targets,
        "target_modules": list(adapter.target_modules),
        "parameters": parameters,
        "bytes": {"float32": 4 * parameters, "bfloat16": 2 * parameters},
        "modules": [
            {**_renamed(asdict(module)), "arithmetic": adapter.arithmetic(module)}
            for module in adapter.modules
        ],
    }


def _renamed(part: dict[str, Any]) -> dict[str, Any]:
    """`inputs` and `outputs` are `in` and `out` in a document; Python keeps the first for itself."""
    return {{"inputs": "in", "outputs": "out"}.get(key, key): value for key, value in part.items()}


def _notes(model: Anatomy) -> list[str]:
    """What a user would trip over."""
    found = []
    if experts := stacked_experts(model.model):
        found.append(
            f"{', '.join(experts)}: experts kept as one stacked parameter. No adapter goes on them, and no 4 bits."
        )
    for why in dict.fromkeys(model.unsupported_layers.values()):
        names = star_numbers(name for name, own in model.unsupported_layers.items() if own == why)
        found.append(f"{', '.join(names)}: {why}, so none goes on them.")
    if model.head and model.tied:
        found.append(
            f"{HEAD} is tied to the embedding: its numbers count once, and an adapter on it parts the two."
        )
    if model.quantized_by:
        found.append(
            f"The checkpoint is quantised by {model.quantized_by} already; the footprints are of plain weights."
        )
    return found
