"""Bad input: each mistake is one line and an exit code, and leaves everything as it was."""

import hashlib
import json
import os
import shutil
import struct
import sys
from pathlib import Path

import pytest

import run_folder
from checkpoints import file_format
from sweep_engine.workers import Workers
from tests.command import PATIENCE, ROOT
from tests.forked import run

BIGRAM = "--config=experiments/bigram.py:smoke"
GPT2 = "--config=experiments/gpt2.py:smoke"


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """Runs a command in a process forked from one that has JAX imported, as sweeps do."""
    folder = tmp_path_factory.mktemp("commands")
    workers = Workers(1, ["train"])

    def command(script, flags):
        log = folder / "log"
        log.write_text("")
        argv = [sys.executable, str(ROOT / script), *flags]
        environment = {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
        workers.start("command", argv, environment, log, folder / "lock")
        ended = workers.wait(PATIENCE)
        assert ended, f"{argv} was not refused: {log.read_text()}"
        return ended[0][1], log.read_text()

    yield command
    workers.close()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of the gpt2 stage."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    result = run("main.py", GPT2, f"--workdir={workdir}", WANDB_MODE="disabled")
    assert result.returncode == 0, result.stderr
    return workdir


def content_of(folder):
    """Every file below a folder, as it is."""
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def assert_one_line(code, output, message, expected=2):
    assert code == expected, output
    assert output.startswith("error: ") and output.count("\n") == 1, output
    assert message in output


def key(name, value, message, config=BIGRAM):
    """One config key with a value that it can't have."""
    return pytest.param([config, f"--config.{name}={value}"], message, id=f"{name}={value}")


FLAGS = [
    pytest.param(
        ["--config.seed=1"], "--config.seed=1 needs an experiment before it", id="no file"
    ),
    pytest.param(
        ["--config=experiments/gpt3.py"],
        "experiments/gpt3.py is not a file: did you mean gpt2? expected one of bigram, self_att",
        id="file",
    ),
    pytest.param(
        ["--config=experiments/gpt3.py", "--config.seed=1"], "did you mean gpt2?", id="file and key"
    ),
    pytest.param(["--config=bigrm:smoke"], "did you mean bigram?", id="name"),
    pytest.param(["--config=bigram:tiny"], "unknown preset 'tiny'", id="preset of a name"),
    pytest.param(["--config=experiments"], "--config=experiments is not a file", id="folder"),
    pytest.param(["--config=default"], "--config=default is not a file", id="no experiment"),
    *(
        pytest.param([BIGRAM, flag], f"no flag {name}: did you mean --config.{meant}?", id=flag)
        for flag, name, meant in [
            ("--learning_rate=1", "--learning_rate", "optimizer.learning_rate"),
            ("--learning-rate=1", "--learning_rate", "optimizer.learning_rate"),
            ("--optimizer.learning_rate=1", "--optimizer.learning_rate", "optimizer.learning_rate"),
            ("--batch_size=4", "--batch_size", "eval.batch_size or --config.train.batch_size"),
            ("--steps=4", "--steps", "train.num_steps"),
            ("-seed=4", "--seed", "seed"),
            ("--resume", "--resume", "checkpoint.resume"),
        ]
    ),
    pytest.param(
        ["--config=experiments/bigram.py:tiny"], "unknown preset 'tiny': expected", id="preset"
    ),
    pytest.param([BIGRAM, "--wrokdir=x"], "Did you mean: workdir ?", id="flag"),
    pytest.param([BIGRAM, "runs/x"], "unexpected argument 'runs/x': every option is", id="word"),
    key("train.num_step", 9, "no config key 'train.num_step': did you mean 'train.num_steps'?"),
    key("trian.num_steps", 9, "no config key 'trian.num_steps': did you mean 'train.num_steps'?"),
    key("learning_rate", 9, "no config key 'learning_rate': did you mean 'optimizer.learning_rate"),
    key("zebra", 9, "no config key 'zebra': see experiments/default.py"),
    key("train", 9, "--config.train=9: 'train' is a group of keys; set one of them"),
    key("train.num_steps", "ten", "--config.train.num_steps=ten: expected an integer"),
    key("train.num_steps", 1.5, "--config.train.num_steps=1.5: expected an integer"),
    key("optimizer.b1", "fast", "--config.optimizer.b1=fast: expected a number"),
    key("checkpoint.resume", "maybe", "--config.checkpoint.resume=maybe: expected true or false"),
    pytest.param(
        [BIGRAM, "--config.sead=1", "--config.train.num_steps=x", "--config.seed=-4"],
        "no config key 'sead': did you mean 'seed'?; --config.train.num_steps=x: expected an "
        "integer; --config.seed=-4: expected 0 to 4294967295",
        id="all flags at once",
    ),
    pytest.param(
        [BIGRAM, "--config.train.batch_size=0", "--config.eval.batch_size=-1"],
        "--config.train.batch_size=0: expected 1 to 1048576; "
        "--config.eval.batch_size=-1: expected 1",
        id="all values at once",
    ),
    pytest.param(
        [
            BIGRAM,
            "--config.train.num_steps=0",
            "--config.model.name=rnn",
            "--config.optimizer.name=adam",
            "--config.sample.top_p=2",
        ],
        "config.train.num_steps=0: expected 1 to 2147483647; "
        "--config.model.name='rnn': expected one of bigram, self_attention, multi_head_attention, "
        "transformer_decoder, gpt2; --config.optimizer.name='adam': expected one of adamw, muon, "
        "lion, adafactor, sgd; "
        "--config.sample.top_p=2.0: expected above 0 and at most 1",
        id="all names at once",
    ),
    key("seed", -1, "config.seed=-1: expected 0 to 4294967295"),
    key("seed", 2**32, "config.seed=4294967296: expected 0 to 4294967295"),
    key("train.batch_size", 0, "config.train.batch_size=0: expected 1 to"),
    key("train.batch_size", -8, "config.train.batch_size=-8: expected 1 to"),
    key("train.grad_accumulation_steps", 0, "expected 1 to"),
    key("train.grad_accumulation_steps", 3, "expected a divisor of --config.train.batch_size=4"),
    key("train.num_steps", 0, "config.train.num_steps=0: expected 1 to 2147483647"),
    key("train.num_steps", 2**31, "expected 1 to 2147483647"),
    key("train.log_every_steps", 0, "expected 1 to"),
    key("train.steps_per_dispatch", 0, "expected 1 to 10000"),
    pytest.param(
        [BIGRAM, "--config.train.batch_size=1000000", "--config.train.steps_per_dispatch=10000"],
        "are 330000000000 tokens at once: expected 268435456 at most; lower one of them",
        id="too much at once",
    ),
    key("train.max_skipped_updates", -1, "expected 0 to"),
    key("train.loss_chunks", 0, "config.train.loss_chunks=0: expected 1 to"),
    key(
        "train.loss_chunks", 3, "expected a divisor of --config.model.context_length=", config=GPT2
    ),
    key(
        "train.loss_chunks", 2, "can neither recompute blocks nor compute its logits in chunks: set"
    ),
    key("train.remat", "all", "config.train.remat='all': expected one of none, blocks"),
    key("tracking.log_model", "last", "log_model='last': expected one of none, final, best"),
    key("train.remat", "blocks", "config.model.name='bigram' can neither recompute blocks nor"),
    key("model.attention_dropout_rate", 1, "expected -1 (the value of --config.m", config=GPT2),
    key("model.attention_dropout_rate", -0.5, "expected -1 (the value of --config.m", config=GPT2),
    key("model.attention_dropout_rate", 0.1, "bigram has none; leave it at -1.0"),
    key("train.precision", "int8", "config.train.precision='int8': expected 'float32' or 'bfloat"),
    key("eval.every_steps", -1, "expected 0 (first and last step only) to"),
    key("eval.patience", -1, "--config.eval.patience=-1: expected 0 (off) to"),
    key("eval.patience", 0.5, "--config.eval.patience=0.5: expected an integer"),
    key("eval.min_delta", -0.5, "--config.eval.min_delta=-0.5: expected 0 or more"),
    key("eval.min_delta", "nan", "--config.eval.min_delta=nan: expected 0 or more"),
    pytest.param(
        [BIGRAM, "--config.eval.patience=2", "--config.eval.every_steps=0"],
        "--config.eval.patience=2 needs evaluations during training: set "
        "--config.eval.every_steps, or --config.eval.milestones=true",
        id="patience without evaluations",
    ),
    key("eval.batch_size", 0, "config.eval.batch_size=0: expected 1 to"),
    key("sample.every_steps", -1, "expected 0 (first and last step only) to"),
    key("sample.num_tokens", -1, "expected 0 (no samples) to 1000000"),
    key("train.flops", -1.0, "expected 0 (off) or more"),
    key("sample.temperature", -1, "config.sample.temperature=-1.0: expected 0 or more"),
    key("sample.temperature", "nan", "config.sample.temperature=nan: expected 0 or more"),
    key("sample.top_k", -2, "config.sample.top_k=-2: expected 0 (no limit) or more"),
    key("sample.top_p", 0, "config.sample.top_p=0.0: expected above 0 and at most 1"),
    key("sample.prompt", "", "config.sample.prompt is empty"),
    key("sample.prompt", "é", "--config.sample.prompt='é': character 'é' at position 0"),
    key("checkpoint.every_steps", -1, "expected 0 (at evaluations only) to"),
    key("checkpoint.every_minutes", -1, "expected 0 (off) or more"),
    key("checkpoint.every_minutes", "inf", "expected 0 (off) or more"),
    key("checkpoint.keep", 0, "config.checkpoint.keep=0: expected 1 to"),
    key("optimizer.learning_rate", -1, "config.optimizer.learning_rate=-1.0: expected 0 or more"),
    key("optimizer.learning_rate", "nan", "config.optimizer.learning_rate=nan: expected 0 or more"),
    key("optimizer.learning_rate", "inf", "config.optimizer.learning_rate=inf: expected 0 or more"),
    key("optimizer.final_learning_rate", -1, "expected 0 or more"),
    key("optimizer.warmup_steps", -5, "config.optimizer.warmup_steps=-5: expected 0 to"),
    key("optimizer.b1", 1, "config.optimizer.b1=1.0: expected 0 or more, and less than 1"),
    key("optimizer.b2", -0.1, "config.optimizer.b2=-0.1: expected 0 or more, and less than 1"),
    key("optimizer.weight_decay", "nan", "config.optimizer.weight_decay=nan: expected 0 or more"),
    key("optimizer.grad_clip_norm", -1, "config.optimizer.grad_clip_norm=-1.0: expected 0 or more"),
    key("model.name", "rnn", "config.model.name='rnn': expected one of bigram, self_attention"),
    key("model.num_heads", 4, "config.model.num_heads=4: bigram has none; leave it at 0"),
    key("model.num_heads", 3, "embed_dim=16 is not divisible by --config.model.num_heads=3", GPT2),
    key("model.dropout_rate", 1, "config.model.dropout_rate=1.0: expected 0 or more, and", GPT2),
    key("model.embed_dim", 10**9, "config.model.embed_dim=1000000000: expected 0 to 65536", GPT2),
    key("model.num_layers", 0, "config.model.num_layers=0: gpt2 needs at least 1", GPT2),
    key("model.context_length", 0, "config.model.context_length=0: bigram needs at least 1"),
    key("model.context_length", 2**21, "expected 0 to 1048576"),
    key("tracking.wandb_mode", "on", "config.tracking.wandb_mode='on': expected one of offline"),
    key("data.name", "wikipedia", "config.data.name='wikipedia': expected tiny_shakespeare"),
    key("data.name", "text", "--config.data.name=text needs --config.data.path"),
    key("data.name", "tfds:nothing", "no prepared TFDS data set in"),
    key(
        "data.tokenizer", "words", "config.data.tokenizer='words': expected 'char', 'byte', 'gpt2'"
    ),
    key("data.tokenizer", "bpe:9", "config.data.tokenizer='bpe:9': expected 257 to 1000000 tokens"),
    key(
        "model.positions", "round", "config.model.positions='round': expected one of learned", GPT2
    ),
    key("model.positions", "rotary", "config.model.positions=rotary: bigram has none; leave it at"),
    key("model.norm", "l2", "config.model.norm='l2': expected one of layer_norm, rms_norm", GPT2),
    key("model.activation", "tanh", "config.model.activation='tanh': expected one of gelu", GPT2),
    key("model.num_kv_heads", 3, "config.model.num_kv_heads=3: expected a divisor of", GPT2),
    key("model.logit_soft_cap", -1, "config.model.logit_soft_cap=-1.0: expected 0 (off) or", GPT2),
    key("model.init_from", "gpt2", "config.model.name is 'bigram': GPT-2's is 'gpt2'"),
    key("model.init_from", "/nowhere/at/all", "/nowhere/at/all is no folder: expected one", GPT2),
    key(
        "model.init_from",
        "sweeps",
        "sweeps holds no *.safetensors: expected the weights there",
        GPT2,
    ),
    key("optimizer.name", "adam", "config.optimizer.name='adam': expected one of adamw, muon"),
    key("optimizer.schedule", "flat", "config.optimizer.schedule='flat': expected one of cosine"),
    key("optimizer.decay_share", 0, "config.optimizer.decay_share=0.0: expected above 0, and at"),
    key("train.z_loss", -1, "config.train.z_loss=-1.0: expected 0 or more"),
    key("data.path", "README.md", "but Tiny Shakespeare has"),
    pytest.param(
        [GPT2, "--config.model.embed_dim=65536", "--config.model.num_layers=4"],
        " parameters x 4 bytes x 2 (weights, gradients) + 1,649.3 GB (state of adamw) + 32 x 16 x",
        id="a model larger than memory",
    ),
    pytest.param(
        [GPT2, "--config.model.context_length=65536", "--config.eval.batch_size=1048576"],
        "1,048,576 x 65,536 x 65 logits x 4 bytes = ",
        id="logits larger than memory",
    ),
]


@pytest.mark.long
@pytest.mark.parametrize(("flags", "message"), FLAGS)
def test_a_bad_flag(commands, tmp_path, flags, message):
    assert_one_line(*commands("main.py", [*flags, f"--workdir={tmp_path / 'run'}"]), message)
    assert list(tmp_path.iterdir()) == []


TEXTS = {
    "empty": (b"", "is empty"),
    "latin-1": ("né".encode() * 9 + b"caf\xe9 noir", "is not UTF-8 at byte 30 (0xe9): the rest is"),
    "cut off": ("é".encode() * 99 + b"\xc3", "is not UTF-8 at byte 198 (0xc3)"),
    "UTF-16": ("abc".encode("utf-16"), "is UTF-16, not a text: run iconv -f UTF-16"),
    "UTF-16 without a mark": (
        "abc".encode("utf-16-le"),
        "at byte 1 (0x00): it looks like UTF-16LE",
    ),
    "binary": (bytes(range(128)), "not a text at byte 0 (0x00): it looks binary"),
    "shorter than a window": (
        b"too shor",
        "tokens of the training split: lower it or give more text",
    ),
}


def text_flags(path):
    return [BIGRAM, "--config.data.name=text", f"--config.data.path={path}"]


@pytest.mark.long
@pytest.mark.parametrize("name", TEXTS)
def test_a_bad_text(commands, tmp_path, name):
    content, message = TEXTS[name]
    (tmp_path / "text.txt").write_bytes(content)
    flags = [*text_flags(tmp_path / "text.txt"), f"--workdir={tmp_path / 'run'}"]
    assert_one_line(*commands("main.py", flags), message)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def make_loop(path):
    path.symlink_to(path)


def make_folder_of_a_loop(path):
    path.mkdir()
    (path / "a.txt").symlink_to(path / "a.txt")


def make_folder_with_a_pipe(path):
    path.mkdir()
    os.mkfifo(path / "a.txt")


@pytest.mark.long
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "can't be read (No such file or directory): check the path"),
        (Path.mkdir, "no .txt file in this folder or below it"),
        (make_loop, "can't be read (Too many levels of symbolic links)"),
        (make_folder_of_a_loop, "can't be read (Too many levels of symbolic links)"),
        (os.mkfifo, "is not a regular file"),
        (make_folder_with_a_pipe, "is not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
    ],
    ids=["missing", "empty folder", "loop", "loop in a folder", "pipe", "pipe in one", "device"],
)
def test_what_is_no_text_at_all(commands, tmp_path, make, message):
    make(tmp_path / "data")
    flags = [*text_flags(tmp_path / "data"), f"--workdir={tmp_path / 'run'}"]
    assert_one_line(*commands("main.py", flags), message)
    assert not (tmp_path / "run").exists()


