"""Load the frozen base model: from the default, a hub id, a folder or a GGUF file.

A GGUF file is converted once, into a cache folder ($RUNG_CACHE, else ~/.cache/rung): reading it
takes some 20 seconds, and reading the converted folder takes three.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import bitsandbytes
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GenerationConfig
from transformers.pytorch_utils import Conv1D
from transformers.utils import cached_file

from rung.atomic import temporary_folder
from rung.defaults import DEFAULT_MODEL
from rung.errors import ModelError
from rung.model.architecture import check_generates_text
from rung.model.files import (
    check_no_adapter,
    check_not_pointer,
    check_tokenizer_files,
    check_weight_files,
    local_folder,
)
from rung.model.quantization import (
    check_quantization,
    check_quantized_weights,
    stored_quantization,
)
from rung.model.silence import silence_libraries
from rung.model.source import (
    check_gguf_package,
    converted_folder,
    find_model,
    is_gguf,
    read_config,
)
from rung.model.targets import linear_layers
from rung.model.weight_checks import check_finite, check_loaded_weights, check_stored_dtypes

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
QUANTIZATIONS = ("nf4", "nf4-single", "int8", "bf16", "fp32")


@dataclass(frozen=True)
class Base:
    """A frozen model and its tokenizer.

    Attributes:
        source: what `from_pretrained` takes to load the same weights again: a folder or a hub id.
        dtype: what the products are computed in.
        notes: messages about the model for the user.
    """

    model: Any
    tokenizer: Any
    source: str
    dtype: torch.dtype
    notes: tuple[str, ...] = ()

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    @property
    def footprint_bytes(self) -> int:
        return int(self.model.get_memory_footprint())


def load_base(model_name: str, quantization: str = "nf4", precision: str = "auto") -> Base:
    """Load, quantise and freeze a model.

    Args:
        model_name: `smollm2-135m-instruct`, a hub id, a folder with a `config.json`, or a GGUF
            file.
        quantization: how the linear layers are kept: `nf4` (double quantisation, blocks of 64;
            Dettmers et al., 2305.14314), `nf4-single` (the same, with its block scales in float32),
            `int8` (a scale for each row of a weight; Dettmers et al., 2208.07339), `bf16` or
            `fp32`.
        precision: what the products are computed in: `bf16`, `fp16`, `fp32`, or `auto` for the
            dtype that the machine is fast at. Everything but the linear layers is kept in it.

    Raises:
        ModelError: There is no such model, it is not a causal language model, or its files are
            broken.
    """
    if quantization not in QUANTIZATIONS:
        raise ModelError(
            f"There is no quantization '{quantization}'; give one of {', '.join(QUANTIZATIONS)}."
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = PRECISIONS.get(precision) or fast_dtype(device)
    check_files(model_name)
    source, tokenizer = _source(model_name), load_tokenizer(model_name)
    config = read_config(model_name)
    check_quantization(model_name, config, quantization, local_folder(source))
    model, loading_info = _load_model(model_name, source, quantization, dtype, device)
    folder = local_folder(source)  # a hub model is in the cache by now
    if folder:
        check_no_adapter(folder)
    notes = check_loaded_weights(model_name, model, loading_info)
    if stored_quantization(config) is not None:
        check_quantized_weights(model_name, model, quantization)
    elif folder:
        check_stored_dtypes(model_name, folder, model)
    cast_around_linear_layers(model, dtype)
    check_finite(model_name, model)
    model.requires_grad_(False)
    model.eval()
    # The model's own could change greedy generation: by a repetition penalty, or beams.
    model.generation_config = GenerationConfig()
    return Base(model, tokenizer, source, dtype, tuple(notes))


def _load_model(
    model_name: str, source: str, quantization: str, dtype: torch.dtype, device: str
) -> tuple[Any, dict[str, Any]]:
    """The model, and the loading info of `from_pretrained` about its weights."""
    with silence_libraries():
        try:
            loaded: tuple[Any, dict[str, Any]] = AutoModelForCausalLM.from_pretrained(
                source,
                # If it is left out, the library asks the user in the terminal.
                trust_remote_code=False,
                dtype=PRECISIONS.get(quantization, dtype),
                quantization_config=bitsandbytes_config(quantization, dtype),
                device_map={"": device},
                output_loading_info=True,
                # `check_loaded_weights` refuses them, and names the weight.
                ignore_mismatched_sizes=True,
            )
        except UnpicklingError as error:
            raise ModelError(
                f"The weights of '{model_name}' are a pickle that is broken or holds more than "
                "tensors, and Rung runs no code of a checkpoint; give a model in safetensors."
            ) from error
        except Exception as error:  # broken weights raise any kind of exception
            raise _cannot_be_loaded(model_name, error) from error
    return loaded


def check_files(model_name: str) -> None:
    """Check the configuration and the weight files of a folder, without reading any weights.

    It takes no time, so it comes before tokenisation, which may take long.

    Raises:
        ModelError: See `rung.model.source.read_config`, `rung.model.files.check_weight_files` and
            `rung.model.architecture.check_generates_text`.
    """
    source = Path(_source(model_name))
    if source.is_dir():
        check_weight_files(source)
    check_generates_text(model_name, read_config(model_name))


def load_tokenizer(model_name: str) -> Any:
    """The model's tokenizer. A folder needs no weights for that.

    Raises:
        ModelError: There is no tokenizer, or it has no end token.
    """
    source = _source(model_name)
    if Path(source).is_dir():
        check_tokenizer_files(Path(source))
    read_config(model_name)
    with silence_libraries():
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        except Exception as error:  # broken files raise any kind of exception
            raise _cannot_be_loaded(model_name, error) from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"The tokenizer of '{model_name}' has no end token, so a model trained with it could "
            'not learn to stop; name one as "eos_token" in its tokenizer_config.json.'
        )
    return tokenizer


def end_tokens(model_name: str, tokenizer: Any) -> set[int]:
    """The tokens at which the model's `generation_config.json` stops generation, as servers do.

    An id that stands for a piece of ordinary text comes from another tokenizer, and is left out.

    Raises:
        ModelError: The file is broken, or its `eos_token_id` is neither an integer nor a list of
            them.
    """
    try:
        file = cached_file(_source(model_name), "generation_config.json")
    except OSError:  # the model has no such file
        return set()
    try:
        eos_token_id = json.loads(Path(str(file)).read_bytes())["eos_token_id"]
    except KeyError:
        return set()
    except (ValueError, TypeError, OSError):
        raise ModelError(f"{file} is not a JSON object; download it again, or remove it.") from None
    if isinstance(eos_token_id, list):
        ids = eos_token_id
    else:
        ids = [] if eos_token_id is None else [eos_token_id]
    if not all(type(token_id) is int for token_id in ids):
        raise ModelError(
            f"{file}: eos_token_id is {json.dumps(eos_token_id)[:40]}, and should be the number of "
            "a token, or a list of them; correct it, or remove it."
        )
    return {token_id for token_id in ids if token_id in tokenizer.added_tokens_decoder}


def _cannot_be_loaded(model_name: str, error: Exception) -> ModelError:
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    # The details are a report of transformers that is not shown.
    first_line = first_line.partition(" For details look at")[0].rstrip(".")
    return ModelError(
        f"The model '{model_name}' cannot be loaded ({first_line}); give a hub id, a folder with "
        f"config.json and weights, a GGUF file, or leave --model out for {DEFAULT_MODEL}."
    )


def fast_dtype(device: str) -> torch.dtype:
    """bfloat16 where the hardware multiplies it; else float16 on a GPU and float32 on a CPU."""
    if device == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float16
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


def cast_around_linear_layers(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast every parameter outside the linear layers to the dtype of the products, in place.

    Buffers keep their dtype.
    """
    linear = set(linear_layers(model).values())
    for module in model.modules():
        if module not in linear:
            for parameter in module.parameters(recurse=False):
                if parameter.is_floating_point():
                    parameter.data = parameter.data.to(dtype)


