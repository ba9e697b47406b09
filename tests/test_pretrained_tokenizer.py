"""Tokenizers of GPT-2 folders from elsewhere: ids of `transformers`, or what is in the way."""

import json

import numpy as np
import pytest
import tokenizers as library
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from input_pipeline import pretrained_tokenizer, tokenizers
from runtime.errors import UserError
from tests.tokenizer_folders import (
    END,
    FIXTURE,
    KINDS,
    PLAIN,
    TEXT,
    setting,
    with_tokens,
    write,
    write_files,
    write_legacy,
)

IDS = json.loads(FIXTURE.read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_transformers(tmp_path, kind):
    """`make interop` compares the fixture with `transformers`. Also in pieces, saved and loaded."""
    KINDS[kind](tmp_path)
    tokenizer = pretrained_tokenizer.read(tmp_path)
    assert tokenizer.encode(TEXT).tolist() == IDS[kind]
    text = 3 * TEXT
    pieces = tokenizers.encode_pieces(tokenizer, [text[:70], text[70:71], "", text[71:]])
    np.testing.assert_array_equal(np.concatenate(list(pieces)), tokenizer.encode(text))
    assert len(tokenizer.token_bytes) == tokenizer.vocab_size > max(IDS[kind])
    decoded = tokenizer.decode(IDS[kind])
    assert tokenizer.token_bytes[IDS[kind]].sum() == len(decoded.encode())
    if kind in ("[PAD] named", "special token first", "merges as strings"):
        assert decoded == TEXT
    tokenizer.save(tmp_path / "tokenizer.json")
    kept = pretrained_tokenizer.read(tmp_path)  # As from the folder of a run.
    assert kept.encode(TEXT).tolist() == IDS[kind] and kept.digest == tokenizer.digest


def test_a_token_without_a_row_in_the_weights_is_text(tmp_path):
    """A padding token that was added, and the weights not made longer for it: as often as not."""
    KINDS["[PAD] named"](tmp_path)
    write_files(tmp_path, config={"vocab_size": 281})
    tokenizer = pretrained_tokenizer.read(tmp_path)
    assert tokenizer.vocab_size == 281
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


@pytest.mark.slow
def test_the_published_tokenizer_is_known_in_both_forms(tmp_path):
    """From tokenizer.json, and from vocab.json and merges.txt; with [PAD] it is another."""
    from input_pipeline import gpt2_encoding, hugging_face

    published = hugging_face.to_hugging_face(tokenizers.Gpt2Tokenizer())
    files = gpt2_encoding.find()
    (tmp_path / "vocab.json").write_bytes((files / "encoder.json").read_bytes())
    (tmp_path / "merges.txt").write_bytes((files / "vocab.bpe").read_bytes())
    assert isinstance(pretrained_tokenizer.read(tmp_path), tokenizers.Gpt2Tokenizer)
    published.save(str(tmp_path / "tokenizer.json"))
    assert isinstance(pretrained_tokenizer.read(tmp_path), tokenizers.Gpt2Tokenizer)
    write_files(tmp_path, tokenizer_config={"pad_token": "[PAD]"})
    padded = pretrained_tokenizer.read(tmp_path)
    assert padded.encode("Hello[PAD]<|endoftext|>").tolist() == [15496, 50257, 50256]


def replace_part(part, content):
    """Returns a function that writes a tokenizer.json with another part."""

    def write_replaced(folder):
        write(folder, tokenizer_config=PLAIN)
        path = folder / "tokenizer.json"
        whole = json.loads(path.read_text())
        whole[part] = whole[part] | content if isinstance(content, dict) else content
        path.write_text(json.dumps(whole))

    return write_replaced


def write_word_level(folder):
    encoding = library.Tokenizer(models.WordLevel({"a": 0, "bc": 1}, unk_token="a"))
    encoding.save(str(folder / "tokenizer.json"))
    write_files(folder, tokenizer_config=PLAIN)


def without(name):
    """Returns a function that writes the legacy files but for one."""

    def write_others(folder):
        write_legacy(folder)
        (folder / name).unlink()

    return write_others


def write_text(name, text, write_others=write_legacy):
    """Returns a function that writes a folder, and then `text` into one of its files."""

    def write_changed(folder):
        write_others(folder)
        (folder / name).write_text(text)

    return write_changed


def plainly(**change):
    """Returns a function that writes a tokenizer.json which is read as it is, with one change."""
    ((name, value),) = change.items()
    return lambda folder: write(folder, change=setting(name, value), tokenizer_config=PLAIN)


def with_token(*args, **options):
    """Returns a function that writes a tokenizer.json with one more token."""
    change = with_tokens(library.AddedToken(*args, **options))
    return lambda folder: write(folder, change=change, tokenizer_config=PLAIN)


split = pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel()])
around = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"

