"""Before anything is trained: right losses, and an adapter that PEFT reads back as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from tests.architectures import ARCHITECTURES, ROUNDS_SHARE_BEYOND_GRID, make
from tests.engine.oracle import examples
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

ALL = Candidate(Setting(4, 8, "all-linear", 1e-2))
HEAD = Candidate(Setting(4, 8, "all-linear+lm_head", 1e-2))


def trainer_of(model: Any) -> Trainer:
    return Trainer(Base(model, tiny_tokenizer(), "a model", torch.float32))


@torch.no_grad()
def losses(model: Any, rows: list[Any]) -> list[float]:
    """From the model's own logits, a row at a time."""
    found = []
    for row in rows:
        batch = collate([row])
        logits = model(input_ids=batch.ids, use_cache=False).logits[0, batch.positions]
        found.append(float(nn.functional.cross_entropy(logits, batch.labels, reduction="sum")))
    return found


@pytest.mark.parametrize("name", [*ARCHITECTURES, *ROUNDS_SHARE_BEYOND_GRID])
def test_a_trained_adapter_has_the_same_losses_as_peft_loads_it(name: str, tmp_path: Path) -> None:
    """And the preflight, which does not load the model again, says so beforehand."""
    trainer, rows = (
        trainer_of(make(name)),
        examples(make(name).config.get_text_config().vocab_size, 6),
    )
    candidate = ALL if name == "mamba" else HEAD
    preflight(trainer, [candidate], rows, 0)
    untuned = trainer.score(rows)[0].losses
    assert untuned == pytest.approx(losses(make(name), rows), rel=1e-5)
    with Pack(trainer.frozen, [candidate], [fresh_state(trainer.frozen, candidate, 0)]) as pack:
        for _ in range(3):
            trainer.step(pack, collate(rows), 1.0)
        ours = trainer.score(rows, pack)[0].losses
        save_adapter(tmp_path, candidate, pack.state(0), trainer.frozen, "a model")
    theirs = peft.PeftModel.from_pretrained(make(name), tmp_path).eval()
    assert ours == pytest.approx(losses(theirs, rows), rel=1e-5)
    assert max(abs(a - b) / a for a, b in zip(untuned, ours, strict=True)) > 1e-3, (
        "it has learnt something"
    )


def test_it_leaves_nothing_behind() -> None:
    trainer, rows = trainer_of(make("llama")), examples(97, 6)
    before = dict(trainer.model.named_modules())
    weights = copy.deepcopy(trainer.model.state_dict())
    wanted = trainer.score(rows)[0].losses
    torch.manual_seed(3)
    random = torch.get_rng_state()
    assert preflight(trainer, [ALL, replace(ALL, targets="attention", dropout=0.5)], rows, 0) == []
    assert torch.equal(torch.get_rng_state(), random)
    after = dict(trainer.model.named_modules())
    assert list(after) == list(before)
    assert all(after[name] is found for name, found in before.items())
    assert all(
        torch.equal(weight, weights[name]) for name, weight in trainer.model.state_dict().items()
    )
    assert not any(parameter.requires_grad for parameter in trainer.model.parameters())
    assert trainer.score(rows)[0].losses == wanted
    assert not trainer.frozen.holds_dense


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_so_it_is_in_narrow_numbers(dtype: torch.dtype) -> None:
    """In float16 the first steps are passed over, and a layer that has not moved yet is not idle for that."""
    trainer = Trainer(Base(make("llama").to(dtype), tiny_tokenizer(), "a model", dtype))
    assert preflight(trainer, [ALL], examples(97, 6), 0) == []


def test_a_tiny_learning_rate_makes_no_layer_idle() -> None:
    assert (
        preflight(
            trainer_of(make("llama")), [replace(ALL, learning_rate=1e-12)], examples(97, 6), 0
        )
        == []
    )


def test_layers_that_text_does_not_reach_are_named() -> None:
    found = preflight(trainer_of(make("mamba")), [ALL], examples(97, 6), 0)
    assert {last_name(name) for name in found} == {"dt_proj"}, (
        "Mamba multiplies by this weight itself"
    )


