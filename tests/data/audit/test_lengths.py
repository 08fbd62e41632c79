from __future__ import annotations

from pathlib import Path

from tests.data.audit.rows import audit_splits, random_splits


def test_rows_that_are_longer_than_max_tokens_are_a_warning(tmp_path: Path) -> None:
    train, validation, test = random_splits()
    train.append({"prompt": "p " * 300, "completion": "c"})
    findings = audit_splits(tmp_path, train, validation, test)
    assert set(findings) == {"long"}
    assert findings["long"].severity == "warning"
    assert (
        "1 of 541 rows (0.2%) are longer than max_tokens; the longest has 602 tokens"
        in findings["long"].message
    )
