from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tests.candidates import candidate_of
from tests.engine.rounding import forward_tolerance, relative_error
from tests.engine.setups import noisy_state

from rung.engine.checkpoint import (
    KEPT_CHECKPOINTS,
    adapter_is_saved,
    checkpoint_is_readable,
    load_checkpoint,
    save_adapter,
    save_checkpoint,
    saved_position,
    saved_steps,
)
from rung.engine.optimizer import OptimizerProgress
from rung.engine.pack import Pack
from rung.engine.trainer import Trainer
from rung.model.load import Base, load_base
from rung.types import Candidate

SMALL = candidate_of(4, 8, "attention", 1e-3)


@pytest.mark.parametrize(
    "candidate",
    [
        SMALL,
        candidate_of(8, 8, "all-linear", 1e-3, use_rslora=True),
        candidate_of(2, 3.5, "q_proj,down_proj", 1e-3),
    ],
    ids=lambda candidate: candidate.id,
)
@pytest.mark.parametrize("quantization", ["fp32", "nf4"])
def test_peft_loads_the_adapter_and_gives_the_same_logits(
    tiny_folder: Path, tmp_path: Path, candidate: Candidate, quantization: str
) -> None:
    trainer = Trainer(load_base(str(tiny_folder), quantization, "fp32"))
    state, frozen = noisy_state(trainer, candidate), trainer.frozen
    save_adapter(tmp_path / "adapter", candidate.setting, state, frozen, str(tiny_folder))
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        untuned = trainer.model(ids).logits
        with Pack(trainer.frozen, [candidate], [state]):
            packed = trainer.model(ids).logits
        base = load_base(str(tiny_folder), quantization, "fp32").model
        for module in base.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
        theirs = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()(ids).logits
    assert relative_error(packed, theirs) < forward_tolerance()
    assert relative_error(packed, untuned) > 1e-2, "the adapter changes the logits"


def test_the_adapters_configuration_has_pefts_fields(
    tiny_base: Base, tiny_folder: Path, tmp_path: Path
) -> None:
    trainer = Trainer(tiny_base)
    state = noisy_state(trainer, SMALL)
    save_adapter(tmp_path, SMALL.setting, state, trainer.frozen, str(tiny_folder))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 8, "LORA")
    assert config["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert config["base_model_name_or_path"] == str(tiny_folder)


def test_a_saved_adapter_is_recognised_by_its_weights(tiny_base: Base, tmp_path: Path) -> None:
    trainer = Trainer(tiny_base)
    state = noisy_state(trainer, SMALL)
    assert not adapter_is_saved(tmp_path)
    save_adapter(tmp_path, SMALL.setting, state, trainer.frozen, "a model")
    assert adapter_is_saved(tmp_path)
    assert adapter_is_saved(tmp_path, state)
    other = {name: tensor + (name.endswith(".B")) for name, tensor in state.tensors.items()}
    assert not adapter_is_saved(tmp_path, replace(state, tensors=other))
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert not adapter_is_saved(tmp_path)


def test_a_checkpoint_is_read_back_bit_by_bit(tiny_base: Base, tmp_path: Path) -> None:
    state = noisy_state(Trainer(tiny_base), SMALL)
    state = replace(state, progress=OptimizerProgress(3, 2.0**10, 1, 2))
    assert load_checkpoint(tmp_path / "a") is None
    save_checkpoint(tmp_path / "a", state, {"stage": "race"})
    restored = load_checkpoint(tmp_path / "a")
    assert restored is not None
    assert (restored.step, restored.progress) == (3, state.progress)
    assert restored.tensors.keys() == state.tensors.keys()
    assert all(torch.equal(restored.tensors[key], state.tensors[key]) for key in state.tensors)
    assert saved_position(tmp_path / "a", 3) == {"stage": "race"}
    assert [path.name for path in tmp_path.iterdir()] == ["a"], "nothing temporary is left"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["step-000003"]


def test_the_last_checkpoints_stay_and_each_can_be_read(tiny_base: Base, tmp_path: Path) -> None:
    state = noisy_state(Trainer(tiny_base), SMALL)
    steps = [3, 12, 40]
    for step in steps:
        save_checkpoint(tmp_path, replace(state, step=step))
    assert saved_steps(tmp_path) == steps[-KEPT_CHECKPOINTS:]
    latest, earlier = load_checkpoint(tmp_path), load_checkpoint(tmp_path, 12)
    assert (latest and latest.step, earlier and earlier.step) == (40, 12)
    assert load_checkpoint(tmp_path, 3) is None


@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_not_readable(tiny_base: Base, tmp_path: Path, file: str) -> None:
    save_checkpoint(tmp_path, noisy_state(Trainer(tiny_base), SMALL))
    assert checkpoint_is_readable(tmp_path, 3)
    assert not checkpoint_is_readable(tmp_path, 4)
    path = tmp_path / "step-000003" / file
    path.write_bytes(path.read_bytes()[:-10])
    assert not checkpoint_is_readable(tmp_path, 3)
