"""Token ids of `transformers` for the tokenizers of tests/tokenizer_folders.py.

To rewrite the fixture: `.venv-peers/bin/python -m tests.interop.tokenizer_ids`.
"""

import json
import tempfile
from pathlib import Path

from transformers import AutoTokenizer

from tests.tokenizer_folders import FIXTURE, KINDS, TEXT


def ids_of(folder: Path) -> list[int]:
    """Returns the ids of `TEXT` by the tokenizer in `folder`, which gets a GPT-2's config.json."""
    if not (folder / "config.json").exists():
        (folder / "config.json").write_text('{"model_type": "gpt2"}')
    return AutoTokenizer.from_pretrained(folder).encode(TEXT)


def all_ids() -> dict[str, list[int]]:
    """Returns the ids for each kind of folder."""
    with tempfile.TemporaryDirectory() as temporary:
        found = {}
        for number, (kind, write) in enumerate(KINDS.items()):
            folder = Path(temporary, str(number))
            folder.mkdir()
            write(folder)
            found[kind] = ids_of(folder)
    return found


if __name__ == "__main__":
    lines = (f"  {json.dumps(kind)}: {json.dumps(ids)}" for kind, ids in all_ids().items())
    FIXTURE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
