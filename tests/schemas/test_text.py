import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.text import has_words, normalise_query, text_hash


@pytest.mark.parametrize(
    ("typed", "counted"),
    [
        ("  Red\tSHOES \n", "red shoes"),
        ("ＡＢＣ　１２", "abc 12"),  # full width letters and an ideographic space
        ("ﬁt №5 ½", "fit no5 1⁄2"),  # compatibility forms
        ("cafe\u0301", "café"),  # composed
        ("ÉCOLE", "école"),
        ("Straße", "straße"),
        ("a\u00a0\u2003b\u2028c", "a b c"),
        ("zero\u200bwidth\x00null\x7fdel", "zero width null del"),
        ("\ufeffbom", "bom"),
        (" \t\u200b", ""),
        ("", ""),
    ],
)
def test_what_is_typed_and_what_is_counted(typed, counted):
    assert normalise_query(typed) == counted


@given(st.text())
@example("\u0390 \u03f4 \u1fbe İ ẞ")  # lower-casing and composing undo each other
@example("a\u200b\u0301")
@example("\u0345\u00b4")
def test_normalising_twice_changes_nothing(text):
    once = normalise_query(text)
    assert normalise_query(once) == once


@given(st.text())
def test_no_invisible_character_is_left(text):
    counted = normalise_query(text)
    assert counted == " ".join(counted.split())
    assert all(ch.isprintable() or ord(ch) > 0x7F for ch in counted)


@given(st.text(), st.text())
def test_case_and_white_space_do_not_tell_queries_apart(a, b):
    assert normalise_query(f"{a} {b}") == normalise_query(f"\t{a}\n\u3000 {b} ")


@pytest.mark.parametrize(
    ("text", "expected"), [("tv 4k", True), ("茶", True), ("٣", True), ("?! 😀", False), ("", False)]
)
def test_words_need_a_letter_or_a_digit(text, expected):
    assert has_words(text) is expected


def test_hashes_are_the_numbers_that_spark_gives():
    # From `SELECT xxhash64(...)` in Spark 4.1; equality on any text is tested with the Spark column.
    assert text_hash("") == -7444071767201028348
    assert text_hash("Spark") == -4294468057691064905
