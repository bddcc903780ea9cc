"""How lines sound, beside what people say of famous ones."""
import pytest

from tfgpt.text.prosody import agreeing, rhyme_together, scan, unknown_word, words_of


@pytest.mark.parametrize(("line", "stresses", "rhyme"), [
    ("The curfew tolls the knell of parting day", "0101010101", "EY"),        # Gray
    ("And miles to go before I sleep", "01010101", "IY P"),                   # Frost
    ("I wandered lonely as a cloud", "01010001", "AW D"),                     # Wordsworth: as has no stress by itself
    ("Twinkle, twinkle, little star", "1010101", "AA R"),
    ("That is the QUESTION!", "00010", "AH N"),
    ("The moonlight understood", "010101", "UH D"),                         # a secondary stress counts where it stands alone
])
def test_lines_scan_as_they_are_read(line, stresses, rhyme):
    assert scan(line) == (stresses, rhyme)


@pytest.mark.parametrize(("line", "words"), [
    ("“Look’d” the lovers’ rose-red", ["looked", "the", "lovers'", "rose", "red"]),
    ("'Tis the night's", ["'tis", "the", "night's"]),
    ("42, -- !", []),
])
def test_words_are_those_of_the_dictionary(line, words):
    assert words_of(line) == words


@pytest.mark.parametrize(("line", "other", "right"), [
    ("to be", "the sea", True),
    ("in flight", "at night.", True),
    ("a knight", "at night", True),              # other words, if of the same sounds
    ("at night", "the Night!", False),           # the same word
    ("my love", "to move", False),               # for the eye alone
    ("the wind", "unkind", True),                # in one of its pronunciations
    ("singing", "going", False),                 # the stressed vowels differ
    ("ringing", "singing", True),
    ("zzyzx", "zzyzxx", False),
    ("", "night", False),
])
def test_lines_rhyme_as_they_sound(line, other, right):
    assert rhyme_together(line, other) is rhyme_together(other, line) is right


def test_what_the_dictionary_does_not_have_is_not_guessed():
    assert scan("The zorblat of night") is None
    assert unknown_word("The zorblat of night") == "zorblat"
    assert scan("...") is None
    assert unknown_word("The silent night") is None


def test_syllables_that_one_line_has_more_agree_with_none():
    assert agreeing("0101", "01") == agreeing("01", "0101") == (2, 4)
    assert agreeing("", "") == (0, 0)
