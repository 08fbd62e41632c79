from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.read.records import locations, records, write

from rung.data.read.files import read_file
from rung.errors import DataError


def read(path: Path, text: str | bytes) -> tuple[list[Any], list[str]]:
    """The records of a file with this text, errors as their messages; and the notes about it."""
    notes: list[str] = []
    found = [
        str(record) if isinstance(record, DataError) else record[0]
        for record in read_file(write(path, text), notes.append)
    ]
    return found, [note.replace(str(path), path.name) for note in notes]


def rows(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"p": p, "c": c} for p, c in pairs]


@given(
    st.lists(
        st.lists(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
            min_size=2,
            max_size=2,
        ),
        max_size=6,
    )
)
def test_quoted_cells_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, cells: list[list[str]]
) -> None:
    folder = tmp_path_factory.mktemp("csv")
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t"), ("b.csv", ";")):
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL)
        writer.writerows([["prompt", "completion"], *cells])
        assert records(write(folder / name, text.getvalue())) == [
            dict(zip(("prompt", "completion"), row, strict=True)) for row in cells
        ]


class TestDialects:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("a.csv", 'p,c\na,"b, x"\nc,d\n'),
            ("a.csv", 'p;c\na;"b, x"\nc;d\n'),
            ("a.csv", "p;c\na;b, x\nc;d\n"),
            ("a.csv", "p|c\na|b, x\nc|d\n"),
            ("a.csv", "p\tc\na\tb, x\nc\td\n"),
            ("a.tsv", "p\tc\na\tb, x\nc\td\n"),
            ("a.csv", '"p";"c"\n"a";"b, x"\n"c";"d"\n'),
            ("a.csv", '\ufeffp,c\r\na,"b, x"\r\n\r\nc,d\r\n'),
            ("a.csv", 'p,c\ra,"b, x"\rc,d\r'),
            ("a.csv", 'sep=,\np,c\na,"b, x"\nc,d\n'),
            ("a.csv", "sep=;\r\np;c\r\na;b, x\r\nc;d\r\n"),
            ("a.csv", '"sep=|"\np|c\na|b, x\nc|d\n'),
        ],
    )
    def test_delimiter_and_line_ends_are_detected(
        self, tmp_path: Path, name: str, text: str
    ) -> None:
        assert read(tmp_path / name, text) == (rows(("a", "b, x"), ("c", "d")), [])

    def test_the_delimiter_is_the_one_that_makes_rows_of_one_length(self, tmp_path: Path) -> None:
        text = '"question, short, or long";answer\na;3,14\nb;2,50\n'
        found, _ = read(tmp_path / "a.csv", text)
        assert found == [
            {"question, short, or long": "a", "answer": "3,14"},
            {"question, short, or long": "b", "answer": "2,50"},
        ]

    def test_a_space_after_every_delimiter_is_not_part_of_a_cell_and_is_noted(
        self, tmp_path: Path
    ) -> None:
        found, notes = read(tmp_path / "a.csv", 'p, c\n"a", "b, x"\nc, d\n')
        assert found == rows(("a", "b, x"), ("c", "d"))
        assert notes == [
            "a.csv has spaces between delimiters and quotes; spaces after a delimiter are not part "
            "of a cell"
        ]

    def test_single_quotes_around_all_cells_are_not_part_of_them_and_are_noted(
        self, tmp_path: Path
    ) -> None:
        found, notes = read(tmp_path / "a.csv", "'p','c'\n'a','b, x'\n'it''s','d'\n")
        assert found == rows(("a", "b, x"), ("it's", "d"))
        assert notes == [
            "a.csv has its cells in single quotes; the quotes are not part of the cells"
        ]

    def test_single_quotes_around_some_cells_are_part_of_them(self, tmp_path: Path) -> None:
        expected = rows(("'a'", "b"), ("c", "'tis"))
        assert read(tmp_path / "b.csv", "p,c\n'a',b\nc,'tis\n") == (expected, [])

    def test_quotes_in_a_file_with_tabs_are_part_of_the_text_if_quoting_makes_no_rows(
        self, tmp_path: Path
    ) -> None:
        text = 'p\tc\n"Hello" he said\t1\n'
        assert read(tmp_path / "a.tsv", text) == (rows(('"Hello" he said', "1")), [])

    def test_quotes_in_a_file_with_tabs_are_part_of_the_text_if_quoting_swallows_rows(
        self, tmp_path: Path
    ) -> None:
        text = 'p\tc\na\t"open\nb\tx\nc\tclose"\nd\ty\n'
        expected = rows(("a", '"open'), ("b", "x"), ("c", 'close"'), ("d", "y"))
        assert read(tmp_path / "a.tsv", text) == (expected, [])

    def test_quotes_in_a_file_with_tabs_are_quotes_if_the_names_in_the_header_are_quoted(
        self, tmp_path: Path
    ) -> None:
        text = '"p"\t"c"\n""\t"\n\t"\n'
        assert records(write(tmp_path / "a.tsv", text)) == rows(("", "\n\t"))

    def test_quotes_in_a_file_with_tabs_are_quotes_if_quoting_makes_rows(
        self, tmp_path: Path
    ) -> None:
        expected = rows(('Say "hi" now', "1"), ("two\nlines\tand a tab", "2"))
        with (tmp_path / "b.tsv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["p", "c"], delimiter="\t")
            writer.writeheader()
            writer.writerows(expected)
        assert records(tmp_path / "b.tsv") == expected


class TestCells:
    def test_cells_are_texts_exactly_as_written(self, tmp_path: Path) -> None:
        cells = [
            *("NA", "null", "None", "nan", "007", "12345678901234567890", "1.50", "1e5", "TRUE"),
            *("2024-01-05", " x ", ""),
        ]
        text = "p,c\n" + "".join(f"{i},{cell}\n" for i, cell in enumerate(cells))
        found, notes = read(tmp_path / "a.csv", text)
        assert [row["c"] for row in found] == cells
        assert notes == []

    def test_spaces_that_belong_to_cells_stay(self, tmp_path: Path) -> None:
        expected = rows((" a", ' "b" c'), ('d, "e"', " f"))
        with (tmp_path / "a.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["p", "c"])
            writer.writeheader()
            writer.writerows(expected)
        assert read(tmp_path / "a.csv", (tmp_path / "a.csv").read_bytes()) == (expected, [])

    def test_a_quote_inside_of_a_cell_is_part_of_it(self, tmp_path: Path) -> None:
        expected = rows(("a", '5" nail'), ("b", '6"'))
        assert read(tmp_path / "a.csv", 'p,c\na,5" nail\nb,6"\n') == (expected, [])

    def test_very_long_cells_are_read(self, tmp_path: Path) -> None:
        cell = "x" * 5_000_000
        assert records(write(tmp_path / "a.csv", f"a,b\n{cell},1\n")) == [{"a": cell, "b": "1"}]


class TestLocations:
    def test_a_row_is_located_by_its_first_line(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", 'a,b\n"x\ny",1\nz,2\n')
        assert locations(path) == [f"{path}, line 2", f"{path}, line 4"]

    def test_a_line_that_names_the_delimiter_counts(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", "sep=;\np;c\na;b\n\nc;d\n")
        assert locations(path) == [f"{path}, line 3", f"{path}, line 5"]


class TestMalformedFiles:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('p,c\na,"b\nc,d\n', "line 2: this is not valid CSV (unexpected end of data)"),
            (
                'p,c\na,"b" x\nc,d\n',
                "line 2: this is not valid CSV (',' expected after '\"'), and nothing after it can",
            ),
            ('p,c\na,"say \\"hi\\" now"\n', "line 2: this is not valid CSV"),
            ("p,p\na,b\n", "line 1: the header has the column 'p' twice"),
            ("p,c,p\na,b,c\n", "line 1: the header has the column 'p' twice"),
        ],
    )
    def test_a_file_with_a_wrong_quote_or_header_is_never_read_in_part(
        self, tmp_path: Path, text: str, message: str
    ) -> None:
        with pytest.raises(DataError) as error:
            read(tmp_path / "a.csv", text)
        assert f"{tmp_path / 'a.csv'}, {message}" in str(error.value)

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            (
                "a,b,c",
                "the row has 3 cells, and the header has 2; quote the cells that contain commas",
            ),
            ("a", "the row has 1 cells, and the header has 2"),
            ("a,3,14", "the row has 3 cells"),
            ("a,\0b", "the row has a zero byte"),
        ],
    )
    def test_the_error_of_a_bad_row_stands_in_its_place(
        self, tmp_path: Path, row: str, message: str
    ) -> None:
        path = tmp_path / "a.csv"
        (first, error, last), _ = read(path, f"p,c\nx,y\n{row}\nz,w\n")
        assert (first, last) == ({"p": "x", "c": "y"}, {"p": "z", "c": "w"})
        assert f"{path}, line 3: {message}" in error
        assert "\n" not in error

    def test_a_space_before_a_quote_after_the_first_rows_is_an_error(self, tmp_path: Path) -> None:
        found, _ = read(tmp_path / "a.csv", "p,c\n" + "a,b\n" * 1100 + 'a, "b"\n' + "a,b\n")
        assert len(found) == 1102
        assert "line 1102: a space stands before a quote" in found[1100]

    @pytest.mark.parametrize("header", ["p,c\n", "\ufeffp,c\n", '\ufeff"p","c"\n', "p , c\n"])
    def test_a_repeated_header_is_skipped_and_noted(self, tmp_path: Path, header: str) -> None:
        found, notes = read(tmp_path / "a.csv", f"p,c\na,b\n{header}c,d\n{header}e,f\n")
        assert found == rows(("a", "b"), ("c", "d"), ("e", "f"))
        assert notes == ["a.csv, line 3 and 1 more repeats the header and is skipped"]


