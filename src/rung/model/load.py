"""The frozen base: the embedded default, a hub id, a folder or a GGUF file ─▶ a causal language model.

A GGUF file is converted once, into a cache folder ($RUNG_CACHE, else ~/.cache/rung), because reading one takes some
20 seconds and reading the converted folder takes three.
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

from rung.atomic import folder_beside
from rung.defaults import DEFAULT_MODEL
from rung.errors import ModelError
from rung.model.files import (
    check_no_adapter,
    check_pointer,
    check_tokenizer,
    check_weights,
    snapshot,
)
from rung.model.silence import quiet
from rung.model.sound import (
    check_finite,
    check_loaded,
    check_quantised,
    check_quantization,
    check_stored,
    check_writes,
    quantization_of,
)
from rung.model.source import converted_folder, find, is_gguf, needs_gguf, read_config
from rung.model.targets import linear_layers

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
QUANTIZATIONS = ("nf4", "nf4-single", "int8", "bf16", "fp32")


@dataclass(frozen=True)
class Base:
    """A frozen model and its tokenizer. `source` is what `from_pretrained` takes to load the same weights again, and
    `notes` what its user should be told of it.
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


def load_base(spec: str, quantization: str = "nf4", precision: str = "auto") -> Base:
    """Load, quantise and freeze a model.

    Args:
        spec: `smollm2-135m-instruct`, a hub id, a folder with a `config.json`, or a GGUF file.
        quantization: what the linear layers are kept in: `nf4` (double quantisation, blocks of 64; Dettmers et al.,
            2305.14314), `nf4-single` (the same, with its block scales in float32), `int8` (a scale for each row of a
            weight; Dettmers et al., 2208.07339), `bf16` or `fp32`.
        precision: what the products are computed in: `bf16`, `fp16`, `fp32`, or `auto` for what the machine is fast
            at. Everything that is not a linear layer is kept in it.

    Raises:
        ModelError: nothing is there, or it is no causal language model that can be read.
    """
    if quantization not in QUANTIZATIONS:
        raise ModelError(
            f"There is no quantization '{quantization}'; give one of {', '.join(QUANTIZATIONS)}."
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = PRECISIONS.get(precision) or fast_dtype(device)
    check_files(spec)
    source, tokenizer = _find(spec), load_tokenizer(spec)
    config = read_config(spec)
    check_quantization(spec, config, quantization, snapshot(source))
    model, info = _loaded(spec, source, quantization, dtype, device)
    folder = snapshot(source)  # by now with all that was fetched
    if folder:
        check_no_adapter(folder)
    notes = check_loaded(spec, model, info)
    if quantization_of(config) is not None:
        check_quantised(spec, model, quantization)
    elif folder:
        check_stored(spec, folder, model)
    cast_around_linear_layers(model, dtype)
    check_finite(spec, model)
    model.requires_grad_(False)
    model.eval()
    # The model's own would add to greedy writing what it likes: a repetition penalty, beams.
    model.generation_config = GenerationConfig()
    return Base(model, tokenizer, source, dtype, tuple(notes))


def _loaded(
    spec: str, source: str, quantization: str, dtype: torch.dtype, device: str
) -> tuple[Any, dict[str, Any]]:
    """The model, and what `from_pretrained` says of its weights."""
    with quiet():
        try:
            # Without a word on remote code the library asks the user in the terminal.
            found: tuple[Any, dict[str, Any]] = AutoModelForCausalLM.from_pretrained(
                source,
                trust_remote_code=False,
                dtype=PRECISIONS.get(quantization, dtype),
                quantization_config=_quantizer(quantization, dtype),
                device_map={"": device},
                output_loading_info=True,
                # Refused by `check_loaded`, which can name the weight.
                ignore_mismatched_sizes=True,
            )
        except UnpicklingError as error:
            raise ModelError(
                f"The weights of '{spec}' are a pickle that is broken or holds more than tensors, and Rung runs no "
                "code of a checkpoint; give a model in safetensors."
            ) from error
        except Exception as error:  # a broken checkpoint breaks the libraries in any way
            raise _cannot_be_loaded(spec, error) from error
    return found


def check_files(spec: str) -> None:
    """Look at the configuration and a folder's files of weights, which takes no time: before the data are tokenised,
    which may.

    Raises:
        ModelError: see `rung.model.source.read_config`, `rung.model.sound.check_writes` and
            `rung.model.files.check_weights`.
    """
    source = Path(_find(spec))
    if source.is_dir():
        check_weights(source)
    check_writes(spec, read_config(spec))


def load_tokenizer(spec: str) -> Any:
    """The model's tokenizer alone; a folder needs no weights for that.

    Raises:
        ModelError: there is none, or it has no end token.
    """
    source = _find(spec)
    if Path(source).is_dir():
        check_tokenizer(Path(source))
    read_config(spec)
    with quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        except Exception as error:  # broken files break the libraries in any way
            raise _cannot_be_loaded(spec, error) from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"The tokenizer of '{spec}' has no end token, so nothing trained on it could learn to stop; name one as "
            '"eos_token" in its tokenizer_config.json.'
        )
    return tokenizer


