"""Rung from Python: `rung.tune()` and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.jupyter import JupyterMixin

from rung.loop import tune as run
from rung.recipe import Recipe, read_recipe
from rung.report.terminal import Progress, summary
from rung.study.files import StudyFolder


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
        yield summary(self.document)

    def __repr__(self) -> str:
        best = self.recommendation
        levers = f"rank {best['rank']}, alpha {best['alpha']:g}, learning rate {best['learning_rate']:g}"
        return f"<Result {self.folder}: {levers}>"


def tune(
    recipe: Recipe | Path | str | None = None,
    *,
    study: str | None = None,
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
    path = Path(recipe) if isinstance(recipe, str) else recipe
    if isinstance(path, Recipe):
        resolved = read_recipe(None, **{**path.model_dump(), **options})
    else:
        resolved = read_recipe(path, **options)
    folder = StudyFolder(Path(studies) / (study or resolved.default_study))
    with Progress(Console(stderr=True, quiet=quiet)) as progress:
        found = run(resolved, folder, progress)
    return Result(folder.path, found)
