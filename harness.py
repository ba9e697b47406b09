"""The harness in a notebook or a script: train a run, open one, use it, compare several.

    import harness

    run = harness.train("gpt2:smoke", "runs/x", **{"train.num_steps": 30})
    run = harness.open_run("runs/x", "best")
    print(run.generate("ROMEO:", num_tokens=200))
    run.plot()
    run.attention("ROMEO:")
    harness.compare("runs/ladder")

`generate.py` and `evaluate.py` are these functions with flags. What a command prints as one line of
error is a `UserError` here.
"""

import importlib
import importlib.util
import runpy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

import run_folder
from checkpoints import pretrained
from checkpoints.file_format import Damaged
from checkpoints.snapshots import Snapshots
from config import check
from experiments import default
from inference import continuations, evaluation, generation, streaming, tasks
from inference.continuations import Scores
from inference.sampling import Sampling
from input_pipeline import batches, corpus, documents, examples, pairs, text_paths
from input_pipeline.examples import Example
from input_pipeline.pairs import Pairs
from input_pipeline.shards import Shards
from input_pipeline.tokenizers import Tokenizer, encode_pieces, encode_prompt
from inspection import heads, interception
from runtime import devices, process
from runtime.errors import UserError
from tracking import artifact
from training import run_start

ROOT = Path(__file__).parent


