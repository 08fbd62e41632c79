"""The command line. Results on standard output, everything else on standard error.

Exit codes: 0 done; 2 the user's input is wrong; 1 anything else. What is heavy is imported inside the commands, so that
`rung --help` answers at once.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from rung import __version__
from rung.errors import RungError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_INTERRUPTED = 130
"""The exit code that Typer makes of Ctrl-C."""
_UsageError: Any = typer.BadParameter.__base__

_RECIPE = "A recipe in YAML, whose files are found beside it, or else from here; without one, the embedded default."


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"rung {__version__}")
        raise typer.Exit


@app.callback()
def _rung(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and leave.", is_eager=True, callback=_version
        ),
    ] = False,
) -> None:
    """Find the rank, the alpha and the target modules that a QLoRA fine-tune needs."""


Data = Annotated[
    str | None,
    typer.Option(
        help="A file (JSONL, JSON, CSV, Parquet, Arrow), a folder of them, a hub id; or pronounce, price."
    ),
]
Validation = Annotated[
    str | None, typer.Option(help="A file to judge by; else a tenth of the data.")
]
Test = Annotated[
    str | None, typer.Option(help="A file opened once, at the end; else a tenth of the data.")
]
Fields = Annotated[
    str | None, typer.Option(help="What your fields are called: prompt=question,completion=answer.")
]
Learn = Annotated[str | None, typer.Option(help="completion, or all. (default: completion)")]
Template = Annotated[
    str | None,
    typer.Option(help="For chats: auto (the model's own), plain, or a Jinja file. (default: auto)"),
]
MaxTokens = Annotated[int | None, typer.Option(help="What a row may have. (default: 512)")]
LongRows = Annotated[
    str | None, typer.Option(help="Longer rows: leave-out, or cut. (default: leave-out)")
]
MaxLongRows = Annotated[
    float | None, typer.Option(help="The share of rows that may be longer. (default: 0.05)")
]
SkipBadRows = Annotated[
    bool | None, typer.Option("--skip-bad-rows", help="Go on without malformed rows.")
]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        help="Of the written texts, by name, or your own: file.py:function; again for each. (default: fitting)"
    ),
]
Numbers = Annotated[
    str | None,
    typer.Option(
        help="The decimal mark of completions: point, comma; auto tells it from them. (default: auto)"
    ),
]


@app.command()
def tune(
    recipe: Annotated[Path | None, typer.Argument(help=_RECIPE)] = None,
    model: Annotated[str | None, typer.Option(help="A hub id, a folder or a GGUF file.")] = None,
    data: Data = None,
    validation: Validation = None,
    test: Test = None,
    fields: Fields = None,
    learn: Learn = None,
    template: Template = None,
    long_rows: LongRows = None,
    max_long_rows: MaxLongRows = None,
    skip_bad_rows: SkipBadRows = None,
    allow_leakage: Annotated[
        bool | None, typer.Option("--allow-leakage", help="Go on where rows stand in two splits.")
    ] = None,
    metric: Metrics = None,
    numbers: Numbers = None,
    judge: Annotated[
        str | None,
        typer.Option(
            help="What decides in the end: loss, metric (the first), or its name. (default: loss)"
        ),
    ] = None,
    passes: Annotated[
        float | None,
        typer.Option(help="Over the training rows, for a candidate in full. (default: 1)"),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="What all candidates together may take: 300k (tokens), 30min. (default: some 22 trainings)"
        ),
    ] = None,
    strategy: Annotated[
        str | None, typer.Option(help="climb, grid, random, tpe. (default: climb)")
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="The relative gain in loss that is worth having. (default: 0.01)"),
    ] = None,
    levers: Annotated[
        str | None,
        typer.Option(
            help="Of learning_rate, target_modules, rank, alpha: those to try; others stay at their first value."
        ),
    ] = None,
    targets: Annotated[
        list[str] | None,
        typer.Option(
            help="attention, mlp, all-linear, lm_head, or module names, joined by +; give it again for each set that "
            "is to be tried. (default: attention, mlp, all-linear)"
        ),
    ] = None,
    alphas: Annotated[
        str | None,
        typer.Option(help="As multiples of the rank, or numbers. (default: 2r,r,4r,rslora)"),
    ] = None,
    dropout: Annotated[
        float | None,
        typer.Option(help="The share of an adapter's inputs to drop in training. (default: 0)"),
    ] = None,
    ranks: Annotated[
        str | None, typer.Option("--ranks", help="The ladder. (default: 8,16,32,64)")
    ] = None,
    learning_rates: Annotated[
        str | None,
        typer.Option(
            "--learning-rates", "--rates", "--lr", help="The grid; by default four around a guess."
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows in a step. (default: 8)")] = None,
    max_tokens: MaxTokens = None,
    quantization: Annotated[
        str | None, typer.Option(help="The base: nf4, nf4-single, int8, bf16, fp32. (default: nf4)")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="What the process may hold, such as 8GB. (default: what is free)"),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="bf16, fp16, fp32; by default what the machine is fast at.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Decides the order of rows and the first weights. (default: 0)"),
    ] = None,
    study: Annotated[
        str | None, typer.Option(help="The study's name; by default made of data and model.")
    ] = None,
    studies: Annotated[Path, typer.Option(help="The folder that holds the studies.")] = Path(
        "studies"
    ),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print result.json and nothing else.")
    ] = False,
) -> None:
    """Race adapters over one frozen model, climb the rank ladder, and say which setting to use.

    The same command goes on with a study that was interrupted.
    """
    from rung.api import tune as run

    result = run(
        recipe,
        study=study,
        studies=studies,
        model=model,
        data=data,
        validation=validation,
        test=test,
        fields=fields,
        learn=learn,
        template=template,
        long_rows=long_rows,
        max_long_rows=max_long_rows,
        skip_bad_rows=skip_bad_rows,
        allow_leakage=allow_leakage,
        metrics=tuple(metric) if metric else None,
        numbers=numbers,
        judge=judge,
        passes=passes,
        budget=budget,
        strategy=strategy,
        margin=margin,
        levers=levers,
        targets=[[names] for names in targets] if targets else None,
        alphas=alphas,
        dropout=dropout,
        ranks=ranks,
        learning_rates=learning_rates,
        batch_size=batch_size,
        max_tokens=max_tokens,
        quantization=quantization,
        precision=precision,
        memory=memory,
        seed=seed,
    )
    if as_json:
        typer.echo(json.dumps(result.document, indent=2, ensure_ascii=False))
        return
    console = Console()
    console.print(result)
    console.print(
        f"Adapter:  {result.adapter}\nEvidence: {result.folder / 'result.json'}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


@app.command()
def data(
    recipe: Annotated[Path | None, typer.Argument(help=_RECIPE)] = None,
    model: Annotated[str | None, typer.Option(help="A hub id, a folder or a GGUF file.")] = None,
    data: Data = None,
    validation: Validation = None,
    test: Test = None,
    fields: Fields = None,
    learn: Learn = None,
    template: Template = None,
    max_tokens: MaxTokens = None,
    long_rows: LongRows = None,
    max_long_rows: MaxLongRows = None,
    skip_bad_rows: SkipBadRows = None,
    metric: Metrics = None,
    numbers: Numbers = None,
    with_model: Annotated[
        bool,
        typer.Option(
            "--with-model/--no-model", help="Ask the untuned model too, if its weights are here."
        ),
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document and nothing else.")
    ] = False,
) -> None:
    """Show the data as the model will see them: splits, one row with what is learnt, lengths, and an audit."""
    from rung.api import audit

    found = audit(
        recipe,
        with_model=with_model,
        model=model,
        data=data,
        validation=validation,
        test=test,
        fields=fields,
        learn=learn,
        template=template,
        max_tokens=max_tokens,
        long_rows=long_rows,
        max_long_rows=max_long_rows,
        skip_bad_rows=skip_bad_rows,
        metrics=tuple(metric) if metric else None,
        numbers=numbers,
    )
    if as_json:
        typer.echo(json.dumps(found.document, indent=2, ensure_ascii=False))
    else:
        Console().print(found)


@app.command()
def plan(
    recipe: Annotated[Path | None, typer.Argument(help=_RECIPE)] = None,
    device: Annotated[
        str,
        typer.Option(
            help="here, from a few real steps; or an estimate for t4, l4, a10, a100, h100, rtx4090 …"
        ),
    ] = "here",
    price: Annotated[
        float | None, typer.Option(help="Of an hour on the device; then the plan says the cost.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A hub id, a folder, a GGUF file; for a named device a config.json will do."
        ),
    ] = None,
    data: Data = None,
    validation: Validation = None,
    test: Test = None,
    fields: Fields = None,
    template: Template = None,
    passes: Annotated[
        float | None, typer.Option(help="Over the training rows, for a candidate in full.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="What all candidates together may take: 300k, 30min.")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(help="The relative gain in loss that is worth having.")
    ] = None,
    ranks: Annotated[str | None, typer.Option(help="The ladder.")] = None,
    targets: Annotated[
        list[str] | None, typer.Option(help="A set of target modules; again for each.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows in a step.")] = None,
    max_tokens: MaxTokens = None,
    quantization: Annotated[
        str | None, typer.Option(help="nf4, nf4-single, int8, bf16, fp32.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="bf16, fp16, fp32.")] = None,
    memory: Annotated[
        str | None, typer.Option(help="What the process may hold, such as 8GB.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document and nothing else.")
    ] = False,
) -> None:
    """Say what a climb will take before it is run: time, memory, money, and what the validation rows can show.

    The other keys of a recipe are read from its file.
    """
    from rung.api import plan as run

    found = run(
        recipe,
        device=device,
        price=price,
        model=model,
        data=data,
        validation=validation,
        test=test,
        fields=fields,
        template=template,
        passes=passes,
        budget=budget,
        margin=margin,
        ranks=ranks,
        targets=[[names] for names in targets] if targets else None,
        batch_size=batch_size,
        max_tokens=max_tokens,
        quantization=quantization,
        precision=precision,
        memory=memory,
    )
    if as_json:
        typer.echo(json.dumps(found.document, indent=2, ensure_ascii=False))
    else:
        Console().print(found)


@app.command()
def inspect(
    model: Annotated[
        str,
        typer.Argument(
            help="A hub id, a folder, a GGUF file, a config.json, or smollm2-135m-instruct."
        ),
    ],
    rank: Annotated[int, typer.Option("--rank", "--r", help="Of the adapter to look at.")] = 16,
    alpha: Annotated[
        str,
        typer.Option(
            "--alpha", "--lora-alpha", help="A number, a multiple of the rank, or rslora."
        ),
    ] = "2r",
    targets: Annotated[
        str,
        typer.Option(
            "--targets",
            "--target-modules",
            help="attention, mlp, all-linear, lm_head, or names, joined by +.",
        ),
    ] = "attention",
    rslora: Annotated[
        bool, typer.Option("--rslora", "--use-rslora", help="Scale by alpha / √rank.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say in words what each lever does here.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document and nothing else.")
    ] = False,
) -> None:
    """Show what a model is made of and what each lever costs, from its configuration alone.

    No weights are loaded, and of a hub model nothing but its config.json is fetched.
    """
    # Of three seconds in all one went on collecting garbage among the imports, and on taking them down at the end.
    gc.disable()
    from rung.api import inspect as look

    found = look(model, rank=rank, alpha=alpha, targets=targets, use_rslora=rslora, explain=explain)
    if as_json:
        typer.echo(json.dumps(found.document, indent=2, ensure_ascii=False))
    else:
        Console().print(found)
    sys.stdout.flush()
    os._exit(0)


def _given(error: Any) -> str:
    """What the option that the error is about was given."""
    names = getattr(getattr(error, "param", None), "opts", [])
    words = [
        word
        for arg in sys.argv[1:]
        for word in (arg.split("=", 1) if arg.split("=", 1)[0] in names else [arg])
    ]
    given = [value for name, value in itertools.pairwise(words) if name in names]
    return f", but it says {given[-1]}" if given and given[-1] not in error.format_message() else ""


def main() -> None:
    """What `rung` runs."""
    errors = Console(stderr=True)
    try:
        code = app(standalone_mode=False)
    except RungError as error:
        errors.print(f"rung: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(error.exit_code) from None
    except _UsageError as error:  # an option that is not there, or that is no number
        said = error.format_message()
        if len(sys.argv) > 1:
            said = f"rung: {said.rstrip('.')}{_given(error)}"
            said += "; see 'rung --help', and 'rung tune --help' for the options of a command."
        errors.print(said, style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(2) from None
    if code == _INTERRUPTED:
        errors.print(
            "rung: interrupted; what was measured is kept, and the same command goes on.",
            soft_wrap=True,
        )
        raise SystemExit(1)
    raise SystemExit(code)
