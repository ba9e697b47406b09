"""Tokenizers in the format of Hugging Face, tokenizer.json: converted and written."""

import json
from pathlib import Path

import run_folder
from input_pipeline import gpt2_encoding
from input_pipeline.tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    Gpt2Tokenizer,
    Tokenizer,
    TrainedTokenizer,
)

FILE, ABOUT = "tokenizer.json", "tokenizer_config.json"
END_OF_TEXT = "<|endoftext|>"


def write(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes the files that `transformers.AutoTokenizer.from_pretrained` reads."""
    run_folder.write_json(folder / FILE, json.loads(to_hugging_face(tokenizer).to_str()))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    if end_of_text(tokenizer) is not None:
        about |= {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
    run_folder.write_json(folder / ABOUT, about)


def end_of_text(tokenizer: Tokenizer) -> int | None:
    """Returns the token <|endoftext|>; None for a tokenizer without it."""
    match tokenizer:
        case Gpt2Tokenizer():
            return tokenizer.vocab_size - 1
        case TrainedTokenizer():
            added = {token["content"]: token["id"] for token in tokenizer.learned["added_tokens"]}
            return added.get(END_OF_TEXT)
    return None


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
            converted = tokenizers.Tokenizer(models.BPE(byte_vocabulary(), []))
        case Gpt2Tokenizer():
            files = (str(gpt2_encoding.find() / name) for name in ("encoder.json", "vocab.bpe"))
            converted = tokenizers.Tokenizer(models.BPE.from_file(*files))
    converted.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    converted.decoder = decoders.ByteLevel()
    if isinstance(tokenizer, Gpt2Tokenizer):
        converted.add_special_tokens([END_OF_TEXT])
    return converted


def byte_vocabulary() -> dict[str, int]:
    """Returns the byte of each character that GPT-2 writes bytes as.

    That is the byte's own in latin-1 if it is printable, else one from U+0100 on, in order.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = ByteLevel.alphabet()
    order = sorted(range(256), key=lambda byte: chr(byte) not in alphabet)
    return dict(zip(sorted(alphabet), order, strict=True))
