"""Checks before anything is trained: right losses, and adapters that PEFT reads back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from tests.architectures import ALL_ARCHITECTURES, make
from tests.engine.setups import examples
from tests.tiny import tiny_tokenizer
from torch import nn
from transformers import BertGenerationConfig, BertGenerationDecoder

from rung.data.batches import collate
from rung.engine import preflight as module
from rung.engine.adapter_state import fresh_state
from rung.engine.checkpoint import save_adapter
from rung.engine.pack import Pack
from rung.engine.preflight import preflight
from rung.engine.trainer import Trainer
from rung.errors import ModelError, TargetError
from rung.model.load import Base
from rung.model.targets import last_name
from rung.types import Candidate, Setting

ALL = Setting(4, 8, "all-linear", 1e-2)
HEAD = Setting(4, 8, "all-linear+lm_head", 1e-2)


def trainer_of(model: Any) -> Trainer:
    return Trainer(Base(model, tiny_tokenizer(), "a model", torch.float32))


@torch.no_grad()
def losses(model: Any, rows: list[Any]) -> list[float]:
    """From the model's own logits, a row at a time."""
    sums = []
    for row in rows:
        batch = collate([row])
        logits = model(input_ids=batch.ids, use_cache=False).logits[0, batch.positions]
        sums.append(float(nn.functional.cross_entropy(logits, batch.labels, reduction="sum")))
    return sums


@pytest.mark.parametrize("name", ALL_ARCHITECTURES)
def test_a_trained_adapter_has_the_same_losses_when_peft_loads_it(
    name: str, tmp_path: Path
) -> None:
    """And the preflight, which does not load the model again, has found nothing wrong before."""
    trainer = trainer_of(make(name))
    rows = examples(trainer.model.config.get_text_config().vocab_size, 6)
    setting = ALL if name == "mamba" else HEAD
    candidate = Candidate(setting)
    preflight(trainer, [setting], rows, 0)
    untuned = trainer.score(rows)[0].losses
    assert untuned == pytest.approx(losses(make(name), rows), rel=1e-5)
    with Pack(trainer.frozen, [candidate], [fresh_state(trainer.frozen, candidate, 0)]) as pack:
        for _ in range(3):
            trainer.step(pack, collate(rows), 1.0)
        ours = trainer.score(rows, pack)[0].losses
        save_adapter(tmp_path, setting, pack.state(0), trainer.frozen, "a model")
    peft_model = peft.PeftModel.from_pretrained(make(name), tmp_path).eval()
    assert ours == pytest.approx(losses(peft_model, rows), rel=1e-5)
    changes = [abs(a - b) / a for a, b in zip(untuned, ours, strict=True)]
    assert max(changes) > 1e-3, "it has learnt something"


def test_the_preflight_leaves_nothing_behind() -> None:
    trainer, rows = trainer_of(make("llama")), examples(97, 6)
    modules = dict(trainer.model.named_modules())
    weights = copy.deepcopy(trainer.model.state_dict())
    scores = trainer.score(rows)[0].losses
    torch.manual_seed(3)
    random_state = torch.get_rng_state()
    assert preflight(trainer, [ALL, replace(ALL, targets="attention", dropout=0.5)], rows, 0) == []
    assert torch.equal(torch.get_rng_state(), random_state)
    after = dict(trainer.model.named_modules())
    assert list(after) == list(modules)
    assert all(after[name] is module for name, module in modules.items())
    assert all(
        torch.equal(weight, weights[name]) for name, weight in trainer.model.state_dict().items()
    )
    assert not any(parameter.requires_grad for parameter in trainer.model.parameters())
    assert trainer.score(rows)[0].losses == scores
    assert not trainer.frozen.holds_dense


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_sound_model_passes_in_a_narrow_precision(dtype: torch.dtype) -> None:
    """In float16 the first steps do not update, and a layer is not idle because of that."""
    trainer = Trainer(Base(make("llama").to(dtype), tiny_tokenizer(), "a model", dtype))
    assert preflight(trainer, [ALL], examples(97, 6), 0) == []


def test_a_tiny_learning_rate_makes_no_layer_idle() -> None:
    trainer, setting = trainer_of(make("llama")), replace(ALL, learning_rate=1e-12)
    assert preflight(trainer, [setting], examples(97, 6), 0) == []


