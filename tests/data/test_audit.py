from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from tests.odd_tokenizers import byte_level, pieces, words
from tests.tiny import tiny_tokenizer

from rung.data.audit import Finding, audit
from rung.data.prepare import prepare
from rung.recipe import Recipe

WORDS = [f"w{i}" for i in range(400)]


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def rows(count: int, seed: int, words: int = 20) -> list[dict[str, str]]:
    draw = random.Random(seed)
    return [
        {
            "prompt": "Say this: " + " ".join(draw.choices(WORDS, k=words)),
            "completion": " " + " ".join(draw.choices(WORDS, k=2)),
        }
        for _ in range(count)
    ]


def found(
    tmp_path: Path, train: list[Any], validation: list[Any], test: list[Any], **options: Any
) -> dict[str, Finding]:
    files = [
        write(tmp_path / name, part)
        for name, part in zip(
            ("a.jsonl", "v.jsonl", "t.jsonl"), (train, validation, test), strict=True
        )
    ]
    recipe = Recipe(data=files[0], validation=files[1], test=files[2], **options)
    return {finding.kind: finding for finding in audit(prepare(recipe, tiny_tokenizer()))}


def test_clean_data_have_nothing_said_of_them(tmp_path: Path) -> None:
    assert found(tmp_path, rows(300, 1), rows(120, 2), rows(120, 3)) == {}


def test_a_row_in_two_splits_is_an_error_with_both_places(tmp_path: Path) -> None:
    train, validation, test = rows(300, 1), rows(120, 2), rows(120, 3)
    leaked = {"prompt": train[7]["prompt"].upper() + " !", "completion": train[7]["completion"]}
    finding = found(tmp_path, train, [*validation, leaked], [*test, validation[3]])["leakage"]
    assert finding.severity == "error"
    assert finding.message.startswith("2 rows stand in two splits")
    assert f"{tmp_path}/a.jsonl, line 8 = {tmp_path}/v.jsonl, line 121" in finding.message
    assert f"{tmp_path}/v.jsonl, line 4 = {tmp_path}/t.jsonl, line 121" in finding.message


def test_the_same_prompt_with_another_answer_is_a_warning(tmp_path: Path) -> None:
    train, validation = rows(300, 1), rows(120, 2)
    validation.append({**train[0], "completion": " something else"})
    finding = found(tmp_path, train, validation, rows(120, 3))
    assert "leakage" not in finding
    assert finding["same_prompt"].severity == "warning"
    assert "line 1 ~ " in finding["same_prompt"].message


def test_a_row_that_is_nearly_another_is_a_warning_with_both_places(tmp_path: Path) -> None:
    train, validation = rows(300, 1, words=60), rows(120, 2, words=60)
    words = train[9]["prompt"].split()
    words[30] = "changed"
    validation.append({"prompt": " ".join(words), "completion": " something else"})
    finding = found(tmp_path, train, validation, rows(120, 3, words=60))
    assert set(finding) == {"near_duplicates"}
    assert finding["near_duplicates"].message.startswith(
        "1 training row is nearly a row that is judged by"
    )
    assert (
        f"{tmp_path}/a.jsonl, line 10 ≈ {tmp_path}/v.jsonl, line 121"
        in finding["near_duplicates"].message
    )


def test_a_frame_that_all_rows_share_makes_no_two_of_them_alike(tmp_path: Path) -> None:
    frame = (
        "Below is an instruction that describes a task. Write a response that fits the request well. "
        * 3
    )
    parts = [
        [{**row, "prompt": frame + row["prompt"]} for row in rows(200, seed, words=8)]
        for seed in (1, 2, 3)
    ]
    assert found(tmp_path, *parts) == {}


def test_rows_that_stand_twice_in_training_are_noted(tmp_path: Path) -> None:
    train = rows(300, 1)
    finding = found(tmp_path, [*train, *train[:5]], rows(120, 2), rows(120, 3))["duplicates"]
    assert (finding.severity, finding.message[:12]) == ("note", "5 of 305 tra")


def test_empty_and_identical_completions(tmp_path: Path) -> None:
    train = rows(300, 1)
    for row in train[:100]:
        row["completion"] = " I do not know."
    train[200]["completion"] = ""
    finding = found(tmp_path, train, rows(120, 2), rows(120, 3))
    assert "1 of 300 training rows have an empty completion" in finding["empty"].message
    assert "line 201" in finding["empty"].message
    assert (
        "33.3% of the training rows have the same completion, 'I do not know.'"
        in finding["identical"].message
    )
    for row in train:
        row["completion"] = " x"
    assert (
        "Every completion is 'x'"
        in found(tmp_path, train, rows(120, 2), rows(120, 3))["identical"].message
    )


