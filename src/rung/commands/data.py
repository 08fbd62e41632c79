"""What `rung data` computes: the data as the model will see them, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rung.data.audit import Finding, Severity, audit, suggests_lm_head, worst_first
from rung.data.batches import steps_per_pass
from rung.data.data_stats import DataStats
from rung.data.model_limits import check_model_limits
from rung.data.prepare import Data, prepare
from rung.engine.process_memory import memory_limit
from rung.engine.trainer import Trainer
from rung.errors import DataError
from rung.formats.numbers import Convention
from rung.model.load import Base, end_tokens, load_base, load_tokenizer
from rung.model.source import local_weight_files
from rung.recipe import Recipe
from rung.search.effort import Effort, choose_race_fraction
from rung.search.power import detectable_gain_of_climb
from rung.search.race import LM_HEAD_LOSS_THRESHOLD
from rung.tuning.generations import make_evaluator
from rung.types import Generation, Scores

SCHEMA = 2
SCORED_ROWS = 128
"""Validation rows that the untuned model scores."""
_BARS = 12
"""Bars of the histogram of lengths."""


@dataclass(frozen=True, slots=True)
class BadRows:
    """Rows that could not be read: how many, and the messages of the first of them."""

    count: int
    messages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExampleRow:
    """A training row as the model sees it: for each token its id, its text, and if it is learned.

    `where` names the row in its file.
    """

    where: str
    tokens: tuple[int, ...]
    learned: tuple[int, ...]
    text: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EndToken:
    """A token that ends a generated text."""

    token: int
    text: str


@dataclass(frozen=True, slots=True)
class LengthBar:
    """How many rows have between `first` and `last` tokens, both included."""

    first: int
    last: int
    rows: int


@dataclass(frozen=True, slots=True)
class Lengths:
    """The lengths of rows in tokens; `median` and `p99` are of half and of 99 % of the rows."""

    max_tokens: int
    median: int
    p99: int
    longest: int
    histogram: tuple[LengthBar, ...]


@dataclass(frozen=True, slots=True)
class TrivialPredictor:
    """What a trivial predictor always writes, and its metrics on the validation rows."""

    writes: str
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class UntunedLoss:
    """The untuned model's loss, in nats a token, on some of the validation rows."""

    validation_loss: float
    rows: int


@dataclass(frozen=True, slots=True)
class AuditFinding:
    """A finding of the audit: its kind for programs, and what it says for people."""

    kind: str
    severity: Severity
    says: str


@dataclass(frozen=True, slots=True)
class DataReport:
    """A data set as a model would see it.

    Attributes:
        format: the shape of the rows, see docs/data.md.
        splits: the rows that are used; `made_splits` names those that Rung split off.
        read, too_long: rows by split: how many were read, and how many are left out or cut.
        metrics: the metrics of the study, the first one judges if a metric does.
        numbers: how numbers in completions are written.
        trivial: None where rows are texts without prompts.
        untuned: None where the model was not asked.
    """

    schema: int
    data: str
    model: str
    format: str
    splits: Mapping[str, int]
    made_splits: tuple[str, ...]
    read: Mapping[str, int]
    too_long: Mapping[str, int]
    bad_rows: BadRows
    example: ExampleRow
    ends: tuple[EndToken, ...]
    lengths: Lengths
    metrics: tuple[str, ...]
    numbers: Convention
    trivial: TrivialPredictor | None
    untuned: UntunedLoss | None
    audit: tuple[AuditFinding, ...]


def report_data(recipe: Recipe, with_model: bool, tell: Callable[[str], None]) -> DataReport:
    """Read the data of a recipe and look at them as the model would.

    Args:
        with_model: score some validation rows with the untuned model, if its weights are on this
            machine and fit into its memory.
        tell: is told what takes long.

    Raises:
        InputError: the data, the model or a metric cannot be used.
    """
    tokenizer = load_tokenizer(recipe.model)
    data = prepare(recipe, tokenizer, tell, end_tokens(recipe.model, tokenizer))
    tell("auditing")
    findings = audit(data, tokenizer, recipe.numbers)
    evaluator = make_evaluator(data, recipe)
    scores, more = _ask_model(recipe, data, findings, tell) if with_model else (None, [])
    stats, validation = data.stats, data.validation
    trivial = None
    if stats.record_format != "text" and len(validation):
        texts = [validation.texts(row) for row in range(len(validation))]
        rows = [Generation("", text.answer, text.prompt, text.location) for text in texts]
        text = evaluator.completion_stats.trivial_text
        trivial = TrivialPredictor(text, evaluator.trivial_values(rows))
    return DataReport(
        schema=SCHEMA,
        data=recipe.data,
        model=recipe.model,
        format=stats.record_format,
        splits={name: len(rows) for name, rows in data.splits.items()},
        made_splits=tuple(stats.made_splits),
        read=stats.row_counts,
        too_long=stats.long_rows,
        bad_rows=BadRows(stats.bad_rows, tuple(stats.bad_row_messages)),
        example=_example(data, tokenizer),
        ends=tuple(EndToken(token, tokenizer.decode([token])) for token in stats.end_tokens),
        lengths=_lengths(stats, recipe.max_tokens),
        metrics=tuple(metric.name for metric in evaluator.metrics),
        numbers=evaluator.completion_stats.numbers,
        trivial=trivial,
        untuned=UntunedLoss(scores.mean, len(scores.tokens)) if scores else None,
        audit=tuple(
            AuditFinding(finding.kind, finding.severity, finding.message)
            for finding in worst_first([*findings, *more])
        ),
    )


