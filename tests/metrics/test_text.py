from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.errors import MetricError
from rung.formats.numbers import COMMA
from rung.metrics.custom import metric
from rung.metrics.text import (
    METRICS,
    OF_NUMBERS,
    CompletionStats,
    Metric,
    as_number,
    measure,
    propose,
)
from rung.types import Generation

NOTHING = CompletionStats((), None, "")


def value(
    name: str, texts: list[str], wanted: list[str], known: CompletionStats | None = None
) -> float:
    rows = [Generation(text, want) for text, want in zip(texts, wanted, strict=True)]
    return measure(METRICS[name], rows, known or CompletionStats.of(wanted)).value


def test_exact_match_forgives_white_space_at_the_ends_only() -> None:
    assert value("exact_match", [" A B ", "A  B", "a b"], ["A B"] * 3) == pytest.approx(1 / 3)


def test_token_f1_counts_the_words_that_both_have() -> None:
    assert value("token_f1", ["the cat sat"], ["The cat stood up."]) == pytest.approx(
        2 * 2 / (3 + 4)
    )
    assert value("token_f1", ["달 위에"], ["달 아래"]) == pytest.approx(0.5)
    assert value("token_f1", ["", "x"], ["", ""]) == 0.5


def test_an_error_rate_is_edits_over_words_and_not_a_mean_of_rows() -> None:
    wanted = ["D IH F L EH K T ER", "K AE T"]
    assert value("phoneme_error_rate", ["D IH F L EH K T ER", "K AE"], wanted) == pytest.approx(
        1 / 11
    )
    assert value("phoneme_error_rate", ["", "K AE T S S S"], wanted) == pytest.approx(11 / 11), (
        "inserted ones count"
    )


def test_macro_f1_is_the_mean_over_the_labels() -> None:
    """Worked out by hand: F1 of a is 4/5, of b 2/3, of c 0."""
    texts, wanted = ["a", "a", "a", "b", "what?"], ["a", "a", "b", "b", "c"]
    known = CompletionStats(("a", "b", "c"), None, "a")
    assert value("macro_f1", texts, wanted, known) == pytest.approx((4 / 5 + 2 / 3 + 0) / 3)
    assert value("accuracy", texts, wanted, known) == pytest.approx(3 / 5)


def test_json_is_judged_by_its_fields() -> None:
    wanted = ['{"a": 1, "b": [2]}', '{"a": 1, "b": [2]}', '{"a": 1, "b": [2]}', "[1]"]
    texts = ['{"b": [2], "a": 1}', '{"a": 1, "b": 2, "c": 3}', "{a: 1}", "[1]"]
    assert value("json_valid", texts, wanted) == 0.75
    assert value("json_fields", texts, wanted) == pytest.approx((2 + 1 + 0 + 1) / 7)


def test_numbers() -> None:
    texts, wanted = ["$100", "about 1,300.00", "-5"], ["110", "1300", "5"]
    assert value("mean_absolute_error", texts, wanted) == pytest.approx(20 / 3)
    assert value("median_absolute_error", texts, wanted) == 10
    assert value("rmsle", ["99", "7"], ["49", "7"]) == pytest.approx(math.log(2) / math.sqrt(2))
    y, p = np.array([110.0, 1300, 5]), np.array([100.0, 1300, -5])
    assert value("r2", texts, wanted) == pytest.approx(
        1 - ((y - p) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    )


def test_the_bands() -> None:
    """Green: off by less than 40 or 20 %; orange: by 80 or 40 %."""
    wanted = ["100", "100", "100", "1000", "1000", "1000"]
    texts = ["139", "141", "181", "1199", "1399", "1401"]
    assert value("green", texts, wanted) == pytest.approx(2 / 6)
    assert value("green_or_orange", texts, wanted) == pytest.approx(4 / 6)


def test_who_gives_no_number_has_guessed_the_median() -> None:
    known = CompletionStats.of(["10", "20", "60"])
    assert (known.median, known.always) == (20, "20")
    assert value("mean_absolute_error", ["cheap", "12"], ["50", "10"], known) == pytest.approx(
        (30 + 2) / 2
    )
    assert value("answered", ["cheap", "12"], ["50", "10"], known) == 0.5


def test_metrics_of_well_kept_libraries() -> None:
    from sacrebleu.metrics import BLEU, CHRF

    texts, wanted = (
        ["the cat sat on a mat", "it is late now"],
        ["the cat sat on the mat", "it is too late now"],
    )
    assert value("bleu", texts, wanted) == pytest.approx(
        BLEU().corpus_score(texts, [wanted]).score / 100
    )
    sentences = [
        CHRF().sentence_score(a, [b]).score / 100 for a, b in zip(texts, wanted, strict=True)
    ]
    assert value("chrf", texts, wanted) == pytest.approx(sum(sentences) / 2)
    assert value("rouge_l", ["the cat"], ["the fat cat"]) == pytest.approx(0.8)
    assert value("rouge_l", ["달 위에"], ["달 위에"]) == 1, "words of any script"


TEXTS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "1", "2.5", "{}", "x y z", ""]),
        st.sampled_from(["a", "b", "1", "30", "y x"]),
    ),
    min_size=2,
    max_size=12,
)


