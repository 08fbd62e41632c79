from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny import tiny_tokenizer

import rung.data.prepare
from rung.data.arrow_store import Examples, ExampleWriter
from rung.data.example import Example
from rung.data.prepare import Data, prepare
from rung.data.rows import Row
from rung.data.splits import split_of
from rung.data.tokenize import RowTokenizer
from rung.errors import DataError
from rung.recipe import Recipe

MADE = ["validation", "test"]


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def rows(count: int, word: str = "p") -> list[Any]:
    return [{"prompt": f"{word}{i}", "completion": f"c{i}"} for i in range(count)]


def prepared(data: str, **options: Any) -> Data:
    return prepare(Recipe(data=data, **options), tiny_tokenizer())


def everything(example: Example | DataError) -> tuple[object, ...]:
    assert isinstance(example, Example)
    return example.ids, example.prompt_length, example.learned_spans, example.separate_prompt


def prompts(examples: Examples) -> list[str]:
    return [text.prompt for text in examples.every_text()]


def test_what_comes_out_is_what_the_renderer_made(tmp_path: Path) -> None:
    chats = [
        {
            "messages": [
                {"role": role, "content": f"{i}{j}"}
                for j in range(i % 3 + 1)
                for role in ("user", "assistant")
            ]
        }
        for i in range(1500)
    ]
    data = prepared(write(tmp_path / "a.jsonl", chats), template="plain")
    reader = rung.data.prepare.Reader()
    wanted = RowTokenizer(tiny_tokenizer(), template="plain").tokenize(
        [reader.row(chat, "") for chat in chats]
    )
    found = [examples[i] for examples in data.splits.values() for i in range(len(examples))]
    assert len(found) == 1500
    one, other = (
        {
            (e.ids, e.prompt_length, e.learned_spans, e.separate_prompt)
            for e in some
            if isinstance(e, Example)
        }
        for some in (found, wanted)
    )
    assert one == other
    assert data.train.lengths == [len(example.ids) for example in data.train]
    assert data.train[3:5][1] == data.train[4]


def test_without_files_of_their_own_validation_and_test_are_split_off_by_the_source(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "a.jsonl", rows(400) + rows(400, " P"))
    data = prepared(path)
    parts = [{prompt.strip().lower() for prompt in prompts(part)} for part in data.splits.values()]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert sum(map(len, parts)) == 400, "those that only case and space tell apart are on one side"
    assert sum(len(part) for part in data.splits.values()) == 800
    assert all(20 < len(part) < 150 for part in (data.validation, data.test))


@given(st.text(min_size=1), st.text())
def test_the_same_row_always_falls_in_the_same_split(prompt: str, completion: str) -> None:
    where = split_of(Row(prompt, completion), MADE)
    assert where == split_of(Row(prompt, completion + "!"), MADE)
    assert split_of(Row(prompt, completion), ["test"]) == (
        "train" if where == "validation" else where
    )


