"""Writes a tokenizer as JSON that `tokenizers.js` encodes with."""

import json
from typing import Any

from input_pipeline import hugging_face
from input_pipeline.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer
from runtime.errors import UserError

# Options of an added token; a byte-pair encoding that was read has no token with `rstrip`.
OPTIONS = ("lstrip", "normalized", "single_word")


def exported(tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns a tokenizer as JSON. Raises UserError for what the page can't carry."""
    match tokenizer:
        case CharTokenizer():
            return {"kind": "char", "vocabulary": tokenizer.vocabulary}
        case ByteTokenizer():
            return {"kind": "byte"}
    return _byte_pairs(json.loads(hugging_face.to_hugging_face(tokenizer).to_str()))


def _byte_pairs(content: dict[str, Any]) -> dict[str, Any]:
    """Returns a byte-pair encoding, from its JSON in the format of Hugging Face.

    `pieces` are the bytes of each token, one character a byte; `alphabet` is the token of each
    byte, or None; `merges` are three ids each (left, right, both), one after the other.
    """
    model, added = content["model"], content["added_tokens"]
    vocabulary, byte_of = model["vocab"], hugging_face.byte_vocabulary()
    alphabet = [vocabulary.get(char) for char in sorted(byte_of, key=byte_of.__getitem__)]
    if model.get("ignore_merges"):
        _refuse("ignore_merges")
    if model["unk_token"] is not None and None in alphabet:
        _refuse(f"unk_token={model['unk_token']!r} for bytes without a token")
    tokens = vocabulary | {token["content"]: token["id"] for token in added}
    pieces = [""] * (max(tokens.values(), default=-1) + 1)
    for name, token in tokens.items():
        pieces[token] = _bytes(name, byte_of).decode("latin-1")
    merges = ((left, right, left + right) for left, right in model["merges"])
    return {
        "kind": "bpe",
        "pieces": pieces,
        "alphabet": alphabet,
        "merges": [vocabulary[name] for names in merges for name in names],
        "added": [{key: token[key] for key in ("id", "content", *OPTIONS)} for token in added],
        "prefix_space": content["pre_tokenizer"]["add_prefix_space"],
    }


def _bytes(name: str, byte_of: dict[str, int]) -> bytes:
    """Returns the bytes that tokenizers.decoders.ByteLevel decodes the name of a token to.

    An added token whose characters all stand for bytes, "é" for example, becomes those bytes, too.
    """
    return bytes(map(byte_of.__getitem__, name)) if set(name) <= set(byte_of) else name.encode()


def _refuse(option: str) -> None:
    raise UserError(
        f"the tokenizer has {option}, which the page can't carry: expected a byte-pair encoding "
        "as GPT-2's; generate.py takes it"
    )
