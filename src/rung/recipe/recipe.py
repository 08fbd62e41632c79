"""The recipe: everything that a user may say about a study, with defaults.

It is the one source of names, types, defaults and help texts: of the keys of a recipe in YAML, of
the options of the command line (`rung.options`), and of the keyword arguments of `rung.tune`.

Every field has a default, so an empty recipe is the embedded default study. Values may be texts, as
they stand in YAML or were typed: they become numbers here, by the field that they are for. What is
a list may also be one value, or a text with commas.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
)

from rung.defaults import DEFAULT_DATA, DEFAULT_MODEL
from rung.formats.amounts import Budget
from rung.recipe.values import (
    alphas_are_valid,
    as_budget,
    as_bytes,
    as_field_names,
    as_list,
    as_lists_of_modules,
    as_numbers,
    as_path,
    as_paths,
    as_texts,
    fields_are_known,
    ranks_ascend,
    rates_ascend,
    targets_are_named,
    without_duplicates,
)
from rung.types import MAX_RANK, Lever, short_name

MODEL, DATA, LEVERS = "Model", "Data", "Levers"
TRAINING, JUDGING = "Training", "Budget and judging"
MACHINE, STUDY = "Machine", "Study"
GROUPS = (MODEL, DATA, LEVERS, TRAINING, JUDGING, MACHINE, STUDY)
"""The groups of options, in the order of the help."""


def _field(
    default: Any,
    group: str,
    description: str,
    *,
    shown: str = "",
    names: tuple[str, ...] = (),
    repeated: bool = False,
    metavar: str = "",
    **bounds: Any,
) -> Any:
    """A field of the recipe and its option.

    Args:
        description: a sentence that is understood without the option's name.
        shown: what the help says of the default, where the value itself would not tell.
        names: the option's names, where they are not the field's own.
        repeated: the option is given once for each value.
        metavar: what the help shows for its value, where the type would not tell.
        **bounds: of the value, see `pydantic.Field`.
    """
    extra: dict[str, Any] = {"group": group, "shown": shown, "repeated": repeated}
    extra |= {"names": list(names), "metavar": metavar}
    return Field(default, description=description, json_schema_extra=extra, **bounds)


PathText = Annotated[str, BeforeValidator(as_path)]
Rank = Annotated[int, Field(gt=0, le=MAX_RANK)]
Count = Annotated[int, Field(gt=0, le=10**7)]
Amount = Annotated[
    Budget, BeforeValidator(as_budget), PlainSerializer(str, return_type=str, when_used="json")
]


class Recipe(BaseModel):
    """One question: this model, these data, these levers, this budget."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: PathText = _field(
        DEFAULT_MODEL,
        MODEL,
        f"The model to fine-tune: a hub id, a folder, a GGUF file, or {DEFAULT_MODEL}.",
    )
    quantization: Literal["nf4", "nf4-single", "int8", "bf16", "fp32"] = _field(
        "nf4",
        MODEL,
        "What the frozen weights are kept in: nf4 (4 bits, double quantisation), nf4-single, int8, "
        "bf16 or fp32.",
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = _field(
        "auto",
        MODEL,
        "What products are computed in: bf16, fp16, fp32, or auto for what the machine is fast at.",
    )

    data: PathText = _field(
        DEFAULT_DATA,
        DATA,
        "The rows to train on: a file (JSONL, JSON, CSV, Parquet, Arrow), a folder of files, a hub "
        "id, or a built-in set (pronounce, price).",
    )
    validation: PathText | None = _field(
        None, DATA, "A file of rows to judge by.", shown="a tenth of the data"
    )
    test: PathText | None = _field(
        None, DATA, "A file of rows that is used once, at the end.", shown="a tenth of the data"
    )
    fields: Annotated[
        dict[str, str], BeforeValidator(as_field_names), AfterValidator(fields_are_known)
    ] = _field(
        {},
        DATA,
        "What the fields of your rows are called: prompt=question,completion=answer.",
        shown="found by their names",
    )
    learn: Literal["completion", "all"] = _field(
        "completion", DATA, "The tokens to learn: those of the completion, or all of a row."
    )
    template: PathText = _field(
        "auto",
        DATA,
        "The chat template: auto (the model's own), plain (Rung's), or a file in Jinja.",
    )
    max_tokens: Count = _field(512, DATA, "The most tokens that a row may have.")
    long_rows: Literal["leave-out", "cut"] = _field(
        "leave-out", DATA, "What happens to rows of more tokens: leave-out, or cut."
    )
    max_long_rows: Annotated[float, Field(ge=0, le=1)] = _field(
        0.05, DATA, "The share of rows that may have more tokens; with more of them Rung stops."
    )
    skip_bad_rows: bool = _field(
        False, DATA, "Go on without rows that cannot be read, and count them."
    )
    allow_leakage: bool = _field(False, DATA, "Go on although the same row stands in two splits.")

    levers: Annotated[tuple[Lever, ...], BeforeValidator(as_list), Field(min_length=1)] = _field(
        ("learning_rate", "targets", "rank", "alpha"),
        LEVERS,
        "The levers to try. A lever that is not listed keeps its first value, and the learning "
        "rate its guess.",
    )
    ranks: Annotated[
        tuple[Rank, ...],
        Field(min_length=1),
        BeforeValidator(as_numbers("8,16,32")),
        AfterValidator(ranks_ascend),
    ] = _field((8, 16, 32, 64), LEVERS, "The ranks to try, from small to large.")
    alphas: Annotated[
        tuple[str, ...],
        Field(min_length=1),
        BeforeValidator(as_texts),
        AfterValidator(alphas_are_valid),
    ] = _field(
        ("2r", "r", "4r", "rslora"),
        LEVERS,
        "The alphas to try: multiples of the rank (2r), numbers, or rslora (alpha / √rank).",
    )
    targets: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        Field(min_length=1),
        BeforeValidator(as_lists_of_modules),
        AfterValidator(targets_are_named),
    ] = _field(
        ("attention", "mlp", "all-linear"),
        LEVERS,
        "A set of target modules to try: attention, mlp, all-linear, lm_head, or names of modules, "
        "joined by +. Give the option once for each set.",
        names=("--targets", "--target-modules"),
        repeated=True,
    )
    learning_rates: (
        Annotated[
            tuple[float, ...],
            Field(min_length=1),
            BeforeValidator(as_numbers("5e-4,1e-3")),
            AfterValidator(rates_ascend),
        ]
        | None
    ) = _field(
        None,
        LEVERS,
        "The learning rates to try, and no others, from small to large.",
        shown="four around a guess from the model's width",
        names=("--learning-rates", "--lr"),
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = _field(
        0.0, LEVERS, "The share of an adapter's inputs that is dropped in training."
    )

    passes: Annotated[float, Field(gt=0, le=1000)] = _field(
        1.0, TRAINING, "The full budget of one candidate: passes over the training rows."
    )
    batch_size: Count = _field(8, TRAINING, "The rows of one training step.")
    weight_decay: Annotated[float, Field(ge=0)] = _field(
        0.0, TRAINING, "AdamW's weight decay of the adapters."
    )
    warmup: Annotated[float, Field(ge=0, lt=1)] = _field(
        0.05, TRAINING, "The share of the full budget over which the learning rate rises."
    )
    cooldown: Annotated[float, Field(ge=0, le=1)] = _field(
        0.2,
        TRAINING,
        "The last share of a training over which the learning rate falls to zero before it is "
        "evaluated.",
    )
    clip_norm: Annotated[float, Field(gt=0)] = _field(
        0.3, TRAINING, "The norm that each candidate's gradient is clipped to."
    )

    strategy: Literal["climb", "grid", "random", "tpe"] = _field(
        "climb",
        JUDGING,
        "How settings are searched: climb (a race, then the rank ladder), or to compare with it "
        "grid, random or tpe.",
    )
    budget: Amount | None = _field(
        None,
        JUDGING,
        "What all candidates together may take: 300k (training tokens) or 30min.",
        shown="about 22 single trainings",
    )
    margin: Annotated[float, Field(gt=0, lt=1)] = _field(
        0.01, JUDGING, "The smallest gain that is worth having, relative to the validation loss."
    )
    metrics: Annotated[
        tuple[str, ...], BeforeValidator(as_paths), AfterValidator(without_duplicates)
    ] = _field(
        (),
        JUDGING,
        "A metric of generated texts: one of Rung's by its name, or your own function as "
        "file.py:function. Give the option once for each.",
        shown="those that fit the data",
        names=("--metric",),
        repeated=True,
    )
    numbers: Literal["auto", "point", "comma"] = _field(
        "auto",
        JUDGING,
        "The decimal mark of numbers in completions: point, comma, or auto to tell it from them.",
    )
    judge: str = _field(
        "loss",
        JUDGING,
        "What decides between finalists: loss, metric (the first one), or a metric by its name.",
    )

    memory: Annotated[int, BeforeValidator(as_bytes)] | None = _field(
        None,
        MACHINE,
        "The memory that the process may hold, such as 8GB. Packs are as wide as it allows.",
        shown="what is free",
        metavar="TEXT",
    )
    pack_width: Count = _field(12, MACHINE, "The most candidates that are trained side by side.")

    seed: Annotated[int, Field(ge=0, lt=2**32)] = _field(
        0, STUDY, "The seed of the study: of the order of rows and of the first weights."
    )

    @property
    def default_study(self) -> str:
        """The study's name where the user gives none: data and model, fit for a folder."""
        name = f"{Path(self.data).stem}-{Path(self.model).name}".lower()
        name = unicodedata.normalize("NFC", name)
        plain = re.sub("-+", "-", "".join(c if _in_names(c) else "-" for c in name))
        return short_name(plain.strip("-."), 100) or "study"

    def as_yaml(self) -> str:
        """The recipe with every field, as `read_kept` reads it back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def _in_names(character: str) -> bool:
    """Whether a study's name may have the character.

    Of ASCII these are letters, digits and dots; of all else letters, marks, digits and symbols.
    """
    if character == ".":
        return True
    return unicodedata.category(character)[0] in ("LN" if character < "\x80" else "LMNS")
