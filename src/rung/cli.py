"""The command line. Results on standard output, everything else on standard error.

Exit codes: 0 done; 2 the user's input is wrong; 1 anything else. Heavy modules are imported inside
the commands, so that `rung --help` answers at once.
"""

from __future__ import annotations

import gc
import io
import itertools
import json
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from rung.errors import RungError
from rung.options import takes_recipe
from rung.recipe import Recipe
from rung.version import __version__

if TYPE_CHECKING:
    from rung.api import DataReport, Inspection, Plan, Result

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="A first run: rung tune --data train.jsonl --model HuggingFaceTB/SmolLM2-135M-Instruct",
)

_INTERRUPTED = 130
"""The exit code that Typer makes of Ctrl-C."""
_UsageError: Any = typer.BadParameter.__base__

OUTPUT = "Output"
AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON document and nothing else.",
        rich_help_panel=OUTPUT,
        metavar=" ",
    ),
]
Study = Annotated[
    str | None,
    typer.Option(
        help="The name of the study's folder. The same command goes on with a study that was "
        "interrupted. (default: made of data and model)",
        metavar="TEXT",
        rich_help_panel="Study",
        show_default=False,
    ),
]
Studies = Annotated[
    str,  # and no Path: that would make a dot, the current folder, of an empty text
    typer.Option(
        help="The folder that holds all studies. (default: studies)",
        metavar="FOLDER",
        rich_help_panel="Study",
        show_default=False,
    ),
]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"rung {__version__}")
        raise typer.Exit


@app.callback()
def _rung(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_version),
    ] = False,
) -> None:
    """Find the rank, alpha and target modules that a QLoRA fine-tune needs."""


@app.command()
@takes_recipe
def tune(
    recipe: Recipe, study: Study = None, studies: Studies = "studies", as_json: AsJson = False
) -> None:
    """Race adapters over one frozen model, climb the rank ladder, say which setting to use.

    The adapter is trained, too. A study that was interrupted goes on with the same command.
    """
    from rung.api import tune as run

    result = run(recipe, study=study, studies=studies)
    _show(result, as_json)


@app.command()
@takes_recipe
def plan(
    recipe: Recipe,
    device: Annotated[
        str,
        typer.Option(
            help="Where the study will run: here (a few real steps are timed), or an estimate for "
            "t4, l4, a10, a100, h100, rtx4090 and others. (default: here)",
            metavar="TEXT",
            rich_help_panel="Machine",
            show_default=False,
        ),
    ] = "here",
    price: Annotated[
        float | None,
        typer.Option(
            help="What an hour on the device costs; the plan then says what the study costs.",
            metavar="X",
            rich_help_panel="Machine",
            show_default=False,
        ),
    ] = None,
    study: Study = None,
    studies: Studies = "studies",
    as_json: AsJson = False,
) -> None:
    """Say what a study will take before it is run: time, memory, money, detectable gain.

    It takes the options of `rung tune`, so that one word can stand in the place of the other.
    Nothing is written.
    """
    from rung.api import plan as run

    estimate = run(recipe, device=device, price=price)
    _show(estimate, as_json)


@app.command()
@takes_recipe
def data(
    recipe: Recipe,
    with_model: Annotated[
        bool,
        typer.Option(
            "--with-model/--no-model",
            help="Whether the untuned model is asked how far the completions are from what it "
            "writes, if its weights are on this machine. (default: with)",
            rich_help_panel="Data",
            show_default=False,
        ),
    ] = True,
    study: Study = None,
    studies: Studies = "studies",
    as_json: AsJson = False,
) -> None:
    """Show the data as the model will see them: splits, a row, lengths, and an audit.

    It takes the options of `rung tune`, so that one word can stand in the place of the other.
    Nothing is written.
    """
    from rung.api import audit

    report = audit(recipe, with_model=with_model)
    _show(report, as_json)


@app.command()
def inspect(
    model: Annotated[
        str,
        typer.Argument(
            help="A hub id, a folder, a GGUF file, a config.json, or smollm2-135m-instruct."
        ),
    ],
    rank: Annotated[
        int,
        typer.Option("--rank", "--r", help="The rank of the adapter to look at.", metavar="N"),
    ] = 16,
    alpha: Annotated[
        str,
        typer.Option(
            "--alpha",
            "--lora-alpha",
            help="Its alpha: a number, a multiple of the rank (2r), or rslora.",
            metavar="TEXT",
        ),
    ] = "2r",
    targets: Annotated[
        str,
        typer.Option(
            "--targets",
            "--target-modules",
            help="Its target modules: attention, mlp, all-linear, lm_head, or names joined by +.",
            metavar="TEXT",
        ),
    ] = "attention",
    rslora: Annotated[
        bool,
        typer.Option(
            "--rslora", "--use-rslora", help="Scale its update by alpha / √rank.", metavar=" "
        ),
    ] = False,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Say in words what each lever does in this model.", metavar=" "
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a model is made of and what each lever costs, from its configuration alone.

    No weights are loaded, and of a hub model nothing but its config.json is fetched.
    """
    # A third of the three seconds went on garbage collection among the imports and at exit.
    gc.disable()
    from rung.api import inspect as look

    inspection = look(
        model, rank=rank, alpha=alpha, targets=targets, use_rslora=rslora, explain=explain
    )
    _show(inspection, as_json)
    os._exit(0)


def _show(answer: Result | Plan | DataReport | Inspection, as_json: bool) -> None:
    """Print what a command found out, on standard output.

    Raises:
        RungError: it cannot be written, such as to a full disk.
    """
    try:
        if as_json:
            print(json.dumps(answer.to_json(), indent=2, ensure_ascii=not _prints_unicode()))
        else:
            Console().print(answer)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise RungError(
            f"Standard output cannot be written ({error.strerror}); give the same command again "
            "with another."
        ) from None


def _prints_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().startswith("utf")


def _given(error: Any) -> str:
    """What was given to the option that the error is about, for its message."""
    names = getattr(getattr(error, "param", None), "opts", [])
    words: list[str] = []
    for argument in sys.argv[1:]:
        name, _, value = argument.partition("=")
        words += [name, value] if name in names and value else [argument]
    values = [value for name, value in itertools.pairwise(words) if name in names]
    if not values or values[-1] in error.format_message():
        return ""
    return f", but it says {values[-1]}"


def main() -> None:
    """The entry point of `rung`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an old code page does not have every character
            stream.reconfigure(errors="replace")
    errors = Console(stderr=True)
    try:
        code = app(standalone_mode=False)
    except RungError as error:
        errors.print(f"rung: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(error.exit_code) from None
    except _UsageError as error:  # an unknown option, or a value that is not a number
        message = error.format_message()
        if len(sys.argv) > 1:
            message = f"rung: {message.rstrip('.')}{_given(error)}"
            message += "; see 'rung --help', and 'rung tune --help' for a command's options."
        errors.print(message, style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(2) from None
    if code == _INTERRUPTED:
        errors.print(
            "rung: interrupted; measurements are kept, and the same command goes on.",
            soft_wrap=True,
        )
        raise SystemExit(1)
    raise SystemExit(code)
