"""What a plan is made of: the data, the costs of the device, and the untuned model's losses."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from rung.costs.devices import HERE, Device, device
from rung.costs.memory_model import candidate_memory
from rung.costs.memory_policy import MemoryRules, device_limit, process_limit
from rung.costs.probes import (
    ARITHMETIC_EFFICIENCY,
    BANDWIDTH_EFFICIENCY,
    DeviceCosts,
    estimate_costs,
    measure_costs,
)
from rung.data.foreign_language import find_foreign_language
from rung.data.model_limits import check_model_limits
from rung.data.prepare import Data, prepare
from rung.engine.process_memory import keep_freed_memory
from rung.engine.trainer import Trainer
from rung.errors import ModelError, TargetError
from rung.model.anatomy import anatomy
from rung.model.load import end_tokens, load_base, load_tokenizer
from rung.recipe import Recipe
from rung.tuning.space import fill_in
from rung.types import Scores, Setting

CHARACTERS_PER_TOKEN = 4
"""Where there is no tokenizer to ask: what is usual for English."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class PlanInputs:
    """See the module.

    Attributes:
        recipe: filled in.
        limit: the bytes that the process may hold.
        vocabulary: the outputs of the head.
        baseline: the untuned model's scores; None where it was not asked.
        loading_seconds: to prepare the data and load the model.
        head: the data suggest that the output head is tried.
        notes: what a reader of the plan should know.
    """

    recipe: Recipe
    costs: DeviceCosts
    limit: float
    vocabulary: int
    data: Data
    baseline: Scores | None
    loading_seconds: float
    head: bool
    notes: tuple[str, ...]


def read_inputs(recipe: Recipe, where: str, tell: Tell) -> PlanInputs:
    """The inputs for this machine, or for a device by its name.

    Raises:
        InputError: the recipe, the data, the model or the device cannot be used.
    """
    return _here(recipe, tell) if where == HERE else _elsewhere(recipe, device(where), tell)


def widest_setting(recipe: Recipe, size: Callable[[Setting], int]) -> Setting:
    """A setting of the target modules with the largest size, such as their number of layers.

    Sets that the model does not have are passed over, if the user did not name them.

    Raises:
        TargetError: the model has no such modules.
    """
    sizes = []
    for targets in recipe.targets:
        setting = Setting(8, 16, targets, 1e-3)
        try:
            sizes.append((size(setting), setting))
        except TargetError:
            if "targets" in recipe.model_fields_set or targets == recipe.targets[-1]:
                raise
    return max(sizes, key=lambda pair: pair[0])[1]


def _here(recipe: Recipe, tell: Tell) -> PlanInputs:
    started = time.perf_counter()
    tokenizer = load_tokenizer(recipe.model)
    data = prepare(recipe, tokenizer, tell, end_tokens(recipe.model, tokenizer))
    tell(f"loading {recipe.model}")
    base = load_base(recipe.model, recipe.quantization, recipe.precision)
    loading = time.perf_counter() - started
    if base.device.type == "cpu":
        keep_freed_memory()
    trainer = Trainer(base)
    check_model_limits(data, trainer.positions, trainer.vocabulary, base.tokenizer)
    recipe = fill_in(recipe, base.model.config.get_text_config().hidden_size, base.dtype)
    tell("scoring the untuned model")
    (baseline,) = trainer.score(data.validation)
    tell("timing a few steps")
    widest = widest_setting(recipe, lambda setting: len(trainer.frozen.targets(setting)))
    return PlanInputs(
        recipe=recipe,
        costs=measure_costs(trainer, widest, data.train),
        limit=process_limit(recipe.memory, base.device),
        vocabulary=trainer.head.layer.out_features,
        data=data,
        baseline=baseline,
        loading_seconds=loading,
        head=find_foreign_language(data.train, tokenizer) is not None,
        notes=(),
    )


def _elsewhere(recipe: Recipe, where: Device, tell: Tell) -> PlanInputs:
    model = anatomy(recipe.model)
    precision = where.precision if recipe.precision == "auto" else recipe.precision
    recipe = fill_in(recipe, model.config.hidden_size, precision)
    notes = [
        f"An estimate for the {where.title}: the memory is traced by the shapes of a step, the "
        f"time follows from its peaks ({where.source}), of which {ARITHMETIC_EFFICIENCY:.0%} of "
        f"the arithmetic and {BANDWIDTH_EFFICIENCY:.0%} of the bandwidth are taken to be reached. "
        "Nothing was measured there.",
        "Which gains the validation rows can show needs the model itself: --device here.",
    ]
    data, head = _data(recipe, tell, notes)
    limit = device_limit(recipe.memory, where)
    tell(f"tracing a few steps of {model.architecture}")
    widest = widest_setting(recipe, lambda setting: len(model.adapter(setting).modules))
    quantization = "nf4" if recipe.quantization == "nf4-single" else recipe.quantization
    longest = max(data.train.lengths)

    def costs_with(checkpointing: bool) -> tuple[DeviceCosts, bool]:
        """The costs, and whether one row of one candidate fits."""
        costs = estimate_costs(
            model.model.config, quantization, precision, widest, data.train, where, checkpointing
        )
        rules = MemoryRules(costs.memory, limit, recipe.batch_size, longest)
        memory = candidate_memory(costs.frozen, widest, costs.dtype)
        return costs, rules.training_tokens([memory]) > 0

    costs, fits = costs_with(checkpointing=False)
    if not fits:
        costs, fits = costs_with(checkpointing=True)
        notes.append(
            "Not one row would fit, so activation checkpointing is on: each block keeps its input "
            "and computes the rest again."
        )
    if not fits:
        notes.append(
            "It does not fit even then: take a smaller model, shorter rows, or a device with more "
            "memory."
        )
    return PlanInputs(
        recipe=recipe,
        costs=costs,
        limit=limit,
        vocabulary=model.config.vocab_size,
        data=data,
        baseline=None,
        loading_seconds=0.0,
        head=head,
        notes=tuple(notes),
    )


def _data(recipe: Recipe, tell: Tell, notes: list[str]) -> tuple[Data, bool]:
    """The data, and whether they suggest the output head. A tokenizer is not needed."""
    try:
        tokenizer = load_tokenizer(recipe.model)
    except ModelError:
        notes.append(
            f"There is no tokenizer, so a token is taken to have {CHARACTERS_PER_TOKEN} characters."
        )
        return prepare(recipe, _CountingTokenizer(), tell), False
    data = prepare(recipe, tokenizer, tell, end_tokens(recipe.model, tokenizer))
    return data, find_foreign_language(data.train, tokenizer) is not None


class _CountingTokenizer:
    """Stands in for a tokenizer: as many tokens as a text of that length usually has."""

    eos_token, eos_token_id, chat_template = "", 0, "none"

    def __repr__(self) -> str:
        return f"{CHARACTERS_PER_TOKEN} characters a token"

    def __call__(self, texts: list[str], **_: object) -> dict[str, list[list[int]]]:
        counts = [math.ceil(len(text) / CHARACTERS_PER_TOKEN) for text in texts]
        return {"input_ids": [[0] * count for count in counts]}

    def apply_chat_template(self, chat: list[dict[str, str]], **_: object) -> str:
        return "\n".join(message["content"] for message in chat)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [self.eos_token] * len(ids)
