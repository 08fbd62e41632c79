"""The recipe: the YAML file in which a user writes a study down.

Every field has a default, so that an empty recipe is the embedded default. A wrong key or value is answered with its
line and the remedy. Values may be texts, as they stand in YAML or were typed: they become numbers here, by the field
that they are for, and what is a list may be one value, or several with commas.
"""

from __future__ import annotations

import difflib
import itertools
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from rung.defaults import DEFAULT_DATA, DEFAULT_MODEL
from rung.errors import RecipeError
from rung.formats.amounts import parse_budget, parse_bytes
from rung.formats.yaml_file import read_yaml
from rung.types import (
    ALPHA_RANGE,
    MAX_RANK,
    MIN_LEARNING_RATE,
    TARGET_GROUPS,
    read_alpha,
    short_name,
)

FIELDS = (
    "prompt",
    "completion",
    "messages",
    "conversations",
    "text",
    "instruction",
    "input",
    "output",
    "source",
)
"""What the fields of a row may be called here, whatever they are called in the user's file."""
Lever = Literal["learning_rate", "target_modules", "rank", "alpha"]
PositiveInt = Annotated[int, Field(gt=0, le=10**7)]
Rank = Annotated[int, Field(gt=0, le=MAX_RANK)]
MOST_BITS = 10_000
"""Of a whole number; Python writes out no more than some 14,000."""
BUILT_IN = {DEFAULT_MODEL, DEFAULT_DATA, "price", "auto", "plain"}
"""Words of `model`, `data` and `template` that are no files."""
ELSEWHERE = {
    "r": "ranks",
    "lora_r": "ranks",
    "lora_rank": "ranks",
    "lora_alpha": "alphas",
    "use_rslora": "alphas",
    "target_modules": "targets",
    "lora_target": "targets",
    "lora_dropout": "dropout",
    "lr": "learning_rates",
    "epochs": "passes",
    "num_epochs": "passes",
    "num_train_epochs": "passes",
    "max_length": "max_tokens",
    "max_seq_length": "max_tokens",
    "cutoff_len": "max_tokens",
    "base_model": "model",
    "model_name_or_path": "model",
    "dataset": "data",
    "datasets": "data",
    "micro_batch_size": "batch_size",
    "per_device_train_batch_size": "batch_size",
    "max_grad_norm": "clip_norm",
    "warmup_ratio": "warmup",
    "load_in_4bit": "quantization",
}
"""What other tools call a key, where no likeness of the words would tell."""


