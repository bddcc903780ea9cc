import pytest
from transformers import GPT2TokenizerFast

from tfgpt.text.bpe import END_OF_TEXT, char_tokenizer, load_tokenizer, train_tokenizer, with_special_tokens


def test_a_trained_tokenizer_encodes_any_text_and_gives_it_back(tokenizer):
    for text in ("The with statement", " \n\t", "日本語 \0 \U0001f600", "it's  two"):
        assert tokenizer.decode(tokenizer(text).input_ids, clean_up_tokenization_spaces=False) == text


def test_merges_come_from_the_text():
    tokenizer = train_tokenizer(["the cat and the dog and the bird"] * 4, vocab=262)

    assert tokenizer.tokenize("the band") == ["the", "Ġ", "b", "an", "d"]


def test_the_folder_has_gpt2s_files_and_loads_in_gpt2_tokenizer_fast(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)

    assert {"vocab.json", "merges.txt", "tokenizer.json"} <= {path.name for path in tmp_path.iterdir()}
    for loaded in (GPT2TokenizerFast.from_pretrained(tmp_path), load_tokenizer(tmp_path)):
        assert loaded("with open(f) as g:").input_ids == tokenizer("with open(f) as g:").input_ids
        assert loaded.eos_token == END_OF_TEXT


def test_vocab_json_and_merges_alone_are_enough(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    for path in tmp_path.iterdir():
        if path.name not in ("vocab.json", "merges.txt"):
            path.unlink()

    assert load_tokenizer(tmp_path)("a with statement").input_ids == tokenizer("a with statement").input_ids


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"vocab\.json"):
        load_tokenizer(tmp_path)


def test_a_text_cut_to_be_learned_from_teaches_the_same(documents, monkeypatch):
    whole = train_tokenizer(["\n".join(documents)], vocab=500)

    monkeypatch.setattr("tfgpt.text.encode.LONG_TEXT", 50)

    assert train_tokenizer(["\n".join(documents)], vocab=500).get_vocab() == whole.get_vocab()


def test_bpe_dropout_gives_other_pieces_of_the_same_text(tokenizer, documents):
    from tfgpt.text.bpe import with_bpe_dropout

    dropping = with_bpe_dropout(tokenizer, 0.2)

    first, second = (dropping(documents[0][:2000]).input_ids for _ in range(2))

    assert first != second
    assert dropping.decode(first) == dropping.decode(second) == documents[0][:2000]
    assert len(first) > len(tokenizer(documents[0][:2000]).input_ids)
    assert with_bpe_dropout(tokenizer, 0.0)(documents[0][:2000]).input_ids == tokenizer(documents[0][:2000]).input_ids


def test_special_tokens_are_one_token_each_in_a_trained_and_in_a_loaded_tokenizer(gpt2_tokenizer, tmp_path):
    trained = train_tokenizer(["some text <|user|> and more"] * 3, vocab=300, special_tokens=["<|user|>"])
    gpt2_tokenizer.save_pretrained(tmp_path)
    loaded = with_special_tokens(load_tokenizer(tmp_path), ["<|user|>"])

    for tokenizer in (trained, loaded):
        tokenizer.save_pretrained(tmp_path / "saved")
        again = load_tokenizer(tmp_path / "saved")
        (one,) = again("<|user|>").input_ids
        assert again("a<|user|>b").input_ids[1:-1] == [one]
        assert again.decode(again("a<|user|>b").input_ids, skip_special_tokens=True) == "ab"
    assert (trained("<|user|>").input_ids, len(loaded), loaded("<|user|>").input_ids) == ([1], 50_258, [50_257])


def test_a_character_tokenizer_has_a_token_for_each_character_and_spells_others(tmp_path):
    tokenizer = char_tokenizer(["naïve 日本", "a b"])

    assert tokenizer.tokenize("a日ï") == ["a", "æĹ¥", "Ã¯"]
    assert len(tokenizer("é").input_ids) == 2
    tokenizer.save_pretrained(tmp_path)
    for text in ("naïve 日本語", "it's  \n\0 \U0001f600"):
        assert load_tokenizer(tmp_path)(text).input_ids == tokenizer(text).input_ids
        assert tokenizer.decode(tokenizer(text).input_ids, clean_up_tokenization_spaces=False) == text
