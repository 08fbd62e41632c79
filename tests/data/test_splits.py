from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.jsonl import numbered_rows, prepare_data, write_rows

import rung.data.splits
from rung.data.rows import Row
from rung.data.splits import split_of
from rung.errors import DataError

MADE = ["validation", "test"]


class TestSplitOf:
    @given(st.text(min_size=1), st.text())
    def test_the_split_depends_on_the_source_alone(self, prompt: str, completion: str) -> None:
        split = split_of(Row(prompt, completion), MADE)
        assert split == split_of(Row(prompt, completion + "!"), MADE)
        assert split == split_of(Row("another", "row", source=prompt), MADE)

    @given(st.text(min_size=1))
    def test_without_a_made_validation_split_its_rows_are_training_rows(self, prompt: str) -> None:
        split = split_of(Row(prompt, ""), MADE)
        assert split_of(Row(prompt, ""), ["test"]) == ("test" if split == "test" else "train")
        assert split_of(Row(prompt, ""), []) == "train"

    def test_about_a_tenth_of_the_sources_goes_to_each_made_split(self) -> None:
        splits = [split_of(Row(f"p{i}", ""), MADE) for i in range(2000)]
        for split in MADE:
            assert 150 < splits.count(split) < 250


class TestLimit:
    def test_a_made_split_has_no_more_rows_than_the_limit(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write_rows(tmp_path / "a.jsonl", numbered_rows(1000))
        whole = prepare_data(path)
        monkeypatch.setattr(rung.data.splits, "MAX_MADE_ROWS", 30)
        limited = prepare_data(path)
        assert len(limited.validation) == len(limited.test) == 30
        for split in MADE:
            kept, rows = set(limited.splits[split].pairs()), set(whole.splits[split].pairs())
            assert kept < rows
        assert list(limited.train.pairs()) == list(whole.train.pairs()), "the rest is not used"


class TestChecks:
    def test_a_made_split_with_too_few_rows_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(
            DataError,
            match=r"Only \d rows of .* would be in the validation split, which needs 20; give more "
            "rows, or a --validation file",
        ):
            prepare_data(write_rows(tmp_path / "a.jsonl", numbered_rows(30)))

    def test_a_given_split_needs_two_rows(self, tmp_path: Path) -> None:
        many = write_rows(tmp_path / "many.jsonl", numbered_rows(100))
        one = write_rows(tmp_path / "one.jsonl", numbered_rows(1))
        with pytest.raises(DataError, match="The validation split has 1 row; it needs at least 2"):
            prepare_data(many, validation=one, test=many)

    def test_a_split_whose_rows_are_all_too_long_is_an_error(self, tmp_path: Path) -> None:
        train = write_rows(tmp_path / "a.jsonl", numbered_rows(100))
        long_rows = [{"prompt": "p" * 40, "completion": "c"}] * 3
        validation = write_rows(tmp_path / "v.jsonl", long_rows)
        with pytest.raises(
            DataError, match="Only 0 of the 3 validation rows fit in 30 tokens; raise --max-tokens"
        ):
            prepare_data(train, validation=validation, max_tokens=30)

    def test_more_long_rows_than_the_recipe_allows_are_an_error_with_both_remedies(
        self, tmp_path: Path
    ) -> None:
        long_rows = [{"prompt": f"long{i}", "completion": "x" * 50} for i in range(20)]
        path = write_rows(tmp_path / "a.jsonl", [*numbered_rows(400), *long_rows])
        with pytest.raises(DataError) as error:
            prepare_data(path, max_tokens=30, max_long_rows=0.01)
        assert str(error.value) == (
            "20 of 420 rows (4.8%) are longer than 30 tokens and would be left out, but at most 1% "
            "may be; give --max-tokens 57, or allow it with --max-long-rows 0.05."
        )

    def test_a_split_of_one_source_is_an_error(self, tmp_path: Path) -> None:
        rows = [{"prompt": f"p{i}", "completion": "c", "speaker": f"s{i % 3}"} for i in range(300)]
        path = write_rows(tmp_path / "a.jsonl", rows)
        one_speaker = [row for row in rows if row["speaker"] == "s1"]
        validation = write_rows(tmp_path / "v.jsonl", one_speaker)
        with pytest.raises(
            DataError, match="The 100 rows of the validation split are all of one source"
        ):
            prepare_data(path, validation=validation, test=path, fields={"source": "speaker"})
