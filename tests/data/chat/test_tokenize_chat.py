from __future__ import annotations

from typing import Any

import pytest
from tests.data.chats import CHATML, answer, chat, chat_tokenizer, text_and_learned, tokenize_one
from tokenizers import Regex, pre_tokenizers

from rung.data.example import Example
from rung.data.rows import Row
from rung.data.schema import RecordReader
from rung.data.tokenize import RowTokenizer
from rung.errors import DataError


def conversation(*texts: str) -> Row:
    """A conversation in which the assistant has the last turn."""
    turns = chat(*texts)
    return Row(turns[:-1], turns[-1:], kind="messages")


def with_special_tokens(tokenizer: Any, *names: str) -> Any:
    tokenizer.add_special_tokens({"additional_special_tokens": list(names)})
    return tokenizer


def ends_after(tokenizer: Any, *rows: Row) -> set[str]:
    """The tokens at which generation stops, once these rows are tokenized."""
    row_tokenizer = RowTokenizer(tokenizer)
    for example in row_tokenizer.tokenize(rows):
        assert isinstance(example, Example), example
    return set(tokenizer.convert_ids_to_tokens(sorted(row_tokenizer.ends)))


# The turns that are trained on.


def test_every_turn_of_the_assistant_is_trained_on() -> None:
    tokenizer, row = chat_tokenizer(), conversation("a", "b", "c", "d")
    example = tokenize_one(tokenizer, row)
    whole = "[user]a<end>\n[assistant]b<end>\n[user]c<end>\n[assistant]d<end>\n"
    assert text_and_learned(tokenizer, example) == (whole, "b<end>\nd<end>\n")
    assert tokenizer.decode(example.prompt_ids).replace(" ", "").endswith("[assistant]")
    everything = tokenize_one(tokenizer, row, learn="all")
    assert text_and_learned(tokenizer, everything) == (whole, whole)


def test_what_follows_the_last_turn_of_the_assistant_is_not_trained_on() -> None:
    tokenizer, turns = chat_tokenizer(), chat("a", "b", "c")
    example = tokenize_one(tokenizer, Row(turns[:1], turns[1:], kind="messages"))
    assert text_and_learned(tokenizer, example) == (
        "[user]a<end>\n[assistant]b<end>\n[user]c<end>\n",
        "b<end>\n",
    )


def test_a_turn_that_begins_a_conversation_is_not_trained_on() -> None:
    """It answers nothing."""
    tokenizer = chat_tokenizer()
    turns = [*answer("hello"), *chat("a", "b")]
    example = tokenize_one(tokenizer, Row(turns[:2], turns[2:], kind="messages"))
    assert text_and_learned(tokenizer, example)[1] == "b<end>\n"


def test_a_turn_that_the_template_shows_differently_later_is_not_trained_on() -> None:
    """As with templates that leave out the thoughts of earlier turns."""
    tokenizer = chat_tokenizer(
        "{% for m in messages %}{{ '[' + m['role'] + ']' }}"
        "{% if loop.last or m['role'] == 'user' %}{{ m['content'] }}"
        "{% else %}{{ m['content'][-1] }}{% endif %}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
    )
    example = tokenize_one(tokenizer, conversation("a", "thought-b", "c", "thought-d"))
    assert text_and_learned(tokenizer, example) == (
        "[user]a<end>[assistant]b<end>[user]c<end>[assistant]thought-d<end>",
        "thought-d<end>",
    )


def test_a_turn_whose_last_tokens_merge_with_the_next_turn_is_cut_at_its_end_token() -> None:
    """In SmolLM2's vocabulary the plain template's line ends merge with the '###' that follows."""
    tokenizer = chat_tokenizer(
        "{% for m in messages %}"
        "{{ '###' + m['role'][0] + ':' + m['content'] + eos_token + '\n\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '###a:' }}{% endif %}"
    )
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"\n\n(###)?|[\s\S]"), "isolated"
    )
    tokenizer.backend_tokenizer.add_tokens(["\n\n###", "\n\n"])
    example = tokenize_one(tokenizer, conversation("a", "b", "c", "d"))
    assert text_and_learned(tokenizer, example) == (
        "###u:a<end>\n\n###a:b<end>\n\n###u:c<end>\n\n###a:d<end>\n\n",
        "b<end>d<end>\n\n",
    )


def test_a_chat_that_is_truncated_keeps_the_turns_of_its_beginning() -> None:
    example = tokenize_one(chat_tokenizer(), conversation("a", "b", "c", "d"))
    (first, end), _ = example.learned_spans
    assert example.truncate(end - 1).learned_spans == ((first, end - 1),)
    assert example.truncate(first).loss_tokens == 0
    before_last = example.truncate(example.prompt_length)
    assert (before_last.prompt_ids, before_last.loss_tokens) == ((), 3), "b, <end> and a line end"
    assert example.truncate(example.prompt_length + 1).prompt_ids == example.prompt_ids


# Turns that say themselves that they are not to be trained on.

WEIGHTED = [*chat("q"), {**answer("w")[0], "weight": 0}, *chat("r", "a")]