def test_labels_and_their_imbalance(tmp_path: Path) -> None:
    parts = [rows(300, 1), rows(120, 2), rows(120, 3)]
    for part in parts:
        for i, row in enumerate(part):
            row["completion"] = " yes" if i % 10 else " no"
    assert (
        "90.0% of the training rows have the label 'yes'"
        in found(tmp_path, *parts)["imbalance"].message
    )
    for part in parts:
        for i, row in enumerate(part):
            row["completion"] = " yes" if i % 2 else " no"
    finding = found(tmp_path, *parts)
    assert (finding["labels"].severity, set(finding)) == ("note", {"labels"})


def test_long_rows_and_malformed_ones_and_few_of_them(tmp_path: Path) -> None:
    train = [*rows(300, 1), {"prompt": "p"}, {"prompt": "p " * 300, "completion": "c"}]
    finding = found(tmp_path, train, rows(50, 2), rows(120, 3), skip_bad_rows=True)
    assert "1 malformed row is left out" in finding["malformed"].message
    assert "line 301" in finding["malformed"].message
    assert (
        "1 of 471 rows (0.2%) are longer than max_tokens; the longest has 602 tokens"
        in finding["long"].message
    )
    assert "There are 50 validation rows" in finding["few_rows"].message


def test_a_completion_that_runs_into_its_prompt(tmp_path: Path) -> None:
    parts = [
        [{**row, "completion": row["completion"].strip()} for row in rows(200, seed)]
        for seed in (1, 2, 3)
    ]
    assert "nothing parts prompt and completion" in found(tmp_path, *parts)["separator"].message


