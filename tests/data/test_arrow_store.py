from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rung.data.arrow_store import Examples, ExampleWriter, Texts
from rung.data.example import Example
from rung.data.rows import Row

COUNT = 2500
"""More rows than two record batches have."""


def example(number: int) -> Example:
    return Example(tuple(range(number % 7 + 3)), 2, spans=((2, 3),), separate_prompt=(number,))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "a.arrow"
    with ExampleWriter(path) as writer:
        for number in range(COUNT):
            row = Row(f"the question number {number}", f"a{number}")
            writer.add(example(number), row, ("lead", f"a{number}"), f"line {number}")
    return path


def test_examples_are_read_as_they_were_written(path: Path) -> None:
    examples = Examples(path)
    assert len(examples) == COUNT
    assert len(examples.batches) == 3
    for number in (0, 1023, 1024, COUNT - 1):
        found, expected = examples[number], example(number)
        assert (found.ids, found.spans, found.separate_prompt, found.prompt_length) == (
            expected.ids,
            expected.spans,
            expected.separate_prompt,
            expected.prompt_length,
        )


def test_texts_are_read_as_they_were_written(path: Path) -> None:
    texts = list(Examples(path).every_text())
    assert len(texts) == COUNT
    assert texts[1500] == Texts("the question number 1500", "lead", "a1500", "line 1500")
    assert texts[1500] == Examples(path).texts(1500)


def test_every_column_has_the_selected_rows_only(path: Path) -> None:
    whole, selected = Examples(path), np.array([3, 1023, 1024, 2400])
    part = Examples(path, selected)
    assert [part[i] for i in range(4)] == [whole[int(row)] for row in selected]
    assert list(part.pairs()) == [list(whole.pairs())[row] for row in selected]
    assert part.lengths == [whole.lengths[row] for row in selected]
    assert part.sources().tolist() == whole.sources()[selected].tolist()
    assert part.hashes().tolist() == whole.hashes()[:, selected].tolist()


def test_a_slice_is_a_selection(path: Path) -> None:
    whole = Examples(path)
    assert whole[3:5][1] == whole[4]
    assert len(whole[2400:]) == 100


def test_rows_with_different_prompts_have_different_sources(path: Path) -> None:
    examples = Examples(path)
    assert len(set(examples.sources().tolist())) == COUNT
    assert int(examples[7].source, 16) == examples.sources()[7]


def test_the_highest_token_counts_separate_prompts_too(path: Path) -> None:
    assert Examples(path).highest_token == COUNT - 1


def test_a_file_without_rows_is_a_sequence_without_examples(tmp_path: Path) -> None:
    with ExampleWriter(tmp_path / "a.arrow"):
        pass
    examples = Examples(tmp_path / "a.arrow")
    assert (len(examples), list(examples), examples.lengths) == (0, [], [])
    assert (examples.sources().shape, examples.hashes().shape) == ((0,), (3, 0))


class TestAnswerInGeneratedText:
    def test_thoughts_are_not_part_of_the_answer(self) -> None:
        texts = Texts("q", "<think>\n\n</think>\n\n", "4", "a.jsonl, line 1")
        assert texts.answer_in("<think>\n\n</think>\n\n4") == "4"
        assert texts.answer_in("<think>\nis it 5?\n</think>\n\n4") == "4"
        assert texts.answer_in("4") == "4"

    def test_the_lead_is_removed_once(self) -> None:
        assert Texts("q", "final", "x", "").answer_in("finalthe final x") == "the final x"
