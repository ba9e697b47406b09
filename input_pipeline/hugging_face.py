"""Tokenizers in the format of Hugging Face, tokenizer.json: written and read."""

import json
from pathlib import Path

import run_folder
from input_pipeline import gpt2_encoding
from input_pipeline.tokenizers import (
    TRAINED_PREFIX,
    ByteTokenizer,
    CharTokenizer,
    Gpt2Tokenizer,
    Tokenizer,
    TrainedTokenizer,
)
from runtime.errors import UserError

FILE, MERGED = "tokenizer.json", "vocab.json"


def write(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes the files that `transformers.AutoTokenizer.from_pretrained` reads."""
    run_folder.write_json(folder / FILE, json.loads(to_hugging_face(tokenizer).to_str()))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    run_folder.write_json(folder / "tokenizer_config.json", about)


def to_hugging_face(tokenizer: Tokenizer):
    """Returns a tokenizers.Tokenizer with the same tokens and ids."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    match tokenizer:
        case TrainedTokenizer():
            return tokenizers.Tokenizer.from_str(json.dumps(tokenizer.learned))
        case CharTokenizer():
            vocabulary = {char: token for token, char in enumerate(tokenizer.vocabulary)}
            converted = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=""))
            converted.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
            converted.decoder = decoders.Fuse()
            return converted
        case ByteTokenizer():
            converted = tokenizers.Tokenizer(models.BPE(_bytes(), []))
        case Gpt2Tokenizer():
            files = (str(gpt2_encoding.find() / name) for name in ("encoder.json", "vocab.bpe"))
            converted = tokenizers.Tokenizer(models.BPE.from_file(*files))
    converted.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    converted.decoder = decoders.ByteLevel()
    return converted


def read(folder: Path) -> Tokenizer:
    """Returns the tokenizer beside weights. Raises UserError if there is none that we support."""
    vocabulary = read_vocabulary(folder)
    if vocabulary is None:
        raise UserError(f"{folder} holds no tokenizer: expected {FILE}, or GPT-2's {MERGED}")
    if len(vocabulary) == Gpt2Tokenizer.vocab_size:
        published = Gpt2Tokenizer()
        if to_hugging_face(published).get_vocab() == vocabulary:
            return published
    content = run_folder.read_object(folder / FILE) if (folder / FILE).exists() else {}
    match content:
        case {"model": {"type": "WordLevel"}} if set(map(len, vocabulary)) == {1}:
            return CharTokenizer("".join(sorted(vocabulary, key=vocabulary.__getitem__)))
        case {"model": {"type": "BPE", "merges": []}} if vocabulary == _bytes():
            return ByteTokenizer()
        case {"model": {"type": "BPE"}} if _splits_as_gpt2(content, vocabulary):
            return TrainedTokenizer(f"{TRAINED_PREFIX}{len(vocabulary)}", content)
    raise UserError(
        f"{folder} has a tokenizer that is not supported: expected GPT-2's, single characters, "
        "bytes or byte-level BPE"
    )


def _splits_as_gpt2(content: dict, vocabulary: dict[str, int]) -> bool:
    """Returns True if a byte-level BPE processes a text as `TrainedTokenizer` does."""
    match content:
        case {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False}}:
            others = ("normalizer", "post_processor", "truncation", "padding", "added_tokens")
            is_whole = set(vocabulary.values()) == set(range(len(vocabulary)))
            return is_whole and not any(content.get(name) for name in others)
    return False


def read_vocabulary(folder: Path) -> dict[str, int] | None:
    """Returns the token ids beside weights, None if there are none. Raises UserError."""
    import tokenizers

    if (folder / FILE).exists():
        try:
            return tokenizers.Tokenizer.from_file(str(folder / FILE)).get_vocab()
        except Exception as error:  # The library raises plain Exception.
            raise UserError(f"{folder / FILE} can't be read: {error}") from None
    return run_folder.read_object(folder / MERGED) if (folder / MERGED).exists() else None


def _bytes() -> dict[str, int]:
    """Returns the byte of each character that GPT-2 writes bytes as.

    That is the byte's own in latin-1 if it is printable, else one from U+0100 on, in order.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = ByteLevel.alphabet()
    order = sorted(range(256), key=lambda byte: chr(byte) not in alphabet)
    return dict(zip(sorted(alphabet), order, strict=True))