@dataclass(frozen=True)
class Run:
    """A trained model with the record of its training."""

    workdir: Path
    config: ConfigDict
    tokenizer: Tokenizer
    model: nn.Module
    params: Any
    step: int

    @cached_property
    def metrics(self) -> Any:
        """The measurements, a row a step: a DataFrame if pandas is installed, else columns."""
        return _columns(run_folder.read_lines(self.workdir / run_folder.METRICS))

    @property
    def samples(self) -> list[dict[str, Any]]:
        """The texts written during training, each with its step and prompt."""
        return list(run_folder.read_lines(self.workdir / run_folder.SAMPLES))

    @property
    def summary(self) -> dict[str, Any]:
        """The last and the best metrics, and how the training ended."""
        return run_folder.read_object(self.workdir / run_folder.SUMMARY)

    def generate(
        self,
        prompt: str,
        num_tokens: int = 200,
        *,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> str:
        """Returns `prompt` and its continuation by `num_tokens` tokens, or up to one of `stop`.

        Raises UserError for an empty prompt or stop, or sampling that is not possible.
        """
        sampling = Sampling(temperature, top_k, top_p).check("")
        stops = streaming.check_stops([stop] if isinstance(stop, str) else stop, "stop")
        chunks = self.stream(prompt, num_tokens, sampling, seed)
        one = (chunk[0] for chunk in chunks)
        return prompt + "".join(streaming.stream_text(self.tokenizer, one, stops))

    def stream(
        self, prompt: str, num_tokens: int, sampling: Sampling, seed: int, num_samples: int = 1
    ) -> Iterator[np.ndarray]:
        """Yields the tokens of `num_samples` continuations in chunks, as they are generated.

        A chunk is int32 [num_samples, tokens]. Raises UserError for an empty prompt, or a seed out
        of range.
        """
        if not 0 <= seed <= check.MAX_SEED:
            raise UserError(f"seed={seed}: expected 0 to {check.MAX_SEED}")
        return generation.generate(
            self.model,
            self.params,
            encode_prompt(prompt, self.tokenizer, "prompt"),
            num_tokens=num_tokens,
            context_length=self.config.model.context_length,
            sampling=sampling,
            seed=seed,
            num_samples=num_samples,
        )

    def logits(self, text: str) -> np.ndarray:
        """Returns the logits of the token after each token of `text`, float32 [T, V].

        Raises UserError for an empty text, or one longer than the context.
        """
        tokens = self._fitting(text)
        return np.asarray(self.model.apply({"params": self.params}, tokens[None])[0])

    def attention(self, text: str) -> np.ndarray:
        """Returns the attention weights of all layers and heads on `text`, float32 [L, H, T, S].

        Weight t, s is how much token t takes from token s. Raises UserError for a text that
        `logits` refuses, or a model without attention.
        """
        if not interception.attentions(self.model, self.params):
            raise UserError(f"{self.workdir} is a model without attention: expected a later stage")
        tokens = self._fitting(text)
        return np.asarray(heads.weights_of_text(self.model, self.params, tokens))

    def _fitting(self, text: str) -> np.ndarray:
        tokens = encode_prompt(text, self.tokenizer, "text")
        most = self.config.model.context_length
        if len(tokens) > most:
            raise UserError(f"the text has {len(tokens)} tokens: expected {most}, the context")
        return tokens

    def evaluate(self, split: str = "val") -> dict[str, float]:
        """Returns the scores on a whole split, train or val: loss, perplexity, bits per byte.

        Raises UserError if the text is not the one that the run was trained on.
        """
        if split not in ("train", "val"):
            raise UserError(f"split={split!r}: expected train or val")
        tokens = self.splits()[split]
        if split == "train" and isinstance(tokens, Shards):
            raise UserError("a prepared corpus may be larger than memory: expected --split=val")
        return self._score(split, tokens)

    def splits(self) -> dict[str, batches.Split]:
        """Returns the token ids of the splits train and val.

        Raises UserError if the text is not the one that the run was trained on.
        """
        data = corpus.load(run_start.data_config(self.config, self.workdir))
        run_start.check_text(data, self.workdir)
        return {"train": data.train, "val": data.val}

    def snapshots(self) -> Iterator[tuple[int, Any]]:
        """Yields the step and the parameters of each snapshot of the training, first to last.

        Raises UserError for a damaged one.
        """
        kept = Snapshots(self.workdir)
        for step in kept.steps():
            try:
                yield step, kept.read(step, self.params)
            except Damaged as error:
                raise UserError(f"snapshot {step} of {self.workdir}: {error}") from None

    def evaluate_text(self, path: str, field: str = "", prompt_field: str = "") -> dict[str, float]:
        """Returns the scores on a text of your own: text/loss, and so on.

        The arguments are those of `read_text`, whose errors it raises.
        """
        return self._score("text", self.read_text(path, field, prompt_field))

    def read_text(self, path: str, field: str = "", prompt_field: str = "") -> batches.Split:
        """Returns the token ids of a text of your own.

        `path` is a file, a folder of .txt, a glob, or several; `field` is for .jsonl and .parquet
        files, and `prompt_field` for those with prompts: without `field` those of the run. Raises
        UserError for a text that can't be read, or has what the model does not know.
        """
        data = self.config.data
        files = text_paths.find(path, "--text", field or data.field).files
        if not field and any(map(documents.has_records, files)):
            prompt_field = prompt_field or data.prompt_field
        field = field or data.field
        if prompt_field:
            pieces = pairs.pieces(files, prompt_field, field, data.document_separator)
            encoded = pairs.encode(self.tokenizer, pieces)
        else:
            pieces = documents.pieces(files, field, data.document_separator)
            encoded = encode_pieces(self.tokenizer, pieces)
        try:
            tokens = list(encoded)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        if (count := sum(map(len, tokens))) < 2:
            raise UserError(f"{path} has {count} tokens: expected at least 2")
        whole = np.concatenate(tokens)
        return Pairs(whole) if prompt_field else whole

    def last_words(self, path: str, field: str = "") -> dict[str, float]:
        """Returns how well last words of passages are predicted: last_word/accuracy, and so on.

        `path` is as that of `read_text`; passages are the lines of text files and the `field` (by
        default the run's, or "text") of records. Raises UserError for what can't be read.
        """
        field = field or self.config.data.field or "text"
        files = text_paths.find(path, "--text", field).files
        found = self._examples(path, examples.last_words(files, field))
        return _named("last_word", tasks.last_word(self._continuations(found)))

    def choices(self, path: str) -> dict[str, float]:
        """Returns how often the right ending is the most likely: choices/accuracy, and so on.

        `path` is as that of `read_text`; records have `ctx`, `endings` and `label`, as HellaSwag's.
        Raises UserError for what can't be read.
        """
        files = text_paths.find(path, "--text", "ctx").files
        found = self._examples(path, examples.choices(files))
        return _named("choices", tasks.choices(self._continuations(found), found))

    def _examples(self, path: str, found: Iterable[Example]) -> list[Example]:
        if not (read := list(found)):
            raise UserError(f"--text={path} has no examples: expected one at least")
        return read

    def _on_devices(self) -> tuple[Any, dict[str, Any]]:
        """Returns the parameters on every device, and how windows are divided among them."""
        batch_size = self.config.eval.batch_size
        mesh = devices.data_mesh(batch_size)
        division = {
            "batch_size": batch_size,
            "context_length": self.config.model.context_length,
            "mesh": mesh,
        }
        return devices.replicate(self.params, mesh), division

    def _continuations(self, found: list[Example]) -> Scores:
        params, division = self._on_devices()
        return continuations.score(self.model, params, self.tokenizer, found, **division)

    def _score(self, name: str, tokens: batches.Split) -> dict[str, float]:
        left_out = {}
        if isinstance(tokens, Pairs):
            tokens = tokens.fitting(self.config.model.context_length, f"of {name}")
            left_out = {f"{name}/left_out": tokens.left_out}
        params, division = self._on_devices()
        token_bytes = self.tokenizer.token_bytes
        scores = evaluation.evaluate(self.model, params, tokens, token_bytes, **division)
        return _named(name, scores) | left_out

    def plot(self, loss: str = "val", against: str = "tokens") -> "Comparison":
        """Returns a chart of this run's losses, as `compare` does."""
        return compare(self.workdir, loss=loss, against=against)


@dataclass(frozen=True)
class Comparison:
    """Several runs, compared: a table with a row a run, and a chart, which a notebook shows."""

    table: Any
    chart: dict[str, Any]  # Vega-Lite.

    def _repr_svg_(self) -> str:
        from reporting import figures

        return figures.svg(self.chart)


def train(experiment: str, workdir: str | Path, **changes: Any) -> Run:
    """Trains an experiment, as main.py does, and returns the run after its last step.

    `experiment` is a name in experiments/ or a file, with presets: "gpt2:smoke". `changes` are
    config keys and values. Raises UserError for what can't be trained, Diverged, Failed.
    """
    from train import train_and_evaluate

    process.configure_jax()
    train_and_evaluate(config_of(experiment, changes), Path(workdir).expanduser(), changes)
    return open_run(workdir, "latest")


def config_of(experiment: str, changes: dict[str, Any]) -> ConfigDict:
    """Returns the config of an experiment with some keys changed. Raises UserError."""
    name, _, preset = experiment.partition(":")
    path = Path(name) if name.endswith(".py") else ROOT / f"experiments/{name}.py"
    if not path.is_file():
        known = ", ".join(default.LADDER)
        raise UserError(f"experiment {name!r}: expected one of {known}, or a file")
    config = runpy.run_path(str(path))["get_config"](*[preset] * bool(preset))
    check.raise_errors(check.update(config, changes))
    config.tracking.experiment = config.tracking.experiment or default.name_of(experiment)
    return config


def open_run(workdir: str | Path, checkpoint: str = "best") -> Run:
    """Returns the run in a folder, or the model in a folder of GPT-2 weights.

    `workdir` may be the address of a model in W&B: wandb:ENTITY/PROJECT/NAME:ALIAS. `checkpoint` is
    best (by validation loss), latest, or a step. Raises UserError if there is none.
    """
    process.configure_jax()
    folder = artifact.local_folder(workdir)
    return Run(folder, *pretrained.open_model(folder, checkpoint))


def compare(*folders: str | Path, loss: str = "val", against: str = "tokens") -> Comparison:
    """Compares the runs in folders, as report.py does.

    The chart has the loss on the train or the val split, against step, tokens, seconds or flops.
    Raises UserError for a folder without a run.
    """
    from reporting import charts, figures, records, runs

    for name, value, known in (
        ("loss", loss, charts.LOSSES),
        ("against", against, charts.POSITIONS),
    ):
        if value not in known:
            raise UserError(f"{name}={value!r}: expected one of {', '.join(known)}")
    found, _ = runs.read_runs([Path(folder) for folder in folders])
    table = _columns(records.records(found, [])["runs"])
    return Comparison(table, figures.curve(found, loss, against))


def _named(prefix: str, scores: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}/{metric}": value for metric, value in scores.items()}


def _columns(rows: Iterable[dict[str, Any]]) -> Any:
    """Returns rows as a DataFrame if pandas is installed, else {name: NumPy array}."""
    rows = list(rows)
    if importlib.util.find_spec("pandas"):
        return importlib.import_module("pandas").DataFrame(rows)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _array([row.get(name) for row in rows]) for name in names}


def _array(values: list) -> np.ndarray:
    """Returns numbers as floats, NaN for none; other values as objects."""
    try:
        return np.array(values, float)
    except (TypeError, ValueError):
        return np.array(values, object)
