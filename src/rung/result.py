"""What a study leaves behind in words and numbers: `result.json` and `manifest.json`."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch

from rung.data.read import Splits
from rung.levers import Candidate, Measurement, Scores
from rung.model.load import Base
from rung.recipe import Recipe
from rung.search.stats import loss_interval
from rung.search.strategy import Decision
from rung.study.ledger import Ledger

SCHEMA = 1
LIBRARIES = ("rung", "torch", "transformers", "peft", "bitsandbytes", "optuna", "safetensors", "scipy")
NOT_COVERED = (
    "One seed and one data set: the intervals cover the choice of validation rows, not of the seed.",
    "The best rate of a rank was picked on the same validation rows, which flatters ranks tried at more rates.",
    "Alpha was 2 · rank throughout, on the targets given.",
)


def document(
    ledger: Ledger,
    recipe: Recipe,
    source: str,
    decision: Decision,
    baseline: Scores,
    tests: Mapping[str, dict[str, float]],
    wall_seconds: float,
    single_run_tokens: int,
) -> dict[str, Any]:
    """The content of `result.json`. Losses are nats per completion token; bounds are at 95 %."""
    assert decision.recommended is not None
    stretches: dict[Candidate, list[Measurement]] = {}
    for measurement in ledger.history():
        stretches.setdefault(measurement.candidate, []).append(measurement)
    left = dict(decision.left)
    last = {candidate: max(found, key=lambda m: m.fraction) for candidate, found in stretches.items()}
    best = decision.recommended
    folder = ledger.folder
    return {
        "schema": SCHEMA,
        "study": folder.name,
        "model": recipe.model,
        "model_source": source,
        "data": recipe.data,
        "baseline": {"validation_loss": baseline.mean, "test": tests["untuned"]},
        "recommendation": {
            "candidate": best.id,
            **_levers(best),
            "target_modules": _target_modules(ledger, best),
            "adapter": str(folder.adapter(best).relative_to(folder.path)),
            "validation_loss": _bounds(last[best].scores),
            "test": tests[best.id],
        },
        "verdicts": [verdict.as_dict() for verdict in decision.verdicts],
        "candidates": [
            {
                "id": candidate.id,
                **_levers(candidate),
                "target_modules": _target_modules(ledger, candidate),
                "seed": candidate.seed,
                "status": "left" if candidate in left and m.scores else m.status,
                **({"why": left[candidate]} if candidate in left else {}),
                "fraction": m.fraction,
                "steps": m.steps,
                "tokens": m.tokens,
                "validation_loss": m.scores.mean if m.scores else None,
                "validation_interval": _bounds(m.scores),
                "parameters": m.parameters,
                "adapter_bytes": m.adapter_bytes,
                "peak_memory_bytes": max(found.peak_memory_bytes for found in stretches[candidate]),
                "seconds": sum(found.seconds for found in stretches[candidate]),
            }
            for candidate, m in last.items()
        ],
        "cost": {
            "wall_seconds": wall_seconds,
            "candidate_tokens": sum(m.tokens for m in last.values()),
            "single_run_tokens": single_run_tokens,
        },
        "not_covered": list(NOT_COVERED),
    }


def manifest(recipe: Recipe, base: Base, splits: Splits) -> dict[str, Any]:
    """What somebody else needs to know to run the study again."""
    return {
        "schema": SCHEMA,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "machine": {
            "platform": platform.platform(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if base.device.type == "cuda" else platform.machine(),
        },
        "model_source": base.source,
        "precision": str(base.dtype).removeprefix("torch."),
        "seed": recipe.seed,
        "data_sha256": splits.digest,
        "rows": {"train": len(splits.train), "validation": len(splits.validation), "test": len(splits.test)},
    }


def _levers(candidate: Candidate) -> dict[str, Any]:
    return {
        "rank": candidate.rank,
        "alpha": candidate.alpha,
        "targets": candidate.targets,
        "learning_rate": candidate.learning_rate,
        "use_rslora": candidate.use_rslora,
        "dropout": candidate.dropout,
    }


def _bounds(scores: Scores | None) -> dict[str, float] | None:
    if scores is None:
        return None
    found = loss_interval(scores)
    return {"mean": found.mean, "low": found.low, "high": found.high}


def _target_modules(ledger: Ledger, candidate: Candidate) -> list[str]:
    """The module names as the adapter's own configuration has them; none where the candidate left no adapter."""
    path = ledger.folder.adapter(candidate) / "adapter_config.json"
    if not path.exists():
        return []
    return list(json.loads(path.read_text(encoding="utf-8"))["target_modules"])