def test_files_of_their_own_are_taken_whole(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", rows(10))
    validation, test = (
        write(tmp_path / "v.jsonl", rows(3, "v")),
        write(tmp_path / "t.jsonl", rows(2, "t")),
    )
    found = prepared(data, validation=validation, test=test)
    assert [len(part) for part in found.splits.values()] == [10, 3, 2]
    assert found.validation.texts(1).location == f"{validation}, line 2"


def test_the_splits_of_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", rows(300))
    write(tmp_path / "dev.jsonl", rows(5, "v"))
    found = prepared(str(tmp_path))
    assert (len(found.validation), found.stats.made_splits) == (5, ["test"])
    assert len(found.train) + len(found.test) == 300


def test_a_split_that_is_too_small_to_judge_by_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give more rows, or a --validation file"):
        prepared(write(tmp_path / "a.jsonl", rows(30)))
    data, one = (write(tmp_path / f"{count}.jsonl", rows(count)) for count in (100, 1))
    with pytest.raises(DataError, match="at least two"):
        prepared(data, validation=one, test=data)


def test_a_split_that_is_made_has_no_more_rows_than_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.jsonl", rows(1000))
    whole = prepared(path)
    monkeypatch.setattr(rung.data.prepare, "MADE_ROWS", 30)
    capped = prepared(path)
    assert len(capped.validation) == len(capped.test) == 30
    assert set(prompts(capped.validation)) < set(prompts(whole.validation)), (
        "the others are used nowhere"
    )
    assert prompts(capped.train) == prompts(whole.train)


def test_long_rows_are_left_out_and_refused_when_they_are_many(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        [*rows(400), *({"prompt": f"long{i}", "completion": "x" * 50} for i in range(20))],
    )
    found = prepared(path, max_tokens=30)
    assert sum(found.stats.long_rows.values()) == 20
    assert sum(len(part) for part in found.splits.values()) == 400
    assert max(found.train.lengths) <= 30
    cut = prepared(path, max_tokens=30, long_rows="cut")
    assert sum(len(part) for part in cut.splits.values()) == 420
    assert max(cut.train.lengths) == 30
    with pytest.raises(
        DataError, match=r"20 of 420 rows \(4.8%\) are longer than 30 tokens .*left out, and 1%"
    ):
        prepared(path, max_tokens=30, max_long_rows=0.01)
    with pytest.raises(
        DataError, match=r"give --max-tokens 57, or allow it with --max-long-rows 0.05"
    ):
        prepared(path, max_tokens=30, max_long_rows=0.01)


def test_of_a_split_whose_rows_are_all_too_long(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", rows(100))
    long = write(tmp_path / "v.jsonl", [{"prompt": "p" * 40, "completion": "c"}] * 3)
    with pytest.raises(
        DataError, match="Of the 3 validation rows 0 fit in 30 tokens; raise --max-tokens"
    ):
        prepared(data, validation=long, max_tokens=30)


def test_a_bad_row_stops_it_unless_it_is_to_be_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*rows(300), {"prompt": "p"}, 7, *rows(300, "q")])
    with pytest.raises(
        DataError, match=r"a.jsonl, line 301: .* or go on without such rows: --skip-bad-rows"
    ):
        prepared(path)
    found = prepared(path, skip_bad_rows=True)
    assert sum(len(part) for part in found.splits.values()) == 600
    assert found.stats.bad_rows == 2
    assert [said.partition(": ")[0] for said in found.stats.bad_row_messages] == [
        f"{path}, line 301",
        f"{path}, line 302",
    ]
    with pytest.raises(DataError, match="line 301"):
        prepared(path)


def test_a_file_of_nothing_but_bad_rows_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="is not one row that can be used; the first of them: .*line 1"
    ):
        prepared(write(tmp_path / "a.jsonl", [1, 2]), skip_bad_rows=True)
    with pytest.raises(DataError, match="is not one row that can be used, it is empty"):
        prepared(write(tmp_path / "b.jsonl", []))


@pytest.mark.parametrize(
    ("name", "text", "says", "asks"),
    [
        (
            "a.csv",
            "ask 1,say 1\nask 2,say 2\n",
            "The names are those of the first line; if that is a row, put",
            True,
        ),
        (
            "a.csv",
            "messages\n\"[{'role': 'user'}\n {'role': 'assistant'}]\"\n",
            "as numpy prints a list",
            False,
        ),
        (
            "a.jsonl",
            '{"custom_id": "1", "method": "POST", "body": {}}\n',
            "this is a batch of OpenAI's",
            False,
        ),
    ],
)
def test_what_to_do_about_a_first_row_that_is_none(
    tmp_path: Path, name: str, text: str, says: str, asks: bool
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError) as error:
        prepared(str(path))
    assert says in str(error.value)
    assert ("--fields" in str(error.value)) == asks


def test_a_split_of_one_source_is_no_sample(tmp_path: Path) -> None:
    speakers = [{"prompt": f"p{i}", "completion": "c", "speaker": f"s{i % 3}"} for i in range(300)]
    path = write(tmp_path / "a.jsonl", speakers)
    held = write(tmp_path / "v.jsonl", [row for row in speakers if row["speaker"] == "s1"])
    with pytest.raises(DataError, match="100 rows of the validation split are all of one source"):
        prepared(path, validation=held, test=path, fields={"source": "speaker"})