EXPERIMENTS = {
    "syntax": ("def get_config(:", "invalid syntax (mine.py, line 1)"),
    "import": ("import nothing_here", "mine.py, line 1: ModuleNotFoundError: No module named 'no"),
    "no config": ("x = 1", "get_config"),
    "unknown key": (
        "from experiments import default\n"
        "def get_config(preset=''):\n"
        "    config = default.get_config()\n"
        "    config.learning_rat = 1.0\n",
        'mine.py, line 4: AttributeError: Key "learning_rat" does not exist',
    ),
    "value": (
        "from experiments import default\n"
        "def get_config(preset=''):\n"
        "    config = default.get_config()\n"
        "    config.train.num_steps = None\n"
        "    return config\n",
        "config.train.num_steps=None: expected an integer",
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_bad_experiment(commands, tmp_path, name):
    code, message = EXPERIMENTS[name]
    (tmp_path / "mine.py").write_text(code)
    flags = [f"--config={tmp_path / 'mine.py'}", f"--workdir={tmp_path / 'run'}"]
    assert_one_line(*commands("main.py", flags), message)
    assert not (tmp_path / "run").exists()


def used(folder, finished):
    shutil.copytree(finished, folder)
    return [GPT2]


def used_by_another_config(folder, finished):
    shutil.copytree(finished, folder)
    changes = ["--config.optimizer.learning_rate=0.5", "--config.train.batch_size=2"]
    # These two may change.
    return [GPT2, "--config.checkpoint.resume=true", *changes, "--config.train.num_steps=99"]


def used_for_more_steps(folder, finished):
    shutil.copytree(finished, folder)
    return [GPT2, "--config.checkpoint.resume=true", "--config.train.num_steps=10"]


def used_by_others(folder, finished):
    folder.mkdir()
    (folder / "thesis.tex").write_text("chapter 1")
    return [GPT2]


def used_as_a_file(folder, finished):
    folder.write_text("")
    return [GPT2]


def used_with_a_broken_config(folder, finished):
    shutil.copytree(finished, folder)
    (folder / "config.json").write_text("[1, 2]")
    return [GPT2, "--config.checkpoint.resume=true"]


def used_with_damaged_checkpoints(folder, finished):
    shutil.copytree(finished, folder)
    for path in folder.glob("checkpoints/*/params.safetensors"):
        path.write_bytes(b"")
    (folder / "summary.json").unlink()
    return [GPT2, "--config.checkpoint.resume=true"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (used, "already holds a run: name another folder, or resume that run with --config.ch"),
        (
            used_by_another_config,
            "holds a run with another config (optimizer.learning_rate was 0.004 and is 0.5; "
            "train.batch_size was 4 and is 2): resume with its own values",
        ),
        (
            used_for_more_steps,
            "has made 20 steps: expected 20 or more, or another --workdir",
        ),
        (used_by_others, "holds files but no run: name a new or an empty folder"),
        (used_as_a_file, "is a file; a run needs a folder"),
        (used_with_a_broken_config, "config.json can't be read: expected a JSON object"),
    ],
)
def test_a_bad_workdir(commands, tmp_path, finished, make, message):
    flags = make(tmp_path / "run", finished)
    before = content_of(tmp_path)
    assert_one_line(*commands("main.py", [*flags, f"--workdir={tmp_path / 'run'}"]), message)
    assert content_of(tmp_path) == before


@pytest.mark.long
def test_a_workdir_below_a_file_and_one_that_no_one_can_write(commands, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file/below", "/proc/run"):
        assert_one_line(*commands("main.py", [BIGRAM, f"--workdir={folder}"]), "can't be written")


@pytest.mark.long
def test_a_workdir_that_is_no_name(commands, tmp_path):
    long = tmp_path / ("x" * 300)
    assert_one_line(*commands("main.py", [BIGRAM, f"--workdir={long}"]), "File name too long")
    for script in ("evaluate.py", "generate.py"):
        assert_one_line(*commands(script, [f"--workdir={long}"]), "File name too long")
    flags = ["--config=experiments/gpt2.py:smoke", "--config.model.init_from=sweeps"]
    assert_one_line(*commands("main.py", [*flags, f"--workdir={long}"]), "holds no *.safetensors")
    # What is not UTF-8 is a name like any other.
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    code, output = commands("main.py", [BIGRAM, f"--workdir={folder}"])
    assert code == 0, output
    code, output = commands("evaluate.py", [f"--workdir={folder}"])
    assert code == 0, output


@pytest.mark.long
def test_a_run_without_a_whole_checkpoint_is_not_overwritten(commands, tmp_path, finished):
    flags = used_with_damaged_checkpoints(tmp_path / "run", finished)
    code, output = commands("main.py", [*flags, f"--workdir={tmp_path / 'run'}"])
    assert_one_line(
        code, output, "checkpoint 20 is damaged (params.safetensors has 0 bytes instead"
    )
    assert "checkpoint 10 is damaged" in output and "start a new run in another folder" in output
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == (
        finished / "metrics.jsonl"
    ).read_bytes()


GENERATE = [
    (["--prompt=é"], "--prompt='é': character 'é' at position 0"),
    (["--prompt="], "--prompt is empty"),
    (["--prompt=a", "--prompt_file=@/x"], "--prompt='a' and --prompt_file=@/x: give one of them"),
    (["--prompt_file=@/cafe.txt"], "@/cafe.txt='café': character 'é' at position 3 of the text"),
    (["--prompt_file=@/none"], "@/none can't be read (No such file or directory)"),
    (["--prompt=-"], "standard input is empty: expected a prompt"),
    (["--prompt=-", "--interactive"], "--interactive reads standard input, and so does a prompt -"),
    (["--prompt_file=-", "--interactive"], "and so does a prompt -: give one"),
    (["--temperature=-1"], "--temperature=-1.0: expected 0 or more"),
    (["--temperature=nan"], "--temperature=nan: expected 0 or more"),
    (["--temperature=hot"], "--temperature=hot"),
    (["--top_p=0"], "--top_p=0.0: expected above 0 and at most 1"),
    (["--top_k=-1"], "--top_k=-1: expected 0 (no limit) or more"),
    (["--num_tokens=0"], "--num_tokens=0: 0 is not a positive integer"),
    (["--num_samples=0"], "--num_samples=0: 0 is not a positive integer"),
    (["--seed=-1"], "flag --seed=-1: -1 is not an integer in the range [0, 4294967295]"),
    (["--seed=5000000000"], "flag --seed=5000000000: 5000000000 is not an integer in the range"),
    (["--checkpoint=7"], "checkpoint '7': expected one of best, latest, 10, 20"),
    (["--checkpoint=../../etc"], "checkpoint '../../etc': expected one of best, latest, 10, 20"),
    (["--checkpoint=²"], "checkpoint '²': expected one of"),
]


@pytest.mark.long
@pytest.mark.parametrize(("flags", "message"), GENERATE)
def test_a_bad_flag_for_generating(commands, finished, tmp_path, flags, message):
    (tmp_path / "cafe.txt").write_text("café\n")
    flags = [f"--workdir={finished}", *(flag.replace("@", str(tmp_path)) for flag in flags)]
    before = content_of(finished)
    assert_one_line(*commands("generate.py", flags), message.replace("@", str(tmp_path)))
    assert content_of(finished) == before


EVALUATE = [
    (["--text=/x", "--split=val"], "--text=/x and --split=val: give one of them"),
    (["--field=text"], "--field=text: expected with --text"),
    (["--prompt_field=text"], "--prompt_field=text: expected with --text"),
    (["--text=/nowhere/at/all"], "/nowhere/at/all can't be read (No such file or directory)"),
    (["--text=/nowhere/*.txt"], "--text=/nowhere/*.txt: /nowhere/*.txt matches no file"),
    (["--text=@/one.txt"], "one.txt has 1 tokens: expected at least 2"),
    (["--text=@/other.txt"], "other.txt: character 'é' at position 3 of the text is not among the"),
    (["--text=@/x.jsonl", "--field=b"], "x.jsonl, line 1 has no field 'b': set --config.data.fie"),
]


@pytest.mark.long
@pytest.mark.parametrize(("flags", "message"), EVALUATE)
def test_a_bad_flag_for_evaluating(commands, finished, tmp_path, flags, message):
    for name, content in {"one.txt": "a", "other.txt": "café", "x.jsonl": '{"a": "b"}'}.items():
        (tmp_path / name).write_text(content)
    flags = [flag.replace("@", str(tmp_path)) for flag in flags]
    before = content_of(finished)
    assert_one_line(*commands("evaluate.py", [f"--workdir={finished}", *flags]), message)
    assert content_of(finished) == before


def rewrite(name, **changes):
    """Changes keys of a JSON file of the run."""

    def damage(folder):
        content = run_folder.read_json(folder / name)
        for key, value in changes.items():
            *groups, last = key.split(".")
            inner = content
            for group in groups:
                inner = inner[group]
            inner[last] = value
        run_folder.write_json(folder / name, content)

    return damage


def overwrite(name, content):
    """Replaces a file of the run."""
    return lambda folder: (folder / name).write_bytes(content)


def craft(content):
    """Replaces the newest parameters by a file that its checkpoint.json vouches for."""

    def damage(folder):
        checkpoint = folder / "checkpoints/20"
        (checkpoint / "params.safetensors").write_bytes(content)
        about = file_format.read_metadata(checkpoint)
        sha256 = hashlib.sha256(content).hexdigest()
        about["files"]["params"] = {"bytes": len(content), "sha256": sha256}
        vouched = {"about": about, "sha256": file_format.digest_of(about)}
        run_folder.write_json(checkpoint / "checkpoint.json", vouched)

    return damage


def tensors(header, data=b""):
    """A safetensors file of any header."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def remove_checkpoints(folder):
    shutil.rmtree(folder / "checkpoints")


FAR = 2**60
FOLDERS = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "is not a run folder"),
    "half a config": (overwrite("config.json", b'{"seed": 1'), "config.json can't be read"),
    "config not UTF-8": (overwrite("config.json", b"\xff"), "config.json can't be read"),
    "config too deep": (overwrite("config.json", b"[" * 10**6), "config.json can't be read"),
    "config of nothing": (overwrite("config.json", b"null"), "expected an object, not None"),
    "config with a key too many": (
        rewrite("config.json", **{"model.num_head": 2}),
        "no config key 'model.num_head': did you mean 'model.num_heads'?",
    ),
    "config with a text for a number": (
        rewrite("config.json", **{"model.embed_dim": "16"}),
        "config.model.embed_dim='16': expected an integer",
    ),
    "config without end": (
        rewrite("config.json", **{"model.context_length": FAR}),
        f"config.model.context_length={FAR}: expected 0 to 1048576",
    ),
    "config with a number too large": (
        overwrite("config.json", b'{"optimizer": {"learning_rate": 1' + b"0" * 400 + b"}}"),
        "config.optimizer.learning_rate=1000000",
    ),
    "tokenizer of half characters": (
        overwrite("tokenizer.json", rb'{"name": "char", "vocabulary": "a\ud800"}'),
        "holds no tokenizer of this program",
    ),
    "config of another size": (
        rewrite("config.json", **{"model.embed_dim": 32}),
        "params.safetensors does not fit the model of config.json and tokenizer.json (+ only in",
    ),
    "config of another stage": (
        rewrite("config.json", **{"model.name": "transformer_decoder", "model.dropout_rate": 0.0}),
        "does not fit the model",
    ),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json does"),
    "no tokenizer in its file": (
        overwrite("tokenizer.json", b'{"name": "pickle"}'),
        "holds no tokenizer of this program",
    ),
    "another tokenizer of the same size": (
        rewrite("tokenizer.json", vocabulary="".join(map(chr, range(200, 265)))),
        "tokenizer.json is not the tokenizer that",
    ),
    "another tokenizer": (rewrite("tokenizer.json", vocabulary="abc"), "is not the tokenizer"),
    "no checkpoint": (remove_checkpoints, "holds no checkpoint: the run has not saved one yet"),
    "no tensors": (craft(b"not a safetensors file"), "params.safetensors can't be read"),
    "header longer than the file": (craft(struct.pack("<Q", FAR)), "can't be read"),
    "header that is no JSON": (craft(struct.pack("<Q", 8) + b"{{{{{{{{"), "can't be read"),
    "header without end": (craft(struct.pack("<Q", 10**6) + b"[" * 10**6), "can't be read"),
    "tensor longer than the file": (
        craft(tensors({"a": {"dtype": "F32", "shape": [FAR], "data_offsets": [0, 4 * FAR]}})),
        "can't be read",
    ),
    "tensor that lies about its size": (
        craft(tensors({"a": {"dtype": "F32", "shape": [FAR], "data_offsets": [0, 4]}}, b"1234")),
        "can't be read",
    ),
    "tensors on top of each other": (
        craft(
            tensors(
                {
                    name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
                    for name in ("a", "b")
                },
                b"1234",
            )
        ),
        "can't be read",
    ),
    "tensor named as a path": (
        craft(
            tensors({"../../../x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"1234")
        ),
        "does not fit the model of config.json and tokenizer.json (+ only in the file",
    ),
    "pickle": (craft(b"\x80\x04\x95\x1f\x00\x00\x00cos\nsystem\n(S'touch owned'\ntR."), "can't"),
}


@pytest.mark.long
@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("script", ["generate.py", "evaluate.py"])
def test_a_bad_run_folder(commands, tmp_path, finished, script, name):
    damage, message = FOLDERS[name]
    shutil.copytree(finished, tmp_path / "run")
    damage(tmp_path / "run")
    before = content_of(tmp_path)
    flags = [f"--workdir={tmp_path / 'run'}", "--checkpoint=20"]
    code, output = commands(script, flags)
    assert_one_line(code, output, message)
    assert content_of(tmp_path) == before
    assert not (ROOT / "owned").exists()
