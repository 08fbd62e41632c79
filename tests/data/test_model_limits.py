from __future__ import annotations

from pathlib import Path

import pytest
from tests.data.jsonl import prepare_data, write_rows
from tests.tiny import tiny_tokenizer

from rung.data.model_limits import (
    check_model_limits,
    count_possible_truncations,
    max_new_tokens,
)
from rung.data.prepare import Data
from rung.errors import DataError


@pytest.fixture
def data(tmp_path: Path) -> Data:
    """Rows of 12 tokens; and one of 31 tokens, with the token 96, a tilde."""
    rows = [{"prompt": f"row {i:04}:", "completion": "ab"} for i in range(60)]
    held_out = write_rows(tmp_path / "held_out.jsonl", rows[:30])
    rows[40] = {"prompt": "a longer row:", "completion": "abcdefghijklmnop~"}
    train = write_rows(tmp_path / "train.jsonl", rows)
    return prepare_data(train, validation=held_out, test=held_out)


class TestCheck:
    def test_rows_that_fit_pass(self, data: Data) -> None:
        check_model_limits(data, 31, 97, tiny_tokenizer())
        check_model_limits(data, None, 97, tiny_tokenizer())

    def test_rows_with_more_tokens_than_positions_are_counted_with_the_remedy(
        self, data: Data
    ) -> None:
        with pytest.raises(DataError) as error:
            check_model_limits(data, 30, 97, tiny_tokenizer())
        assert str(error.value) == (
            "1 of 120 rows have more tokens than the model has positions, 30, and the longest has "
            "31; give --max-tokens 30."
        )

    def test_a_token_beyond_the_embedding_is_named_with_its_row(self, data: Data) -> None:
        with pytest.raises(
            DataError,
            match=r"train\.jsonl, line 41 has the token '.+', which is number 96 in the tokenizer, "
            "but the model's embedding has only 96 tokens",
        ):
            check_model_limits(data, None, 96, tiny_tokenizer())


class TestGeneration:
    def test_a_quarter_more_than_the_longest_completion_may_be_generated(self, data: Data) -> None:
        assert max_new_tokens(data.train) == 18 + 4
        assert max_new_tokens(data.validation) == 3

    @pytest.mark.parametrize(
        ("positions", "count"), [(None, 0), (13 + 22, 0), (13 + 21, 1), (9 + 21, 60)]
    )
    def test_prompts_whose_text_may_not_fit_the_positions_are_counted(
        self, data: Data, positions: int | None, count: int
    ) -> None:
        assert count_possible_truncations(data.train, positions) == count