def test_a_folder_of_the_cache_that_is_not_whole_is_made_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", rows(400))
    folder = prepared(path).train.path.parent
    (folder / "facts.json").unlink()
    assert len(prepared(path).train) > 200


def test_another_template_makes_other_data(tmp_path: Path) -> None:
    chats = [
        {"messages": [{"role": r, "content": f"{i}"} for r in ("user", "assistant")]}
        for i in range(400)
    ]
    path, template = write(tmp_path / "a.jsonl", chats), tmp_path / "t.jinja"
    digests = set()
    for mark in "[<":
        template.write_text(
            "{% for m in messages %}{{ '" + mark + "' + m['content'] + eos_token }}{% endfor %}"
        )
        digests.add(prepared(path, template=str(template)).stats.digest)
    assert len(digests) == 2


def test_another_tokenizer_makes_other_data_and_one_that_makes_the_same_tokens_the_same(
    tmp_path: Path,
) -> None:
    """A template that writes the first token, before there is one and after."""
    chats = [
        {"messages": [{"role": r, "content": f"{i}"} for r in ("user", "assistant")]}
        for i in range(400)
    ]
    path, found = write(tmp_path / "a.jsonl", chats), []
    for first, last in ((None, "<end>"), ("~", "<end>"), (None, "<unk>")):
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = (
            "{{ bos_token or '' }}{% for m in messages %}{{ m['content'] + '<end>' }}{% endfor %}"
        )
        if first:
            tokenizer.bos_token = first
        tokenizer.pad_token = last
        found.append(prepare(Recipe(data=path), tokenizer))
    assert len({data.train.path for data in found}) == 3, "each is tokenised"
    assert [data.train[0].ids[0] == tokenizer.convert_tokens_to_ids("~") for data in found] == [
        False,
        True,
        False,
    ]
    assert found[0].stats.digest == found[2].stats.digest != found[1].stats.digest


def test_the_key_of_the_cache_has_the_versions_and_the_models_end_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.jsonl", rows(400))
    first = prepared(path)
    other = prepare(Recipe(data=path), tiny_tokenizer(), end_tokens=[7])
    assert (first.stats.end_tokens, other.stats.end_tokens) == ([1], [1, 7])
    monkeypatch.setattr(rung.data.prepare, "versions", lambda: ["another"])
    assert prepared(path).train.path != first.train.path


def test_rows_are_tokenised_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", rows(400))
    first = prepared(path)
    with monkeypatch.context() as patch:
        patch.setattr(rung.data.prepare, "_write", lambda *_: pytest.fail("the cache has it"))
        assert prepared(path).stats == first.stats
        with pytest.raises(pytest.fail.Exception):
            prepared(path, max_tokens=99)
    write(Path(path), rows(401))
    assert prepared(path).stats.digest != first.stats.digest, (
        "the file's content is the key, not its name"
    )


def test_what_stops_in_the_middle_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rung.data.prepare, "cache_folder", lambda: tmp_path / "cache")
    with pytest.raises(DataError):
        prepared(write(tmp_path / "a.jsonl", [*rows(600), 7]))
    assert list((tmp_path / "cache" / "data").iterdir()) == []


def test_a_built_in_task_has_its_own_splits() -> None:
    with pytest.raises(DataError, match="brings its own splits"):
        prepared("price", validation="x.jsonl")
    assert [len(part) for part in prepared("price").splits.values()] == [2400, 400, 600]


def test_a_folder_of_its_own_names_the_tasks_too() -> None:
    with pytest.raises(
        DataError,
        match="There is no data file 'none.jsonl'.* The built-in tasks are pronounce, price",
    ):
        prepared("none.jsonl")


def test_a_store_without_rows(tmp_path: Path) -> None:
    with ExampleWriter(tmp_path / "a.arrow"):
        pass
    examples = Examples(tmp_path / "a.arrow")
    assert (len(examples), list(examples), examples.lengths) == (0, [], [])
