"""Rows as tokens, and which of the tokens are trained on.

The tokens and the mask are those of TRL's SFTTrainer (tested against it). Prompt and completion are
tokenized together, as one text. The completion begins where that differs from the prompt tokenized
alone: usually after the prompt, or a token earlier if the two merge. Chats go through the
model's own template.

One end token is always trained on, or the model would never stop. Padding comes later and is known
by its place, not by its number. The tokens that a tokenizer adds to a text are put before it and
never after it, where the end token belongs and, for a prompt, the completion.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rung.data.chat.tokenize_chat import ChatTokenizer, Learn, add_remarks, make_example
from rung.data.example import Example
from rung.data.rows import Row, plain_text
from rung.data.special_tokens import SpecialTokens, common_prefix_length, encode
from rung.errors import DataError

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '### ' + message['role'] | capitalize + ':\\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\\n' }}{% endif %}"
)
"""The chat template that is offered if a model has none."""


class RowTokenizer:
    """Makes examples of rows, for one tokenizer.

    Args:
        tokenizer: the model's.
        learn: what is trained on: `completion`, or `all` for the prompts too.
        template: `auto` for the model's own chat template, `plain`, or a file with one in Jinja.
        ends: the tokens that end a text, by the model, in addition to the tokenizer's end token.

    Raises:
        DataError: The template's file cannot be read.
    """

    def __init__(
        self,
        tokenizer: Any,
        learn: Learn = "completion",
        template: str = "auto",
        ends: Iterable[int] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self._learn = learn
        self._template = _load_template(tokenizer, template)
        self._special = SpecialTokens(tokenizer, ends)
        self._chats = ChatTokenizer(
            tokenizer,
            self._template or "",
            self._special,
            learn,
            add_first_tokens=template == "plain",
        )

    @property
    def ends(self) -> frozenset[int]:
        """The tokens at which generation stops.

        They are `stops` and the tokens that were seen at the end of what is trained on.
        """
        return frozenset(self._special.ends)

    @property
    def stops(self) -> frozenset[int]:
        """The tokens that end a text, by the model and the tokenizer."""
        return self._special.stops

    @property
    def fingerprint(self) -> list[Any]:
        """What the examples depend on, in addition to the rows and the tokenizer."""
        return [self._learn, self._template, sorted(self.stops)]

    def tokenize(self, rows: Sequence[Row]) -> list[Example | DataError]:
        """An example for each row, in their order.

        A row that cannot be used gives a `DataError`, which does not name the row's place.

        Raises:
            DataError: The rows are chats, and there is no template.
        """
        examples: list[Example | DataError] = []
        for are_texts, group in itertools.groupby(
            rows, key=lambda row: isinstance(row.completion, str)
        ):
            alike = list(group)
            if not are_texts and self._template is None:
                raise DataError(
                    "The rows are chats, and the model's tokenizer has no chat template; give "
                    "--template plain for '### User: … ### Assistant: …', or a file with a "
                    "template in Jinja."
                )
            examples += self._tokenize_texts(alike) if are_texts else self._chats.tokenize(alike)
        return [
            add_remarks(example, row.remarks) if isinstance(example, Example) else example
            for row, example in zip(rows, examples, strict=True)
        ]

    def _tokenize_texts(self, rows: Sequence[Row]) -> list[Example]:
        wholes = encode(self.tokenizer, [f"{row.prompt}{row.completion}" for row in rows])
        prompts = encode(self.tokenizer, [str(row.prompt) for row in rows])
        examples = []
        for row, whole, prompt in zip(rows, wholes, prompts, strict=True):
            prompt = self._special.with_first_tokens(prompt)
            whole = self._special.with_first_tokens(whole)
            if not self._special.is_closed(whole, common_prefix_length(prompt, whole)):
                whole = (*whole, self._special.eos)
            examples.append(make_example(row, whole, prompt, self._learn, None))
        return examples

    def answer(self, row: Row, example: Example) -> tuple[str, str]:
        """What a chat template writes before an answer, and the answer that is wanted.

        The template may write the marks of thoughts that are not there, say. The answer is what the
        model should generate after that.
        """
        if isinstance(row.completion, str):
            return "", self._special.strip_stop(row.completion)
        if not example.prompt_ids:
            return "", plain_text(row.completion)
        # If everything is trained on, no span begins at the answer, so none tells its end.
        turn_end = next(
            (end for first, end in example.learned_spans if first == example.prompt_length), None
        )
        ids = example.ids[example.prompt_length : turn_end]
        wanted = self._special.strip_stop(row.expected_text or "").strip()
        end = next((i for i, token in enumerate(ids) if token in self._special.ends), len(ids))
        text: str = self.tokenizer.decode(
            ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        before, match, after = text.rpartition(wanted) if wanted else ("", "", text)
        # If more follows the words, such as a call of a tool, that is wanted too.
        return (before, wanted) if match and not after.strip() else ("", text.strip())


def tokenize_rows(rows: Sequence[Row], tokenizer: Any, max_tokens: int) -> list[Example]:
    """The examples that fit in `max_tokens`, in the order of the rows.

    Raises:
        DataError: A row cannot be tokenized.
    """
    examples = []
    for example in RowTokenizer(tokenizer).tokenize(rows):
        if isinstance(example, DataError):
            raise example
        examples.append(example)
    return [example for example in examples if len(example.ids) <= max_tokens]


def _load_template(tokenizer: Any, template: str) -> str | None:
    if template == "plain":
        return PLAIN_TEMPLATE
    if template != "auto":
        return _read_template(template)
    # A tokenizer may have several templates by name, and one of them is the default.
    own = getattr(tokenizer, "chat_template", None)
    return own.get("default") if isinstance(own, dict) else own


def _read_template(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"--template: the file '{path}' cannot be read ({error}); give auto, plain, or a file."
        ) from None