# What is in the way, and words of the message.
OBSTACLES = {
    "nothing": (lambda folder: None, "holds no tokenizer: expected tokenizer.json, or GPT-2's"),
    "no merges.txt": (without("merges.txt"), "holds no merges.txt: expected it beside"),
    "no vocab.json": (without("vocab.json"), "holds no vocab.json: expected it beside"),
    "broken vocab.json": (write_text("vocab.json", "{"), "the tokenizer can't be read"),
    "broken merges.txt": (write_text("merges.txt", "x\ny z"), "the tokenizer can't be read"),
    "broken tokenizer.json": (write_text("tokenizer.json", "{", write), "can't be read"),
    "empty tokenizer.json": (write_text("tokenizer.json", "{}", write), "holds no vocab.json"),
    "a list": (write_text("tokenizer.json", "[]", write), "expected a JSON object"),
    "no model": (write_text("tokenizer.json", '{"a": 1}', write), "can't be read: KeyError"),
    "a pointer": (write_text("tokenizer.json", POINTER, write), "is a git-lfs pointer, not"),
    "a pointer for merges.txt": (write_text("merges.txt", POINTER), "is a git-lfs pointer, not"),
    "a class of another model": (
        lambda folder: write(folder, tokenizer_config={"tokenizer_class": "BertTokenizer"}),
        "tokenizer_class is 'BertTokenizer': expected GPT2Tokenizer, PreTrainedTokenizer",
    ),
    "words": (write_word_level, "its model is WordLevel, expected BPE, single characters or bytes"),
    "words for GPT2Tokenizer": (
        lambda folder: (write_word_level(folder), write_files(folder, tokenizer_config={})),
        "tokenizer.json is of the kind WordLevel: expected BPE",
    ),
    "a normalizer": (plainly(normalizer=normalizers.NFC()), "its normalizer is NFC, which changes"),
    "another decoder": (plainly(decoder=decoders.Fuse()), "its decoder is Fuse"),
    "another split": (plainly(pre_tokenizer=split), "its pre_tokenizer is Sequence, expected"),
    "no regex": (
        plainly(pre_tokenizer=pre_tokenizers.ByteLevel(use_regex=False)),
        "its pre_tokenizer is ByteLevel, expected ByteLevel with GPT-2's regex",
    ),
    "no split": (plainly(pre_tokenizer=pre_tokenizers.Sequence([])), "its pre_tokenizer is Seq"),
    "random merges": (replace_part("model", {"dropout": 0.1}), "its model has dropout=0.1"),
    "byte fallback": (replace_part("model", {"byte_fallback": True}), "has byte_fallback=True"),
    "ends of words": (
        replace_part("model", {"end_of_word_suffix": "</w>"}),
        "its model has end_of_word_suffix='</w>'",
    ),
    "the space after": (with_token("<m>", rstrip=True), "token '<m>' takes the space after it"),
    "a space inside": (with_token("to be"), "token 'to be' contains a space"),
    "a beginning, in tokenizer.json": (
        lambda folder: write(
            folder,
            special=["<s>"],
            change=setting("post_processor", around),
            tokenizer_config=PLAIN,
        ),
        "it puts <s> around each text: remove the post_processor of tokenizer.json, or add_bos",
    ),
    "a beginning for GPT2Tokenizer": (
        lambda folder: write(folder, special=["<s>"], change=setting("post_processor", around)),
        "it puts <s> around each text",
    ),
    "add_bos_token": (
        lambda folder: write_legacy(folder, tokenizer_config={"add_bos_token": True}),
        f"it puts {END} around each text",
    ),
    "weights with fewer rows": (
        lambda folder: write(folder, config={"vocab_size": 279}),
        "has 280 tokens that are not the 279 of the weights",
    ),
}


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_the_one_thing_in_the_way_is_named(tmp_path, obstacle):
    write_folder, message = OBSTACLES[obstacle]
    write_folder(tmp_path)
    with pytest.raises(UserError) as error:
        pretrained_tokenizer.read(tmp_path)
    assert message in str(error.value) and str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_tokenizer_without_bos_in_its_files_is_read(tmp_path):
    """`transformers` ignores add_bos_token beside a tokenizer.json."""
    write(tmp_path, tokenizer_config={"add_bos_token": True})
    assert pretrained_tokenizer.read(tmp_path).encode(TEXT).tolist() == IDS["tokenizer.json alone"]
