"""Rung from Python: `rung.tune()`, `rung.plan()`, `rung.inspect()`, `rung.audit()`.

Each returns an object that is printed with rich, or shown in a notebook, as the command line prints
it. Its `document` is a frozen dataclass, and `to_json()` what `--json` prints. Heavy modules are
imported inside the functions, so that looking at a model does not load what training needs.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.jupyter import JupyterMixin

from rung.errors import RecipeError
from rung.types import ALPHA_RANGE, MAX_RANK, Setting, read_alpha

if TYPE_CHECKING:
    from rung.commands.data import DataReport as DataDocument
    from rung.commands.inspect import Inspection as InspectionDocument
    from rung.commands.plan import Plan as PlanDocument
    from rung.recipe import Recipe
    from rung.tuning.result import Recommendation, StudyResult

    RecipeLike = Recipe | Path | str | None


class Result(JupyterMixin):
    """A study's answer.

    Attributes:
        folder: of the study.
        document: see docs/result.md.
    """

    def __init__(self, folder: Path, document: StudyResult) -> None:
        self.folder = folder
        self.document = document

    @property
    def recommendation(self) -> Recommendation:
        """The setting to use, with its evidence."""
        return self.document.recommendation

    @property
    def adapter(self) -> Path:
        """The folder of the recommended adapter, in PEFT's format."""
        return self.folder / self.recommendation.adapter

    def to_json(self) -> dict[str, Any]:
        """The content of `result.json`."""
        return _json(self.document)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rung.report.tune import summary

        yield summary(self.document, self.folder)

    def __repr__(self) -> str:
        best = self.recommendation.setting
        levers = f"rank {best.rank}, alpha {best.alpha:g}, learning rate {best.learning_rate:g}"
        return f"<Result {self.folder}: {levers}>"


class Plan(JupyterMixin):
    """What a study will take."""

    def __init__(self, document: PlanDocument) -> None:
        self.document = document

    def to_json(self) -> dict[str, Any]:
        """What `rung plan --json` prints."""
        return _json(self.document)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rung.report.plan import plan_page

        yield plan_page(self.document)

    def __repr__(self) -> str:
        return f"<Plan {self.document.model}: {self.document.cost.seconds:,.0f} s>"


class DataReport(JupyterMixin):
    """A data set as a model would see it."""

    def __init__(self, document: DataDocument) -> None:
        self.document = document

    def to_json(self) -> dict[str, Any]:
        """What `rung data --json` prints."""
        return _json(self.document)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rung.report.data import data_page

        yield data_page(self.document)

    def __repr__(self) -> str:
        rows = ", ".join(f"{count:,} {name}" for name, count in self.document.splits.items())
        return f"<DataReport {self.document.data}: {rows} rows>"


class Inspection(JupyterMixin):
    """A model, and what each lever costs in it. `explain` adds what each lever does, in words."""

    def __init__(self, document: InspectionDocument, explain: bool = False) -> None:
        self.document = document
        self.explain = explain

    def to_json(self) -> dict[str, Any]:
        """What `rung inspect --json` prints."""
        return _json(self.document)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rung.report.inspect import inspection_page

        yield inspection_page(self.document, self.explain)

    def __repr__(self) -> str:
        return f"<Inspection {self.document.model}: {self.document.parameters:,} parameters>"


def tune(
    recipe: RecipeLike = None,
    *,
    study: Path | str | None = None,
    studies: Path | str = "studies",
    quiet: bool = False,
    **options: Any,
) -> Result:
    """Find the setting for a model and a data set, and train the adapter.

    Args:
        recipe: a recipe, or the path of one; None for the built-in example.
        study: the study's name; by default made of data and model. The same call goes on with a
            study that was interrupted.
        studies: the folder that holds the studies.
        quiet: show no progress.
        **options: fields of the recipe, laid over it: `model="…"`, `data="train.jsonl"`.

    Raises:
        InputError: the input is wrong; the message says what, where, and the remedy.
        TrainingError: no candidate could be trained to the end.
    """
    from rung.recipe import as_path
    from rung.study.folder import study_folder

    whole = _recipe(recipe, options)
    name = whole.default_study if study is None else _text(study, "study", "a name")
    try:
        root = as_path(_text(studies, "studies", "the path of a folder"))
    except ValueError as error:
        raise RecipeError(f"--studies: {error}.") from None
    folder = study_folder(root, name)

    # A wrong option is answered before torch is imported, which takes seconds.
    from rung.report.progress import Progress
    from rung.tuning.loop import tune as run

    with Progress(Console(stderr=True, quiet=quiet)) as progress:
        result = run(whole, folder, progress)
    return Result(folder.path, result)


