"""What a study leaves behind in words and numbers: `result.json` and `manifest.json`."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import torch

from rung.data.batches import ORDER_VERSION
from rung.data.prepare import Data
from rung.metrics.evaluate import Evaluator
from rung.model.files import fingerprint
from rung.model.load import Base
from rung.recipe import Recipe
from rung.search.stats import KNOWN_ZERO, Variance, gain_estimate, loss_estimate, run_noise
from rung.search.strategy import Decision
from rung.study.folder import FORMAT, SCHEMA
from rung.study.ledger import Ledger
from rung.types import Candidate, Generation, Measurement, RankUse, Scores

LIBRARIES = (
    "rung",
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "optuna",
    "safetensors",
    "scipy",
)
ONE_SEED = "Seeds: each setting was trained once, so the intervals cover the choice of validation rows alone."
NOT_COVERED = (
    "Other data: one data set, in one order for each seed, and validation rows that the race has looked at.",
    "Levers together: the race takes it that rank, alpha and target modules each act on the loss by themselves.",
)


@dataclass(frozen=True)
class Tested:
    """What the test split said of the untuned model and of the recommended run, as scores and texts; and the `metrics`
    on the validation rows.
    """

    quality: Evaluator
    untuned: tuple[Scores, Sequence[Generation]]
    tuned: tuple[Scores, Sequence[Generation]]
    metrics: Mapping[str, Any]

    def baseline(self) -> dict[str, Any]:
        scores, texts = self.untuned
        trivial = (
            {"writes": self.quality.known.always, **self.quality.trivial(texts)} if texts else None
        )
        rows = {"loss": len(scores.losses), "written": len(texts)}
        return {
            "test": {"loss": scores.mean, **self.quality.values(texts)},
            "test_rows": rows,
            "trivial": trivial,
        }

    def recommended(self) -> dict[str, Any]:
        (before, old), (scores, texts) = self.untuned, self.tuned
        gain = gain_estimate([before], [scores]).interval()
        return {
            "test": {"loss": scores.mean, **self.quality.values(texts)},
            "test_intervals": {"loss": _bounds([scores]), **self.quality.intervals(texts)},
            "test_gains": {
                "loss": {"gain": gain.mean, "low": gain.low, "high": gain.high},
                **self.quality.gains(old, texts),
            },
        }


def document(
    ledger: Ledger,
    recipe: Recipe,
    source: str,
    decision: Decision,
    baseline: Scores,
    tested: Tested,
    rank_use: RankUse,
    wall_seconds: float,
    single_run_tokens: int,
) -> dict[str, Any]:
    """The content of `result.json`. Losses are nats per completion token; bounds are at 95 %."""
    assert decision.recommended is not None
    stretches: dict[Candidate, list[Measurement]] = {}
    for measurement in ledger.history():
        stretches.setdefault(measurement.candidate, []).append(measurement)
    left = dict(decision.left)
    last = {
        candidate: max(found, key=lambda m: m.fraction) for candidate, found in stretches.items()
    }
    best = decision.recommended
    of_best = [
        m for candidate, m in last.items() if replace(candidate, seed=0) == replace(best, seed=0)
    ]
    noise = _noise(last)
    folder = ledger.folder
    return {
        "schema": SCHEMA,
        "study": folder.name,
        "model": recipe.model,
        "model_source": source,
        "data": recipe.data,
        "baseline": {"validation_loss": baseline.mean, **tested.baseline()},
        "recommendation": {
            "candidate": best.id,
            **_levers(best),
            "target_modules": _target_modules(ledger, best),
            "adapter": str(folder.adapter(best).relative_to(folder.path)),
            "validation_loss": _loss(_furthest(of_best), noise),
            "seed": best.seed,
            "adapter_validation_loss": last[best].loss,
            **tested.recommended(),
            "effective_rank": rank_use.effective_rank,
            "cut": [
                {"rank": rank, "validation_loss": loss}
                for rank, loss in sorted(rank_use.cut.items())
            ],
        },
        "metrics": tested.metrics,
        "noise": None
        if noise is None
        else {"standard_deviation": math.sqrt(noise.value), "freedom": noise.freedom},
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
                "validation_interval": _bounds([m.scores] if m.scores else []),
                "parameters": m.parameters,
                "adapter_bytes": m.adapter_bytes,
                "peak_memory_bytes": max(found.peak_memory_bytes for found in stretches[candidate]),
                "seconds": sum(found.seconds for found in stretches[candidate]),
            }
            for candidate, m in last.items()
        ],
        "cost": {
            "wall_seconds": wall_seconds,
            "candidate_tokens": sum(m.spent for found in stretches.values() for m in found),
            "single_run_tokens": single_run_tokens,
        },
        "settings": settings(last, noise),
        "not_covered": [
            *(
                [f"Values that no setting had: {'; '.join(decision.untried)}."]
                if decision.untried
                else []
            ),
            *([] if noise else [ONE_SEED]),
            *NOT_COVERED,
        ],
    }


def manifest(recipe: Recipe, base: Base, data: Data) -> dict[str, Any]:
    """What somebody else needs to know to run the study again."""
    return {
        "schema": SCHEMA,
        "format": FORMAT,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
        "machine": {
            "platform": platform.platform(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name()
            if base.device.type == "cuda"
            else platform.machine(),
        },
        "model_source": base.source,
        "model_files": fingerprint(base.source),
        "precision": str(base.dtype).removeprefix("torch."),
        "seed": recipe.seed,
        "data_sha256": data.stats.digest,
        "order": ORDER_VERSION,
        "rows": {name: len(rows) for name, rows in data.splits.items()},
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


def _bounds(scores: Sequence[Scores], noise: Variance = KNOWN_ZERO) -> dict[str, float] | None:
    """The mean over the seeds and its bounds at 95 %; `noise` is that of one run."""
    if not scores:
        return None
    found = loss_estimate(scores, noise.times(1 / len(scores))).interval()
    return {"mean": found.mean, "low": found.low, "high": found.high}


def _noise(last: Mapping[Candidate, Measurement]) -> Variance | None:
    """Of the loss of one run in full, from the settings with several seeds that confirm."""
    finished = {c: m for c, m in last.items() if m.fraction == 1 and m.scores and c.seed}
    return run_noise({(replace(c, seed=0), c.seed): m.loss for c, m in finished.items()})


def _furthest(runs: Sequence[Measurement]) -> list[Measurement]:
    """Those of a setting's runs that came as far as any did: of the seeds that confirm, where it has any, for seed 0
    has picked what is confirmed, and flatters it.
    """
    furthest = max(m.fraction for m in runs)
    there = [m for m in runs if m.fraction == furthest]
    return [m for m in there if m.candidate.seed] or there


def _loss(runs: Sequence[Measurement], noise: Variance | None) -> dict[str, float] | None:
    """Of runs of one setting that came equally far, with the noise of a run where it applies; none if one diverged."""
    scores = [m.scores for m in runs if m.scores]
    in_full = noise if noise and runs[0].fraction == 1 else KNOWN_ZERO
    return _bounds(scores, in_full) if len(scores) == len(runs) else None


def settings(last: Mapping[Candidate, Measurement], noise: Variance | None) -> list[dict[str, Any]]:
    """The candidates without their seeds: what the summary's table shows."""
    found = []
    by_setting: dict[Candidate, list[Measurement]] = {}
    for candidate, measurement in last.items():
        by_setting.setdefault(replace(candidate, seed=0), []).append(measurement)
    for setting, every in by_setting.items():
        runs = _furthest(every)
        loss = _loss(runs, noise)
        found.append(
            {
                **_levers(setting),
                "seeds": len(runs),
                "fraction": runs[0].fraction,
                "status": "diverged"
                if loss is None
                else "left"
                if runs[0].fraction < 1
                else "trained",
                "validation_loss": loss,
                "parameters": runs[0].parameters,
                "peak_memory_bytes": max(m.peak_memory_bytes for m in every),
                "seconds": sum(m.seconds for m in every),
            }
        )
    return found


def _target_modules(ledger: Ledger, candidate: Candidate) -> list[str]:
    """The module names as the adapter's own configuration has them; none where the candidate left no adapter."""
    path = ledger.folder.adapter(candidate) / "adapter_config.json"
    if not path.exists():
        return []
    with ledger.folder.reading(path):
        return list(json.loads(path.read_text(encoding="utf-8"))["target_modules"])
