"""The recipe: the YAML file in which a user writes a study down.

Every field has a default, so that an empty recipe is the embedded default. A wrong key or value is answered with its
line and the remedy.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from rung.defaults import DEFAULT_DATA, DEFAULT_MODEL
from rung.errors import RecipeError
from rung.levers import read_alpha

FIELDS = ("prompt", "completion", "messages", "conversations", "text", "instruction", "input", "output", "source")
"""What the fields of a row may be called here, whatever they are called in the user's file."""
Lever = Literal["learning_rate", "target_modules", "rank", "alpha"]
PositiveInt = Annotated[int, Field(gt=0)]


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
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

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
    passes: Annotated[float, Field(gt=0)] = 1.0
    metrics: tuple[str, ...] = ()
    numbers: Literal["auto", "point", "comma"] = "auto"
    judge: str = "loss"
    strategy: Literal["climb", "grid", "random", "tpe"] = "climb"
    budget: str | None = None
    batch_size: PositiveInt = 8
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.01
    levers: Annotated[tuple[Lever, ...], Field(min_length=1)] = ("learning_rate", "target_modules", "rank", "alpha")
    ranks: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (8, 16, 32, 64)
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
    seed: Annotated[int, Field(ge=0)] = 0

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
        return rates

    @field_validator("targets", "alphas", "metrics", mode="before")
    @classmethod
    def _one_is_a_list_too(cls, values: Any) -> Any:
        several = values if isinstance(values, list | tuple) else (values,)
        # An alpha may be written as a number.
        return tuple(str(value) if isinstance(value, int | float) else value for value in several)

    @field_validator("alphas")
    @classmethod
    def _alphas_can_be_read(cls, alphas: tuple[str, ...]) -> tuple[str, ...]:
        for alpha in alphas:
            read_alpha(alpha, 8)
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
        name = f"{Path(self.data).stem}-{Path(self.model).name}".lower()
        return re.sub(r"[^a-z0-9.]+", "-", name).strip("-")

    def as_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def parse_bytes(text: str) -> int:
    """`8GB`, `512 MB`, `6GiB` ─▶ bytes.

    Raises:
        ValueError: it is no size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    if not found or float(found[1]) == 0:
        raise ValueError("write a size such as 8GB or 512MB")
    power = " KMGT".index(found[2].upper() or " ")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** power)


def parse_budget(text: str) -> tuple[float, Literal["tokens", "seconds"]]:
    """`300k`, `2M tokens`, `30min`, `1.5 h` ─▶ tokens or seconds.

    Raises:
        ValueError: it is neither.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(k|m|g)?\s*(tokens?)?\s*", text, re.IGNORECASE)
    if found and float(found[1]):
        return float(found[1]) * 1000 ** " kmg".index((found[2] or " ").lower()), "tokens"
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|sec|min|minutes?|h|hours?)\s*", text, re.IGNORECASE)
    if found and float(found[1]):
        return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2][0].lower()], "seconds"
    raise ValueError("write a number of tokens such as 300k, or a time such as 30min")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-3` as a string; people who write learning rates mean a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def read_recipe(path: Path | None = None, **options: Any) -> Recipe:
    """The recipe in `path`, with the `options` that are not None laid over it.

    Files named in the recipe are found beside it; those given as options, from the current folder.

    Raises:
        RecipeError: the file is not there, is no mapping, or has a key or a value that cannot be.
    """
    written, lines = _read_yaml(path) if path else ({}, {})
    for field in ("data", "validation", "test", "model", "template", "metrics"):
        value = written.get(field)
        if path and value:
            values = [_beside(path, one) for one in (value if isinstance(value, list) else [value])]
            written[field] = values if isinstance(value, list) else values[0]
    given = {key: value for key, value in options.items() if value is not None}
    try:
        return Recipe(**{**written, **given})
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        if key in given or not path:
            where = f"--{key.replace('_', '-')}"
        else:
            where = f"{path}, line {lines.get(key, 1)}, '{key}'"
        raise RecipeError(f"{where}: {_remedy(first, key)}.") from None


def _beside(recipe: Path, value: Any) -> Any:
    """The path of a file beside the recipe, where there is one of that name; a metric names a function in it too."""
    if not isinstance(value, str):
        return value
    file, colon, _ = value.partition(".py:")
    name = f"{file}.py" if colon else value
    return str(recipe.parent / value) if (recipe.parent / name).exists() else value


def _remedy(error: Any, key: str) -> str:
    if error["type"] == "extra_forbidden":
        return f"there is no such key; the keys are {', '.join(Recipe.model_fields)}"
    message = str(error["msg"]).removeprefix("Value error, ")
    given = error["input"]
    says = ", ".join(map(str, given)) if isinstance(given, tuple | list) else repr(given)
    return f"{message[0].lower()}{message[1:]}, but it says {says}"


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The mapping in the file, and the line of each of its keys."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise RecipeError(
            f"The recipe {path} cannot be read ({error.strerror}); give the path of a YAML file."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise RecipeError(
            f"{path}{where}: this is not YAML ({getattr(error, 'problem', error)}); write 'key: value' lines."
        ) from None
    if node is None:
        return {}, {}
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(f"{path}: a recipe is a list of 'key: value' lines, and this is none.")
    lines = {key.value: key.start_mark.line + 1 for key, _ in node.value}
    loader = _Loader("")
    found: dict[str, Any] = loader.construct_document(node)
    return found, lines
