"""Rung from Python: `rung.tune()`, `rung.plan()`, `rung.inspect()`, `rung.audit()`, and what they return.

What is heavy is imported inside the functions, so that looking at a model does not load what training needs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.jupyter import JupyterMixin

from rung.errors import RecipeError
from rung.types import ALPHA_RANGE, MAX_RANK, Candidate, Setting, read_alpha

if TYPE_CHECKING:
    from rung.recipe import Recipe


class Result(JupyterMixin):
    """A study's answer. Printed with rich, or shown in a notebook, it is the summary that the command line prints."""

    def __init__(self, folder: Path, document: Mapping[str, Any]) -> None:
        self.folder = folder
        self.document = document

    @property
    def recommendation(self) -> Mapping[str, Any]:
        """The levers to use, with the evidence: see `result.json`."""
        found: Mapping[str, Any] = self.document["recommendation"]
        return found

    @property
    def adapter(self) -> Path:
        """The folder of the recommended adapter, in PEFT's format."""
        return self.folder / str(self.recommendation["adapter"])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rung.report.tune import summary

        yield summary(self.document)

    def __repr__(self) -> str:
        best = self.recommendation
        levers = (
            f"rank {best['rank']}, alpha {best['alpha']:g}, learning rate {best['learning_rate']:g}"
        )
        return f"<Result {self.folder}: {levers}>"


def tune(
    recipe: Recipe | Path | str | None = None,
    *,
    study: Path | str | None = None,
    studies: Path | str = "studies",
    quiet: bool = False,
    **options: Any,
) -> Result:
    """Find the setting for a model and a data set, and train the adapter.

    Args:
        recipe: a recipe, or the path of one; None for the embedded default.
        study: the study's name; by default made of data and model. The same call goes on with an interrupted study.
        studies: the folder that holds the studies.
        quiet: show no progress.
        **options: keys of the recipe, laid over it: `model="…"`, `data="train.jsonl"`, `passes=2`.

    Raises:
        InputError: the input is wrong; the message says what, where, and the remedy.
        TrainingError: no candidate could be trained to the end.
    """
    from rung.recipe import as_path
    from rung.report.tune import Progress
    from rung.study.folder import study_folder
    from rung.tuning.loop import tune as run

    resolved = _recipe(recipe, options)
    name = (
        resolved.default_study
        if study is None
        else _text(study, "study", "a name such as prices-2")
    )
    try:
        root = as_path(_text(studies, "studies", "the path of a folder"))
    except ValueError as error:
        raise RecipeError(f"--studies: {error}.") from None
    folder = study_folder(root, name)
    with Progress(Console(stderr=True, quiet=quiet)) as progress:
        found = run(resolved, folder, progress)
    return Result(folder.path, found)


def _text(given: Any, option: str, wanted: str) -> str:
    """A name or a path as a text."""
    found = os.fspath(given) if isinstance(given, os.PathLike) else given
    if not isinstance(found, str):
        raise RecipeError(
            f"--{option}: give {wanted}; a value of the type {type(given).__name__} is none."
        )
    return found


