from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tests.engine.rounding import forward_tolerance, relative_error

from rung.engine.checkpoint import load_checkpoint, save_adapter, save_checkpoint
from rung.engine.adapter_state import AdapterState, fresh_state
from rung.engine.pack import Pack
from rung.engine.trainer import Trainer
from rung.model.load import load_base
from rung.types import Candidate, Setting


def trained(trainer: Trainer, candidate: Candidate) -> AdapterState:
    state = fresh_state(trainer.frozen, candidate, 0)
    torch.manual_seed(5)
    return AdapterState(
        3, {key: tensor + 0.05 * torch.randn_like(tensor) for key, tensor in state.tensors.items()}
    )


@pytest.mark.parametrize(
    "candidate",
    [
        Candidate(Setting(4, 8, "attention", 1e-3)),
        Candidate(Setting(8, 8, "all-linear", 1e-3, use_rslora=True)),
        Candidate(Setting(2, 3.5, "q_proj,down_proj", 1e-3)),
    ],
    ids=lambda candidate: candidate.id,
)
@pytest.mark.parametrize("quantization", ["fp32", "nf4"])
def test_peft_loads_the_adapter_and_gives_the_same_logits(
    tiny_folder: Path, tmp_path: Path, candidate: Candidate, quantization: str
) -> None:
    trainer = Trainer(load_base(str(tiny_folder), quantization, "fp32"))
    state = trained(trainer, candidate)
    save_adapter(tmp_path / "adapter", candidate, state, trainer.frozen, str(tiny_folder))
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
    assert relative_error(packed, untuned) > 1e-2, "the adapter does something"


def test_the_adapters_configuration_is_in_pefts_words(
    tiny_base: object, tiny_folder: Path, tmp_path: Path
) -> None:
    trainer = Trainer(tiny_base)  # type: ignore[arg-type]
    candidate = Candidate(Setting(4, 8, "attention", 1e-3))
    save_adapter(tmp_path, candidate, trained(trainer, candidate), trainer.frozen, str(tiny_folder))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 8, "LORA")
    assert config["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert config["base_model_name_or_path"] == str(tiny_folder)


def test_a_checkpoint_reads_back_bit_by_bit(tiny_base: object, tmp_path: Path) -> None:
    state = trained(Trainer(tiny_base), Candidate(Setting(4, 8, "attention", 1e-3)))  # type: ignore[arg-type]
    path = tmp_path / "a" / "state.safetensors"
    assert load_checkpoint(path) is None
    save_checkpoint(path, state)
    back = load_checkpoint(path)
    assert back is not None
    assert back.step == 3
    assert back.tensors.keys() == state.tensors.keys()
    assert all(torch.equal(back.tensors[key], state.tensors[key]) for key in state.tensors)
    assert [p.name for p in path.parent.iterdir()] == ["state.safetensors"], (
        "nothing is left beside it"
    )
