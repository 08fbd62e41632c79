"""The templates of many models: whatever a row says is in its text, or told, or the row is refused."""

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
    """Whatever is said in a row, but for what a thing is called."""
    if isinstance(value, str) and name not in ("role", "type"):
        yield value
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from texts(part, name)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from texts(part, name)


def bare(text: str) -> str:
    return "".join(text.replace("\\", "").split())


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: str(path.stem))
def test_what_a_row_says_is_in_its_text_or_told_or_refused(path: Path, kind: str) -> None:
    tokenizer = byte_level(eos="<|im_end|>", bos="<s>")
    tokenizer.chat_template = path.read_text()
    row = RecordReader().row(ROWS[kind], "line 1")
    (example,) = RowTokenizer(tokenizer).tokenize([row])
    if not isinstance(example, Example):
        assert str(example).startswith("the chat template refuses this row (")
        return
    shown = bare(tokenizer.decode(example.ids))
    lost = [
        own
        for own in texts([row.prompt, row.completion, row.tools, row.variables])
        if bare(own) not in shown
    ]
    kinds = {told for told, _ in example.remarks}
    assert not lost or kinds & {"not_shown", "unused"}, lost
    learnt = bare(
        "".join(tokenizer.decode(example.ids[first:end]) for first, end in example.learned_spans)
    )
    said = [message for message in [*row.prompt, *row.completion] if isinstance(message, dict)]
    # Some templates open the thoughts where they ask for an answer.
    answers = [
        message["content"].removeprefix("<think>")
        for message in said
        if message["role"] == "assistant"
    ]
    unlearnt = [answer for answer in answers if bare(answer) not in learnt]
    assert not unlearnt or kinds & {"not_shown", "not_learnt"}, unlearnt


def test_of_a_plain_conversation_most_templates_show_all_and_nothing_is_told() -> None:
    whole = 0
    for path in TEMPLATES:
        tokenizer = byte_level(eos="<|im_end|>", bos="<s>")
        tokenizer.chat_template = path.read_text()
        (example,) = RowTokenizer(tokenizer).tokenize(
            [RecordReader().row({"messages": [ASKS, SAYS]}, "line 1")]
        )
        whole += isinstance(example, Example) and {kind for kind, _ in example.remarks} <= {
            "not_asked"
        }
    assert whole == len(TEMPLATES)