def test_a_turn_of_weight_zero_is_not_trained_on() -> None:
    tokenizer, row = chat_tokenizer(), RecordReader().read({"messages": WEIGHTED}, "line 1")
    whole = "[user]q<end>\n[assistant]w<end>\n[user]r<end>\n[assistant]a<end>\n"
    assert text_and_learned(tokenizer, tokenize_one(tokenizer, row)) == (whole, "a<end>\n")
    assert text_and_learned(tokenizer, tokenize_one(tokenizer, row, learn="all")) == (
        whole,
        "[user]q<end>\n[assistant][user]r<end>\n[assistant]a<end>\n",
    )


def test_nor_is_one_in_the_completion_of_a_pair() -> None:
    tokenizer = chat_tokenizer()
    completion = [*answer("a"), *chat("r"), WEIGHTED[1]]
    row = RecordReader().read({"prompt": chat("q"), "completion": completion}, "line 1")
    learned = text_and_learned(tokenizer, tokenize_one(tokenizer, row))[1]
    assert learned == "a<end>\n[user]r<end>\n[assistant]"


def test_a_conversation_that_the_assistant_begins_has_a_remark() -> None:
    tokenizer = chat_tokenizer()
    record = {"messages": [*answer("hello"), *chat("q", "a")]}
    row = RecordReader().read(record, "line 1")
    assert tokenize_one(tokenizer, row).remarks == (
        (
            "not_learnt",
            "turns of the assistant that begin a conversation, so no prompt asks for them",
        ),
    )
    assert tokenize_one(tokenizer, row, learn="all").remarks == ()
    record["messages"][0] = {**answer("hello")[0], "weight": 0}
    example = tokenize_one(tokenizer, RecordReader().read(record, "line 1"))
    assert {kind for kind, _ in example.remarks} == {"read_as"}


# Prompts that the template shows differently.

LATE_SYSTEM = (
    "{% for m in messages if m.role != 'system' %}{{ '[user]' if m.role == 'user' else '' }}"
    "{% if loop.last and m.role == 'user' and messages[0].role == 'system' %}"
    "{{ messages[0].content + ':' }}{% endif %}"
    "{{ m.content + ('[/user]' if m.role == 'user' else eos_token) }}{% endfor %}"
)
"""Like Mistral's template. It shows the system message before the last turn, if that is the user's.
"""
SYSTEM = {"role": "system", "content": "kind"}


@pytest.mark.parametrize("words", ["what is it", "a", "r/]"])
def test_a_prompt_that_is_shown_differently_before_its_answer_is_not_trained_on(words: str) -> None:
    tokenizer, turns = chat_tokenizer(LATE_SYSTEM), chat(words, "as it is", words, words)
    example = tokenize_one(tokenizer, Row([SYSTEM, *turns[:3]], turns[3:], kind="messages"))
    assert text_and_learned(tokenizer, example) == (
        f"[user]{words}[/user]as it is<end>[user]{words}[/user]{words}<end>",
        f"as it is<end>{words}<end>",
    )
    prompt = "".join(tokenizer.convert_ids_to_tokens(example.prompt_ids))
    assert prompt.endswith(f"[user]kind:{words}[/user]"), "it generates after what asks for it"
    pair = tokenize_one(tokenizer, Row([SYSTEM, *turns[:3]], turns[3:]))
    assert text_and_learned(tokenizer, pair)[1] == f"{words}<end>"
    assert ("not_asked", "the prompt before its last words, such as the system message") in (
        pair.remarks
    )


