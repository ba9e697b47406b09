"""Tokenizer beside pretrained weights, as `transformers` (5.x) loads it for a GPT-2.

A folder has tokenizer.json, or vocab.json and merges.txt as GPT-2 was published. Of the class
GPT2Tokenizer, also the default, `transformers` takes the vocabulary and the merges and ignores how
tokenizer.json splits a text; of other classes it takes tokenizer.json as it is. Both get the tokens
that tokenizer_config.json, special_tokens_map.json and added_tokens.json name.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import run_folder
from input_pipeline import hugging_face
from input_pipeline.hugging_face import ABOUT, END_OF_TEXT, FILE
from input_pipeline.tokenizers import (
    PRETRAINED,
    ByteTokenizer,
    CharTokenizer,
    Gpt2Tokenizer,
    Tokenizer,
    TrainedTokenizer,
    load,
)
from runtime.errors import UserError
from runtime.files import check_not_a_pointer

VOCABULARY, MERGES = "vocab.json", "merges.txt"
SPECIAL, ADDED = "special_tokens_map.json", "added_tokens.json"
FILES = (FILE, VOCABULARY, MERGES, ABOUT, SPECIAL, ADDED)
GPT2_CLASS = "GPT2Tokenizer"
# Classes that take tokenizer.json as it is; also any that `transformers` does not know.
PLAIN_CLASSES = ("PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend")
# The order in which `transformers` adds named tokens, which gives them their ids.
NAMED = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))


def exists(folder: Path) -> bool:
    """Returns True if `folder` has the files of a tokenizer."""
    return any((folder / name).exists() for name in (FILE, VOCABULARY, MERGES))


def read(folder: Path) -> Tokenizer:
    """Returns the tokenizer in a folder of weights, or in a run folder.

    Tokens without a row in the weights, as a padding token that was added later, are left out.
    Raises UserError, which names the one thing in the way.
    """
    if not exists(folder):
        raise UserError(
            f"{folder} holds no tokenizer: expected {FILE}, or GPT-2's {VOCABULARY} and {MERGES}"
        )
    for name in FILES:
        check_not_a_pointer(folder / name)
    if "name" in (content := _object(folder / FILE)):
        return load(folder / FILE)  # A run's own.
    encoding = _load(folder, content)
    encoding.no_truncation()  # Nor does `transformers` cut or pad unless asked to.
    encoding.no_padding()
    content = json.loads(encoding.to_str())
    vocabulary = content["model"]["vocab"]
    rows = _object(folder / run_folder.CONFIG).get("vocab_size")
    if isinstance(rows, int):
        if len(vocabulary) > rows:
            raise UserError(
                f"{folder}: the tokenizer has {len(vocabulary)} tokens that are not the {rows} of "
                "the weights: expected the tokenizer that they were trained with"
            )
        added = content["added_tokens"]
        content["added_tokens"] = [token for token in added if token["id"] < rows]
    match content:
        case {"model": {"type": "WordLevel"}, "added_tokens": []} if _is_characters(vocabulary):
            return CharTokenizer("".join(sorted(vocabulary, key=vocabulary.__getitem__)))
        case {"model": {"type": "BPE", "merges": []}, "added_tokens": []} if (
            vocabulary == hugging_face.byte_vocabulary()
        ):
            return ByteTokenizer()
    if obstacle := _obstacle(content, encoding):
        raise UserError(f"{folder} has a tokenizer that is not supported: {obstacle}")
    if len(vocabulary) == Gpt2Tokenizer.vocab_size:
        published = hugging_face.to_hugging_face(Gpt2Tokenizer())
        if _identity(content) == _identity(json.loads(published.to_str())):
            return Gpt2Tokenizer()
    return TrainedTokenizer(PRETRAINED, content)


def _load(folder: Path, content: dict[str, Any]):
    """Returns the tokenizers.Tokenizer that `transformers` builds from the files in `folder`."""
    import tokenizers

    about = _object(folder / ABOUT)
    kind = about.get("tokenizer_class")
    kind = kind or _object(folder / run_folder.CONFIG).get("tokenizer_class") or GPT2_CLASS
    if kind not in (GPT2_CLASS, f"{GPT2_CLASS}Fast", *PLAIN_CLASSES):
        raise UserError(
            f"{folder / ABOUT}: tokenizer_class is {kind!r}: expected "
            f"{', '.join((GPT2_CLASS, *PLAIN_CLASSES))}"
        )
    is_gpt2 = kind not in PLAIN_CLASSES
    try:
        if not is_gpt2 and content:
            encoding = tokenizers.Tokenizer.from_file(str(folder / FILE))
        else:
            encoding = _gpt2(folder, content, about)
        encoding.add_tokens(list(_tokens_to_add(folder, about, content, is_gpt2)))
    except UserError:
        raise
    except Exception as error:  # The library raises plain Exception.
        raise UserError(
            f"{folder}: the tokenizer can't be read: {type(error).__name__}: {error}"
        ) from None
    return encoding


def _gpt2(folder: Path, content: dict[str, Any], about: dict[str, Any]):
    """Returns a tokenizers.Tokenizer of the vocabulary and merges alone, which splits as GPT-2."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors

    if content:
        if (kind := content["model"].get("type", "BPE")) != "BPE":
            raise UserError(f"{folder / FILE} is of the kind {kind}: expected BPE, GPT-2's")
        merges = content["model"]["merges"]
        pairs = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in merges]
        encoding = tokenizers.Tokenizer(models.BPE(content["model"]["vocab"], pairs))
    else:
        for name in (VOCABULARY, MERGES):
            if not (folder / name).exists():
                raise UserError(f"{folder} holds no {name}: expected it beside the other file")
        files = (str(folder / name) for name in (VOCABULARY, MERGES))
        encoding = tokenizers.Tokenizer(models.BPE.from_file(*files))
    prefix = about.get("add_prefix_space", False)
    encoding.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    encoding.decoder = decoders.ByteLevel()
    if content.get("post_processor"):
        # The library reads a part of a tokenizer only as a whole one.
        parts = {"model": {"type": "BPE", "vocab": {}, "merges": []}}
        parts["post_processor"] = content["post_processor"]
        encoding.post_processor = tokenizers.Tokenizer.from_str(json.dumps(parts)).post_processor
    elif not content and (about.get("add_bos_token") or about.get("add_eos_token")):
        encoding.add_special_tokens([END_OF_TEXT])
        token = END_OF_TEXT, encoding.token_to_id(END_OF_TEXT)
        encoding.post_processor = processors.TemplateProcessing(
            single=f"{END_OF_TEXT} $A", special_tokens=[token]
        )
    return encoding


