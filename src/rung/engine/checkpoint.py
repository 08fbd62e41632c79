"""A candidate's state on disk: checkpoints to go on from, and an adapter in PEFT's format to use.

A checkpoint is a folder `step-000040` with `state.safetensors` (the factors and AdamW's moments) and `state.json`
(everything else). It appears whole or not at all, and the one before it stays: a pack that is killed while it writes
its candidates' checkpoints has an older one of each, from one and the same step.
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
from rung.engine.optimizer import Progress
from rung.engine.pack import AdapterState, FrozenModel
from rung.types import Candidate

KEPT = 2
"""How many checkpoints of a candidate stay."""

_PEFT_PREFIX = "base_model.model."
_WEIGHTS = "adapter_model.safetensors"
_STEP = re.compile(r"step-(\d+)")


def save_checkpoint(
    folder: Path, state: AdapterState, position: Mapping[str, Any] | None = None
) -> None:
    """Write the checkpoint of one step into the candidate's `folder`, and delete all but the last `KEPT`.

    Args:
        folder: the candidate's, with a folder for each step.
        state: the factors, moments and counts.
        position: what else says where the training stands: the schedule, the data's order, the seeds. Kept for the
            reader and for `saved_position`; the training itself needs `state` alone, since the order of the rows, the
            schedule and the dropout masks all follow from seeds and the step.
    """
    with write_folder(folder / f"step-{state.step:06d}") as made:
        write_bytes(made / "state.safetensors", save(dict(state.tensors)))
        kept = {
            "schema": 1,
            "step": state.step,
            "progress": asdict(state.progress),
            "position": dict(position or {}),
        }
        write_text(made / "state.json", json.dumps(kept, indent=2) + "\n")
    for step in saved_steps(folder)[:-KEPT]:
        shutil.rmtree(folder / f"step-{step:06d}")


def saved_steps(folder: Path) -> list[int]:
    """The steps that the candidate's `folder` has a checkpoint of, from the first to the last."""
    if not folder.is_dir():
        return []
    return sorted(
        int(found[1]) for path in folder.iterdir() if (found := _STEP.fullmatch(path.name))
    )


def load_checkpoint(folder: Path, step: int | None = None) -> AdapterState | None:
    """What `save_checkpoint` wrote at that step, or last; None where there is nothing."""
    steps = saved_steps(folder)
    if not steps or (step is not None and step not in steps):
        return None
    path = folder / f"step-{steps[-1] if step is None else step:06d}"
    kept = json.loads((path / "state.json").read_text(encoding="utf-8"))
    return AdapterState(
        kept["step"], load_file(path / "state.safetensors"), Progress(**kept["progress"])
    )


def can_be_read(folder: Path, step: int) -> bool:
    """Whether the checkpoint of that step is whole, as far as the lengths of its files say."""
    path = folder / f"step-{step:06d}"
    try:
        kept = json.loads((path / "state.json").read_text(encoding="utf-8"))
        with safe_open(path / "state.safetensors", framework="pt"):
            return bool(kept["step"] == step and {"progress", "position"} <= kept.keys())
    except Exception:  # whatever lies there now
        return False


def saved_position(folder: Path, step: int) -> dict[str, Any]:
    """The `position` of a checkpoint."""
    kept = json.loads((folder / f"step-{step:06d}" / "state.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = kept["position"]
    return found


def save_adapter(
    folder: Path, candidate: Candidate, state: AdapterState, frozen: FrozenModel, base: str
) -> None:
    """Write a folder that `PeftModel.from_pretrained(model, folder)` loads; `base` is where the model is from.

    The weights of the adapter and nothing else: PEFT itself would write a whole output head beside an adapter of it,
    which servers refuse.
    """
    write_bytes(folder / _WEIGHTS, save(_peft_weights(state), metadata={"format": "pt"}))
    config = peft_config(candidate, frozen.peft_names(candidate.setting), base)
    fields = {
        key: sorted(value) if isinstance(value, set) else value
        for key, value in config.to_dict().items()
    }
    write_text(folder / "adapter_config.json", json.dumps(fields, indent=2, sort_keys=True))


def adapter_holds(folder: Path, state: AdapterState | None = None) -> bool:
    """Whether an adapter can be read from the folder; with a `state`, whether its weights are those of that."""
    try:
        json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["target_modules"]
        kept = load_file(folder / _WEIGHTS)
    except Exception:  # whatever lies there now
        return False
    if state is None:
        return bool(kept)
    wanted = _peft_weights(state)
    return kept.keys() == wanted.keys() and all(kept[name].equal(wanted[name]) for name in kept)


def _peft_weights(state: AdapterState) -> dict[str, Tensor]:
    return {
        f"{_PEFT_PREFIX}{key[:-2]}.lora_{key[-1]}.weight": tensor
        for key, tensor in state.weights.items()
    }


def peft_config(
    candidate: Candidate, target_modules: list[str], base: str | None = None
) -> LoraConfig:
    """The candidate in PEFT's words."""
    return LoraConfig(
        r=candidate.rank,
        lora_alpha=candidate.alpha,
        use_rslora=candidate.use_rslora,
        target_modules=target_modules,
        lora_dropout=candidate.dropout,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
    )
