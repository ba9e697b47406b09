"""Our tokenizers as Hugging Face's library writes them down, and back: a tokenizer.json."""

import json
from pathlib import Path

import run_folder
from input_pipeline import gpt2_encoding
from input_pipeline.tokenizers import (
    TRAINED,
    ByteTokenizer,
    CharTokenizer,
    Gpt2Tokenizer,
    Tokenizer,
    TrainedTokenizer,
)
from runtime.errors import UserError

FILE, MERGED = "tokenizer.json", "vocab.json"
# Every byte as the character that stands for it, in GPT-2's order: the printable ones first.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]


def write(tokenizer: Tokenizer, folder: Path) -> None:
    """What `transformers.AutoTokenizer.from_pretrained` needs, into a folder."""
    run_folder.write_json(folder / FILE, json.loads(to_library(tokenizer).to_str()))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    run_folder.write_json(folder / "tokenizer_config.json", about)


def to_library(tokenizer: Tokenizer):
    """A tokenizers.Tokenizer that has the same tokens under the same numbers."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    match tokenizer:
        case TrainedTokenizer():
            return tokenizers.Tokenizer.from_str(tokenizer.learned)
        case CharTokenizer():
            vocabulary = {char: number for number, char in enumerate(tokenizer.vocabulary)}
            made = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=""))
            made.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
            made.decoder = decoders.Fuse()
            return made
        case ByteTokenizer():
            made = tokenizers.Tokenizer(models.BPE(_bytes(), []))
        case Gpt2Tokenizer():
            files = (str(gpt2_encoding.find() / name) for name in ("encoder.json", "vocab.bpe"))
            made = tokenizers.Tokenizer(models.BPE.from_file(*files))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def read(folder: Path) -> Tokenizer:
    """The tokenizer of a folder of pretrained weights.

    Raises UserError if it has none, or of a kind that is none of ours.
    """
    vocabulary = read_vocabulary(folder)
    if vocabulary is None:
        raise UserError(f"{folder} holds no tokenizer: expected {FILE}, or GPT-2's {MERGED}")
    if len(vocabulary) == Gpt2Tokenizer.vocab_size:
        published = Gpt2Tokenizer()
        if to_library(published).get_vocab() == vocabulary:
            return published
    content = run_folder.read_object(folder / FILE) if (folder / FILE).exists() else {}
    match content:
        case {"model": {"type": "WordLevel"}} if set(map(len, vocabulary)) == {1}:
            return CharTokenizer("".join(sorted(vocabulary, key=vocabulary.get)))
        case {"model": {"type": "BPE", "merges": []}} if vocabulary == _bytes():
            return ByteTokenizer()
        case {"model": {"type": "BPE"}} if _splits_as_gpt2(content, vocabulary):
            return TrainedTokenizer(f"{TRAINED}{len(vocabulary)}", json.dumps(content))
    raise UserError(
        f"{folder} has a tokenizer of a kind that is not known here: expected GPT-2's, single "
        "characters, bytes, or byte pairs"
    )


def _splits_as_gpt2(content: dict, vocabulary: dict[str, int]) -> bool:
    """Whether a byte-level BPE does nothing to a text that ours would not."""
    match content:
        case {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False}}:
            others = ("normalizer", "post_processor", "truncation", "padding", "added_tokens")
            is_whole = set(vocabulary.values()) == set(range(len(vocabulary)))
            return is_whole and not any(content.get(name) for name in others)
    return False


def read_vocabulary(folder: Path) -> dict[str, int] | None:
    """The numbers of the tokens of a folder of pretrained weights; None if it has no tokenizer.

    Raises UserError for a file that can't be read.
    """
    import tokenizers

    if (folder / FILE).exists():
        try:
            return tokenizers.Tokenizer.from_file(str(folder / FILE)).get_vocab()
        except Exception as error:  # The library raises no class of its own.
            raise UserError(f"{folder / FILE} can't be read: {error}") from None
    return run_folder.read_object(folder / MERGED) if (folder / MERGED).exists() else None


def _bytes() -> dict[str, int]:
    """The vocabulary of bytes: which character stands for each."""
    rest = [byte for byte in range(256) if byte not in _PRINTABLE]
    hidden = {chr(256 + number): byte for number, byte in enumerate(rest)}
    return {chr(byte): byte for byte in _PRINTABLE} | hidden
