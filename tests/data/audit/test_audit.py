from __future__ import annotations

from pathlib import Path

from tests.data.audit.rows import audit_splits, random_splits, read
from tests.tiny import tiny_tokenizer

from rung.data.audit import audit


def test_clean_data_have_no_findings(tmp_path: Path) -> None:
    assert audit_splits(tmp_path, *random_splits()) == {}


def test_without_a_tokenizer_tokens_are_not_checked(tmp_path: Path) -> None:
    train, validation, test = random_splits()
    train[7]["completion"] = " 달"
    data = read(tmp_path, train, validation, test)
    assert audit(data) == []
    assert [finding.kind for finding in audit(data, tiny_tokenizer())] == ["lossy"]


def test_the_worst_finding_comes_first(tmp_path: Path) -> None:
    train, validation, test = random_splits()
    train += train[:5]
    train[9]["completion"] = ""
    test.append(train[0])
    findings = audit(read(tmp_path, train, validation, test))
    assert [finding.severity for finding in findings] == ["error", "warning", "note"]
