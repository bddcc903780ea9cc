"""What the tokens of a vocabulary stand for: their bytes, and the pieces another tokenizer makes of them."""
from __future__ import annotations

from pathlib import Path

from transformers import GPT2TokenizerFast, OpenAIGPTTokenizerFast
from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

from tfgpt.text.bpe import is_byte_level, load_tokenizer

END_OF_WORD = "</w>"
"""How GPT-1's tokens at the end of a word end."""
OldTokenizer = GPT2TokenizerFast | OpenAIGPTTokenizerFast
"""One whose tokens are looked up, and no text is trained on."""


def load_old_tokenizer(source: str | Path) -> OldTokenizer:
    """Load the tokenizer of a starting model: byte-level, or GPT-1's; of a run's model/ that beside it.

    Raises:
        FileNotFoundError: there is none.
    """
    folder = Path(source)
    if folder.is_dir() and not any((folder / name).is_file() for name in ("vocab.json", "tokenizer.json")):
        source = folder.parent / "tokenizer"
        if not source.is_dir():
            raise FileNotFoundError(f"{folder} holds no tokenizer (vocab.json and merges.txt, or tokenizer.json), and no folder tokenizer is beside it")
    try:
        return load_tokenizer(source)
    except ValueError:
        return OpenAIGPTTokenizerFast.from_pretrained(str(source))


def token_bytes(tokenizer: OldTokenizer) -> dict[int, bytes]:
    """Return the bytes of each token, by its number; of a special token those of its name.

    Of GPT-1's tokens only those at the end of a word are there, with the space before it that stands for a whole word in GPT-2: it knows none behind.

    >>> token_bytes(tokenizer)[tokenizer.convert_tokens_to_ids("Ġthe")]
    b' the'
    """
    special = {number: str(token) for number, token in tokenizer.added_tokens_decoder.items()}
    found = {number: name.encode() for number, name in special.items()}
    byte_level, byte_of = is_byte_level(tokenizer), {letter: byte for byte, letter in bytes_to_unicode().items()}
    for token, number in tokenizer.get_vocab().items():
        if number in special:
            continue
        if byte_level:
            found[number] = bytes(byte_of[letter] for letter in token)
        elif token.endswith(END_OF_WORD):
            found[number] = f" {token.removesuffix(END_OF_WORD)}".encode()
    return found


def pieces_of(tokenizer: OldTokenizer, text: bytes) -> list[int]:
    """Return the tokens into which a tokenizer splits a text; none for bytes that it does not know.

    Bytes that are a part of a character are merged as they are.
    """
    try:
        ids = tokenizer.encode(text.decode(), add_special_tokens=False)
    except UnicodeDecodeError:
        if not is_byte_level(tokenizer):
            return []
        letters = bytes_to_unicode()
        return [token.id for token in tokenizer.backend_tokenizer.model.tokenize("".join(letters[byte] for byte in text))]
    return ids if is_byte_level(tokenizer) else [number for number in ids if number != tokenizer.unk_token_id]
