from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.tiny import tiny_tokenizer

from rung.data.arrow_store import Texts
from rung.data.example import Example
from rung.data.rows import Messages, Row
from rung.data.tokenize import RowTokenizer, render
from rung.errors import DataError

CHATML = (
    "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)


def chat(*turns: str) -> Messages:
    """The user and the assistant in turn."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]


def chatty(template: str = CHATML) -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def shown(tokenizer: Any, example: Example) -> tuple[str, str]:
    """The text, and what of it is learnt."""
    letters = tokenizer.convert_ids_to_tokens(list(example.ids))
    return "".join(letters), "".join(a for a, on in zip(letters, example.mask, strict=True) if on)


def one(tokenizer: Any, row: Row, **options: Any) -> Example:
    (found,) = RowTokenizer(tokenizer, **options).tokenize([row])
    assert isinstance(found, Example), found
    return found


def test_the_completion_and_the_end_token_are_learnt() -> None:
    tokenizer = tiny_tokenizer()
    example = one(tokenizer, Row("ab", "cd"))
    assert shown(tokenizer, example) == ("abcd<end>", "cd<end>")
    assert (example.prompt_length, example.loss_tokens, example.prompt_ids) == (
        2,
        3,
        example.ids[:2],
    )


def test_an_end_that_is_written_already_is_not_written_twice() -> None:
    tokenizer = tiny_tokenizer()
    assert shown(tokenizer, one(tokenizer, Row("ab", "cd<end>")))[0] == "abcd<end>"


def test_a_text_is_learnt_whole_but_nothing_predicts_its_first_token() -> None:
    tokenizer = tiny_tokenizer()
    example = one(tokenizer, Row("", "abc", kind="text"))
    assert shown(tokenizer, example) == ("abc<end>", "abc<end>")
    assert (example.loss_tokens, example.prompt_ids) == (3, ())


def test_a_chat_goes_through_the_models_template_and_the_answer_is_learnt() -> None:
    tokenizer = chatty()
    example = one(tokenizer, Row(chat("hi"), [{"role": "assistant", "content": "yo"}]))
    assert shown(tokenizer, example) == ("[user]hi<end>\n[assistant]yo<end>\n", "yo<end>\n")


def test_of_a_conversation_every_turn_of_the_assistant_is_learnt() -> None:
    tokenizer = chatty()
    turns = chat("a", "b", "c", "d")
    example = one(tokenizer, Row(turns[:3], turns[3:], kind="messages"))
    text, learnt = shown(tokenizer, example)
    assert text == "[user]a<end>\n[assistant]b<end>\n[user]c<end>\n[assistant]d<end>\n"
    assert learnt == "b<end>\nd<end>\n"
    assert tokenizer.decode(example.prompt_ids).replace(" ", "").endswith("[assistant]")
    assert (
        shown(tokenizer, one(tokenizer, Row(turns[:3], turns[3:], kind="messages"), learn="all"))[1]
        == text
    )


def test_what_follows_the_assistants_last_turn_is_not_learnt() -> None:
    tokenizer = chatty()
    turns = chat("a", "b", "c")
    example = one(tokenizer, Row(turns[:1], turns[1:], kind="messages"))
    assert shown(tokenizer, example) == (
        "[user]a<end>\n[assistant]b<end>\n[user]c<end>\n",
        "b<end>\n",
    )


def test_a_turn_that_the_template_shows_otherwise_later_is_not_learnt() -> None:
    """As templates do that leave out the thoughts of earlier turns."""
    tokenizer = chatty(
        "{% for m in messages %}{{ '[' + m['role'] + ']' }}{% if loop.last or m['role'] == 'user' %}"
        "{{ m['content'] }}{% else %}{{ m['content'][-1] }}{% endif %}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
    )
    turns = chat("a", "thought-b", "c", "thought-d")
    example = one(tokenizer, Row(turns[:3], turns[3:], kind="messages"))
    assert shown(tokenizer, example) == (
        "[user]a<end>[assistant]b<end>[user]c<end>[assistant]thought-d<end>",
        "thought-d<end>",
    )


def test_a_template_that_writes_no_end_gets_one() -> None:
    tokenizer = chatty("{% for m in messages %}{{ m['content'] + '\n' }}{% endfor %}")
    turns = chat("a", "b")
    for row in (Row(turns[:1], turns[1:]), Row(turns[:1], turns[1:], kind="messages")):
        assert shown(tokenizer, one(tokenizer, row)) == ("a\nb\n<end>", "b\n<end>")


def test_writing_stops_where_the_template_ends_a_turn() -> None:
    tokenizer = chatty(CHATML.replace("eos_token", "'~'"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["~"]})
    row_tokenizer = RowTokenizer(tokenizer)
    row_tokenizer.tokenize([Row(chat("a"), chat("", "b")[1:])])
    assert row_tokenizer.ends == {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("~")}
    row_tokenizer = RowTokenizer(tokenizer)
    row_tokenizer.tokenize([Row(chat("a"), chat("", "b", "c")[1:], kind="messages")])
    assert row_tokenizer.ends == {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("~")}, (
        "though the user goes on"
    )


def test_a_chat_without_a_template_names_the_plain_one() -> None:
    row = Row(chat("hi"), chat("", "yo")[1:])
    with pytest.raises(DataError, match="no chat template; give --template plain"):
        RowTokenizer(tiny_tokenizer()).tokenize([row])
    tokenizer = tiny_tokenizer()
    text, learnt = shown(tokenizer, one(tokenizer, row, template="plain"))
    assert text == "### User:\nhi\n\n### Assistant:\nyo<end>\n\n"
    assert learnt == "yo<end>\n\n"


def test_a_template_of_the_users_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(
        CHATML.replace("[", "<")
        .replace("]", ">")
        .replace("m<'role'>", "m.role")
        .replace("m<'content'>", "m.content")
    )
    tokenizer = tiny_tokenizer()
    found = one(tokenizer, Row(chat("hi"), chat("", "yo")[1:]), template=str(path))
    assert shown(tokenizer, found)[0] == "<user>hi<end>\n<assistant>yo<end>\n"
    with pytest.raises(DataError, match=r"--template: the file 'none\.jinja' cannot be read"):
        RowTokenizer(tokenizer, template="none.jinja")


def test_a_row_that_the_template_refuses_is_told_from_the_others() -> None:
    tokenizer = chatty(
        "{{ raise_exception('no system') if messages[0]['role'] == 'system' }}" + CHATML
    )
    good = Row(chat("a"), chat("", "b")[1:])
    bad = Row([{"role": "system", "content": "s"}, *chat("a")], chat("", "b")[1:])
    found = RowTokenizer(tokenizer).tokenize([good, bad, good])
    assert isinstance(found[1], DataError)
    assert "the chat template refuses this row (no system)" in str(found[1])
    assert found[0] == found[2] == one(tokenizer, good)


def test_rows_that_do_not_fit_are_left_out() -> None:
    rows = [Row("ab", "cd"), Row("a" * 20, "b"), Row("x", "y")]
    assert len(render(rows, tiny_tokenizer(), 5)) == 2


def test_a_cut_row_keeps_what_is_learnt_in_its_beginning() -> None:
    example = one(chatty(), Row(chat("a", "b", "c"), chat("", "d")[1:], kind="messages"))
    (first, end), _ = example.learned_spans
    assert example.truncate(end - 1).learned == ((first, end - 1),)
    assert example.truncate(first).completion == 0


def test_a_turn_whose_last_tokens_merge_with_the_next_turn_is_learnt_to_its_end_token() -> None:
    """With SmolLM2's vocabulary the two line ends of the plain template merge with the '###' that follows."""
    tokenizer = chatty(
        "{% for m in messages %}{{ '###' + m['role'][0] + ':' + m['content'] + eos_token + '\n\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '###a:' }}{% endif %}"
    )
    merging = tokenizer._tokenizer
    from tokenizers import Regex, pre_tokenizers

    merging.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n\n(###)?|[\s\S]"), "isolated")
    merging.add_tokens(["\n\n###", "\n\n"])
    turns = chat("a", "b", "c", "d")
    example = one(tokenizer, Row(turns[:3], turns[3:], kind="messages"))
    text, learnt = shown(tokenizer, example)
    assert text == "###u:a<end>\n\n###a:b<end>\n\n###u:c<end>\n\n###a:d<end>\n\n"
    assert learnt == "b<end>d<end>\n\n"


def test_what_a_template_writes_before_an_answer_is_none_of_it() -> None:
    thoughts = CHATML.replace(
        "m['content'] + eos", "('<t></t>' if m['role'] == 'assistant' else '') + m['content'] + eos"
    )
    tokenizer = chatty(thoughts)
    row_tokenizer, row = RowTokenizer(tokenizer), Row(chat("2+2"), chat("", " 4 ")[1:])
    (example,) = row_tokenizer.tokenize([row])
    assert isinstance(example, Example)
    assert shown(tokenizer, example)[1] == "<t></t> 4 <end>\n"
    assert row_tokenizer.answer(row, example) == ("<t></t> ", "4")


def test_a_conversation_that_the_assistant_begins() -> None:
    tokenizer = chatty()
    turns = [{"role": "assistant", "content": "hello"}, *chat("a", "b")]
    example = one(tokenizer, Row(turns[:2], turns[2:], kind="messages"))
    assert shown(tokenizer, example)[1] == "b<end>\n", "what begins a chat answers nothing"


def test_a_short_answer_does_not_take_the_mark_before_it_for_its_end() -> None:
    tokenizer = chatty(
        "{% for m in messages %}{{ '~' + m['content'] }}{% endfor %}{{ '~' if add_generation_prompt }}"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["~"]})
    row_tokenizer = RowTokenizer(tokenizer)
    (example,) = row_tokenizer.tokenize([Row(chat("hi"), chat("", "4")[1:])])
    assert isinstance(example, Example)
    assert shown(tokenizer, example) == ("~hi~4<end>", "4<end>")
    assert row_tokenizer.ends == {tokenizer.eos_token_id}


def test_a_row_that_was_cut_before_its_answer_has_nothing_to_write_after() -> None:
    tokenizer = chatty()
    turns = chat("a", "b", "c", "d")
    example = one(tokenizer, Row(turns[:3], turns[3:], kind="messages"))
    cut = example.truncate(example.prompt_length)
    assert cut.prompt_ids == ()
    assert cut.loss_tokens == 2 + 1
    assert example.truncate(example.prompt_length + 1).prompt_ids == example.prompt_ids


@pytest.mark.parametrize("learn", ["completion", "all"])
def test_the_answer_of_a_chat_ends_where_its_turn_ends(learn: str) -> None:
    tokenizer = chatty()
    turns = chat("a", "b", "c")
    row_tokenizer, row = (
        RowTokenizer(tokenizer, learn=learn),
        Row(turns[:1], turns[1:], kind="messages"),
    )  # type: ignore[arg-type]
    (example,) = row_tokenizer.tokenize([row])
    assert isinstance(example, Example)
    assert row_tokenizer.answer(row, example) == ("", "b")


def test_an_answer_ends_with_its_turn_though_the_template_ends_only_the_chat() -> None:
    last = "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] }}{% endfor %}"
    tokenizer = chatty(last + "{{ '[assistant]' if add_generation_prompt else eos_token }}")
    turns = chat("a", "b", "c", "d", "e")
    row_tokenizer, row = RowTokenizer(tokenizer), Row(turns[:3], turns[3:], kind="messages")
    (example,) = row_tokenizer.tokenize([row])
    assert isinstance(example, Example)
    assert shown(tokenizer, example) == ("[user]a[assistant]b[user]c[assistant]d[user]e<end>", "bd")
    assert row_tokenizer.answer(row, example) == ("", "d")


def test_writing_stops_at_the_token_that_ends_each_turn_before_the_one_that_ends_the_chat() -> None:
    turn = "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + '~' }}{% endfor %}"
    tokenizer = chatty(turn + "{{ '[assistant]' if add_generation_prompt else eos_token }}")
    tokenizer.add_special_tokens({"additional_special_tokens": ["~"]})
    row_tokenizer, turns = RowTokenizer(tokenizer), chat("a", "b", "c", "d")
    row_tokenizer.tokenize([Row(turns[:3], turns[3:], kind="messages")])
    assert row_tokenizer.ends == {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("~")}


def test_a_call_of_a_tool_is_wanted_with_the_words_before_it() -> None:
    calls = CHATML.replace("m['content'] + eos", "m['content'] + (m['calls'] or '') + eos")
    row_tokenizer = RowTokenizer(chatty(calls))
    row = Row(chat("q"), [{"role": "assistant", "content": "get", "calls": "{get(1)}"}])
    (example,) = row_tokenizer.tokenize([row])
    assert isinstance(example, Example)
    assert row_tokenizer.answer(row, example) == ("", "get{get(1)}")


def test_thoughts_are_no_part_of_what_was_written() -> None:
    text = Texts("q", "<think>\n\n</think>\n\n", "4", "a.jsonl, line 1")
    assert text.answer_in("<think>\n\n</think>\n\n4") == "4"
    assert text.answer_in("<think>\nis it 5?\n</think>\n\n4") == "4"
    assert text.answer_in("4") == "4"
    assert Texts("q", "final", "x", "").answer_in("finalthe final x") == "the final x"


LATE_SYSTEM = (
    "{% for m in messages if m.role != 'system' %}{{ '[user]' if m.role == 'user' else '' }}"
    "{% if loop.last and m.role == 'user' and messages[0].role == 'system' %}{{ messages[0].content + ':' }}{% endif %}"
    "{{ m.content + ('[/user]' if m.role == 'user' else eos_token) }}{% endfor %}"
)
"""As Mistral's, which shows the system's words before the user's last turn, if that is the last of all."""
KIND = {"role": "system", "content": "kind"}


@pytest.mark.parametrize("words", ["what is it", "a", "r/]"])
def test_the_users_words_are_not_learnt_where_the_prompt_is_shown_otherwise_before_an_answer(
    words: str,
) -> None:
    tokenizer, turns = chatty(LATE_SYSTEM), chat(words, "as it is", words, words)
    example = one(tokenizer, Row([KIND, *turns[:3]], turns[3:], kind="messages"))
    text = f"[user]{words}[/user]as it is<end>[user]{words}[/user]{words}<end>"
    assert shown(tokenizer, example) == (text, f"as it is<end>{words}<end>")
    given = "".join(tokenizer.convert_ids_to_tokens(example.prompt_ids))
    assert given.endswith(f"[user]kind:{words}[/user]"), "it writes after what it is asked with"
    pair = one(tokenizer, Row([KIND, *turns[:3]], turns[3:]))
    assert shown(tokenizer, pair)[1] == f"{words}<end>"
    (kind, what) = next(told for told in pair.told if told[0] == "not_asked")
    assert (kind, what) == (
        "not_asked",
        "what stands before the last words of the prompt, such as those of the system",
    )


def test_an_answer_whose_prompt_is_not_found_in_the_whole_is_refused() -> None:
    tokenizer = chatty("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}")
    turns = chat("q", "a", "r")
    (found,) = RowTokenizer(tokenizer).tokenize([Row(turns[:1], turns[1:])])
    assert "shows what comes before the answer otherwise once that is there" in str(found)


def test_an_end_token_stands_behind_the_words_of_a_turn_and_another_may_end_the_last() -> None:
    """As in gpt-oss: what opens a short answer does not end it, and earlier turns are learnt with their own end."""
    template = (
        "{% for m in messages %}{{ '^' + m.role[0] }}{% if m.thinking and loop.last %}{{ '|' + m.thinking + '~^a' }}"
        "{% endif %}{{ '|' + m.content + (eos_token if loop.last and m.role == 'assistant' else '~') }}{% endfor %}"
        "{{ '^a' if add_generation_prompt }}"
    )
    tokenizer = chatty(template)
    tokenizer.add_special_tokens({"additional_special_tokens": ["^", "|", "~"]})
    turns, end = chat("q", "4", "r", "5"), tokenizer.convert_tokens_to_ids("~")
    row_tokenizer = RowTokenizer(tokenizer)
    (example,) = row_tokenizer.tokenize([Row(turns[:3], turns[3:], kind="messages")])
    assert isinstance(example, Example)
    assert shown(tokenizer, example) == ("^u|q~^a|4~^u|r~^a|5<end>", "|4~|5<end>")
    assert row_tokenizer.ends == {tokenizer.eos_token_id, end}
    thought = Row(turns[:1], [{**turns[3], "thinking": "hm"}])
    (example,) = row_tokenizer.tokenize([thought])
    assert isinstance(example, Example)
    assert shown(tokenizer, example)[1] == "|hm~^a|5<end>"
    assert row_tokenizer.ends == {tokenizer.eos_token_id}, "thoughts would be all that is written"


@pytest.mark.parametrize("ends", ["<end>", "<end>\n", " "])
@pytest.mark.parametrize("kind", ["pair", "messages"])
def test_an_answer_of_a_chat_that_writes_its_end_token_gets_no_second_one(
    ends: str, kind: str
) -> None:
    tokenizer, turns = chatty(), chat("q", "a" + ends, "r", "b" + ends)
    row_tokenizer, row = RowTokenizer(tokenizer), Row(turns[:3], turns[3:], kind=kind)  # type: ignore[arg-type]
    (example,) = row_tokenizer.tokenize([row])
    assert isinstance(example, Example)
    blank = ends.replace("<end>\n", "").replace("<end>", "")
    first = f"a{blank}<end>\n" if kind == "messages" else ""
    assert shown(tokenizer, example)[1] == f"{first}b{blank}<end>\n"
    assert row_tokenizer.answer(row, example) == ("", "b")
    tokenizer = chatty(CHATML.replace("eos_token", "'~'"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["~"]})
    assert shown(tokenizer, one(tokenizer, Row(turns[:1], chat("", "b~")[1:])))[1] == "b~\n"