class Recipe(BaseModel):
    """One question: this model, this data, these levers, this budget.

    `model` is `smollm2-135m-instruct`, a hub id, a folder or a GGUF file; `data` is `pronounce`, `price`, a
    file, a folder or a hub id, and what has no `validation` and `test` has them split off by a hash of each source.
    `fields` says what the fields are called there: `{completion: answer}`. What is to `learn` is the `completion` or
    `all`; chats go through a `template`: `auto` is the model's, `plain` is ours, and anything else is a file in Jinja.
    Rows of more than `max_tokens` are left out or cut, as `long_rows` says, and no more than the share `max_long_rows`
    of all. `metrics` are worked out on what is written, by default those that fit; `numbers` have a decimal `point` or
    a decimal `comma`, by default what the completions show; `judge` says what decides: the `loss`, the first `metric`,
    or one by its name. A candidate's full budget
    is `passes` over the training rows; the learning rate rises over the share `warmup` of it and falls over the last
    share `cooldown` of what a judgement is made on. `budget`, such as `300k` tokens or `30min`, is what all candidates
    together may take. `margin` is the smallest relative gain in validation loss that is worth having. `memory`, such
    as `8GB`, is what the process may hold in all, by default what is free; packs are as wide as it allows, up to
    `pack_width`. Without `learning_rates`, a grid is laid around a guess from the model's width. A lever that is not
    among `levers` stays at its first value, the learning rate at the guess.

    A budget of `90m` could be minutes or millions, and is refused. `targets` are the sets of modules to try: a set is a
    text (`q_proj+v_proj`) or a list of its own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: str = DEFAULT_MODEL
    quantization: Literal["nf4", "nf4-single", "int8", "bf16", "fp32"] = "nf4"
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    data: str = DEFAULT_DATA
    validation: str | None = None
    test: str | None = None
    fields: dict[str, str] = {}
    learn: Literal["completion", "all"] = "completion"
    template: str = "auto"
    max_tokens: PositiveInt = 512
    long_rows: Literal["leave-out", "cut"] = "leave-out"
    max_long_rows: Annotated[float, Field(ge=0, le=1)] = 0.05
    skip_bad_rows: bool = False
    allow_leakage: bool = False
    passes: Annotated[float, Field(gt=0, le=1000)] = 1.0
    metrics: tuple[str, ...] = ()
    numbers: Literal["auto", "point", "comma"] = "auto"
    judge: str = "loss"
    strategy: Literal["climb", "grid", "random", "tpe"] = "climb"
    budget: str | None = None
    batch_size: PositiveInt = 8
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.01
    levers: Annotated[tuple[Lever, ...], Field(min_length=1)] = (
        "learning_rate",
        "target_modules",
        "rank",
        "alpha",
    )
    ranks: Annotated[tuple[Rank, ...], Field(min_length=1)] = (8, 16, 32, 64)
    learning_rates: Annotated[tuple[float, ...], Field(min_length=1)] | None = None
    targets: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] = (
        "attention",
        "mlp",
        "all-linear",
    )
    alphas: Annotated[tuple[str, ...], Field(min_length=1)] = ("2r", "r", "4r", "rslora")
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    cooldown: Annotated[float, Field(ge=0, le=1)] = 0.2
    clip_norm: Annotated[float, Field(gt=0)] = 0.3
    pack_width: PositiveInt = 12
    memory: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @field_validator("model", "data", "validation", "test", "template", mode="before")
    @classmethod
    def _paths_arewhole_path(cls, path: Any) -> Any:
        return whole_path(path)

    @field_validator("ranks", "learning_rates", "levers", "alphas", mode="before")
    @classmethod
    def _one_is_a_list_too(cls, values: Any, field: ValidationInfo) -> Any:
        several = _several(values, field.field_name)
        if field.field_name == "alphas":  # which may be written as numbers
            return tuple(
                str(value) if isinstance(value, int | float) else value for value in several
            )
        return several

    @field_validator("metrics", mode="before")
    @classmethod
    def _one_metric_is_a_list_too(cls, names: Any) -> Any:
        return tuple(
            whole_path(name) for name in (names if isinstance(names, list | tuple) else (names,))
        )

    @field_validator("metrics")
    @classmethod
    def _a_metric_is_named_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(names))

    @field_validator("targets", mode="before")
    @classmethod
    def _sets_are_joined(cls, sets: Any) -> Any:
        """A set of target modules is a text, joined by plus signs or commas, or a list of texts."""
        several = sets if isinstance(sets, list | tuple) else (sets,)
        return tuple(
            "+".join(map(str, one)) if isinstance(one, list | tuple) else one for one in several
        )

    @field_validator("targets")
    @classmethod
    def _sets_arewhole_path(cls, sets: tuple[str, ...]) -> tuple[str, ...]:
        found = []
        for one in sets:
            parts = [part.strip() for part in re.split("[,+]", one)]
            if not all(parts):
                raise ValueError(
                    "write a set of target modules as names joined by plus signs, such as q_proj+v_proj"
                )
            found.append("+".join(dict.fromkeys(parts)))
        return tuple(dict.fromkeys(found))

    @field_validator("ranks")
    @classmethod
    def _ranks_climb(cls, ranks: tuple[int, ...]) -> tuple[int, ...]:
        if list(ranks) != sorted(set(ranks)):
            raise ValueError("write the ranks from small to large, each once, such as [8, 16, 32]")
        return ranks

    @field_validator("learning_rates")
    @classmethod
    def _rates_climb(cls, rates: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if rates is None:
            return None
        if list(rates) != sorted(set(rates)) or not all(0 < rate < 1 for rate in rates):
            raise ValueError(
                "write learning rates between 0 and 1 from small to large, each once, such as [5e-4, 1e-3]"
            )
        if rates[0] < MIN_LEARNING_RATE:
            raise ValueError(
                f"nothing moves at a learning rate below {MIN_LEARNING_RATE:g}; write higher ones"
            )
        return rates

    @field_validator("alphas")
    @classmethod
    def _alphas_can_be_read(cls, alphas: tuple[str, ...], field: ValidationInfo) -> tuple[str, ...]:
        # At two ranks, so that 2r and 16 are two; at one rank alone they may be the same.
        read = {alpha: (read_alpha(alpha, 1), read_alpha(alpha, 2)) for alpha in alphas}
        if len(set(read.values())) < len(alphas):
            raise ValueError("write each alpha once, such as [2r, r, rslora]")
        low, high = ALPHA_RANGE
        for alpha, rank in itertools.product(alphas, field.data.get("ranks", ())):
            if not low <= read_alpha(alpha, rank)[0] <= high:
                raise ValueError(
                    f"write alphas from {low:g} to {high:,.0f}, which {alpha:.20} at rank {rank} is not"
                )
        return alphas

    @field_validator("budget", mode="before")
    @classmethod
    def _budget_is_a_text(cls, budget: Any) -> Any:
        return str(budget) if isinstance(budget, int | float) else budget

    @field_validator("budget", "memory")
    @classmethod
    def _amounts_can_be_read(cls, amount: str | None, field: ValidationInfo) -> str | None:
        if amount is not None:
            (parse_budget if field.field_name == "budget" else parse_bytes)(amount)
        return amount

    @field_validator("fields", mode="before")
    @classmethod
    def _fields_are_pairs(cls, fields: Any) -> Any:
        if not isinstance(fields, str):
            return fields
        pairs = [[part.strip() for part in pair.partition("=")] for pair in fields.split(",")]
        if not all(map(all, pairs)) or len({name for name, *_ in pairs}) < len(pairs):
            raise ValueError(
                f"{fields!r} is no list of names; write prompt=question,completion=answer"
            )
        return {name: field for name, _, field in pairs}

    @field_validator("fields")
    @classmethod
    def _fields_are_known(cls, fields: dict[str, str]) -> dict[str, str]:
        for name in fields:
            if name not in FIELDS:
                raise ValueError(f"write name=field, where a name is one of {', '.join(FIELDS)}")
        return fields

    @property
    def default_study(self) -> str:
        """The study's name where the user gives none: data and model, fit for a folder."""
        name = unicodedata.normalize(
            "NFC", f"{Path(self.data).stem}-{Path(self.model).name}".lower()
        )
        # Of ASCII the letters, the digits and dots; of all else letters, their marks, digits and signs.
        plain = (
            c if c == "." or unicodedata.category(c)[0] in ("LN" if c < "\x80" else "LMNS") else "-"
            for c in name
        )
        return short_name(re.sub("-+", "-", "".join(plain)).strip("-."), 100) or "study"

    def as_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def _several(values: Any, name: str | None) -> Any:
    """The values of a list, which may be one, or a text with commas."""
    if values is None:
        return None
    if isinstance(values, str):
        several: tuple[Any, ...] = tuple(value.strip() for value in values.split(","))
    else:
        several = (
            tuple(values)
            if isinstance(values, Iterable) and not isinstance(values, Mapping)
            else (values,)
        )
    if example := {"ranks": "8,16,32", "learning_rates": "5e-4,1e-3"}.get(name or ""):
        for value in several:
            if isinstance(value, str) and not _is_number(value):
                raise ValueError(
                    f"{value!r} is no list of numbers; write them with commas, such as {example}"
                )
    return several


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def whole_path(path: Any) -> Any:
    """A path, or what may be one, with the home folder in the place of `~`."""
    if isinstance(path, os.PathLike):
        path = os.fspath(path)
    if not isinstance(path, str):
        return path
    if not path.strip() or any(
        unicodedata.category(character) in ("Cc", "Cs") for character in path
    ):
        raise ValueError("write a name, without control characters")
    path = os.path.expanduser(path)
    if path.startswith("~"):
        raise ValueError("there is no such home folder, so write the path in full")
    return path


