from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data.audit.rows import audit_splits, random_rows, random_splits


def test_malformed_rows_that_were_skipped_are_a_warning(tmp_path: Path) -> None:
    train, validation, test = random_splits()
    findings = audit_splits(
        tmp_path, [*train, {"prompt": "p"}], validation, test, skip_bad_rows=True
    )
    finding = findings["malformed"]
    assert finding.severity == "warning"
    assert "1 malformed row is left out" in finding.message
    assert "line 301" in finding.message


def test_few_held_out_rows_are_a_warning(tmp_path: Path) -> None:
    train, _, test = random_splits()
    findings = audit_splits(tmp_path, train, random_rows(50, 2), test)
    assert set(findings) == {"few_rows"}
    assert findings["few_rows"].severity == "warning"
    assert "There are 50 validation rows" in findings["few_rows"].message


def conversations(count: int, word: str) -> list[Any]:
    """Conversations with an id, half of them with images."""
    roles = ("user", "assistant") * 2
    turns = [
        [{"role": role, "content": f"{word}{i}{role}{j}"} for j, role in enumerate(roles)]
        for i in range(count)
    ]
    return [{"messages": own, "id": i, "images": ["a.png"][: i % 2]} for i, own in enumerate(turns)]


def test_what_rows_say_and_their_tokens_do_not_show_is_counted(tmp_path: Path) -> None:
    """The template shows an earlier answer differently, and no thoughts."""
    template = tmp_path / "mine.jinja"
    template.write_text(
        "{% for m in messages %}{{ m.role + ':' }}"
        "{{ '-' if m.role == 'assistant' and loop.last }}{{ m.content }}"
        "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    train = conversations(300, "a")
    train[4]["messages"][3]["reasoning_content"] = "let me see"
    findings = audit_splits(
        tmp_path,
        train,
        conversations(120, "b"),
        conversations(120, "c"),
        template=str(template),
    )
    assert {kind: finding.severity for kind, finding in findings.items()} == {
        "not_learnt": "warning",
        "not_shown": "warning",
        "left_out": "warning",
        "unused": "note",
    }
    message = {kind: finding.message for kind, finding in findings.items()}
    assert "turns follow (540 in 540 rows, the first " in message["not_learnt"]
    assert (
        "'reasoning_content' in turns of 'assistant' (in 1 row, the first "
        f"{tmp_path}/train.jsonl, line 5)"
    ) in message["not_shown"]
    assert "are not used: 'images' (in 270 rows, the first " in message["left_out"]
    assert "'id' (in 540 rows" in message["unused"]