def test_what_rows_say_and_their_texts_do_not_is_counted(tmp_path: Path) -> None:
    """Under a template that shows an earlier answer otherwise, and no thoughts."""
    template = tmp_path / "mine.jinja"
    template.write_text(
        "{% for m in messages %}{{ m.role + ':' }}{{ '-' if m.role == 'assistant' and loop.last }}{{ m.content }}"
        "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )

    def chats(count: int, word: str) -> list[Any]:
        roles = ("user", "assistant") * 2
        turns = [
            [{"role": role, "content": f"{word}{i}{role}{j}"} for j, role in enumerate(roles)]
            for i in range(count)
        ]
        return [
            {"messages": own, "id": i, "images": ["a.png"][: i % 2]} for i, own in enumerate(turns)
        ]

    train = chats(300, "a")
    train[4]["messages"][3]["reasoning_content"] = "let me see"
    finding = found(tmp_path, train, chats(120, "b"), chats(120, "c"), template=str(template))
    assert set(finding) == {"not_learnt", "not_shown", "left_out", "unused"}
    assert "others follow (540 in 540 rows, the first " in finding["not_learnt"].message
    assert (
        f"'reasoning_content' in turns of 'assistant' (in 1 row, the first {tmp_path}/a.jsonl, line 5)"
        in (finding["not_shown"].message)
    )
    assert "come into no row: 'images' (in 270 rows, the first " in finding["left_out"].message
    assert "Neither given nor learnt: 'id' (in 540 rows" in finding["unused"].message
    severities = {kind: one.severity for kind, one in finding.items()}
    assert severities == {
        "not_learnt": "warning",
        "not_shown": "warning",
        "left_out": "warning",
        "unused": "note",
    }


@pytest.mark.slow
def test_a_prompt_whose_last_token_merges_with_the_completion(tmp_path: Path) -> None:
    from rung.model.load import load_tokenizer

    data = write(
        tmp_path / "a.jsonl",
        [{"prompt": f"{i}. Answer: ", "completion": "yes indeed"} for i in range(400)],
    )
    kinds = {
        f.kind: f
        for f in audit(prepare(Recipe(data=data), load_tokenizer("smollm2-135m-instruct")))
    }
    assert (
        "In 400 rows the prompt's last token merges with the completion"
        in kinds["boundary"].message
    )


def test_completions_that_the_tokenizer_cannot_write_are_a_warning(tmp_path: Path) -> None:
    """Letters that it has no token for, and capitals that it folds."""
    for tokenizer, spoiled, back in (
        (tiny_tokenizer(), " 달 w1", "w1"),
        (words(), " Lima", "lima"),
        (byte_level(), " e\u0301", None),
    ):
        train = [{"prompt": "the " * (i + 1), "completion": " cat"} for i in range(60)]
        train[7]["completion"] = spoiled
        files = [
            write(tmp_path / f"{name}.jsonl", train[:30] if name != "a" else train)
            for name in "avt"
        ]
        data = prepare(Recipe(data=files[0], validation=files[1], test=files[2]), tokenizer)
        findings = {finding.kind: finding for finding in audit(data, tokenizer)}
        if back is None:
            assert "lossy" not in findings, "bytes write everything"
            continue
        assert findings["lossy"].severity == "warning"
        assert findings["lossy"].message == (
            f"Of 60 rows the tokenizer cannot write 1 as they are: {tmp_path}/a.jsonl, line 8: "
            f"'{spoiled.strip()}' comes back as '{back}'."
        )


def test_prompts_with_letters_that_the_tokenizer_does_not_know_are_a_warning_too(
    tmp_path: Path,
) -> None:
    train = [{"prompt": f"row {i} {'달' * (i == 3)}:", "completion": " w"} for i in range(60)]
    files = [write(tmp_path / f"{name}.jsonl", train) for name in "avt"]
    data = prepare(Recipe(data=files[0], validation=files[1], test=files[2]), tiny_tokenizer())
    findings = {finding.kind: finding for finding in audit(data, tiny_tokenizer())}
    assert findings["lossy"].message == (
        f"Of 60 rows the tokenizer cannot write 1 as they are: {tmp_path}/a.jsonl, line 4: "
        "'row 3 달:' is read as 'row 3 :'."
    )


def test_texts_that_write_marks_of_their_own_are_no_loss(tmp_path: Path) -> None:
    for tokenizer, marks in ((pieces(), "<s>"), (byte_level(bos="<s>", around="<s> $A"), "<s>")):
        texts = [{"text": f"{marks}{'the ' * (i + 1)}cat</s>{marks}and Peru"} for i in range(60)]
        files = [write(tmp_path / f"{name}.jsonl", texts) for name in "avt"]
        data = prepare(Recipe(data=files[0], validation=files[1], test=files[2]), tokenizer)
        assert "lossy" not in {finding.kind for finding in audit(data, tokenizer)}


def test_a_template_that_leaves_the_tokenizers_first_token_out_is_noted(tmp_path: Path) -> None:
    tokenizer = byte_level(bos="<s>", around="<s> $A")
    chats = [
        {"prompt": [user(f"{i}")], "completion": [{"role": "assistant", "content": "yes"}]}
        for i in range(60)
    ]
    files = [write(tmp_path / f"{name}.jsonl", chats) for name in "avt"]
    for first, noted in (("", True), ("<s>", False)):
        tokenizer.chat_template = first + "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        data = prepare(Recipe(data=files[0], validation=files[1], test=files[2]), tokenizer)
        kinds = {finding.kind: finding for finding in audit(data, tokenizer)}
        assert ("first_token" in kinds) == noted
        if noted:
            assert kinds["first_token"].message.startswith(
                "The tokenizer begins a text with '<s>' and the chat template"
            )


def test_an_end_that_only_the_template_knows_is_a_warning(tmp_path: Path) -> None:
    """As a base model's ChatML has it: its turns end with another token than its texts, and servers know the latter."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["~"]})
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + '~' }}{% endfor %}"
    chats = [
        {"prompt": [user(f"{i}")], "completion": [{"role": "assistant", "content": "yes"}]}
        for i in range(60)
    ]
    files = [write(tmp_path / f"{name}.jsonl", chats) for name in "avt"]
    end = tokenizer.convert_tokens_to_ids("~")
    for ends, warned in ([], True), ([end], False):
        data = prepare(
            Recipe(data=files[0], validation=files[1], test=files[2]), tokenizer, ends=ends
        )
        assert data.stats.end_tokens == [1, end]
        kinds = {finding.kind: finding for finding in audit(data, tokenizer)}
        assert ("end_token" in kinds) == warned
        if warned:
            assert kinds["end_token"].severity == "warning"
            assert kinds["end_token"].message.startswith(
                "What is learnt ends with '~', which neither the tokenizer nor"
            )


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def turns(number: int, end: int) -> list[dict[str, str]]:
    texts = [
        f"Where did {number} go first of all?",
        f"To the port of {number}.",
        "And then?",
        f"To hill {number * 3}.",
    ]
    return [
        {"role": ("user", "assistant")[n % 2], "content": text}
        for n, text in enumerate(texts[:end])
    ]


def test_conversations_that_go_on_in_training_have_leaked(tmp_path: Path) -> None:
    train = [{"messages": turns(i, 4)} for i in range(200)]
    validation = [{"messages": turns(i + 1000, 4)} for i in range(110)]
    test = [
        *({"messages": turns(i, 2)} for i in range(12)),
        *({"messages": turns(i + 2000, 4)} for i in range(110)),
    ]
    finding = found(tmp_path, train, validation, test, template="plain")["leakage"]
    assert finding.severity == "error"
    assert finding.message.startswith(
        "12 rows to judge by stand in conversations of the training split"
    )
    assert f"{tmp_path}/t.jsonl, line 1 ⊂ {tmp_path}/a.jsonl, line 1;" in finding.message


def test_prompts_that_show_another_splits_row_are_told(tmp_path: Path) -> None:
    train, validation, test = rows(300, 1), rows(120, 2), rows(120, 3)
    shown = f"{train[4]['prompt']}{train[4]['completion']}\n{validation[9]['prompt']}"
    validation[9] = {**validation[9], "prompt": shown}
    train[7] = {
        **train[7],
        "prompt": f"{test[2]['prompt']}{test[2]['completion']}\n{train[7]['prompt']}",
    }
    finding = found(tmp_path, train, validation, test)
    assert "leakage" not in finding
    assert finding["same_prompt"].message.startswith(
        "2 rows have all of another split's row in the prompt"
    )
    assert (
        f"{tmp_path}/v.jsonl, line 10 ~ {tmp_path}/a.jsonl, line 5"
        in finding["same_prompt"].message
    )
    assert (
        f"{tmp_path}/t.jsonl, line 3 ~ {tmp_path}/a.jsonl, line 8" in finding["same_prompt"].message
    )


def test_labels_that_differ_by_case_or_a_full_stop(tmp_path: Path) -> None:
    parts = [rows(300, 1), rows(120, 2), rows(120, 3)]
    for part in parts:
        for i, row in enumerate(part):
            row["completion"] = (" Yes", " No", " yes", " no.")[i % 4 if i < 40 else i % 2]
    finding = found(tmp_path, *parts)["variants"]
    assert finding.severity == "warning"
    assert "'Yes' (140) and 'yes' (10); 'No' (140) and 'no.' (10)" in finding.message
    for part in parts:
        for i, row in enumerate(part):
            row["completion"] = (" C", " C++", " -1", " 1")[i % 4]
    assert "variants" not in found(tmp_path, *parts)


def test_what_a_format_leaves_behind_in_texts(tmp_path: Path) -> None:
    train, validation, test = rows(300, 1), rows(120, 2), rows(120, 3)
    train[3]["completion"], train[4]["prompt"] = " nan", "None"
    train[5]["completion"], train[6]["prompt"] = " cafÃ©", "it is lost \ufffd here"
    train[7]["completion"] = " São Paulo, «Ça va»"
    finding = found(tmp_path, train, validation, test)
    assert set(finding) == {"missing", "garbled"}
    assert finding["missing"].message.startswith("2 of 300 training rows have 'nan'")
    assert finding["garbled"].message.startswith("2 training rows have letters that were lost")
    for row in train:
        row["completion"] = f'"{row["completion"]}"'
    assert (
        "In 300 of 300 training rows the completion stands in quotes"
        in found(tmp_path, train, validation, test)["quoted"].message
    )


def test_completions_in_a_code_fence_are_not_in_quotes(tmp_path: Path) -> None:
    parts = [rows(300, 1), rows(120, 2), rows(120, 3)]
    for part in parts:
        for i, row in enumerate(part):
            row["completion"] = f'\n```json\n{{"a": {i}}}\n```'
    assert "quoted" not in found(tmp_path, *parts)


@pytest.mark.parametrize(
    ("label", "times", "told"),
    [("N/A", 100, False), ("None", 30, False), ("N/A", 1, True), ("nan", 100, True)],
)
def test_no_answer_may_be_a_label(tmp_path: Path, label: str, times: int, told: bool) -> None:
    parts = [rows(300, 1), rows(120, 2), rows(120, 3)]
    for part in parts:
        for i, row in enumerate(part):
            row["completion"] = f" {label}" if i < times else (" Yes", " No")[i % 2]
    assert ("missing" in found(tmp_path, *parts)) == told


def numbered(
    tmp_path: Path, values: list[str], numbers: str = "auto", held: list[str] | None = None
) -> Finding | None:
    """What is said of the numbers, where all completions are these in turn; or those, in the test rows."""
    parts = [rows(300, 1), rows(120, 2), rows(120, 3)]
    for part, own in zip(parts, (values, values, held or values), strict=True):
        for i, row in enumerate(part):
            row["completion"] = own[i % len(own)]
    files = [write(tmp_path / f"{i}.jsonl", part) for i, part in enumerate(parts)]
    data = prepare(Recipe(data=files[0], validation=files[1], test=files[2]), tiny_tokenizer())
    return next(
        (finding for finding in audit(data, numbers=numbers) if finding.kind == "numbers"), None
    )


def test_how_numbers_are_read_is_shown(tmp_path: Path) -> None:
    assert numbered(tmp_path, ["12", "7"]) is None
    assert numbered(tmp_path, ["a 3,14", "b"]) is None
    finding = numbered(tmp_path, ["3,14", "1.234,5", "200k", "(5)"])
    assert finding
    assert finding.severity == "note"
    says = "numbers with a decimal comma: '3,14' is 3.14, '200k' is 200000, '(5)' is -5. To have them read otherwise"
    assert says in finding.message


def test_what_cannot_be_told_of_numbers_is_asked(tmp_path: Path) -> None:
    finding = numbered(tmp_path, ["1,234", "2,345"])
    assert finding
    assert finding.severity == "warning"
    assert (
        "'1,234' is 1234 with a decimal point and 1.234 with a decimal comma, and no completion tells"
        in finding.message
    )
    assert (
        "1234 is assumed. To have them read otherwise, give --numbers point or --numbers comma."
        in finding.message
    )
    told = numbered(tmp_path, ["1,234", "2,345"], "comma")
    assert told
    assert (told.severity, "'1,234' is 1.234" in told.message) == ("note", True)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            ["5 kg", "300 g"],
            "The numbers have several units ('kg', 'g'), so no error of theirs is worked out",
        ),
        (["3,5"] * 30 + ["2.5"], "9 of 300 completions are no such number, such as '2.5'"),
        (["3,5"] * 30 + ["3,1,2"], "9 of 300 completions are no such number, such as '3,1,2'"),
        (
            ["3,5", "2.5"],
            "150 of 300 completions are no such number, such as '3,5'; write all of them alike",
        ),
        (
            ["7.0", "12.0", "3.0"],
            "Whole numbers are written as '7.0', as a table does once one of them is missing",
        ),
    ],
)
def test_numbers_that_cannot_be_compared(tmp_path: Path, values: list[str], says: str) -> None:
    finding = numbered(tmp_path, values)
    assert finding
    assert (finding.severity, says in finding.message) == ("warning", True), finding.message


@pytest.mark.parametrize(
    "values",
    [
        ["5", "7", "2020"],
        ["$1,234.56", "$12.50", "-$5.00"],
        ["1.234,56 €", "12,50 €"],
        ["12 %", "12.5 %"],
        ["1", "2", "5"],
        ["1,3", "2,7", "1"],
        ["-5", "12"],
        ["5 kg", "7 kg"],
        ["$2.5m", "$100k"],
        ["$5", "7"],
    ],
)
def test_ordinary_numbers_are_no_cause_for_a_warning(tmp_path: Path, values: list[str]) -> None:
    finding = numbered(tmp_path, values)
    assert finding is None or finding.severity == "note", finding


def test_a_unit_is_told(tmp_path: Path) -> None:
    for values, says in (
        (["5 kg", "7 kg"], "All of the numbers have the unit 'kg'."),
        (["$5", "7"], "Some of the numbers have no unit, and count as '$'."),
        (["2.5m", "100k"], "'2.5m' is 2500000, '100k' is 100000."),
        (["3 M€", "200 T€"], ": '3 M€' is 3000000, '200 T€' is 2e+14."),
    ):
        finding = numbered(tmp_path, values)
        assert finding
        assert says in finding.message


def test_numbers_that_may_be_lists_are_asked_about(tmp_path: Path) -> None:
    finding = numbered(tmp_path, ["3,4", "1,2"])
    assert finding
    assert finding.severity == "warning"
    assert (
        "'3,4' is 3.4. Each may be a list of two; if '3,4' is one, put brackets around all of them."
        in finding.message
    )
    told = numbered(tmp_path, ["3,4", "1,2"], "comma")
    assert told
    assert told.severity == "note"


def test_held_out_numbers_that_are_written_otherwise_are_told(tmp_path: Path) -> None:
    finding = numbered(tmp_path, ["12,34", "5,6", "1"], held=["12.34", "5,6"])
    assert finding
    assert finding.severity == "warning"
    assert (
        "60 of 240 held-out completions are no such number, such as '12.34'; no error is worked out there"
        in (finding.message)
    )
    other = numbered(tmp_path, ["5 kg"], held=["5 g"])
    assert other
    assert "several units ('kg', 'g')" in other.message
