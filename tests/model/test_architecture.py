"""Only checkpoints that generate text with a decoder alone are accepted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.model.edit_folder import change_config

from rung.errors import ModelError
from rung.model.anatomy import Anatomy
from rung.model.architecture import check_generates_text
from rung.model.load import check_files, load_base


@pytest.mark.parametrize(
    ("model_type", "class_name"),
    [
        ("llama", "LlamaForRewardModel"),
        ("llama", "LlamaForTokenClassification"),
        ("gpt2", "GPT2DoubleHeadsModel"),
        ("llama", "MistralModel"),
        ("bart", "BartForConditionalGeneration"),
        ("whisper", "WhisperForConditionalGeneration"),
        ("t5", "T5Model"),
    ],
)
@pytest.mark.parametrize(
    "check", [check_generates_text, lambda name, config: Anatomy(dict(config), name)]
)
def test_a_checkpoint_with_another_head_or_an_encoder_is_refused(
    model_type: str, class_name: str, check: Callable[..., object]
) -> None:
    config = {"model_type": model_type, "architectures": [class_name]}
    with pytest.raises(
        ModelError, match=rf"The model 'x' is not a causal language model \({class_name}\)"
    ):
        check("x", config)


@pytest.mark.parametrize(
    ("model_type", "class_name"),
    [
        ("llama", "LlamaForCausalLM"),
        ("llama", "LlamaModel"),
        ("gpt2", "GPT2LMHeadModel"),
        ("gpt2", "GPT2Model"),
        ("gemma3", "Gemma3ForConditionalGeneration"),
        ("bert", "BertLMHeadModel"),
        ("unknown", "UnknownForCausalLM"),
    ],
)
def test_a_checkpoint_that_generates_text_is_accepted(model_type: str, class_name: str) -> None:
    check_generates_text("x", {"model_type": model_type, "architectures": [class_name]})


def test_the_configuration_decides_whether_there_is_an_encoder_before_any_weights_are_read(
    folder: Path,
) -> None:
    change_config(folder, is_encoder_decoder=True)
    with pytest.raises(ModelError, match="has an encoder and a decoder"):
        check_files(str(folder))
    # The decoder of an encoder-decoder model that was saved alone.
    check_generates_text(
        "x",
        {"model_type": "bart", "architectures": ["BartForCausalLM"], "is_encoder_decoder": False},
    )


def test_a_classifier_is_not_loaded(folder: Path) -> None:
    change_config(folder, architectures=["LlamaForSequenceClassification"])
    with pytest.raises(
        ModelError, match=r"not a causal language model \(LlamaForSequenceClassification\)"
    ):
        load_base(str(folder), "fp32", "fp32")
