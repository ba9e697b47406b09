"""Folders of GPT-2 tokenizers as users bring them, and one text that tells them apart.

tests/test_pretrained_tokenizer.py compares ours with ids of `transformers` in a fixture, which
tests/interop/test_tokenizers.py compares with `transformers` itself.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

FIXTURE = Path(__file__).parent / "fixtures/tokenizer_ids.json"
LEARNED_FROM = "the thing that they then thought; né €uro 𝄞 " * 50
TEXT = (
    "then a<|endoftext|>the  thing [PAD] né\n\nthey'll  <mask>X <mask> x<sep>y <a>𝄞</s> "
    "The €uro zthat<|endoftext|>\n"
)
END = "<|endoftext|>"
TOKEN = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}


@functools.cache
def learned(special: tuple[str, ...] = (), whole_alphabet: bool = True) -> str:
    """Returns the tokenizer.json of a small BPE that splits as GPT-2."""
    encoding = tokenizers.Tokenizer(models.BPE())
    encoding.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    encoding.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet() if whole_alphabet else []
    trainer = trainers.BpeTrainer(
        vocab_size=280 if whole_alphabet else 40,
        initial_alphabet=alphabet,
        special_tokens=list(special),
        show_progress=False,
    )
    encoding.train_from_iterator([LEARNED_FROM], trainer)
    return encoding.to_str()


def write(folder: Path, *, special=(), whole_alphabet=True, change=None, **files) -> None:
    """Writes tokenizer.json, changed by `change` if given, and JSON `files` by their stems."""
    encoding = tokenizers.Tokenizer.from_str(learned(tuple(special), whole_alphabet))
    if change:
        change(encoding)
    encoding.save(str(folder / "tokenizer.json"))
    write_files(folder, **files)


def write_legacy(folder: Path, **files) -> None:
    """Writes vocab.json and merges.txt, as GPT-2 was published, and JSON `files`."""
    tokenizers.Tokenizer.from_str(learned()).model.save(str(folder))
    write_files(folder, **files)


def write_files(folder: Path, **files) -> None:
    """Writes each content as JSON."""
    for stem, content in files.items():
        (folder / f"{stem}.json").write_text(json.dumps(content))


def setting(name: str, value: object) -> Callable[[tokenizers.Tokenizer], None]:
    """Returns a function that sets an attribute of a tokenizer."""
    return lambda encoding: setattr(encoding, name, value)


def with_tokens(*tokens: tokenizers.AddedToken) -> Callable[[tokenizers.Tokenizer], None]:
    """Returns a function that adds tokens to a tokenizer."""
    return lambda encoding: encoding.add_tokens(list(tokens))


def cut_and_pad(encoding: tokenizers.Tokenizer) -> None:
    """Asks a tokenizer for exactly eight tokens, which `transformers` does only if asked, too."""
    encoding.enable_truncation(8)
    encoding.enable_padding(length=8)


def merges_as_strings(folder: Path) -> None:
    """Writes a tokenizer.json as before version 0.20 of the library."""
    content = json.loads(learned())
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    write_files(folder, tokenizer=content)


PLAIN = {"tokenizer_class": "PreTrainedTokenizerFast"}
BACKEND = {"tokenizer_class": "TokenizersBackend"}
GPT2 = {"tokenizer_class": "GPT2Tokenizer"}
byte_level = processors.ByteLevel(trim_offsets=False)
no_template = processors.TemplateProcessing(single="$A", special_tokens=[])
prefix = pre_tokenizers.ByteLevel(add_prefix_space=True)

# What `transformers` loads for a GPT-2; each is a function of the folder to write to.
KINDS: dict[str, Callable[[Path], None]] = {
    "tokenizer.json alone": write,
    "vocab.json and merges.txt": write_legacy,
    "legacy special tokens": lambda folder: write_legacy(
        folder,
        special_tokens_map={"eos_token": "</s>", "pad_token": {"content": "[PAD]", **TOKEN}},
        added_tokens={"[PAD]": 281, "<a>": 280},
    ),
    "legacy added_tokens_decoder": lambda folder: write_legacy(
        folder,
        tokenizer_config={**GPT2, "added_tokens_decoder": {"280": {"content": END, **TOKEN}}},
        added_tokens={"<a>": 280},  # Not read beside the other.
    ),
    "post-processor ByteLevel": lambda folder: write(
        folder, change=setting("post_processor", byte_level), tokenizer_config=PLAIN
    ),
    "post-processor without tokens": lambda folder: write(
        folder, change=setting("post_processor", no_template), tokenizer_config=GPT2
    ),
    "special token first": lambda folder: write(
        folder, special=[END], tokenizer_config={**PLAIN, "eos_token": END}
    ),
    "special token first, GPT2Tokenizer": lambda folder: write(folder, special=["</s>", END]),
    "[PAD] named": lambda folder: write(folder, tokenizer_config={**GPT2, "pad_token": "[PAD]"}),
    "[PAD] named, plain": lambda folder: write(
        folder, tokenizer_config={**BACKEND, "pad_token": "[PAD]", "eos_token": END}
    ),
    "[PAD] with options": lambda folder: write(
        folder,
        tokenizer_config={
            **GPT2,
            "pad_token": {"__type": "AddedToken", "content": "[PAD]", **TOKEN, "lstrip": True},
        },
    ),
    "GPT2TokenizerFast": lambda folder: write(
        folder,
        special=[END],
        tokenizer_config={
            "tokenizer_class": "GPT2TokenizerFast",
            "added_tokens_decoder": {"0": {"content": END, **TOKEN, "special": True}},
        },
    ),
    "extra_special_tokens": lambda folder: write(
        folder, tokenizer_config={**BACKEND, "extra_special_tokens": ["<sep>", "<a>"]}
    ),
    "extra_special_tokens by name": lambda folder: write(
        folder, tokenizer_config={**BACKEND, "extra_special_tokens": {"my_token": "<a>"}}
    ),
    "additional_special_tokens": lambda folder: write(
        folder, tokenizer_config={**GPT2, "additional_special_tokens": ["<sep>", "<a>"]}
    ),
    "a token of another name": lambda folder: write(
        folder, tokenizer_config={**PLAIN, "image_token": "<a>", "bos_token": "</s>"}
    ),
    "no special tokens": lambda folder: write(
        folder, tokenizer_config={**GPT2, "bos_token": None, "eos_token": None, "unk_token": None}
    ),
    "a space before": lambda folder: write(
        folder, tokenizer_config={**GPT2, "add_prefix_space": True}
    ),
    "a space before, in tokenizer.json": lambda folder: write(
        folder, change=setting("pre_tokenizer", prefix), tokenizer_config=PLAIN
    ),
    "a split that GPT2Tokenizer ignores": lambda folder: write(
        folder, change=setting("pre_tokenizer", prefix)
    ),
    "a normalizer that GPT2Tokenizer ignores": lambda folder: write(
        folder, change=setting("normalizer", normalizers.Lowercase())
    ),
    "an alphabet of few bytes": lambda folder: write(folder, whole_alphabet=False),
    "merges as strings": merges_as_strings,
    "truncation and padding": lambda folder: write(
        folder, change=cut_and_pad, tokenizer_config=PLAIN
    ),
    "a token that takes the space before it": lambda folder: write(
        folder,
        change=with_tokens(tokenizers.AddedToken("<mask>", lstrip=True)),
        tokenizer_config=PLAIN,
    ),
    "a token that is a whole word": lambda folder: write(
        folder,
        change=with_tokens(tokenizers.AddedToken("<mask>", single_word=True)),
        tokenizer_config=PLAIN,
    ),
    "a class that config.json names": lambda folder: write(
        folder, change=setting("pre_tokenizer", prefix), config={"model_type": "gpt2", **PLAIN}
    ),
}
