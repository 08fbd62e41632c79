"""The document of `rung data`: what a data set is to a model, before anything is trained on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from rung.data.audit import Finding, asks_for_head, audit, worst_first
from rung.data.batches import steps_per_pass
from rung.data.limits import check_rows
from rung.data.prepare import Data, fits, prepare
from rung.engine.process_memory import memory_limit
from rung.engine.trainer import Trainer
from rung.errors import DataError
from rung.model.load import Base, end_tokens, load_base, load_tokenizer
from rung.model.source import local_weight_files
from rung.recipe import Recipe
from rung.search.effort import Effort, choose_race_fraction
from rung.search.power import detectable_gain_of_climb
from rung.search.race import LM_HEAD_LOSS_THRESHOLD
from rung.tuning.generations import make_evaluator
from rung.types import Generation, Scores

SCORED = 128
"""Validation rows that the untuned model is asked about."""
_BARS = 12


def datasheet(recipe: Recipe, with_model: bool, tell: Callable[[str], None]) -> dict[str, Any]:
    """Everything about a data set and its rows as the model would see them, ready for JSON.

    Args:
        with_model: ask the untuned model how far the completions are from what it writes, if its weights are here and
            fit into memory.
        tell: hears what takes long.

    Raises:
        InputError: the data, the model or a metric cannot be used.
    """
    tokenizer = load_tokenizer(recipe.model)
    data = prepare(recipe, tokenizer, tell, end_tokens(recipe.model, tokenizer))
    tell("auditing")
    findings = audit(data, tokenizer, recipe.numbers)
    quality = make_evaluator(data, recipe)
    base = _base(recipe) if with_model else None
    scores = None
    if base:
        try:
            scores = _scored(base, data, tell)
        except DataError as error:
            findings.append(Finding("limits", "error", str(error)))
        else:
            findings += _far(scores, data, recipe, asks_for_head(findings))
    facts, held = data.facts, data.validation
    rows = range(len(held)) if facts.shape != "text" else range(0)
    validation = [
        Generation("", text.after, text.before, text.where) for text in map(held.texts, rows)
    ]
    return {
        "schema": 1,
        "data": recipe.data,
        "model": recipe.model,
        "format": facts.shape,
        "splits": {name: len(rows) for name, rows in data.splits.items()},
        "made_splits": facts.made,
        "read": facts.read,
        "too_long": facts.long,
        "bad_rows": {"count": facts.bad, "says": facts.listed},
        "example": _example(data, tokenizer),
        "ends": [{"token": token, "text": tokenizer.decode([token])} for token in facts.ends],
        "lengths": _lengths(facts.lengths, recipe.max_tokens),
        "metrics": [one.name for one in quality.metrics],
        "numbers": asdict(quality.known.numbers),
        "trivial": {"writes": quality.known.always, **quality.trivial(validation)}
        if validation
        else None,
        "untuned": {"validation_loss": scores.mean, "rows": len(scores.tokens)} if scores else None,
        "audit": [asdict(finding) for finding in worst_first(findings)],
    }


def _example(data: Data, tokenizer: Any) -> dict[str, Any]:
    """The first training row: its tokens, 1 for each that is learnt, and each as text."""
    example, text = data.train[0], data.train.texts(0)
    return {
        "where": text.where,
        "tokens": list(example.ids),
        "learned": example.mask,
        "text": _pieces(example.ids, tokenizer),
    }


def _pieces(ids: tuple[int, ...], tokenizer: Any) -> list[str]:
    """What each token adds to the text. A letter of several tokens shows with the last of them."""
    pieces, before = [], ""
    for end in range(1, len(ids) + 1):
        whole = tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False)
        if whole.endswith("�"):
            pieces.append("")
            continue
        pieces.append(whole[len(before) :])
        before = whole
    return pieces


def _lengths(counts: Mapping[int, int], max_tokens: int) -> dict[str, Any]:
    """In tokens: of a row that half of the rows are shorter than, and the like; and how many rows are how long."""
    rows = {int(length): count for length, count in counts.items()}
    least, most = min(rows), max(rows)
    width = -(-(most - least + 1) // _BARS)
    bars = [
        {
            "from": first,
            "to": first + width - 1,
            "rows": sum(rows.get(n, 0) for n in range(first, first + width)),
        }
        for first in range(least, most + 1, width)
    ]
    ordered = dict(sorted(rows.items()))
    return {
        "max_tokens": max_tokens,
        "median": fits(ordered, 0.5),
        "p99": fits(ordered, 0.99),
        "longest": most,
        "histogram": bars,
    }


def _base(recipe: Recipe) -> Base | None:
    """The model, if its weights are here and half of the memory holds them."""
    weights, device = (
        local_weight_files(recipe.model),
        "cuda" if torch.cuda.is_available() else "cpu",
    )
    if (
        not weights
        or sum(Path(file).stat().st_size for file in weights)
        > memory_limit(torch.device(device)) / 2
    ):
        return None
    return load_base(recipe.model, recipe.quantization, recipe.precision)


def _scored(base: Base, data: Data, tell: Callable[[str], None]) -> Scores:
    """
    Raises:
        DataError: a row does not fit the model.
    """
    tell("asking the untuned model")
    trainer, rows, count = Trainer(base), data.validation, min(SCORED, len(data.validation))
    check_rows(data, trainer.positions, trainer.vocabulary, base.tokenizer)
    return trainer.score([rows[at * len(rows) // count] for at in range(count)])[0]


def _far(scores: Scores, data: Data, recipe: Recipe, foreign: bool) -> list[Finding]:
    """What the untuned model's losses say of the completions, and of how many rows to judge by there are; `foreign`
    completions are in another language, whatever it loses on their tokens one by one.
    """
    loss, rows = scores.mean, len(data.validation)
    about = (
        f"On {len(scores.tokens)} validation rows the untuned model loses {loss:.2f} nats a token"
    )
    if loss >= LM_HEAD_LOSS_THRESHOLD:
        says = f"{about}: the completions are far from what it writes, so a climb tries the output head (lm_head) too."
    elif foreign:
        says = f"{about}: token by token the completions are not far from what it writes, but see their language."
    else:
        says = f"{about}: the completions are not far from what it writes, so the output head (lm_head) can be left alone."
    found = [Finding("far" if loss >= LM_HEAD_LOSS_THRESHOLD else "near", "note", says)]
    steps = max(1, round(recipe.passes * steps_per_pass(len(data.train), recipe.batch_size)))
    shown = detectable_gain_of_climb(scores, recipe.margin, Effort(choose_race_fraction(steps)))
    if shown.rows_for_margin > rows:
        says = (
            f"There are {rows:,} validation rows; to see a gain of {recipe.margin:.1%} in four of five studies takes "
            f"about {shown.rows_for_margin:,}, were it not for the seeds."
        )
        found.append(Finding("few_rows", "warning", says))
    return found
