"""The chat templates of many models lose nothing that a row says without a remark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trl
from tests.odd_tokenizers import byte_level

from rung.data.example import Example
from rung.data.schema import RecordReader
from rung.data.tokenize import RowTokenizer

TEMPLATES = sorted(
    path
    for path in (Path(trl.__file__).parent / "chat_templates").glob("*.jinja")
    if "_training" not in path.name
)
CALL = {
    "type": "function",
    "id": "a1b2c3d4e",
    "function": {"name": "ask_sky", "arguments": {"town": "Oslo"}},
}
TOOL = {
    "type": "function",
    "function": {
        "name": "ask_sky",
        "description": "Looks up.",
        "parameters": {
            "type": "object",
            "properties": {"town": {"type": "string", "description": "Which?"}},
        },
    },
}
ASKS, SAYS = (
    {"role": "user", "content": "Will it rain?"},
    {"role": "assistant", "content": "It rains 'a bit'."},
)
ROWS: dict[str, dict[str, Any]] = {
    "two turns": {
        "messages": [
            ASKS,
            SAYS,
            {"role": "user", "content": " And\n later? "},
            {**SAYS, "content": "No."},
        ]
    },
    "system": {"messages": [{"role": "system", "content": "Be brief."}, ASKS, SAYS]},
    "developer": {"messages": [{"role": "developer", "content": "Be brief."}, ASKS, SAYS]},
    "narrator": {"messages": [ASKS, {"role": "narrator", "content": "Clouds come."}, SAYS]},
    "thoughts": {"messages": [ASKS, {**SAYS, "reasoning_content": "Clouds…"}]},
    "thoughts in the text": {
        "messages": [ASKS, {**SAYS, "content": "<think>\nClouds…\n</think>\n\nIt rains."}]
    },
    "earlier thoughts": {
        "messages": [ASKS, {**SAYS, "thinking": "Clouds…"}, ASKS, {**SAYS, "thinking": "Wind."}]
    },
    "calls": {
        "messages": [
            ASKS,
            {**SAYS, "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "1 mm"},
            SAYS,
        ],
        "tools": [TOOL],
    },
    "observation": {
        "conversations": [
            {"from": "human", "value": "Rain?"},
            {
                "from": "function_call",
                "value": '{"name": "ask_sky", "arguments": {"town": "Oslo"}}',
            },
            {"from": "observation", "value": "1 mm"},
            {"from": "gpt", "value": "It rains."},
        ]
    },
    "a name": {"messages": [{**ASKS, "name": "Ida"}, SAYS]},
    "documents": {"messages": [ASKS, SAYS], "documents": [{"title": "Sky", "text": "It is grey."}]},
}


def texts(value: Any, name: str = "") -> Iterator[str]:
    """Every text in a row, except for the names of roles and types."""
    if isinstance(value, str) and name not in ("role", "type"):
        yield value
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from texts(part, name)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from texts(part, name)


def squeeze(text: str) -> str:
    """The text without white space and the escapes of JSON."""
    return "".join(text.replace("\\", "").split())


def templated(path: Path) -> Any:
    tokenizer = byte_level(eos="<|im_end|>", bos="<s>")
    tokenizer.chat_template = path.read_text()
    return tokenizer


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: str(path.stem))
def test_what_a_row_says_is_shown_or_has_a_remark_or_the_row_is_refused(
    path: Path, kind: str
) -> None:
    tokenizer = templated(path)
    row = RecordReader().read(ROWS[kind], "line 1")
    (example,) = RowTokenizer(tokenizer).tokenize([row])
    if not isinstance(example, Example):
        assert str(example).startswith("the chat template refuses this row (")
        return
    remarks = {remark for remark, _ in example.remarks}

    shown = squeeze(tokenizer.decode(example.ids))
    lost = [
        text
        for text in texts([row.prompt, row.completion, row.tools, row.variables])
        if squeeze(text) not in shown
    ]
    assert not lost or remarks & {"not_shown", "unused"}, lost

    spans = example.learned_spans
    learned = squeeze("".join(tokenizer.decode(example.ids[first:end]) for first, end in spans))
    chat = [message for message in [*row.prompt, *row.completion] if isinstance(message, dict)]
    answers = [message["content"] for message in chat if message["role"] == "assistant"]
    # Some templates open the thoughts where they ask for an answer.
    not_learned = [
        answer for answer in answers if squeeze(answer.removeprefix("<think>")) not in learned
    ]
    assert not not_learned or remarks & {"not_shown", "not_learnt"}, not_learned


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: str(path.stem))
def test_a_plain_conversation_is_shown_whole_by_every_template(path: Path) -> None:
    row = RecordReader().read({"messages": [ASKS, SAYS]}, "line 1")
    (example,) = RowTokenizer(templated(path)).tokenize([row])
    assert isinstance(example, Example)
    assert {remark for remark, _ in example.remarks} <= {"not_asked"}
