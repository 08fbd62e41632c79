"""What the tokenizer makes of the rows, and the language of the completions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rung.data.audit.finding import Finding, RowList, quote
from rung.data.foreign_language import find_foreign_language
from rung.data.prepare import Data
from rung.data.tokenizer_state import first_tokens

_SAMPLED_ROWS = 2_000


def check_tokens(data: Data, tokenizer: Any) -> Iterator[Finding]:
    """Texts that the tokenizer cannot reproduce, and the tokens that begin and end texts."""
    yield from _check_lossy(data, tokenizer)
    if data.stats.template_end_tokens:
        ends = " and ".join(
            quote(tokenizer.decode([token])) for token in data.stats.template_end_tokens
        )
        message = (
            f"What is trained on ends with {ends}, which neither the tokenizer nor the model's "
            "generation_config.json names as an end token; the server of the adapter must be told "
            "to stop there."
        )
        yield Finding("end_token", "warning", message)
    first = first_tokens(tokenizer)
    if data.train[0].ids[: len(first)] != first:
        message = (
            f"The tokenizer begins a text with {quote(tokenizer.decode(first))} and the chat "
            "template does not, so the rows begin without it."
        )
        yield Finding("first_token", "note", message)


def check_language(data: Data, tokenizer: Any) -> Iterator[Finding]:
    """Completions in another language than the prompts."""
    if language := find_foreign_language(data.train, tokenizer):
        message = (
            f"{language}. The output head (lm_head) may be worth adapting, and a climb over "
            "several sets of target modules tries it."
        )
        yield Finding("language", "note", message)


def _check_lossy(data: Data, tokenizer: Any) -> Iterator[Finding]:
    """Rows whose tokens do not give their text back, in a sample spread over all of them."""
    ends = set(data.stats.end_tokens)
    unknown = {tokenizer.unk_token_id} - ends
    unknown -= {tokenizer.bos_token_id, tokenizer.pad_token_id, *first_tokens(tokenizer)}
    rows = range(0, len(data.train), max(1, len(data.train) // _SAMPLED_ROWS))
    lossy = RowList()
    for row in rows:
        example, text = data.train[row], data.train.texts(row)
        prompt, completion = text.prompt.strip(), text.answer.strip()
        prompt_ids = example.ids[: example.prompt_length]
        completion_ids = example.ids[example.prompt_length :]
        decoded = _decode(completion_ids, tokenizer)
        if data.stats.record_format == "text":
            # No model generates such a text from its start, and it may have special tokens.
            is_kept = _squeeze(completion) in _squeeze(tokenizer.decode(completion_ids))
        else:
            is_kept = completion in decoded
        # A text that was cut at max_tokens has no end token.
        is_whole = any(token in ends for token in completion_ids[-3:])
        if not unknown.isdisjoint(completion_ids) or (is_whole and not is_kept):
            lossy.add(f"{text.location}: {quote(completion)} comes back as {quote(decoded)}")
        elif not unknown.isdisjoint(prompt_ids):
            read_as = quote(_decode(prompt_ids, tokenizer))
            lossy.add(f"{text.location}: {quote(prompt)} is read as {read_as}")
    if lossy.count:
        count = f"Of {len(rows):,} rows the tokenizer cannot reproduce {lossy.count:,} exactly"
        message = f"{count}: {lossy}."
        yield Finding("lossy", "warning", message)


def _decode(ids: Sequence[int], tokenizer: Any) -> str:
    """The text of these tokens, as if a model had generated them."""
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text.strip()


def _squeeze(text: str) -> str:
    """The text without white space."""
    return "".join(text.split())
