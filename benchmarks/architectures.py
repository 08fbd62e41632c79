"""Every causal language model in transformers: trained for a few steps and read back by PEFT.

A small random model of each architecture is made from the architecture's own configuration with
reduced sizes, saved, and loaded as a study loads it. An adapter on all linear layers is trained for
three steps and saved. Then `PeftModel.from_pretrained` loads it onto a second, plain copy of the
model, and the loss of every row is compared. A model must be trained with equal losses, or refused
in one sentence.

    python benchmarks/architectures.py [--json] [--targets all-linear+lm_head] [NAME …]
"""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from architecture_sizes import ALPHABET, OWN, SIZES
from peft import PeftModel
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from rung.data.batches import collate
from rung.data.example import Example
from rung.engine.adapter_state import fresh_state
from rung.engine.checkpoint import save_adapter
from rung.engine.pack import Pack
from rung.engine.preflight import preflight
from rung.engine.trainer import Trainer
from rung.errors import RungError
from rung.model.load import load_base
from rung.model.silence import silence_libraries
from rung.model.targets import last_name
from rung.types import Candidate, Setting

MAX_SECONDS = 120
"""The time that one architecture may take."""
MAX_PARAMETERS = 3e7
"""An architecture whose model is larger than this, although its sizes are reduced, is skipped."""


def small_config(kind: str, full: Any = None) -> Any:
    """The architecture's own configuration, with every size that it has reduced."""
    config = full or CONFIG_MAPPING[kind]()
    own, known = OWN.get(kind, {}), inspect.signature(type(config).__init__).parameters
    values: dict[str, Any] = {}
    parts = {name: getattr(config, name) for name in getattr(config, "sub_configs", {})}
    for name, value in vars(config).items():
        if name in parts and value is not None:
            values[name] = small_config(value.model_type, value)
    values |= {
        name: value for name, value in SIZES.items() if name in known and _has_size(config, name)
    }
    values |= own
    for name in ("layer_types", "layers_block_type", "mlp_layer_types", "block_types"):
        kinds = getattr(config, name, None)
        if isinstance(kinds, list) and kinds and name in known and name not in own:
            # One layer of each kind, and then the first kinds again.
            each = list(dict.fromkeys(kinds))
            values[name] = (each * 4)[:4] if name != "block_types" else kinds
    return type(config)(**values)


def _has_size(config: Any, name: str) -> bool:
    """Whether the configuration has a value of that name that can be reduced."""
    try:
        return getattr(config, name, None) not in (None, False)
    except Exception:  # the value differs between layers
        return True


def make(kind: str) -> Any:
    """A small random model; no parameter has a value that would hide a mistake, such as 0 or 1."""
    config = small_config(kind)
    with torch.device("meta"):
        count = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if count > MAX_PARAMETERS:
        raise ValueError(f"{count / 1e6:.0f} million parameters")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def tokenizer() -> Any:
    letters = {letter: i for i, letter in enumerate(ALPHABET)}
    core = Tokenizer(models.WordLevel(letters, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="<end>")


def rows() -> list[Example]:
    draw = torch.Generator().manual_seed(3)
    lengths = [int(torch.randint(8, 24, (1,), generator=draw)) for _ in range(6)]
    tokens = [torch.randint(2, len(ALPHABET), (n,), generator=draw).tolist() for n in lengths]
    return [Example(tuple(ids), 3) for ids in tokens]


@torch.no_grad()
def losses(model: Any, examples: Sequence[Example]) -> list[float]:
    """The summed loss of each row, from the model's own logits, one row at a time."""
    sums = []
    for example in examples:
        batch = collate([example])
        logits = model(input_ids=batch.ids, use_cache=False).logits[0, batch.positions].float()
        loss = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="sum")
        sums.append(float(loss))
    return sums


def largest_difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))


@dataclass(frozen=True)
class Training:
    """What Rung made of a model."""

    untuned: Sequence[float]
    trained: Sequence[float]
    refusal: str
    layers: int
    unsupported: list[str]
    idle: list[str]