class TestSwallowedRows:
    def test_a_quoted_cell_with_lines_that_look_like_rows_is_noted(self, tmp_path: Path) -> None:
        found, notes = read(tmp_path / "a.csv", 'p,c\na,"open\nb,x\nc,close"\nd,y\n')
        assert found == rows(("a", "open\nb,x\nc,close"), ("d", "y"))
        assert notes == [
            "In a.csv, line 2, a quoted cell has lines that look like rows; close its quote"
        ]

    @pytest.mark.parametrize(
        ("text", "row_count"),
        [
            ('p,c\na,"Roses are red\nViolets, too\nand so on"\nd,y\n', 2),
            ('p,c\n"Write a letter"," Dear John\nThanks, Bob"\n', 1),
            (
                'p,c\n"Write a letter"," Dear John\nThanks, Bob"\n'
                + '"Again","Dear Ann\nYours, Bob"\n' * 2,
                3,
            ),
            ("p,c\n" + '"Do x","f(a,b)\ng(c,d)"\n' * 50, 50),
        ],
    )
    def test_texts_with_commas_in_several_lines_are_not(
        self, tmp_path: Path, text: str, row_count: int
    ) -> None:
        found, notes = read(tmp_path / "a.csv", text)
        assert (len(found), notes) == (row_count, [])
