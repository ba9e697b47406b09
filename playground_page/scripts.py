"""Lists the page's JavaScript: the scripts of the page, and those of the worker that computes."""

import re
from functools import cache
from pathlib import Path

from experiments import default

HERE = Path(__file__).parent
# In the order of the syllabus; a file uses what those before it define. A new stage may have none.
MODELS = tuple(
    name
    for name in ("layers", *default.LADDER, "positions", "gpt2_parts", "gpt2_variants")
    if (HERE / f"models/{name}.js").exists()
)
WORKER = (*(f"models/{name}.js" for name in MODELS), "tokenizers.js", "sampling.js", "reading.js")
PAGE = ("ask.js", "continue.js", "look.js", "heads.js", "games.js", "code.js", "main.js")


def read(name: str) -> str:
    """Returns the text of a file of this package."""
    return (HERE / name).read_text(encoding="utf-8")


def worker() -> str:
    """Returns the script of the worker; a line before each file has its name, for code.js."""
    return "\n".join(f"// ==== {name}\n{read(name)}" for name in (*WORKER, "worker.js"))


@cache
def stages() -> frozenset[str]:
    """Returns the names of the models that `reading.js` can begin with."""
    (names,) = re.findall(
        r"^const STAGES = \{(.*?)\};", read("reading.js"), re.MULTILINE | re.DOTALL
    )
    return frozenset(re.findall(r"\w+", names))


@cache
def computable() -> frozenset[str]:
    """Returns the names of the modules that `models/*.js` defines, which are those in Flax."""
    texts = (read(f"models/{name}.js") for name in MODELS)
    found = (re.findall(r"^function ([A-Z]\w+)\(", text, re.MULTILINE) for text in texts)
    return frozenset(name for names in found for name in names)
