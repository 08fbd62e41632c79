from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from rung.data.read.files import read_file
from rung.errors import DataError


def read(path: Path, text: str | bytes) -> tuple[list[Any], list[str]]:
    """The records of a file with that text, errors as their messages; and what is told of it."""
    told: list[str] = []
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    found = [
        str(one) if isinstance(one, DataError) else one[0] for one in read_file(path, told.append)
    ]
    return found, [said.replace(str(path), path.name) for said in told]


def rows(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"p": p, "c": c} for p, c in pairs]


PLAIN = rows(("a", "b, x"), ("c", "d"))


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
def test_delimiters_and_line_ends_are_told_from_the_file(
    tmp_path: Path, name: str, text: str
) -> None:
    assert read(tmp_path / name, text) == (PLAIN, [])


def test_a_header_with_commas_in_quotes_and_semicolons_between(tmp_path: Path) -> None:
    text = '"question, short, or long";answer\na;3,14\nb;2,50\n'
    found, _ = read(tmp_path / "a.csv", text)
    assert found == [
        {"question, short, or long": q, "answer": a} for q, a in (("a", "3,14"), ("b", "2,50"))
    ]


def test_a_row_says_where_it_is_also_behind_a_line_that_names_the_delimiter(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("sep=;\np;c\na;b\n\nc;d\n")
    assert [where for _, where in read_file(path)] == [f"{path}, line 3", f"{path}, line 5"]  # type: ignore[misc]


def test_cells_are_texts_as_they_stand(tmp_path: Path) -> None:
    cells = [
        "NA",
        "null",
        "None",
        "nan",
        "007",
        "12345678901234567890",
        "1.50",
        "1e5",
        "TRUE",
        "2024-01-05",
        " x ",
        "",
    ]
    found, told = read(
        tmp_path / "a.csv", "p,c\n" + "".join(f"{i},{cell}\n" for i, cell in enumerate(cells))
    )
    assert [row["c"] for row in found] == cells
    assert told == []


def test_spaces_between_delimiters_and_quotes_are_no_part_of_a_cell_and_that_is_told(
    tmp_path: Path,
) -> None:
    found, told = read(tmp_path / "a.csv", 'p, c\n"a", "b, x"\nc, d\n')
    assert found == PLAIN
    assert told == [
        "a.csv has spaces between delimiters and quotes; no space behind a delimiter is part of a cell"
    ]


def test_spaces_that_belong_to_cells_stay(tmp_path: Path) -> None:
    own = rows((" a", ' "b" c'), ('d, "e"', " f"))
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["p", "c"])
        writer.writeheader()
        writer.writerows(own)
    assert read(tmp_path / "a.csv", (tmp_path / "a.csv").read_bytes()) == (own, [])


def test_a_space_before_a_quote_far_down_is_refused(tmp_path: Path) -> None:
    found, _ = read(tmp_path / "a.csv", "p,c\n" + "a,b\n" * 1100 + 'a, "b"\n' + "a,b\n")
    assert len(found) == 1102
    assert "line 1102: a space stands before a quote" in found[1100]


def test_single_quotes_around_all_cells(tmp_path: Path) -> None:
    found, told = read(tmp_path / "a.csv", "'p','c'\n'a','b, x'\n'it''s','d'\n")
    assert found == rows(("a", "b, x"), ("it's", "d"))
    assert told == ["a.csv has its cells in single quotes, and they are no part of the cells"]
    assert read(tmp_path / "b.csv", "p,c\n'a',b\nc,'tis\n") == (
        rows(("'a'", "b"), ("c", "'tis")),
        [],
    )


def test_a_quote_within_a_cell_is_a_quote(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", 'p,c\na,5" nail\nb,6"\n') == (
        rows(("a", '5" nail'), ("b", '6"')),
        [],
    )


def test_a_loose_quote_in_a_file_with_tabs_swallows_no_rows(tmp_path: Path) -> None:
    text = 'p\tc\na\t"open\nb\tx\nc\tclose"\nd\ty\n'
    wanted = rows(("a", '"open'), ("b", "x"), ("c", 'close"'), ("d", "y"))
    assert read(tmp_path / "a.tsv", text) == (wanted, [])


def test_a_quote_that_swallows_rows_is_told(tmp_path: Path) -> None:
    found, told = read(tmp_path / "a.csv", 'p,c\na,"open\nb,x\nc,close"\nd,y\n')
    assert found == rows(("a", "open\nb,x\nc,close"), ("d", "y"))
    assert told == [
        "In a.csv, line 2, a cell in quotes has lines that look like rows of their own; close its quote"
    ]
    poem = 'p,c\na,"Roses are red\nViolets, too\nand so on"\nd,y\n'
    assert read(tmp_path / "b.csv", poem)[1] == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('p,c\na,"b\nc,d\n', "line 2: this is no CSV (unexpected end of data)"),
        ('p,c\na,"b" x\nc,d\n', "line 2: this is no CSV (',' expected after '\"')"),
        ('p,c\na,"say \\"hi\\" now"\n', "line 2: this is no CSV"),
        ("p,p\na,b\n", "line 1: the header has 'p' twice"),
    ],
)
def test_where_quotes_are_wrong_nothing_more_is_read(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path / "a.csv", text)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("a,b,c", "the row has 3 cells, and the header 2; quote cells that have commas in them"),
        ("a", "the row has 1 cells, and the header 2"),
        ("a,3,14", "the row has 3 cells"),
        ("a,\0b", "the row has a byte of 0"),
    ],
)
def test_a_row_that_is_wrong_is_named_and_the_others_are_read(
    tmp_path: Path, row: str, says: str
) -> None:
    found, _ = read(tmp_path / "a.csv", f"p,c\nx,y\n{row}\nz,w\n")
    assert (found[0], found[2]) == ({"p": "x", "c": "y"}, {"p": "z", "c": "w"})
    assert f"line 3: {says}" in found[1]


@pytest.mark.parametrize("second", ["p,c\n", "\ufeffp,c\n", '\ufeff"p","c"\n', "p , c\n"])
def test_a_header_within_a_file_is_no_row_and_told(tmp_path: Path, second: str) -> None:
    found, told = read(tmp_path / "a.csv", f"p,c\na,b\n{second}c,d\n{second}e,f\n")
    assert found == rows(("a", "b"), ("c", "d"), ("e", "f"))
    assert told == ["a.csv, line 3 and 1 more is the header again, and no row"]


def test_texts_with_commas_over_several_lines_are_no_rows(tmp_path: Path) -> None:
    letter = 'p,c\n"Write a letter"," Dear John\nThanks, Bob"\n'
    code = "p,c\n" + '"Do x","f(a,b)\ng(c,d)"\n' * 50
    for text, count in (
        (letter, 1),
        (letter + '"Again","Dear Ann\nYours, Bob"\n' * 2, 3),
        (code, 50),
    ):
        found, told = read(tmp_path / "a.csv", text)
        assert (len(found), told) == (count, [])
