from __future__ import annotations

from rung.data.audit.finding import Finding, RowList, quote, suggests_lm_head, worst_first


def test_findings_of_one_severity_keep_their_order() -> None:
    first, second = Finding("a", "warning", ""), Finding("b", "warning", "")
    error, note = Finding("c", "error", ""), Finding("d", "note", "")
    assert worst_first([note, first, error, second]) == [error, first, second, note]


def test_another_language_suggests_the_output_head() -> None:
    assert suggests_lm_head([Finding("language", "note", "")])
    assert not suggests_lm_head([Finding("far", "note", "")])


def test_a_list_names_three_rows_and_counts_the_rest() -> None:
    rows = RowList()
    for number in range(1, 4):
        rows.add(f"line {number}")
    assert str(rows) == "line 1; line 2; line 3"
    rows.add("line 4")
    assert str(rows) == "line 1; line 2; line 3; and 1 more"
    assert str(RowList(["line 1"], count=1201)) == "line 1; and 1,200 more"


def test_a_count_agrees_with_what_is_counted() -> None:
    assert RowList(["a"]).counted("row has", "rows have") == "1 row has"
    assert RowList(["a"], 1200).counted("row has", "rows have") == "1,200 rows have"


def test_a_long_text_is_shortened_in_quotes() -> None:
    assert quote("a" * 40) == f"'{'a' * 40}'"
    assert quote("a" * 41) == f"'{'a' * 39}…'"