def read_recipe(path: Path | str | None = None, **options: Any) -> Recipe:
    """The recipe in `path`, with the `options` that are not None laid over it.

    Files named in the recipe are found beside it, or else from the current folder; those given as options, from the
    current folder. `~` is the home folder everywhere.

    Raises:
        RecipeError: the file is not there, is no mapping, or has a key or a value that cannot be.
    """
    path = None if path is None else Path(os.path.expanduser(path))
    written, lines = read_yaml(path) if path else ({}, {})
    for field in ("data", "validation", "test", "model", "template", "metrics"):
        value = written.get(field)
        if path and value:
            beside = [_beside(path, one) for one in (value if isinstance(value, list) else [value])]
            written[field] = beside if isinstance(value, list) else beside[0]
    given = {key: value for key, value in options.items() if value is not None}
    values = {**written, **given}

    def where(key: str) -> str:
        if key in given or not path:
            return f"--{key.replace('_', '-')}"
        return f"{path}, line {lines.get(key, 1)}, '{key}'"

    if names := _list_of_names(values.get("targets")):
        sets = ", ".join(f"[{name}]" for name in names)
        raise RecipeError(
            f"{where('targets')}: a list holds sets to be tried one after the other, and [{', '.join(names)}] may be "
            f"meant as one; write {'+'.join(names)} for one set of them all, or [{sets}] for a set of each."
        )
    return _made(values, where)


