"""What a study found, in a form that does not depend on its files: for `same_results.py`.

Numbers are `float.hex()`, so that equal texts are equal bits. The losses of the rows are the
SHA-256 of their float64 bytes. Candidates are keyed by their levers, and settings too. Sentences,
times, memory and paths are left out. Where a study's files change, add a reader to `READERS`,
under the new schema of `result.json`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pyarrow.parquet as pq


def read_study(study: Path) -> dict[str, Any]:
    """The results of a finished study in the neutral form.

    Raises:
        SystemExit: there is no reader for its schema.
    """
    result = json.loads((study / "result.json").read_text(encoding="utf-8"))
    if (schema := result["schema"]) not in READERS:
        raise SystemExit(f"There is no reader for schema {schema}; add one to READERS.")
    return READERS[schema](study, result)


def read_schema_1(study: Path, result: dict[str, Any]) -> dict[str, Any]:
    """From a study with schema 1."""
    best = result["recommendation"]
    manifest = json.loads((study / "manifest.json").read_text(encoding="utf-8"))
    return {
        "precision": manifest["precision"],
        "rows": manifest["rows"],
        "baseline": {
            "validation": row_losses(study / "scores" / "untuned.parquet"),
            "test": row_losses(study / "scores" / "test-untuned.parquet"),
            "metrics": exact(result["baseline"]["test"]),
            "texts": texts(study / "written" / "test-untuned.parquet"),
        },
        "candidates": candidates(study, "written"),
        "noise": exact(result["noise"]),
        "verdicts": [verdict_1(verdict) for verdict in result["verdicts"]],
        "recommendation": {
            "levers": {**levers_1(best), "seed": best["seed"]},
            "target_modules": sorted(best["target_modules"]),
            "validation_loss": exact(best["validation_loss"]),
            "adapter_validation_loss": exact(best["adapter_validation_loss"]),
            "effective_rank": exact(best["effective_rank"]),
            "cut": {str(cut["rank"]): exact(cut["validation_loss"]) for cut in best["cut"]},
            "test": row_losses(study / "scores" / f"test-{best['candidate']}.parquet"),
            "test_texts": texts(study / "written" / f"test-{best['candidate']}.parquet"),
            "test_metrics": exact(best["test"]),
            "test_intervals": exact(best["test_intervals"]),
            "test_gains": exact(best["test_gains"]),
            "adapter": sha256((study / best["adapter"] / "adapter_model.safetensors").read_bytes()),
        },
        "metrics": metrics_1(result["metrics"]),
        "tokens": [result["cost"]["candidate_tokens"], result["cost"]["single_run_tokens"]],
    }


def candidates(study: Path, generations: str) -> dict[str, Any]:
    """Each candidate by its levers, and each fraction of the budget that it was measured at."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trials = optuna.load_study(study_name=None, storage=f"sqlite:///{study / 'study.db'}").trials
    candidates = {}
    for trial in trials:
        levers = trial.user_attrs["candidate"]
        measurements = {}
        for measured in trial.user_attrs["measurements"]:
            fraction = measured["fraction"]
            scores = study / "scores" / f"{levers['id']}@{fraction:.3f}.parquet"
            measurements[float(fraction).hex()] = {
                **{key: measured[key] for key in ("steps", "tokens", "spent", "parameters")},
                "status": measured["status"],
                "rows": row_losses(scores) if measured["status"] == "trained" else None,
            }
        candidates[f"{in_words(levers)}, seed {levers['seed']}"] = {
            "levers": levers_1(levers),
            "state": trial.state.name,
            "at": measurements,
            "texts": texts(study / generations / f"validation-{levers['id']}.parquet"),
        }
    return candidates


def levers_1(levers: dict[str, Any]) -> dict[str, Any]:
    """What makes a setting."""
    names = ("rank", "alpha", "targets", "learning_rate", "use_rslora", "dropout")
    return {name: exact(levers[name]) for name in names}