class Plan(JupyterMixin):
    """What a climb will take. Printed with rich, or shown in a notebook, it is what the command line prints; `document`
    is what `rung plan --json` prints.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rung.report.plan import planned

        yield planned(self.document)

    def __repr__(self) -> str:
        return f"<Planned {self.document['model']}: {self.document['cost']['seconds']:,.0f} s>"


def plan(
    recipe: Recipe | Path | str | None = None,
    *,
    device: str = "here",
    price: float | None = None,
    quiet: bool = False,
    **options: Any,
) -> Plan:
    """Say what a climb will take, before it is run: time, memory, money, and what the validation rows can show.

    Args:
        recipe: a recipe, or the path of one; None for the embedded default.
        device: `here`, from a few real steps; or a name such as `t4` or `h100`, from its data sheet, as an estimate.
        price: of an hour on the device, in any currency.
        quiet: show no progress.
        **options: keys of the recipe, laid over it.

    Raises:
        InputError: the input is wrong; the message says what, where, and the remedy.
    """
    from rung.commands.plan import plan as run
    from rung.report.tune import Progress

    if price is not None and not 0 <= price < math.inf:
        raise RecipeError(f"--price: {price:g} is no price; give what an hour costs, such as 0.35.")
    with Progress(Console(stderr=True, quiet=quiet)) as progress:
        return Plan(run(_recipe(recipe, options), device, price, progress))


def _recipe(recipe: Recipe | Path | str | None, options: Mapping[str, Any]) -> Recipe:
    from rung.recipe import Recipe, with_options, read_recipe

    if isinstance(recipe, Recipe):
        return with_options(recipe, **options)
    if not isinstance(recipe, str | Path | None):
        raise RecipeError(
            f"The recipe is a {type(recipe).__name__}; give a file's path or a rung.Recipe, and its keys as options."
        )
    return read_recipe(recipe, **options)


class DataReport(JupyterMixin):
    """What a data set is to a model. Printed with rich, or shown in a notebook, it is what the command line prints;
    `document` is what `rung data --json` prints.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rung.report.data import sheet

        yield sheet(self.document)

    def __repr__(self) -> str:
        rows = ", ".join(f"{count:,} {name}" for name, count in self.document["splits"].items())
        return f"<Datasheet {self.document['data']}: {rows} rows>"


def audit(
    recipe: Recipe | Path | str | None = None,
    *,
    with_model: bool = True,
    quiet: bool = False,
    **options: Any,
) -> DataReport:
    """Look at a data set as the model will see it: its splits, a rendered row, lengths, and an audit.

    Args:
        recipe: a recipe, or the path of one; None for the embedded default.
        with_model: ask the untuned model how far the completions are from what it writes, if its weights are here.
        quiet: show no progress.
        **options: keys of the recipe, laid over it.

    Raises:
        InputError: the input is wrong; the message says what, where, and the remedy.
    """
    from rung.commands.data import datasheet
    from rung.report.tune import Progress

    with Progress(Console(stderr=True, quiet=quiet)) as progress:
        return DataReport(datasheet(_recipe(recipe, options), with_model, progress.note))


class Inspection(JupyterMixin):
    """What a model is made of, and what each lever costs in it: printed with rich, or shown in a notebook, the pages
    that the command line prints. `document` is what `rung inspect --json` prints.
    """

    def __init__(self, document: Mapping[str, Any], explain: bool = False) -> None:
        self.document = document
        self.explain = explain

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rung.report.inspect import structure

        yield structure(self.document, self.explain)

    def __repr__(self) -> str:
        return f"<Inspection {self.document['model']}: {self.document['parameters']:,} parameters>"


def inspect(
    model: str,
    *,
    rank: int = 16,
    alpha: str | float = "2r",
    targets: str = "attention",
    use_rslora: bool = False,
    explain: bool = False,
) -> Inspection:
    """Look at a model before anything is downloaded but its configuration.

    Args:
        model: a hub id, a folder, a GGUF file, a `config.json`, or `smollm2-135m-instruct`.
        rank, alpha, targets, use_rslora: of an adapter to look at; alpha is a number or a multiple of the rank (`2r`).
        explain: say in words what each lever does.

    Raises:
        InputError: there is no such model, it is no causal language model, or it has no such target modules.
    """
    from rung.commands.inspect import inspection
    from rung.model.anatomy import anatomy
    from rung.recipe import as_path

    try:
        model = as_path(model)
    except ValueError as error:
        raise RecipeError(f"The model {model!r}: {error}.") from None
    if not 1 <= rank <= MAX_RANK:
        raise RecipeError(
            f"--rank: {rank} is no rank; give a whole number from 1 to {MAX_RANK:,}, such as 16."
        )
    try:
        number, written = read_alpha(str(alpha), rank)
    except ValueError as error:
        raise RecipeError(f"--alpha: {error}.") from None
    if not ALPHA_RANGE[0] <= number <= ALPHA_RANGE[1]:
        raise RecipeError(
            f"--alpha: {alpha} is out of bounds; give one from {ALPHA_RANGE[0]:g} to {ALPHA_RANGE[1]:,.0f}."
        )
    candidate = Candidate(Setting(rank, number, targets, 1e-3, use_rslora or written))
    return Inspection(inspection(anatomy(model), candidate), explain)
