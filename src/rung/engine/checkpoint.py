"""A candidate's state on disk: a checkpoint to go on from, and an adapter in PEFT's format to use."""

from __future__ import annotations

import json
from pathlib import Path

from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import save

from rung.atomic import write_bytes, write_text
from rung.engine.pack import AdapterState
from rung.levers import Candidate
from rung.model.targets import last_name

_PEFT_PREFIX = "base_model.model."


def save_checkpoint(path: Path, state: AdapterState) -> None:
    """Write the factors, their moments and the step to one safetensors file."""
    write_bytes(path, save(dict(state.tensors), metadata={"step": str(state.step)}))


def load_checkpoint(path: Path) -> AdapterState | None:
    """What `save_checkpoint` wrote, or None where there is nothing."""
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        return AdapterState(int(file.metadata()["step"]), {name: file.get_tensor(name) for name in names})


def save_adapter(folder: Path, candidate: Candidate, state: AdapterState, base: str) -> None:
    """Write a folder that `PeftModel.from_pretrained(model, folder)` loads; `base` is where the model is from."""
    weights = {f"{_PEFT_PREFIX}{key[:-2]}.lora_{key[-1]}.weight": tensor for key, tensor in state.weights.items()}
    write_bytes(folder / "adapter_model.safetensors", save(weights, metadata={"format": "pt"}))
    config = peft_config(candidate, sorted({last_name(key[:-2]) for key in state.weights}), base)
    fields = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    write_text(folder / "adapter_config.json", json.dumps(fields, indent=2, sort_keys=True))


def peft_config(candidate: Candidate, target_modules: list[str], base: str | None = None) -> LoraConfig:
    """The candidate in PEFT's words."""
    return LoraConfig(
        r=candidate.rank,
        lora_alpha=candidate.alpha,
        use_rslora=candidate.use_rslora,
        target_modules=target_modules,
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
    )