@given(TEXTS, st.sampled_from(sorted(set(METRICS) - {"bleu", "chrf", "rouge_l"})))
def test_the_rows_pseudo_values_have_the_metric_for_their_mean(
    rows: list[tuple[str, str]], name: str
) -> None:
    written = [Generation(text, wanted) for text, wanted in rows]
    known = CompletionStats.of([wanted for _, wanted in rows])
    found = measure(METRICS[name], written, known)
    if name in OF_NUMBERS and all(known.wanted(wanted) is None for _, wanted in rows):
        assert math.isnan(found.value)
        return
    assert math.isfinite(found.value)
    if METRICS[name].total:
        assert float(np.mean(found.rows)) == pytest.approx(found.value, abs=1e-9)
    else:
        assert not len(found.rows)


def test_a_pseudo_value_of_a_mean_is_the_rows_own_value() -> None:
    rows = [Generation("a", "a"), Generation("b", "a"), Generation("a", "a")]
    assert measure(METRICS["exact_match"], rows, NOTHING).rows == pytest.approx([1, 0, 1])


@pytest.mark.parametrize("name", ["phoneme_error_rate", "macro_f1", "r2", "rmsle"])
def test_the_error_of_a_metric_is_what_other_rows_would_give(name: str) -> None:
    """The jackknife's standard error against the spread over samples drawn anew, within a fifth."""
    draw = np.random.default_rng(3)
    known = CompletionStats(("0", "1", "2"), 1.0, "1")

    def sample(n: int) -> list[Generation]:
        wanted = draw.integers(0, 3, n)
        wrote = np.where(draw.random(n) < 0.7, wanted, draw.integers(0, 3, n))
        more = [
            " x" * int(k) if name == "phoneme_error_rate" else "" for k in draw.integers(0, 4, n)
        ]
        return [
            Generation(f"{a}{tail}", f"{b}{tail[:2]}")
            for a, b, tail in zip(wrote, wanted, more, strict=True)
        ]

    samples = [measure(METRICS[name], sample(150), known) for _ in range(400)]
    spread = float(np.std([found.value for found in samples]))
    errors = [float(np.std(found.rows, ddof=1)) / math.sqrt(150) for found in samples]
    assert float(np.mean(errors)) == pytest.approx(spread, rel=0.2)


@pytest.mark.parametrize(
    ("completions", "first"),
    [
        (["12", "$3,400", "7.5"] * 9, "mean_absolute_error"),
        (['{"a": 1}', '{"a": 2}'] * 9, "json_fields"),
        (["positive", "negative"] * 12, "accuracy"),
        (["0", "1"] * 12, "accuracy"),
        ([" CA", " NY", " TX", " WA"] * 6, "exact_match"),
        ([f" D IH {sound} ER1" for sound in ("K", "T", "B")] * 3, "phoneme_error_rate"),
        ([f"city {i}" for i in range(30)], "exact_match"),
        ([f"a long answer, number {i}, of many words" for i in range(30)], "token_f1"),
    ],
)
def test_what_fits_is_proposed_from_the_completions(completions: list[str], first: str) -> None:
    assert propose(completions, CompletionStats.of(completions))[0] == first


def test_what_a_number_is() -> None:
    numbers = {"64": 64, " $1,299.50 ": 1299.5, "-3e2": -300, "12 USD": 12, ".5": 0.5}
    assert {text: as_number(text) for text in numbers} == numbers
    assert [
        as_number(text) for text in ("none", "4 or 5", "it costs about 12 dollars", "nan", "")
    ] == [None] * 5


def test_letters_of_any_script_are_words() -> None:
    assert value("token_f1", ["दिन"], ["दीन"]) == 0
    assert value("token_f1", ["ไม่ ดี"], ["ไม่ ร้าย"]) == 0.5


