"""Whether a model's configuration is that of a causal language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from rung.errors import ModelError

GENERATIVE_SUFFIXES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""How the names of classes end whose models generate text."""


def check_generates_text(model_name: str, config: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that was not trained to generate text with a decoder alone.

    A checkpoint that names the plain decoder (`LlamaModel`) passes: its head may be tied.

    Args:
        model_name: how the user names the model, for messages.
        config: the model's `config.json`.

    Raises:
        ModelError: The checkpoint has another head than a language model's, which would be
            dropped, or it has an encoder.
    """
    classes, model_type = config.get("architectures") or [], config.get("model_type")
    known = model_type in CONFIG_MAPPING
    has_encoder = (
        getattr(CONFIG_MAPPING[model_type], "is_encoder_decoder", False) if known else False
    )
    if config.get("is_encoder_decoder", has_encoder):
        raise ModelError(
            f"The model '{model_name}' is not a causal language model "
            f"({classes[0] if classes else model_type}): it has an encoder and a decoder, and Rung "
            "trains decoders alone; give a model that generates text."
        )
    decoder = MODEL_MAPPING_NAMES.get(model_type or "", ())
    if classes and not any(
        name.endswith(GENERATIVE_SUFFIXES) or name == decoder or name in decoder for name in classes
    ):
        raise ModelError(
            f"The model '{model_name}' is not a causal language model ({classes[0]}): its head "
            "does not generate text; give a model that generates text."
        )