def plan(
    recipe: RecipeLike = None,
    *,
    device: str = "here",
    price: float | None = None,
    quiet: bool = False,
    **options: Any,
) -> Plan:
    """Say what a study will take, before it is run: time, memory, money, detectable gain.

    Args:
        recipe: a recipe, or the path of one; None for the built-in example.
        device: `here`, where a few real steps are timed; or a name such as `t4` or `h100`, for an
            estimate from its data sheet.
        price: of an hour on the device, in any currency.
        quiet: show no progress.
        **options: fields of the recipe, laid over it.

    Raises:
        InputError: the input is wrong; the message says what, where, and the remedy.
    """
    _text(device, "device", "a device's name, or here")
    if price is not None and not (isinstance(price, int | float) and 0 <= price < math.inf):
        shown = f"{price:g}" if isinstance(price, int | float) else repr(price)
        raise RecipeError(
            f"--price: {shown} is not a price; give what an hour costs, such as 0.35."
        )
    whole = _recipe(recipe, options)

    from rung.commands.plan import make_plan
    from rung.report.progress import Progress

    with Progress(Console(stderr=True, quiet=quiet)) as progress:
        return Plan(make_plan(whole, device, price, progress.note))


def audit(
    recipe: RecipeLike = None, *, with_model: bool = True, quiet: bool = False, **options: Any
) -> DataReport:
    """Look at a data set as the model will see it: splits, a row, lengths, and an audit.

    Args:
        recipe: a recipe, or the path of one; None for the built-in example.
        with_model: ask the untuned model how far the completions are from what it writes, if its
            weights are on this machine.
        quiet: show no progress.
        **options: fields of the recipe, laid over it.

    Raises:
        InputError: the input is wrong; the message says what, where, and the remedy.
    """
    whole = _recipe(recipe, options)

    from rung.commands.data import report_data
    from rung.report.progress import Progress

    with Progress(Console(stderr=True, quiet=quiet)) as progress:
        return DataReport(report_data(whole, with_model, progress.note))


def inspect(
    model: Path | str,
    *,
    rank: int = 16,
    alpha: str | float = "2r",
    targets: str = "attention",
    use_rslora: bool = False,
    explain: bool = False,
) -> Inspection:
    """Look at a model before anything but its configuration is downloaded.

    Args:
        model: a hub id, a folder, a GGUF file, a `config.json`, or `smollm2-135m-instruct`.
        rank, alpha, targets, use_rslora: of an adapter to look at; alpha is a number or a multiple
            of the rank (`2r`).
        explain: say in words what each lever does.

    Raises:
        InputError: there is no such model, it is not a causal language model, or it has no such
            target modules.
    """
    from rung.commands.inspect import inspect_model
    from rung.model.anatomy import anatomy
    from rung.recipe import as_path

    try:
        name = as_path(_text(model, "model", "a hub id, or the path of a folder or a file"))
    except ValueError as error:
        raise RecipeError(f"The model {model!r}: {error}.") from None
    if not (isinstance(rank, int) and 1 <= rank <= MAX_RANK):
        raise RecipeError(
            f"--rank: {rank!r} is not a rank; give a whole number from 1 to {MAX_RANK:,}, such as "
            "16."
        )
    try:
        number, scaled_by_root = read_alpha(str(alpha), rank)
    except ValueError as error:
        raise RecipeError(f"--alpha: {error}.") from None
    low, high = ALPHA_RANGE
    if not low <= number <= high:
        raise RecipeError(
            f"--alpha: {alpha} is out of range; give a number from {low:g} to {high:,.0f}."
        )
    names = _text(targets, "targets", "names of modules joined by plus signs")
    setting = Setting(rank, number, names, 1e-3, use_rslora or scaled_by_root)
    return Inspection(inspect_model(anatomy(name), setting), explain)


def _recipe(recipe: RecipeLike, options: dict[str, Any]) -> Recipe:
    from rung.recipe import Recipe, read_recipe, with_options

    if isinstance(recipe, Recipe):
        return with_options(recipe, **options) if options else recipe
    return read_recipe(recipe, **options)


def _text(given: object, option: str, wanted: str) -> str:
    """A name or a path as a text."""
    text = os.fspath(given) if isinstance(given, os.PathLike) else given
    if not isinstance(text, str):
        raise RecipeError(
            f"--{option}: give {wanted}; a value of the type {type(given).__name__} is none."
        )
    return text


def _json(document: object) -> dict[str, Any]:
    from rung.formats.documents import to_json

    return to_json(document)