def _tokens_to_add(
    folder: Path, about: dict[str, Any], content: dict[str, Any], is_gpt2: bool
) -> Iterator[Any]:
    """Yields the AddedTokens beside the vocabulary, in the order of `transformers`."""
    named: dict[str, Any] = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    named = {**dict.fromkeys(NAMED), **(named if is_gpt2 else {})}
    named["pad_token"] = (content.get("padding") or {}).get("pad_token")
    stated = {**about, **({} if "added_tokens_decoder" in about else _object(folder / SPECIAL))}
    others = stated.get("extra_special_tokens") or stated.get("additional_special_tokens") or []
    others = list(others.values()) if isinstance(others, dict) else others
    named |= {
        name: value
        for name, value in stated.items()
        if name in NAMED or (name.endswith("_token") and isinstance(value, str | dict))
    }
    special = [value for value in [*named.values(), *others] if value is not None]
    contents = {value if isinstance(value, str) else value["content"] for value in special}
    if "added_tokens_decoder" in about:
        numbered = {int(number): token for number, token in about["added_tokens_decoder"].items()}
    else:
        numbered = {number: token for token, number in _object(folder / ADDED).items()}
        numbered |= {token["id"]: token for token in content.get("added_tokens", [])}
    for _, token in sorted(numbered.items()):
        yield _added_token(token, is_special=isinstance(token, str) and token in contents)
    for token in special:
        yield _added_token(token, is_special=True)


def _added_token(token: str | dict[str, Any], is_special: bool):
    """Returns the AddedToken that a file has, as a string or with its options."""
    from tokenizers import AddedToken

    if isinstance(token, str):
        return AddedToken(token, special=is_special)
    options = {key: token[key] for key in token if key not in ("__type", "id", "special")}
    return AddedToken(**options, special=token.get("special", False) or is_special)


def _obstacle(content: dict[str, Any], encoding: Any) -> str:
    """Returns what keeps a tokenizer from being used piece by piece, with its bytes counted; or "".

    `TrainedTokenizer` splits a long text before single spaces.
    """
    model, split = content["model"], content["pre_tokenizer"] or {}
    if model["type"] != "BPE":
        return f"its model is {model['type']}, expected BPE, single characters or bytes"
    for part in ("normalizer", "decoder"):
        kind = (content[part] or {}).get("type")
        if kind != {"normalizer": None, "decoder": "ByteLevel"}[part]:
            return f"its {part} is {kind}, which changes the text"
    if split.get("type") != "ByteLevel" or not split.get("use_regex", True):
        return f"its pre_tokenizer is {split.get('type')}, expected ByteLevel with GPT-2's regex"
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(option):
            return f"its model has {option}={model[option]!r}"
    for token in content["added_tokens"]:
        if token["rstrip"] or re.search(r"\S \S", token["content"]):
            why = "takes the space after it (rstrip)" if token["rstrip"] else "contains a space"
            return f"its token {token['content']!r} {why}"
    if around := encoding.encode("").tokens:
        return (
            f"it puts {' '.join(around)} around each text: remove the post_processor of {FILE}, or "
            f"add_bos_token and add_eos_token of {ABOUT}"
        )
    return ""


def _is_characters(vocabulary: dict[str, int]) -> bool:
    """Returns True for single characters, numbered from 0 without a gap."""
    is_whole = set(vocabulary.values()) == set(range(len(vocabulary)))
    return is_whole and set(map(len, vocabulary)) == {1}


def _identity(content: dict[str, Any]) -> tuple:
    """Returns what makes two byte-level BPEs encode alike."""
    added = [(token["id"], token["content"], token["lstrip"]) for token in content["added_tokens"]]
    model, prefix = content["model"], content["pre_tokenizer"]["add_prefix_space"]
    return model["vocab"], model["merges"], prefix, added


def _object(path: Path) -> dict[str, Any]:
    return run_folder.read_object(path) if path.exists() else {}
