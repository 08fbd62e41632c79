from __future__ import annotations

from pathlib import Path

from tests.data.audit.rows import audit_splits, random_rows


def test_a_row_that_is_nearly_a_held_out_one_is_a_warning_with_both_places(tmp_path: Path) -> None:
    train, validation = random_rows(300, 1, words=60), random_rows(120, 2, words=60)
    words = train[9]["prompt"].split()
    words[30] = "changed"
    validation.append({"prompt": " ".join(words), "completion": " something else"})
    findings = audit_splits(tmp_path, train, validation, random_rows(120, 3, words=60))
    assert set(findings) == {"near_duplicates"}
    finding = findings["near_duplicates"]
    assert finding.severity == "warning"
    assert finding.message.startswith("1 training row is nearly the same as a held-out row: ")
    assert f"{tmp_path}/train.jsonl, line 10 ≈ {tmp_path}/validation.jsonl, line 121" in (
        finding.message
    )


def test_a_frame_that_all_prompts_share_does_not_make_them_similar(tmp_path: Path) -> None:
    frame = (
        "Below is an instruction that describes a task. Write a response that fits it well. " * 3
    )
    splits = [
        [{**row, "prompt": frame + row["prompt"]} for row in random_rows(200, seed, words=8)]
        for seed in (1, 2, 3)
    ]
    assert audit_splits(tmp_path, *splits) == {}