def read_kept(path: Path) -> Recipe:
    """A recipe that was written with `Recipe.as_yaml`: its names are whole, whatever lies beside it.

    Raises:
        RecipeError: somebody has changed it so that it cannot be read.
    """
    written, lines = read_yaml(path)
    return _made(written, lambda key: f"{path}, line {lines.get(key, 1)}, '{key}'")


def laid_over(recipe: Recipe, **options: Any) -> Recipe:
    """The recipe with the `options` that are not None laid over it.

    Raises:
        RecipeError: an option cannot be.
    """
    given = {key: value for key, value in options.items() if value is not None}
    return _made({**recipe.model_dump(), **given}, lambda key: f"--{key.replace('_', '-')}")


def _made(values: Mapping[str, Any], where: Callable[[str], str]) -> Recipe:
    for key, value in values.items():
        if any(isinstance(one, int) and one.bit_length() > MOST_BITS for one in _one_by_one(value)):
            raise RecipeError(
                f"{where(str(key))}: there is a number of thousands of digits; write a smaller one."
            )
    try:
        return Recipe(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        raise RecipeError(f"{where(key)}: {_remedy(first, key)}.") from None


def _one_by_one(value: Any, depth: int = 2) -> Iterator[Any]:
    """The value, or those in it."""
    if isinstance(value, list | tuple) and depth:
        for one in value:
            yield from _one_by_one(one, depth - 1)
    else:
        yield value


def _list_of_names(targets: Any) -> list[str]:
    """The names in a list that has nothing but names of modules in it: PEFT would take them for one set."""
    several = list(targets) if isinstance(targets, list | tuple) else []
    alone = [
        one
        for one in several
        if isinstance(one, str) and one not in TARGET_GROUPS and not re.search("[+,]", one)
    ]
    return alone if len(alone) == len(several) > 1 else []


def _beside(recipe: Path, value: Any) -> Any:
    """The path of a file beside the recipe, where there is one of that name; a metric names a function in it too. What
    is built in is meant by its word.
    """
    if not isinstance(value, str) or value in BUILT_IN:
        return value
    file, colon, _ = value.partition(".py:")
    name = f"{file}.py" if colon else value
    try:
        return str(recipe.parent / value) if (recipe.parent / name).exists() else value
    except (OSError, ValueError):  # no name that a file could have
        return value


def _remedy(error: Any, key: str) -> str:
    if error["type"] == "extra_forbidden":
        keys = list(Recipe.model_fields)
        like = ELSEWHERE.get(key) or _like(key, keys)
        return f"there is no such key; the keys are {', '.join(keys)}{like and f' (did you mean {like}?)'}"
    message, given = str(error["msg"]).removeprefix("Value error, "), error["input"]
    if error["type"] == "too_short":
        return "there is nothing in it; write one value or more"
    if given is None:
        says = "nothing"
    else:
        plain = isinstance(given, str) and given.isprintable() and given.strip()
        says = (
            ", ".join(map(str, given))
            if isinstance(given, tuple | list)
            else str(given)
            if plain
            else repr(given)
        )
    says = " ".join(says.split())
    like = _like(str(given), re.findall("'([^']*)'", error.get("ctx", {}).get("expected", "")))
    shown = says if len(says) <= 100 else f"{says[:100]}…"
    told = (
        ""
        if repr(given) in message
        else f", but it says {shown}{like and f' (did you mean {like}?)'}"
    )
    return f"{message[0].lower()}{message[1:]}{told}"


def _like(word: str, known: Sequence[str]) -> str:
    """The known word that this one is most like; nothing where it is like none."""
    return next(iter(difflib.get_close_matches(word.lower().replace("-", "_"), known, 1)), "")
