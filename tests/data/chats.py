"""What the tests of chats share: a template in the manner of ChatML, turns, and what is learned."""

from __future__ import annotations

from typing import Any

from tests.tiny import tiny_tokenizer

from rung.data.example import Example
from rung.data.rows import Messages, Row
from rung.data.tokenize import RowTokenizer

CHATML = (
    "{% for m in messages %}"
    "{{ '[' + m['role'] + ']' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[' + 'assistant' + ']' }}{% endif %}"
)


def chat(*texts: str) -> Messages:
    """Turns of the user and the assistant, one after the other."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def answer(text: str) -> Messages:
    """One turn of the assistant."""
    return [{"role": "assistant", "content": text}]


def chat_tokenizer(template: str = CHATML) -> Any:
    """A tokenizer with a token for each letter, and a chat template."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def text_and_learned(tokenizer: Any, example: Example) -> tuple[str, str]:
    """The text of an example, and what of it is trained on."""
    letters = tokenizer.convert_ids_to_tokens(list(example.ids))
    learned = [letter for letter, on in zip(letters, example.mask, strict=True) if on]
    return "".join(letters), "".join(learned)


def tokenize_one(tokenizer: Any, row: Row, **options: Any) -> Example:
    (example,) = RowTokenizer(tokenizer, **options).tokenize([row])
    assert isinstance(example, Example), example
    return example
