from __future__ import annotations

import pytest
from tests.tiny import tiny_tokenizer

from rung.data.read import Row
from rung.data.render import render, render_split
from rung.errors import DataError


def test_prompt_and_completion_are_tokenised_apart_and_the_end_token_is_learnt() -> None:
    tokenizer = tiny_tokenizer()
    (example,) = render([Row("ab", "cd")], tokenizer, 10)
    assert tokenizer.decode(example.ids[: example.prompt]).replace(" ", "") == "ab"
    assert example.ids[-1] == tokenizer.eos_token_id
    assert (example.prompt, example.completion) == (2, 3)


def test_rows_that_do_not_fit_are_left_out_and_a_split_must_not_run_empty() -> None:
    rows = [Row("ab", "cd"), Row("a" * 20, "b"), Row("x", "y")]
    assert len(render(rows, tiny_tokenizer(), 5)) == 2
    with pytest.raises(DataError, match="Of the 3 validation rows 1 fit in 3 tokens; raise max_tokens"):
        render_split(rows, tiny_tokenizer(), 3, "validation")