def train(folder: Path, examples: Sequence[Example], targets: str) -> Training:
    """Train an adapter on the model of `folder`/base, and save it to `folder`/adapter.

    A model that the preflight refuses is trained all the same, to see whether that was right.

    Raises:
        RungError: the model is refused before the preflight, or cannot be trained.
    """
    trainer = Trainer(load_base(str(folder / "base"), "fp32", "fp32"))
    candidate = Candidate(Setting(4, 8, targets, 1e-2))
    setting, frozen, refusal = candidate.setting, trainer.frozen, ""
    layers = len(frozen.targets(setting))
    untuned = trainer.score(examples)[0].losses
    try:
        preflight(trainer, [setting], examples, 0)
    except RungError as error:
        refusal = str(error)
    try:
        with Pack(frozen, [candidate], [fresh_state(frozen, candidate, 0)]) as pack:
            for _ in range(3):
                trainer.step(pack, collate(examples), 1.0)
            trained = trainer.score(examples, pack)[0].losses
            state = pack.state(0)
    except TimeoutError:
        raise
    except Exception as error:
        if refusal and not isinstance(error, RungError):
            raise RungError(refusal) from error
        raise
    save_adapter(folder / "adapter", setting, state, frozen, str(folder / "base"))
    idle = [name for name, B in state.weights.items() if name.endswith(".B") and not B.any()]
    return Training(
        untuned,
        trained,
        refusal,
        layers,
        sorted(set(map(last_name, frozen.unsupported))),
        sorted({last_name(name.removesuffix(".B")) for name in idle}),
    )


def compare_with_peft(
    folder: Path, examples: Sequence[Example], training: Training
) -> dict[str, Any]:
    """The largest differences between Rung's losses and those of transformers and PEFT."""
    try:
        with silence_libraries():
            base, adapted = (
                AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
                for _ in range(2)
            )
            adapted = PeftModel.from_pretrained(adapted, folder / "adapter")
            return {
                "base": largest_difference(training.untuned, losses(base.eval(), examples)),
                "adapter": largest_difference(training.trained, losses(adapted.eval(), examples)),
                "moved": largest_difference(training.trained, training.untuned),
            }
    except Exception as error:
        return {"base": 9.0, "adapter": 9.0, "moved": 0.0, "peft": first_line(error)}


def check(kind: str, folder: Path, targets: str = "all-linear") -> dict[str, Any]:
    """What became of one architecture.

    Its `outcome` is `equal`, `refused`, `WRONG` (other losses), `TRACEBACK` (another error than a
    refusal), or `none` where no small model could be made. For a model that the preflight refuses,
    `true` says whether its losses would have been wrong.
    """
    try:
        with silence_libraries():
            make(kind).save_pretrained(folder / "base")
            tokenizer().save_pretrained(folder / "base")
    except Exception as error:
        return {"outcome": "none", "why": f"{type(error).__name__}: {first_line(error)}"}
    examples = rows()
    try:
        training = train(folder, examples, targets)
    except RungError as error:
        return {"outcome": "refused", "why": str(error)}
    except TimeoutError:
        raise
    except Exception as error:
        return {"outcome": "TRACEBACK", "why": f"{type(error).__name__}: {first_line(error)}"}
    differences = compare_with_peft(folder, examples, training)
    largest = max(differences["base"], differences["adapter"])
    correct = largest < 1e-4 < differences["moved"]
    outcome = "refused" if training.refusal else "equal" if correct else "WRONG"
    refusal = {"why": training.refusal, "true": not correct} if training.refusal else {}
    return {
        "outcome": outcome,
        **differences,
        "layers": training.layers,
        "unsupported": training.unsupported,
        "idle": training.idle,
        **refusal,
    }


def first_line(error: Exception) -> str:
    return (str(error).strip() or "no message").splitlines()[0][:150]


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise TimeoutError after so many seconds."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} seconds")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def main() -> None:
    """Check the architectures and print what became of each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="architectures, by model_type; all by default")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--targets", default="all-linear")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    checked: dict[str, dict[str, Any]] = {}
    for kind in options.names or list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        with tempfile.TemporaryDirectory() as folder:
            try:
                with time_limit(MAX_SECONDS):
                    checked[kind] = check(kind, Path(folder), options.targets)
            except TimeoutError as error:
                checked[kind] = {"outcome": "none", "why": str(error)}
        if not options.json:
            values = (
                f"{key}={value:.1e}" if isinstance(value, float) else f"{value}"
                for key, value in checked[kind].items()
            )
            print(kind, *values, sep="\t", flush=True)
    outcomes = [result["outcome"] for result in checked.values()]
    if options.json:
        print(json.dumps(checked, indent=2))
    else:
        print({outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))})
    sys.exit(any(outcome in ("WRONG", "TRACEBACK") for outcome in outcomes))


if __name__ == "__main__":
    main()