def test_layers_that_no_text_passes_through_are_named() -> None:
    idle = preflight(trainer_of(make("mamba")), [ALL], examples(97, 6), 0)
    # Mamba multiplies by the weight of this layer itself.
    assert {last_name(name) for name in idle} == {"dt_proj"}


def supporting_every_layer(name: str) -> Trainer:
    """A trainer that knows of no layers that PEFT does not read back."""
    trainer = trainer_of(make(name))
    trainer.frozen = replace(trainer.frozen, unsupported={})
    return trainer


def test_layers_that_peft_puts_elsewhere_are_refused_and_those_that_it_reads_are_named() -> None:
    with pytest.raises(TargetError) as error:
        preflight(supporting_every_layer("deepseek-v3"), [ALL], examples(97, 6), 0)
    message = str(error.value)
    assert "PEFT reads an adapter on 'all-linear' back as another" in message
    assert "model.layers.*.mlp.gate_proj" in message
    readable = "kv_a_proj_with_mqa, kv_b_proj, o_proj, q_a_proj, q_b_proj"
    assert f"of these it reads {readable} back" in message


def test_layers_that_peft_refuses_are_refused() -> None:
    message = r"does not read an adapter on 'all-linear' back \(.*'out_proj' is incompat"
    with pytest.raises(TargetError, match=message):
        preflight(supporting_every_layer("mamba"), [ALL], examples(97, 6), 0)


LAYERS = "base_model.model.model.layers"


def double_the_scale(peft_model: Any) -> None:
    for layer in peft_model.modules():
        if hasattr(layer, "lora_A"):
            layer.scaling["default"] *= 2


def remove_one_adapter(peft_model: Any) -> None:
    name = f"{LAYERS}.0.mlp.up_proj"
    peft_model.set_submodule(name, peft_model.get_submodule(name).base_layer)


def change_one_number(peft_model: Any) -> None:
    layer = peft_model.get_submodule(f"{LAYERS}.1.self_attn.q_proj")
    layer.lora_B["default"].weight[0, 0] += 1e-4


def change_a_norm(peft_model: Any) -> None:
    norm = peft_model.get_submodule("base_model.model.model.norm")
    norm.weight = nn.Parameter(norm.weight * 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (double_the_scale, r"\(14 weights\) differ; give other target modules"),
        (
            remove_one_adapter,
            r"layers\.\*\.mlp\.up_proj \(1 weights\) differ; of these it reads down_proj",
        ),
        (change_one_number, r"layers\.\*\.self_attn\.q_proj \(1 weights\) differ"),
        (change_a_norm, r"has other losses when PEFT reads it back \(off by \d"),
    ],
)
def test_the_slightest_difference_is_found(
    change: Callable[[Any], None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Changed(peft.PeftModel):
        @classmethod
        def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
            peft_model = peft.PeftModel.from_pretrained(*args, **kwargs)
            change(peft_model)
            return peft_model

    monkeypatch.setattr(module, "PeftModel", Changed)
    with pytest.raises(TargetError, match=message):
        preflight(trainer_of(make("llama")), [ALL], examples(97, 6), 0)


def test_a_model_whose_untuned_loss_is_not_a_number_is_refused() -> None:
    model = make("llama")
    model.model.norm.weight.data[0] = float("nan")
    trainer = Trainer(
        Base(model, tiny_tokenizer(), "a model", torch.float32), attention=("eager", "eager")
    )
    with pytest.raises(ModelError, match="untuned model's loss is not a number in float32"):
        preflight(trainer, [ALL], examples(97, 6), 0)


def test_a_model_that_looks_ahead_is_refused() -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 97, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BertGenerationConfig(
        **sizes, intermediate_size=96, initializer_range=0.2, is_decoder=False
    )
    with pytest.raises(ModelError, match="sees the tokens that it has to predict"):
        preflight(trainer_of(BertGenerationDecoder(config).eval()), [ALL], examples(97, 6), 0)


def test_a_model_that_cannot_generate_is_refused() -> None:
    model = make("llama")

    def generate(*args: Any, **kwargs: Any) -> Any:
        raise ValueError("`decoder_start_token_id` has to be defined.")

    model.generate = generate
    message = r"cannot generate text \(`decoder_start_token_id` has to be defined\)"
    with pytest.raises(ModelError, match=message):
        preflight(trainer_of(model), [ALL], examples(97, 6), 0)