def _example(data: Data, tokenizer: Any) -> ExampleRow:
    """The first training row."""
    example = data.train[0]
    return ExampleRow(
        where=data.train.texts(0).location,
        tokens=tuple(example.ids),
        learned=tuple(example.mask),
        text=tuple(_token_texts(example.ids, tokenizer)),
    )


def _token_texts(ids: tuple[int, ...], tokenizer: Any) -> list[str]:
    """What each token adds to the text. A character of several tokens comes with the last one."""
    texts, before = [], ""
    for end in range(1, len(ids) + 1):
        whole = tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False)
        if whole.endswith("�"):
            texts.append("")
            continue
        texts.append(whole[len(before) :])
        before = whole
    return texts


def _lengths(stats: DataStats, max_tokens: int) -> Lengths:
    """From the number of rows of each length."""
    rows = stats.lengths
    shortest, longest = min(rows), max(rows)
    width = -(-(longest - shortest + 1) // _BARS)
    bars = tuple(
        LengthBar(
            first, first + width - 1, sum(rows.get(n, 0) for n in range(first, first + width))
        )
        for first in range(shortest, longest + 1, width)
    )
    return Lengths(
        max_tokens, stats.covering_length(0.5), stats.covering_length(0.99), longest, bars
    )


def _ask_model(
    recipe: Recipe, data: Data, findings: list[Finding], tell: Callable[[str], None]
) -> tuple[Scores | None, list[Finding]]:
    """The untuned model's scores on some validation rows, and what they say of the data."""
    base = _load_if_small(recipe)
    if base is None:
        return None, []
    tell("scoring some rows with the untuned model")
    trainer, validation = Trainer(base), data.validation
    count = min(SCORED_ROWS, len(validation))
    try:
        check_model_limits(data, trainer.positions, trainer.vocabulary, base.tokenizer)
    except DataError as error:
        return None, [Finding("limits", "error", str(error))]
    rows = [validation[at * len(validation) // count] for at in range(count)]
    (scores,) = trainer.score(rows)
    return scores, _findings_of_scores(scores, data, recipe, suggests_lm_head(findings))


def _load_if_small(recipe: Recipe) -> Base | None:
    """The model, if its weights are on this machine and fit into half of the memory."""
    files = local_weight_files(recipe.model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = sum(Path(file).stat().st_size for file in files)
    if not files or size > memory_limit(device) / 2:
        return None
    return load_base(recipe.model, recipe.quantization, recipe.precision)


def _findings_of_scores(scores: Scores, data: Data, recipe: Recipe, foreign: bool) -> list[Finding]:
    """What the untuned model's losses say of the completions and of the number of rows.

    Args:
        foreign: the completions are in another language than the prompts.
    """
    loss, rows = scores.mean, len(data.validation)
    far = loss >= LM_HEAD_LOSS_THRESHOLD
    about = (
        f"On {len(scores.tokens)} validation rows the untuned model's loss is {loss:.2f} nats a "
        "token"
    )
    if far:
        message = (
            f"{about}: the completions are far from what it writes, so a climb also tries the "
            "output head (lm_head)."
        )
    elif foreign:
        message = (
            f"{about}: token by token the completions are not far from what it writes, but they "
            "are in another language."
        )
    else:
        message = (
            f"{about}: the completions are not far from what it writes, so the output head "
            "(lm_head) need not be tried."
        )
    findings = [Finding("far" if far else "near", "note", message)]
    steps = max(1, round(recipe.passes * steps_per_pass(len(data.train), recipe.batch_size)))
    effort = Effort(choose_race_fraction(steps))
    power = detectable_gain_of_climb(scores, recipe.margin, effort)
    if power.rows_for_margin > rows:
        message = (
            f"There are {rows:,} validation rows. To show a gain of {recipe.margin:.1%} in four of "
            f"five studies takes about {power.rows_for_margin:,}, even if seeds made no difference."
        )
        findings.append(Finding("few_rows", "warning", message))
    return findings
