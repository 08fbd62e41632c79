"""From a recipe to three splits of examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.data.chats import chat
from tests.data.jsonl import numbered_rows, prepare_data, write_rows
from tests.tiny import tiny_tokenizer

from rung.data.arrow_store import Examples
from rung.data.example import Example
from rung.data.prepare import prepare
from rung.data.row_errors import InvalidFieldsError
from rung.data.schema import RecordReader
from rung.data.tokenize import RowTokenizer
from rung.errors import DataError
from rung.recipe import Recipe


def prompts(examples: Examples) -> list[str]:
    return [text.prompt for text in examples.every_text()]


def tokens_of(example: Example | DataError) -> tuple[object, ...]:
    assert isinstance(example, Example)
    return example.ids, example.prompt_length, example.learned_spans, example.separate_prompt


class TestExamples:
    def test_they_are_those_of_the_row_tokenizer(self, tmp_path: Path) -> None:
        chats = [
            {"messages": chat(*(f"{i}{j}" for j in range(i % 3 + 1) for _ in "qa"))}
            for i in range(1500)
        ]
        data = prepare_data(write_rows(tmp_path / "a.jsonl", chats), template="plain")
        reader = RecordReader()
        expected = RowTokenizer(tiny_tokenizer(), template="plain").tokenize(
            [reader.read(record, "") for record in chats]
        )
        examples = [example for split in data.splits.values() for example in split]
        assert len(examples) == 1500
        assert sorted(map(tokens_of, examples)) == sorted(map(tokens_of, expected))
        assert data.train.lengths == [len(example.ids) for example in data.train]

    def test_another_template_makes_other_data(self, tmp_path: Path) -> None:
        path = write_rows(
            tmp_path / "a.jsonl", [{"messages": chat(f"{i}", f"{i}")} for i in range(400)]
        )
        digests = set()
        for mark in "[<":
            template = tmp_path / "t.jinja"
            template.write_text(
                "{% for m in messages %}{{ '" + mark + "' + m['content'] + eos_token }}{% endfor %}"
            )
            digests.add(prepare_data(path, template=str(template)).stats.digest)
        assert len(digests) == 2

    def test_the_digest_depends_on_the_tokens_and_not_on_the_tokenizer(
        self, tmp_path: Path
    ) -> None:
        """The template writes the first token if there is one."""
        path = write_rows(
            tmp_path / "a.jsonl", [{"messages": chat(f"{i}", f"{i}")} for i in range(400)]
        )
        prepared = []
        for first, padding in ((None, "<end>"), ("~", "<end>"), (None, "<unk>")):
            tokenizer = tiny_tokenizer()
            tokenizer.chat_template = (
                "{{ bos_token or '' }}"
                "{% for m in messages %}{{ m['content'] + '<end>' }}{% endfor %}"
            )
            if first:
                tokenizer.bos_token = first
            tokenizer.pad_token = padding
            prepared.append(prepare(Recipe(data=path), tokenizer))
        assert len({data.train.path for data in prepared}) == 3, "each has a cache of its own"
        first_token = tiny_tokenizer().convert_tokens_to_ids("~")
        begins_with_it = [data.train[0].ids[0] == first_token for data in prepared]
        assert begins_with_it == [False, True, False]
        digests = [data.stats.digest for data in prepared]
        assert digests[0] == digests[2] != digests[1]


class TestSplits:
    def test_validation_and_test_are_made_from_the_sources_of_the_training_rows(
        self, tmp_path: Path
    ) -> None:
        rows = numbered_rows(400) + numbered_rows(400, " P")
        data = prepare_data(write_rows(tmp_path / "a.jsonl", rows))
        prompts_of = [
            {prompt.strip().lower() for prompt in prompts(examples)}
            for examples in data.splits.values()
        ]
        # Prompts that differ only in case and white space are in the same split.
        assert sum(map(len, prompts_of)) == len(set.union(*prompts_of)) == 400
        assert sum(len(examples) for examples in data.splits.values()) == 800
        assert all(20 < len(examples) < 150 for examples in (data.validation, data.test))

    def test_files_that_the_user_gives_are_used_as_a_whole(self, tmp_path: Path) -> None:
        train = write_rows(tmp_path / "a.jsonl", numbered_rows(10))
        validation = write_rows(tmp_path / "v.jsonl", numbered_rows(3, "v"))
        test = write_rows(tmp_path / "t.jsonl", numbered_rows(2, "t"))
        data = prepare_data(train, validation=validation, test=test)
        assert [len(examples) for examples in data.splits.values()] == [10, 3, 2]
        assert data.validation.texts(1).location == f"{validation}, line 2"

    def test_only_the_splits_that_a_folder_lacks_are_made(self, tmp_path: Path) -> None:
        write_rows(tmp_path / "train.jsonl", numbered_rows(300))
        write_rows(tmp_path / "dev.jsonl", numbered_rows(5, "v"))
        data = prepare_data(str(tmp_path))
        assert (len(data.validation), data.stats.made_splits) == (5, ["test"])
        assert len(data.train) + len(data.test) == 300

    def test_a_folder_for_one_split_may_have_a_file_of_that_split(self, tmp_path: Path) -> None:
        train = write_rows(tmp_path / "a.jsonl", numbered_rows(300))
        folder = tmp_path / "other"
        folder.mkdir()
        write_rows(folder / "train.jsonl", numbered_rows(9, "x"))
        with_test = write_rows(folder / "test.jsonl", numbered_rows(7, "t"))
        data = prepare_data(train, test=str(folder))
        assert {text.location.partition(",")[0] for text in data.test.every_text()} == {with_test}
        with pytest.raises(DataError, match="--validation: '.*' has files of train and test; give"):
            prepare_data(train, validation=str(folder))

    def test_data_without_a_training_split_is_an_error(self, tmp_path: Path) -> None:
        write_rows(tmp_path / "dev.jsonl", numbered_rows(5))
        write_rows(tmp_path / "test.jsonl", numbered_rows(5))
        (tmp_path / "dev.jsonl").rename(tmp_path / "val.jsonl")
        data = prepare_or_error(str(tmp_path))
        assert data == (f"'{tmp_path}' has no training split, only validation and test; add one.")

    def test_a_built_in_task_has_its_own_splits(self) -> None:
        assert [len(split) for split in prepare_data("price").splits.values()] == [2400, 400, 600]
        with pytest.raises(DataError, match="has its own splits; leave --validation and --test"):
            prepare_data("price", validation="x.jsonl")

    def test_the_error_of_a_missing_file_names_the_built_in_tasks(self) -> None:
        with pytest.raises(
            DataError,
            match="There is no data file 'none.jsonl'.* The built-in tasks are pronounce, price",
        ):
            prepare_data("none.jsonl")


def prepare_or_error(data: str, **options: Any) -> str:
    try:
        prepare_data(data, **options)
    except DataError as error:
        return str(error)
    return ""


class TestLongRows:
    @pytest.fixture
    def path(self, tmp_path: Path) -> str:
        """400 short rows, and 20 of 57 tokens or so."""
        long_rows = [{"prompt": f"long{i}", "completion": "x" * 50} for i in range(20)]
        return write_rows(tmp_path / "a.jsonl", [*numbered_rows(400), *long_rows])

    def test_they_are_left_out(self, path: str) -> None:
        data = prepare_data(path, max_tokens=30)
        assert sum(data.stats.long_rows.values()) == 20
        assert sum(len(examples) for examples in data.splits.values()) == 400
        assert max(data.train.lengths) <= 30

    def test_they_are_cut_if_the_recipe_says_so(self, path: str) -> None:
        data = prepare_data(path, max_tokens=30, long_rows="cut")
        assert sum(len(examples) for examples in data.splits.values()) == 420
        assert max(data.train.lengths) == 30


class TestBadRows:
    @pytest.fixture
    def path(self, tmp_path: Path) -> str:
        rows = [*numbered_rows(300), {"prompt": "p"}, 7, *numbered_rows(300, "q")]
        return write_rows(tmp_path / "a.jsonl", rows)

    def test_the_first_one_is_an_error(self, path: str) -> None:
        with pytest.raises(
            DataError, match=r"a.jsonl, line 301: .*; or leave out such rows with --skip-bad-rows\."
        ):
            prepare_data(path)

    def test_they_are_counted_and_listed_if_the_recipe_skips_them(self, path: str) -> None:
        data = prepare_data(path, skip_bad_rows=True)
        assert sum(len(examples) for examples in data.splits.values()) == 600
        assert data.stats.bad_rows == 2
        locations = [message.partition(": ")[0] for message in data.stats.bad_row_messages]
        assert locations == [f"{path}, line 301", f"{path}, line 302"]

    def test_the_error_is_the_same_with_data_in_the_cache(self, path: str) -> None:
        before = prepare_or_error(path)
        prepare_data(path, skip_bad_rows=True)
        assert prepare_or_error(path) == before != ""

    def test_a_file_of_bad_rows_only_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(
            DataError, match="has no row that can be used; the first bad row is .*line 1"
        ):
            prepare_data(write_rows(tmp_path / "a.jsonl", [1, 2]), skip_bad_rows=True)

    def test_an_empty_file_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="has no row that can be used; it is empty"):
            prepare_data(write_rows(tmp_path / "b.jsonl", []))


class TestFieldsWithOtherNames:
    """All rows have the same fields, so it does not help to skip one."""

    def test_the_error_does_not_propose_to_skip_rows(self, tmp_path: Path) -> None:
        path = write_rows(tmp_path / "a.jsonl", [{"ask": "q", "say": "a"}])
        with pytest.raises(InvalidFieldsError) as error:
            prepare_data(path)
        assert "--fields" in str(error.value)
        assert "--skip-bad-rows" not in str(error.value)

    def test_nor_does_it_with_data_in_the_cache(self, tmp_path: Path) -> None:
        path = write_rows(tmp_path / "a.jsonl", [{"ask": "q", "say": "a"}, *numbered_rows(400)])
        before = prepare_or_error(path)
        prepare_data(path, skip_bad_rows=True)
        with pytest.raises(InvalidFieldsError) as error:
            prepare_data(path)
        assert str(error.value) == before

    def test_a_file_whose_name_looks_like_the_option_is_no_such_error(self, tmp_path: Path) -> None:
        path = write_rows(tmp_path / "a--fields.jsonl", [*numbered_rows(300), 7])
        with pytest.raises(DataError, match="or leave out such rows with --skip-bad-rows"):
            prepare_data(path)

    def test_the_first_row_of_a_table_may_be_its_missing_header(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("ask 1,say 1\nask 2,say 2\n")
        with pytest.raises(
            InvalidFieldsError,
            match="--fields .* The names are taken from the first line; if that is a row, put",
        ):
            prepare_data(str(tmp_path / "a.csv"))

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            (
                "a.csv",
                "messages\n\"[{'role': 'user'}\n {'role': 'assistant'}]\"\n",
                "as numpy prints a list",
            ),
            (
                "a.jsonl",
                '{"custom_id": "1", "method": "POST", "body": {}}\n',
                "this is a batch file of OpenAI",
            ),
        ],
    )
    def test_a_first_row_with_another_remedy_is_no_such_error(
        self, tmp_path: Path, name: str, text: str, message: str
    ) -> None:
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=message) as error:
            prepare_data(str(tmp_path / name))
        assert not isinstance(error.value, InvalidFieldsError)
        assert "--fields" not in str(error.value)