def end_tokens(spec: str, tokenizer: Any) -> set[int]:
    """The tokens at which the model's own `generation_config.json` stops, as servers do. A number that is no token of
    its own, but a piece of text, is left over from another tokenizer.

    Raises:
        ModelError: that file is broken, or has no numbers where they should be.
    """
    try:
        file = cached_file(_find(spec), "generation_config.json")
    except OSError:  # there is none
        return set()
    try:
        named = json.loads(Path(str(file)).read_bytes())["eos_token_id"]
    except KeyError:
        return set()
    except (ValueError, TypeError, OSError):
        raise ModelError(f"{file} is no JSON object; fetch it again, or take it away.") from None
    numbers = named if isinstance(named, list) else [] if named is None else [named]
    if not all(type(number) is int for number in numbers):
        raise ModelError(
            f"{file}: eos_token_id is {json.dumps(named)[:40]}, and should be the number of a token, or a list of "
            "them; put it right, or take it out."
        )
    return {number for number in numbers if number in tokenizer.added_tokens_decoder}


def _cannot_be_loaded(spec: str, error: Exception) -> ModelError:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    # A report that is not shown.
    first = first.partition(" For details look at")[0].rstrip(".")
    return ModelError(
        f"The model '{spec}' cannot be loaded ({first}); give a hub id, a folder with config.json and weights, "
        f"a GGUF file, or leave --model out for {DEFAULT_MODEL}."
    )


def fast_dtype(device: str) -> torch.dtype:
    """bfloat16 where the hardware multiplies it; else float16 on a GPU and float32 on a CPU."""
    if device == "cuda":
        return (
            torch.bfloat16
            if torch.cuda.is_bf16_supported(including_emulation=False)
            else torch.float16
        )
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


def cast_around_linear_layers(model: nn.Module, dtype: torch.dtype) -> None:
    """Give every parameter outside the linear layers the dtype that is computed in. Buffers keep theirs."""
    linear = set(linear_layers(model).values())
    for module in model.modules():
        if module not in linear:
            for parameter in module.parameters(recurse=False):
                if parameter.is_floating_point():
                    parameter.data = parameter.data.to(dtype)


def _quantizer(quantization: str, dtype: torch.dtype) -> BitsAndBytesConfig | None:
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


def _find(spec: str) -> str:
    """What `from_pretrained` is to be given for `spec`."""
    found = find(spec)
    if isinstance(found, str):
        return found
    if found.suffix == ".json":
        raise ModelError(
            f"'{spec}' is a configuration without weights; give the folder that has them."
        )
    return _converted(found) if is_gguf(found) else str(found)


def _converted(gguf: Path) -> str:
    """The cached folder of a GGUF file, made when it is not there. The weights are kept in bfloat16."""
    folder = converted_folder(gguf)
    if folder.exists():
        return str(folder)
    check_pointer(gguf)
    check_no_adapter(gguf.parent)
    needs_gguf(gguf)
    made = folder_beside(folder)
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
            model, info = AutoModelForCausalLM.from_pretrained(
                str(gguf.parent),
                gguf_file=gguf.name,
                dtype=torch.bfloat16,
                output_loading_info=True,
            )
            check_loaded(str(gguf), model, info)
            # save_pretrained refuses while the configuration says gguf; the weights are dense by now.
            model.hf_quantizer = None
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            model.save_pretrained(made)
            tokenizer.save_pretrained(made)
        with contextlib.suppress(
            FileExistsError, OSError
        ):  # another process may have made it meanwhile
            made.rename(folder)
    except ModelError:
        raise
    except Exception as error:  # a file that is no GGUF breaks its reader in any way
        why = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ModelError(
            f"The file '{gguf}' cannot be read as GGUF ({why}); fetch it again, or give a folder."
        ) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    if not folder.exists():
        raise ModelError(
            f"The converted model could not be written to {folder}; set RUNG_CACHE to a folder with room."
        )
    return str(folder)


def dense_weight(layer: nn.Module, dtype: torch.dtype) -> Tensor:
    """The layer's weight as a matrix of (out, in): dequantised anew where it is kept in 4 or 8 bits."""
    weight: Any = layer.weight
    if isinstance(layer, Conv1D):
        transposed: Tensor = weight.detach().to(dtype).T
        return transposed
    if isinstance(layer, bitsandbytes.nn.Linear8bitLt):
        # bitsandbytes moves the scales to the layer's state at its own first forward.
        scales = layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
        eight: Tensor = bitsandbytes.functional.int8_vectorwise_dequant(weight.data, scales)
        return eight.to(dtype)
    if getattr(weight, "quant_state", None) is None:
        plain: Tensor = weight.detach().to(dtype)
        return plain
    four: Tensor = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
    return four.to(dtype)
