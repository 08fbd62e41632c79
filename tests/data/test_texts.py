from __future__ import annotations

from rung.data.arrow_store import Texts


def test_thoughts_are_not_part_of_the_generated_answer() -> None:
    text = Texts("q", "<think>\n\n</think>\n\n", "4", "a.jsonl, line 1")
    assert text.answer_in("<think>\n\n</think>\n\n4") == "4"
    assert text.answer_in("<think>\nis it 5?\n</think>\n\n4") == "4"
    assert text.answer_in("4") == "4"


def test_what_the_template_writes_first_is_removed_once() -> None:
    assert Texts("q", "final", "x", "").answer_in("finalthe final x") == "the final x"
