"""A candidate's state on disk: checkpoints to resume from, and an adapter in PEFT's format to use.

A checkpoint is a folder `step-000040` with `state.safetensors` (the factors and AdamW's moments)
and `state.json` (everything else). It appears whole or not at all, and the checkpoint before it
stays. So a pack that is killed while it writes its candidates' checkpoints has an older one of
each, all from the same step.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from rung.atomic import write_bytes, write_folder, write_text
from rung.engine.adapter_state import AdapterState
from rung.engine.frozen_model import FrozenModel
from rung.engine.optimizer import OptimizerProgress
from rung.types import Setting

KEPT_CHECKPOINTS = 2
"""How many checkpoints of a candidate stay on disk."""

PEFT_PREFIX = "base_model.model."
"""What PEFT writes before the name of a layer."""

_WEIGHTS = "adapter_model.safetensors"
_STEP = re.compile(r"step-(\d+)")


def save_checkpoint(
    folder: Path, state: AdapterState, position: Mapping[str, Any] | None = None
) -> None:
    """Write a checkpoint into the candidate's `folder`; delete all but the last `KEPT_CHECKPOINTS`.

    Args:
        folder: the candidate's folder; it gets a folder for each step.
        state: the factors, moments and counts.
        position: what else describes the point of the training: the schedule, the order of the
            data, the seeds. It is for the reader and for `saved_position`. The training itself
            needs only `state`, because the order of the rows, the schedule and the dropout masks
            follow from the seeds and the step.
    """
    with write_folder(_step_folder(folder, state.step)) as temporary:
        write_bytes(temporary / "state.safetensors", save(dict(state.tensors)))
        document = {
            "schema": 1,
            "step": state.step,
            "progress": asdict(state.progress),
            "position": dict(position or {}),
        }
        write_text(temporary / "state.json", json.dumps(document, indent=2) + "\n")
    for step in saved_steps(folder)[:-KEPT_CHECKPOINTS]:
        shutil.rmtree(_step_folder(folder, step))


def saved_steps(folder: Path) -> list[int]:
    """The steps of which the candidate's `folder` has a checkpoint, in increasing order."""
    if not folder.is_dir():
        return []
    names = [_STEP.fullmatch(path.name) for path in folder.iterdir()]
    return sorted(int(name[1]) for name in names if name)


def load_checkpoint(folder: Path, step: int | None = None) -> AdapterState | None:
    """Read the checkpoint of a step, by default of the last one; None where there is none."""
    steps = saved_steps(folder)
    if not steps or (step is not None and step not in steps):
        return None
    path = _step_folder(folder, steps[-1] if step is None else step)
    document = _read_json(path / "state.json")
    progress = OptimizerProgress(**document["progress"])
    return AdapterState(document["step"], load_file(path / "state.safetensors"), progress)


def checkpoint_is_readable(folder: Path, step: int) -> bool:
    """Whether the checkpoint of a step is complete, as far as the lengths of its files show."""
    path = _step_folder(folder, step)
    try:
        document = _read_json(path / "state.json")
        with safe_open(path / "state.safetensors", framework="pt"):
            return bool(document["step"] == step and {"progress", "position"} <= document.keys())
    except Exception:  # the files may hold anything
        return False


def saved_position(folder: Path, step: int) -> dict[str, Any]:
    """The `position` that the checkpoint of a step was saved with."""
    position: dict[str, Any] = _read_json(_step_folder(folder, step) / "state.json")["position"]
    return position


def save_adapter(
    folder: Path, setting: Setting, state: AdapterState, frozen: FrozenModel, base: str
) -> None:
    """Write a folder that `PeftModel.from_pretrained(model, folder)` loads.

    It holds only the weights of the adapter: PEFT itself would write a whole output head beside an
    adapter of the head, which servers refuse.

    Args:
        base: where the model comes from, for the configuration.
    """
    write_bytes(folder / _WEIGHTS, save(_peft_weights(state), metadata={"format": "pt"}))
    config = peft_config(setting, frozen.peft_names(setting), base)
    fields = {
        key: sorted(value) if isinstance(value, set) else value
        for key, value in config.to_dict().items()
    }
    write_text(folder / "adapter_config.json", json.dumps(fields, indent=2, sort_keys=True))


def adapter_is_saved(folder: Path, state: AdapterState | None = None) -> bool:
    """Whether an adapter can be read from the folder; with `state`, whether its weights are equal.

    An adapter without weights counts as none.
    """
    try:
        _read_json(folder / "adapter_config.json")["target_modules"]
        saved = load_file(folder / _WEIGHTS)
    except Exception:  # the files may hold anything
        return False
    if state is None:
        return bool(saved)
    wanted = _peft_weights(state)
    return saved.keys() == wanted.keys() and all(saved[name].equal(wanted[name]) for name in saved)


def peft_config(setting: Setting, target_modules: list[str], base: str | None = None) -> LoraConfig:
    """The setting as a configuration of PEFT."""
    return LoraConfig(
        r=setting.rank,
        lora_alpha=setting.alpha,
        use_rslora=setting.use_rslora,
        target_modules=target_modules,
        lora_dropout=setting.dropout,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
    )


def _peft_weights(state: AdapterState) -> dict[str, Tensor]:
    return {
        f"{PEFT_PREFIX}{key[:-2]}.lora_{key[-1]}.weight": tensor
        for key, tensor in state.weights.items()
    }


def _step_folder(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}"


def _read_json(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document