def bitsandbytes_config(quantization: str, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """How bitsandbytes quantises, with products in `dtype`; None where nothing is quantised."""
    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    if quantization in PRECISIONS:
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=quantization == "nf4",
        bnb_4bit_compute_dtype=dtype,
    )


def _source(model_name: str) -> str:
    """What `from_pretrained` takes for this model: a folder or a hub id.

    Raises:
        ModelError: There is no such model, or the name is that of a configuration alone.
    """
    model = find_model(model_name)
    if isinstance(model, str):
        return model
    if model.suffix == ".json":
        raise ModelError(
            f"'{model_name}' is a configuration without weights; give the folder that has them."
        )
    return _convert_gguf(model) if is_gguf(model) else str(model)


def _convert_gguf(gguf: Path) -> str:
    """The cache folder of a GGUF file, which is made if it is missing. The weights are bfloat16."""
    folder = converted_folder(gguf)
    if folder.exists():
        return str(folder)
    check_not_pointer(gguf)
    check_no_adapter(gguf.parent)
    check_gguf_package(gguf)
    temporary = temporary_folder(folder)
    try:
        with silence_libraries():
            tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
            model, loading_info = AutoModelForCausalLM.from_pretrained(
                str(gguf.parent),
                gguf_file=gguf.name,
                dtype=torch.bfloat16,
                output_loading_info=True,
            )
            check_loaded_weights(str(gguf), model, loading_info)
            # The weights are dense now, but save_pretrained refuses a configuration that says GGUF.
            model.hf_quantizer = None
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
        with contextlib.suppress(OSError):  # another process may have made it meanwhile
            temporary.rename(folder)
    except ModelError:
        raise
    except Exception as error:  # a file that is not GGUF raises any kind of exception
        why = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ModelError(
            f"The file '{gguf}' cannot be read as GGUF ({why}); download it again, or give a "
            "folder."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if not folder.exists():
        raise ModelError(
            f"The converted model could not be written to {folder}; set RUNG_CACHE to a folder on "
            "a disk with free space."
        )
    return str(folder)


def dense_weight(layer: nn.Module, dtype: torch.dtype) -> Tensor:
    """The layer's weight as a matrix of (out, in) in `dtype`.

    A weight that is kept in 4 or 8 bits is dequantised at every call.
    """
    weight: Any = layer.weight
    if isinstance(layer, Conv1D):
        transposed: Tensor = weight.detach().to(dtype).T
        return transposed
    if isinstance(layer, bitsandbytes.nn.Linear8bitLt):
        # bitsandbytes moves the scales to the layer's state in its first forward pass.
        scales = layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
        eight_bit: Tensor = bitsandbytes.functional.int8_vectorwise_dequant(weight.data, scales)
        return eight_bit.to(dtype)
    if getattr(weight, "quant_state", None) is None:
        plain: Tensor = weight.detach().to(dtype)
        return plain
    four_bit: Tensor = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
    return four_bit.to(dtype)
