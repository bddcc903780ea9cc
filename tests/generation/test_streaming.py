"""Pieces of text as they are written: together what `generate` gives, each of them final."""
import pytest

from tests.generation.test_decoding import NEW


def pieces_of(generator):
    """The pieces, and what the generator returns."""
    pieces = []
    while True:
        try:
            pieces.append(next(generator))
        except StopIteration as end:
            return pieces, end.value


@pytest.mark.parametrize("rounds", [1, 5])
@pytest.mark.parametrize("given", [{}, {"temperature": 1.0, "seed": 4, "prompt_lookup_num_tokens": 5}])
def test_the_pieces_are_the_text_of_generate(text_model, prompts, given, rounds):
    for prompt in prompts:
        pieces, whole = pieces_of(text_model.stream(prompt, NEW, rounds=rounds, **given))

        expected = text_model.generate([prompt], NEW, **given)[0]
        assert "".join(pieces) == whole.text == expected.text, repr(prompt)
        assert all(pieces) and (whole.token_count, whole.finish_reason) == (expected.token_count, expected.finish_reason)


def test_pieces_come_one_by_one(text_model):
    forced = " one two three four"
    pieces, _ = pieces_of(text_model.stream("x", NEW, forced_tokens=forced))

    assert len(pieces) > 4 and len(pieces[0]) < 5


def test_a_character_of_several_tokens_comes_whole_and_a_stop_string_not_at_all(text_model):
    pieces, whole = pieces_of(text_model.stream("x", 40, forced_tokens="naïve 日本 one two, thr", stop=["two, three", "two, thr"]))

    assert "".join(pieces) == whole.text == "naïve 日本 one "
    assert whole.finish_reason == "stop"
    assert {"ï", "日", "本"} <= set("".join(pieces)) and not any("\ufffd" in piece for piece in pieces)


def test_what_is_no_text_or_no_control_is_told_at_the_first_piece(text_model):
    told = [(["x"], {}, "give one text"), ("x", {"rounds": 0}, "rounds 0"), ("x", {"rounds": 1.5}, "rounds 1.5"), ("x", {"top_q": 1}, "no such control")]
    for prompt, given, message in told:
        with pytest.raises(ValueError, match=message):
            next(text_model.stream(prompt, **given))