def test_what_peft_puts_elsewhere_is_refused_with_what_it_reads_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make("deepseek-v3")
    monkeypatch.setattr("rung.engine.pack.closed_layers", lambda model, layers: {})
    with pytest.raises(TargetError) as error:
        preflight(trainer_of(model), [ALL], examples(97, 6), 0)
    assert "PEFT reads an adapter on 'all-linear' back as another" in str(error.value)
    assert "model.layers.*.mlp.gate_proj" in str(error.value)
    assert (
        "of these it reads kv_a_proj_with_mqa, kv_b_proj, o_proj, q_a_proj, q_b_proj back"
        in str(error.value)
    )


def test_what_peft_refuses_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rung.engine.pack.closed_layers", lambda model, layers: {})
    with pytest.raises(
        TargetError,
        match=r"does not read an adapter on 'all-linear' back \(.*'out_proj' is incompat",
    ):
        preflight(trainer_of(make("mamba")), [ALL], examples(97, 6), 0)


def doubled(read: Any) -> None:
    for layer in read.modules():
        if hasattr(layer, "lora_A"):
            layer.scaling["default"] *= 2


def one_lost(read: Any) -> None:
    read.set_submodule(
        "base_model.model.model.layers.0.mlp.up_proj",
        read.get_submodule("base_model.model.model.layers.0.mlp.up_proj").base_layer,
    )


def a_bit_off(read: Any) -> None:
    read.get_submodule("base_model.model.model.layers.1.self_attn.q_proj").lora_B["default"].weight[
        0, 0
    ] += 1e-4


def other_norm(read: Any) -> None:
    norm = read.get_submodule("base_model.model.model.norm")
    norm.weight = nn.Parameter(norm.weight * 2)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (doubled, r"\(14 weights\) come back otherwise; give other target modules"),
        (
            one_lost,
            r"model\.layers\.\*\.mlp\.up_proj \(1 weights\) come back otherwise; of these it reads down_proj",
        ),
        (a_bit_off, r"model\.layers\.\*\.self_attn\.q_proj \(1 weights\) come back otherwise"),
        (other_norm, r"has other losses as PEFT reads it back \(off by \d"),
    ],
)
def test_the_slightest_difference_is_seen(
    change: Callable[[Any], None], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Changed(peft.PeftModel):
        @classmethod
        def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
            read = peft.PeftModel.from_pretrained(*args, **kwargs)
            change(read)
            return read

    monkeypatch.setattr(module, "PeftModel", Changed)
    with pytest.raises(TargetError, match=says):
        preflight(trainer_of(make("llama")), [ALL], examples(97, 6), 0)


def test_an_untuned_loss_that_is_no_number() -> None:
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
    with pytest.raises(ModelError, match="looks at the tokens that it is to write"):
        preflight(trainer_of(BertGenerationDecoder(config).eval()), [ALL], examples(97, 6), 0)


def test_a_cap_that_rung_does_not_know_of_is_found_though_a_small_models_logits_hardly_feel_it() -> (
    None
):
    model = make("llama")
    forward = model.forward

    def capped(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        out.logits = 60 * torch.tanh(out.logits / 60)
        return out

    rows = torch.arange(4)[None]
    assert (capped(rows).logits - forward(rows).logits).abs().max() < 0.01 * forward(
        rows
    ).logits.abs().max()
    model.forward = capped
    with pytest.raises(ModelError, match="changes its logits after the output head"):
        trainer_of(model)


def test_a_model_that_cannot_write_is_known_before_it_is_trained() -> None:
    model = make("llama")

    def generate(*args: Any, **kwargs: Any) -> Any:
        raise ValueError("`decoder_start_token_id` has to be defined.")

    model.generate = generate
    with pytest.raises(
        ModelError, match=r"cannot write text \(`decoder_start_token_id` has to be defined\)"
    ):
        preflight(trainer_of(model), [ALL], examples(97, 6), 0)
