"""The way of docs/openwebtext.md, command by command, with a small text and a small model."""

import json
import re
import shlex

import pyarrow
import pyarrow.parquet
import pytest

import harness
import run_folder
from experiments import gpt2
from tests.command import ROOT
from tests.forked import run

PAGE = (ROOT / "docs/openwebtext.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]
SMALL = [
    *("model.num_layers=1", "model.num_heads=2", "model.embed_dim=16", "model.context_length=32"),
    *("train.batch_size=40", "train.num_steps=4", "optimizer.warmup_steps=2"),
    *("eval.every_steps=2", "sample.num_tokens=3", "tracking.wandb_mode=disabled"),
]


def test_the_recipe_is_nanogpts():
    """The figures of train.py and config/train_gpt2.py in karpathy/nanoGPT."""
    config = gpt2.get_config("openwebtext")
    assert (config.model.num_layers, config.model.num_heads, config.model.embed_dim) == (
        12,
        12,
        768,
    )
    assert config.train.batch_size * config.model.context_length == 12 * 1024 * 5 * 8
    assert (config.train.num_steps, config.optimizer.warmup_steps) == (600_000, 2000)
    rates = config.optimizer.learning_rate, config.optimizer.final_learning_rate
    assert (*rates, config.optimizer.schedule) == (6e-4, 6e-5, "cosine")
    adam = config.optimizer
    assert (adam.name, adam.b1, adam.b2, adam.weight_decay) == ("adamw", 0.9, 0.95, 0.1)
    assert adam.grad_clip_norm == 1.0 and config.model.dropout_rate == 0.0
    assert config.model.pad_vocab_to == 50304 and config.train.precision == "bfloat16"


def test_the_table_of_costs_is_that_of_the_compiled_programs():
    rows = json.loads((ROOT / "benchmarks/scaling.json").read_text())["rows"]
    one, eight = (row for row in rows if row["size"] == "openwebtext")
    assert (one["gpus"], eight["gpus"]) == (1, 8)
    num_steps = gpt2.get_config("openwebtext").train.num_steps
    cells = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
    table = {cell[0]: cell[1:] for cell in cells}

    def hours(row, *names):
        return sum(row["seconds"][name] for name in names) * num_steps / 3600

    for column, row in enumerate((one, eight)):

        def number(name, column=column):
            return float(re.match(r"[\d.e]+", table[name][column])[0])

        assert number("FLOPs") == pytest.approx(row["flops"] * num_steps, rel=0.02)
        assert number("peak memory of a GPU") == round(row["peak_bytes"] / 1e9, 1)
        for name, seconds in (
            ("computing at the peak of 989 TFLOP/s", ["computing"]),
            ("reading and writing memory, as if nothing stayed in a cache", ["memory"]),
            ("sending, within the node", ["sending"]),
            ("one after the other", list(row["seconds"])),
        ):
            assert number(name) == pytest.approx(hours(row, *seconds), abs=0.5), name
        whole = hours(row, *row["seconds"]) * row["gpus"]
        assert number("GPU-hours") == pytest.approx(whole, abs=0.5)


@pytest.mark.long
def test_the_commands_of_the_page_work_in_small(tmp_path):
    texts = [f"Document {n}: " + "to be or not to be, " * (n % 5) for n in range(80)]
    last_word, choice = re.findall(r"```json\n(.*?)\n```", PAGE, re.DOTALL)
    (tmp_path / "lambada_test.jsonl").write_text(last_word)
    (tmp_path / "hellaswag_val.jsonl").write_text(choice)
    done = []
    for command in COMMANDS:
        program, script, *flags = shlex.split(command)
        done.append(script)
        if program == "hf":
            (tmp_path / "texts/data").mkdir(parents=True)
            path = tmp_path / "texts/data/train-00000.parquet"
            pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path)
            continue
        if program.startswith(".venv-gpu-compile"):
            continue  # tests/test_dry_run.py compiles for GPUs.
        assert program == "python"
        if script == "prepare.py":
            flags.append("--val_share=0.2")
        if script == "main.py":
            flags += [f"--config.{change}" for change in SMALL]
            if done.count("main.py") == 2:  # On eight GPUs, which is another run.
                flags.append("--workdir=runs/other")
        result = run(str(ROOT / script), *flags, cwd=tmp_path)
        assert result.returncode == 0, (command, result.stderr)
        if script == "evaluate.py":
            found = json.loads(result.stdout.splitlines()[-1])
            expected = {"last_word": "last_word/accuracy", "choices": "choices/accuracy"}
            assert expected.get(flags[-1].removeprefix("--task="), "val/bits_per_byte") in found
    assert done.count("evaluate.py") == 3 and done.count("main.py") == 3
    # In parts or at once it is the same training, and it can be taken to `transformers`.
    runs = [
        harness.open_run(tmp_path / f"runs/{name}", "latest") for name in ("openwebtext", "other")
    ]
    one, other = (run.summary["val/loss"] for run in runs)
    assert one == pytest.approx(other, abs=2e-3)
    flags = [f"--workdir={tmp_path}/runs/openwebtext", f"--output={tmp_path}/exported"]
    exported = run("export.py", *flags)
    assert exported.returncode == 0, exported.stderr
    assert run_folder.read_json(tmp_path / "exported/config.json")["vocab_size"] == 50257