def test_who_writes_no_number_where_numbers_stand_in_sentences_has_guessed_their_median() -> None:
    known = CompletionStats.of([f"It costs ${n} in all" for n in (10, 20, 60)])
    assert value("mean_absolute_error", ["no idea"], ["It costs $50 in all"], known) == 30


def test_numbers_that_are_large_beside_their_spread() -> None:
    wanted = [str(1_700_000_000 + 10 * i) for i in range(300)]
    texts = [str(1_700_000_001 + 10 * i) for i in range(300)]
    assert value("r2", texts, wanted) == pytest.approx(
        1 - 300 / np.sum((10 * (np.arange(300) - 149.5)) ** 2)
    )


@pytest.mark.parametrize("name", ["r2", "mean_absolute_error", "rmsle"])
def test_a_number_that_nobody_means_is_none(name: str) -> None:
    found = measure(
        METRICS[name],
        [Generation("9" * 200, "3"), Generation("4", "4"), Generation("1e300", "5")],
        CompletionStats((), 4.0, "4"),
    )
    assert math.isfinite(found.value)
    assert np.isfinite(found.rows).all()


def test_numbers_that_are_all_the_same_leave_nothing_to_explain() -> None:
    assert value("r2", ["5", "7"], ["5", "5"]) == 0
    assert value("r2", ["5", "5"], ["5", "5"]) == 1


def test_bleu_of_a_few_words_is_smoothed_as_its_library_does() -> None:
    from sacrebleu.metrics import BLEU

    texts, wanted = ["a b x d"], ["a b c d"]
    assert value("bleu", texts, wanted) == pytest.approx(
        BLEU().corpus_score(texts, [wanted]).score / 100
    )
    assert value("bleu", texts, wanted) > 0


def test_garbage_is_no_json_that_is_right() -> None:
    assert value("json_fields", ["{oops"], ["{also oops"]) == 0


def test_a_label_with_one_row_does_not_upset_the_error_of_the_others() -> None:
    rows = [Generation("a", "a")] * 40 + [Generation("b", "b")] * 23 + [Generation("a", "c")]
    found = measure(METRICS["macro_f1"], rows, CompletionStats(("a", "b", "c"), None, "a"))
    assert float(np.std(found.rows, ddof=1)) / 8 < 0.05


def test_the_trivial_predictor_says_the_commonest_label() -> None:
    known = CompletionStats.of(["yes"] * 30 + ["no"] * 10)
    assert (known.labels, known.always) == (("no", "yes"), "yes")
    assert CompletionStats.of([f"text {i}" for i in range(40)]).labels == ()


def users(folder: Path, code: str, name: str = "mine") -> Metric:
    path = folder / "own.py"
    path.write_text(code)
    return metric(f"{path}:{name}")


def test_a_users_own_function(tmp_path: Path) -> None:
    mine = users(
        tmp_path,
        "def mine(written, wanted, prompt):\n    return len(written) - len(wanted) + len(prompt)\n",
    )
    found = measure(mine, [Generation("abc", "a", "p"), Generation("a", "a", "p")], NOTHING)
    assert (mine.name, found.value, list(found.rows)) == ("mine", 2, pytest.approx([3, 1]))
    assert mine.loss(2.0) == -2
    (tmp_path / "c").mkdir()
    classy = "from __future__ import annotations\nfrom dataclasses import dataclass\n\n@dataclass\nclass A:\n    x: int\n\n"
    more = users(
        tmp_path / "c",
        classy + "def mine(written, wanted, strict=True):\n    return strict is True\n",
    )
    assert measure(more, [Generation("a", "a", "p")] * 2, NOTHING).value == 1, (
        "what has a default is left alone"
    )
    (tmp_path / "b").mkdir()
    worse = users(
        tmp_path / "b",
        "def off(written, wanted):\n    return 1\noff.lower_is_better = True\n",
        "off",
    )
    assert worse.loss(2.0) == 2


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (
            "def mine(a, b):\n    return 1 / 0\n",
            "failed at a.jsonl, line 3 (ZeroDivisionError: division by zero), where 'x'",
        ),
        ("def mine(a, b):\n    return 'much'\n", "failed at a.jsonl, line 3 (ValueError"),
        ("def mine(a, b):\n    return float('nan')\n", "gave nan at a.jsonl, line 3"),
        ("def other(a, b):\n    return 1\n", "has no function 'mine'"),
        ("import nothing_like_this\n", "cannot be loaded (ModuleNotFoundError"),
    ],
)
def test_a_users_function_that_fails_is_told_with_the_row(
    tmp_path: Path, code: str, says: str
) -> None:
    with pytest.raises(MetricError) as error:
        measure(users(tmp_path, code), [Generation("x", "y", "p", "a.jsonl, line 3")], NOTHING)
    assert says in str(error.value)


