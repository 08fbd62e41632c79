from __future__ import annotations

from tests.data.conversations import assistant, user

from rung.data.rows import Row, normalize, plain_text


def test_rows_with_the_same_prompt_have_the_same_source() -> None:
    assert Row("p", "a").source == Row("p", "b").source == "p"
    assert Row([user("p"), assistant("q")], [assistant("a")]).source == "p\nq"
    assert Row("", "a text", kind="text").source == "a text"
    assert Row("p", "a", source="a document").source == "a document"


def test_the_expected_text_is_the_first_answer_of_the_completion() -> None:
    assert Row("p", "a").expected_text == "a"
    assert Row([user("p")], [assistant("a"), user("q"), assistant("b")]).expected_text == "a"
    assert Row("", "a text", kind="text").expected_text is None


def test_plain_text_has_no_marks_of_a_chat() -> None:
    assert plain_text("p") == "p"
    assert plain_text([user("p"), {"role": "assistant", "content": None}, user("q")]) == "p\nq"


class TestNormalize:
    def test_case_white_space_and_punctuation_are_removed(self) -> None:
        texts = ("  How FAR is\tthe moon?!", "how far is the moon")
        assert {normalize(text) for text in texts} == {"how far is the moon"}

    def test_punctuation_inside_of_numbers_stays(self) -> None:
        assert normalize("0.3 carat, $30") != normalize("3.0 carat, $30")

    def test_operators_stay(self) -> None:
        assert normalize("-5") != normalize("5")
        assert normalize("C++") != normalize("C#")
        assert len({normalize(f"a {sign} 1") for sign in "+-*/<>=%"}) == 8

    def test_marks_that_belong_to_letters_stay(self) -> None:
        assert normalize("दिन") != normalize("दीन")

    def test_a_text_of_symbols_alone_is_not_made_empty(self) -> None:
        assert normalize("🌙") != normalize("☀")
        assert normalize("?!") == "?!"
