from __future__ import annotations

from pathlib import Path

from tests.data.audit.rows import audit_splits, random_splits, splits_with


def test_even_labels_are_a_note(tmp_path: Path) -> None:
    findings = audit_splits(tmp_path, *splits_with([" no", " yes"]))
    assert set(findings) == {"labels"}
    assert findings["labels"].severity == "note"


def test_a_label_that_most_rows_have_is_a_warning(tmp_path: Path) -> None:
    finding = audit_splits(tmp_path, *splits_with([" no", *[" yes"] * 9]))["imbalance"]
    assert finding.severity == "warning"
    assert "90.0% of the training rows have the label 'yes'" in finding.message


def test_a_completion_that_many_rows_have_is_a_warning(tmp_path: Path) -> None:
    train, validation, test = random_splits()
    for row in train[:100]:
        row["completion"] = " I do not know."
    finding = audit_splits(tmp_path, train, validation, test)["identical"]
    assert finding.severity == "warning"
    assert "33.3% of the training rows have the same completion, 'I do not know.'" in (
        finding.message
    )


def test_completions_that_are_all_the_same_are_a_warning(tmp_path: Path) -> None:
    finding = audit_splits(tmp_path, *splits_with([" x"]))["identical"]
    assert finding.severity == "warning"
    assert "Every completion is 'x'" in finding.message


def test_labels_that_differ_in_case_or_a_full_stop_are_a_warning(tmp_path: Path) -> None:
    splits = splits_with([" Yes", " No"])
    for split in splits:
        for row, completion in zip(split[:40], [" Yes", " No", " yes", " no."] * 10, strict=True):
            row["completion"] = completion
    finding = audit_splits(tmp_path, *splits)["variants"]
    assert finding.severity == "warning"
    assert "'Yes' (140) and 'yes' (10); 'No' (140) and 'no.' (10)" in finding.message


def test_labels_that_differ_in_a_sign_are_different_labels(tmp_path: Path) -> None:
    splits = splits_with([" C", " C++", " -1", " 1"])
    assert "variants" not in audit_splits(tmp_path, *splits)