def test_a_metric_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MetricError, match="There is no metric 'best'; there are exact_match, "):
        metric("best")
    with pytest.raises(MetricError, match="there is no file '.*none.py'"):
        metric(f"{tmp_path}/none.py:mine")


def test_values_may_be_anything_that_json_can_be() -> None:
    deep: Any = "[" * 100_000
    assert value("json_valid", [deep], [json.dumps({})]) == 0


def test_numbers_are_read_as_their_column_writes_them() -> None:
    known = CompletionStats.of(["3,14", "2,50", "1,75", "1.200,5"] * 3)
    assert (known.median, known.always) == (pytest.approx(2.82), "2,82")
    assert value("mean_absolute_error", ["1.000,5", "1.000"], ["1.200,5", "1.200"], known) == 200
    assert value("answered", ["3,14", "about 2,5", "1.5", "3,1,2"], ["1"] * 4, known) == 0.5, (
        "1.5 is no number there"
    )
    point = CompletionStats.of(["1.234", "0.5"])
    assert value("mean_absolute_error", ["1,234"], ["1.234"], point) == pytest.approx(1232.766)
    assert CompletionStats.of(["1,234", "2,345"]).median == pytest.approx(1789.5)
    assert CompletionStats.of(["1,234", "2,345"], COMMA).median == pytest.approx(1.7895)


def test_signs_and_words_of_numbers_count() -> None:
    known = CompletionStats.of(["1", "2", "3"])
    pairs = [
        ("5", "-$5", 10),
        ("−5", "5", 10),
        ("-5", "−5", 0),
        ("(5)", "-5", 0),
        ("200k", "200000", 0),
        ("2M", "0", 2e6),
    ]
    for text, wanted, off in pairs:
        assert value("mean_absolute_error", [text], [wanted], known) == off, (text, wanted)


def test_a_wanted_text_without_a_number_is_not_zero() -> None:
    known = CompletionStats.of(["1000", "1200", "1400"])
    for name in ("mean_absolute_error", "median_absolute_error"):
        assert (
            value(name, ["1300", "1300", "1300"], ["unknown", "1000", "about 7"], known) == 300
        ), "they are left out"
        assert math.isnan(value(name, ["1300"], ["unknown"], known)), "nothing is no good value"
    for name in ("r2", "rmsle", "green"):
        texts, wanted = ["1", "1000", "1500", "1300"], ["unknown", "1000", "1200", "1700"]
        assert value(name, texts, wanted, known) == pytest.approx(
            value(name, texts[1:], wanted[1:], known)
        )
        assert math.isnan(value(name, ["1300"], ["unknown"], known))


def test_a_row_that_is_left_out_tells_nothing_of_the_error() -> None:
    known, metric = CompletionStats.of(["1000", "1200", "1400"]), METRICS["mean_absolute_error"]
    rows = [Generation(str(1000 + 10 * i), "1000") for i in range(20)]
    own, more = (
        measure(metric, rows, known),
        measure(metric, [*rows, *[Generation("9", "?")] * 20], known),
    )
    assert own.value == more.value == 95
    assert more.rows.std() ** 2 / 40 == pytest.approx(own.rows.std() ** 2 / 20, rel=0.06)


@pytest.mark.parametrize(
    "completions",
    [
        [
            ["B", "D", "F G", "K L", "M"][i % 5] + " " + "BDFGHKLMNPRSTVWYZ"[i % 17]
            for i in range(30)
        ],
        ["2024-01-05", "2023-11-30", "1999-12-31"] * 9,
        ["12:30", "9:15", "7:45 pm"] * 9,
        ["1.2.3", "2.0.1", "1.10"] * 9,
        ["00123", "45678", "90210"] * 9,
        ["5 kg", "300 g", "2 kg"] * 9,
        ["3,1,2", "1,2,3", "2,3,1"] * 9,
    ],
)
def test_what_looks_like_sounds_or_numbers_and_is_none(completions: list[str]) -> None:
    texts = [f"{text}{' ' * i}" for i, text in enumerate(completions)]
    assert (
        propose(texts, CompletionStats((), None, "", CompletionStats.of(texts).numbers))[0]
        == "exact_match"
    )