def test_a_row_whose_prompt_is_not_found_in_the_whole_chat_is_refused() -> None:
    tokenizer = chat_tokenizer(
        "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    turns = chat("q", "a", "r")
    (error,) = RowTokenizer(tokenizer).tokenize([Row(turns[:1], turns[1:])])
    assert isinstance(error, DataError)
    assert "shows the prompt differently once its answer follows" in str(error)


def test_a_row_that_the_template_refuses_does_not_stop_the_others() -> None:
    tokenizer = chat_tokenizer(
        "{{ raise_exception('no system') if messages[0]['role'] == 'system' }}" + CHATML
    )
    good = Row(chat("a"), answer("b"))
    bad = Row([SYSTEM, *chat("a")], answer("b"))
    before, error, after = RowTokenizer(tokenizer).tokenize([good, bad, good])
    assert isinstance(error, DataError)
    assert "the chat template refuses this row (no system)" in str(error)
    assert before == after == tokenize_one(tokenizer, good)


# The tokens that end turns.

TILDE = CHATML.replace("eos_token", "'~'")
"""Ends each turn with `~`."""


@pytest.mark.parametrize("kind", ["pair", "messages"])
def test_an_end_token_is_added_if_the_template_writes_none(kind: Any) -> None:
    tokenizer = chat_tokenizer("{% for m in messages %}{{ m['content'] + '\n' }}{% endfor %}")
    example = tokenize_one(tokenizer, Row(chat("a"), answer("b"), kind=kind))
    assert text_and_learned(tokenizer, example) == ("a\nb\n<end>", "b\n<end>")


@pytest.mark.parametrize("end", ["<end>", "<end>\n", " "])
@pytest.mark.parametrize("kind", ["pair", "messages"])
def test_an_end_token_that_an_answer_writes_is_not_doubled(end: str, kind: Any) -> None:
    tokenizer, turns = chat_tokenizer(), chat("q", "a" + end, "r", "b" + end)
    example = tokenize_one(tokenizer, Row(turns[:3], turns[3:], kind=kind))
    blank = end.replace("<end>\n", "").replace("<end>", "")
    earlier = f"a{blank}<end>\n" if kind == "messages" else ""
    assert text_and_learned(tokenizer, example)[1] == f"{earlier}b{blank}<end>\n"


def test_the_templates_own_end_token_is_not_doubled_either() -> None:
    tokenizer = with_special_tokens(chat_tokenizer(TILDE), "~")
    example = tokenize_one(tokenizer, Row(chat("q"), answer("b~")))
    assert text_and_learned(tokenizer, example)[1] == "b~\n"


def test_generation_stops_at_the_token_that_ends_a_turn() -> None:
    tokenizer = with_special_tokens(chat_tokenizer(TILDE), "~")
    assert ends_after(tokenizer, Row(chat("a"), answer("b"))) == {"<end>", "~"}
    turns = chat("a", "b", "c")
    goes_on = Row(turns[:1], turns[1:], kind="messages")
    assert ends_after(tokenizer, goes_on) == {"<end>", "~"}, "though the user goes on"


ENDS_TURNS_AND_CHAT = (
    "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + '~' }}{% endfor %}"
    "{{ '[assistant]' if add_generation_prompt else eos_token }}"
)
"""Ends each turn with `~`, and the whole chat with the end token besides."""


def test_a_token_behind_the_whole_chat_belongs_to_its_last_turn() -> None:
    tokenizer = chat_tokenizer(ENDS_TURNS_AND_CHAT)
    example = tokenize_one(tokenizer, conversation("q", "alpha", "r", "beta"))
    assert text_and_learned(tokenizer, example) == (
        "[user]q~[assistant]alpha~[user]r~[assistant]beta~<end>",
        "alpha~beta~<end>",
    )
    assert example.remarks == ()
    turns = chat("q", "alpha", "r", "beta", "thanks")
    goes_on = tokenize_one(tokenizer, Row(turns[:3], turns[3:], kind="messages"))
    text, learned = text_and_learned(tokenizer, goes_on)
    assert text.endswith("[user]thanks~<end>")
    assert learned == "alpha~beta~"


def test_generation_stops_at_the_end_of_a_turn_though_another_token_ends_the_chat() -> None:
    tokenizer = with_special_tokens(chat_tokenizer(ENDS_TURNS_AND_CHAT), "~")
    assert ends_after(tokenizer, conversation("a", "b", "c", "d")) == {"<end>", "~"}


def test_a_special_token_before_a_short_answer_does_not_end_it() -> None:
    tokenizer = chat_tokenizer(
        "{% for m in messages %}{{ '~' + m['content'] }}{% endfor %}"
        "{{ '~' if add_generation_prompt }}"
    )
    with_special_tokens(tokenizer, "~")
    row = Row(chat("hi"), answer("4"))
    assert text_and_learned(tokenizer, tokenize_one(tokenizer, row)) == ("~hi~4<end>", "4<end>")
    assert ends_after(tokenizer, row) == {"<end>"}


def test_a_token_that_ends_earlier_turns_ends_generation_unless_thoughts_have_it_too() -> None:
    """As in gpt-oss: the last turn has an end token of its own, and thoughts end like turns."""
    tokenizer = chat_tokenizer(
        "{% for m in messages %}{{ '^' + m.role[0] }}"
        "{% if m.thinking and loop.last %}{{ '|' + m.thinking + '~^a' }}{% endif %}"
        "{{ '|' + m.content + (eos_token if loop.last and m.role == 'assistant' else '~') }}"
        "{% endfor %}{{ '^a' if add_generation_prompt }}"
    )
    with_special_tokens(tokenizer, "^", "|", "~")
    row_tokenizer = RowTokenizer(tokenizer)
    end = tokenizer.convert_tokens_to_ids("~")

    (example,) = row_tokenizer.tokenize([conversation("q", "4", "r", "5")])
    assert isinstance(example, Example)
    assert text_and_learned(tokenizer, example) == ("^u|q~^a|4~^u|r~^a|5<end>", "|4~|5<end>")
    assert row_tokenizer.ends == {tokenizer.eos_token_id, end}

    thinks = Row(chat("q"), [{"role": "assistant", "content": "5", "thinking": "hm"}])
    (example,) = row_tokenizer.tokenize([thinks])
    assert isinstance(example, Example)
    assert text_and_learned(tokenizer, example)[1] == "|hm~^a|5<end>"
    assert row_tokenizer.ends == {tokenizer.eos_token_id}, "else only thoughts would be generated"