def metrics_1(metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics of each setting on the validation rows, without what is said of them."""
    settings = {
        in_words(setting): {"seeds": setting["seeds"], "metrics": exact(setting["metrics"])}
        for setting in metrics["settings"]
    }
    return {"judge": metrics["judge"], "rows": metrics["rows"], "settings": settings}


def in_words(levers: dict[str, Any]) -> str:
    """A setting as a key that does not depend on how candidates are called."""
    scaled = " rslora" if levers["use_rslora"] else ""
    alpha, rate = float(levers["alpha"]), levers["learning_rate"]
    return f"rank {levers['rank']}, alpha {alpha!r}{scaled}, {levers['targets']}, rate {rate!r}"


def verdict_1(verdict: dict[str, Any]) -> dict[str, Any]:
    """A verdict without its sentence."""
    numbers = {key: exact(verdict[key]) for key in ("gain", "low", "high", "margin")}
    kept = {key: verdict[key] for key in ("lever", "outcome", "rows", "seeds")}
    return {**kept, "from": str(verdict["from"]), "to": str(verdict["to"]), **numbers}


def read_schema_2(study: Path, result: dict[str, Any]) -> dict[str, Any]:
    """From a study with schema 2."""
    best, baseline = result["recommendation"], result["baseline"]
    manifest = json.loads((study / "manifest.json").read_text(encoding="utf-8"))
    noise, rank_use = result["noise"], best["rank_use"]
    if noise:
        noise = {**noise, "freedom": noise["degrees_of_freedom"]}
        del noise["degrees_of_freedom"]
    return {
        "precision": manifest["precision"],
        "rows": manifest["rows"],
        "baseline": {
            "validation": row_losses(study / "scores" / "untuned.parquet"),
            "test": row_losses(study / "scores" / "test-untuned.parquet"),
            "metrics": exact(baseline["test"]),
            "texts": texts(study / "generations" / "test-untuned.parquet"),
        },
        "candidates": candidates(study, "generations"),
        "noise": exact(noise),
        "verdicts": [verdict_2(verdict) for verdict in result["verdicts"]],
        "recommendation": {
            "levers": {**levers_1(best["setting"]), "seed": best["seed"]},
            "target_modules": sorted(best["target_modules"]),
            "validation_loss": exact(best["validation_loss"]),
            "adapter_validation_loss": exact(best["adapter_validation_loss"]),
            "effective_rank": exact(rank_use["effective_rank"]),
            "cut": exact(rank_use["truncated_losses"]),
            "test": row_losses(study / "scores" / f"test-{best['candidate']}.parquet"),
            "test_texts": texts(study / "generations" / f"test-{best['candidate']}.parquet"),
            "test_metrics": exact(best["test"]),
            "test_intervals": exact(best["test_intervals"]),
            "test_gains": exact(best["test_gains"]),
            "adapter": sha256((study / best["adapter"] / "adapter_model.safetensors").read_bytes()),
        },
        "metrics": metrics_2(result["metrics"]),
        "tokens": [result["cost"]["candidate_tokens"], result["cost"]["single_run_tokens"]],
    }


def metrics_2(metrics: dict[str, Any]) -> dict[str, Any]:
    """As `metrics_1`: a gain stands beside the bounds of its metric."""
    settings = {}
    for setting in metrics["settings"]:
        values = {
            name: {key: value for key, value in bounds.items() if value is not None}
            for name, bounds in setting["metrics"].items()
        }
        for name, gain in setting["gains"].items():
            values[name]["gain"] = gain
        key = in_words(setting["setting"])
        settings[key] = {"seeds": setting["seeds"], "metrics": exact(values)}
    return {"judge": metrics["judge"], "rows": metrics["rows"], "settings": settings}


def verdict_2(verdict: dict[str, Any]) -> dict[str, Any]:
    """As `verdict_1`: with the values of the lever in the place of the two settings."""
    lever = "target_modules" if verdict["lever"] == "targets" else verdict["lever"]
    before, after = (value_2(verdict[side], lever) for side in ("before", "after"))
    numbers = {key: exact(verdict[key]) for key in ("gain", "low", "high", "margin")}
    kept = {key: verdict[key] for key in ("outcome", "rows", "seeds")}
    return {"lever": lever, **kept, "from": before, "to": after, **numbers}


def value_2(setting: dict[str, Any] | None, lever: str) -> str:
    """What a verdict of schema 1 has for the side."""
    if setting is None:
        return "untuned"
    if lever in ("rank", "learning_rate"):
        return str(setting[lever])
    if lever == "alpha":
        return f"{setting['alpha']:g}{' rsLoRA' if setting['use_rslora'] else ''}"
    return str(setting["targets"]) if lever == "target_modules" else label(setting)


def label(setting: dict[str, Any]) -> str:
    """What schema 1 called a setting, for plain names of target modules."""
    numbers = [setting["alpha"], setting["learning_rate"], setting["dropout"]]
    alpha, rate, dropout = (f"{n:.6g}" if float(f"{n:.6g}") == n else repr(n) for n in numbers)
    parts = [f"r{setting['rank']}", f"a{alpha}", setting["targets"], f"lr{rate}"]
    parts += ["rslora"] * setting["use_rslora"] + [f"d{dropout}"] * bool(setting["dropout"])
    return "-".join(parts)


READERS: dict[int, Callable[[Path, dict[str, Any]], dict[str, Any]]] = {
    1: read_schema_1,
    2: read_schema_2,
}
"""By the `schema` of a study's `result.json`."""


def row_losses(path: Path) -> dict[str, Any]:
    """What a file of scores holds: a hash of its losses, in nats, and of its tokens, by row."""
    table = pq.read_table(path)
    losses = table["loss"].to_numpy().astype("<f8")
    tokens = table["tokens"].to_numpy().astype("<i8")
    return {
        "count": len(losses),
        "losses": sha256(losses.tobytes()),
        "tokens": sha256(tokens.tobytes()),
        "mean": (math.fsum(losses) / int(np.sum(tokens))).hex(),
    }


def texts(path: Path) -> str | None:
    """A hash of the texts that a model has generated, in the order of the rows; None without."""
    if not path.exists():
        return None
    return sha256(json.dumps(pq.read_table(path)["text"].to_pylist()).encode())


def sha256(content: bytes) -> str:
    """The hash in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def exact(value: Any) -> Any:
    """The same JSON value with each float as `float.hex()`."""
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, dict):
        return {key: exact(inner) for key, inner in value.items()}
    return [exact(inner) for inner in value] if isinstance(value, list) else value
