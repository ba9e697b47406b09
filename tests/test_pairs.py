"""Prompt/answer pairs: what counts in a loss, what a window holds, and a task that is learned."""

import itertools
import json
import math
import random
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import harness
import run_folder
import train
from experiments import default
from inference.evaluation import evaluate
from input_pipeline import batches, corpus
from input_pipeline.pairs import Pairs
from runtime.devices import data_mesh
from runtime.errors import UserError
from tests.command import assert_refused
from tests.forked import run
from tests.stages import NO_DROPOUT, TINY, VARIANT, T, V
from tests.test_train import arrays, lines, resume_from, smoke
from training import divergence
from training.loss import Objective, loss_and_gradient
from training.setup import set_up
from training.step import create_state

ONE_LAYER = dict(num_layers=1, **NO_DROPOUT)
MODELS = {
    "bigram": TINY["bigram"],
    "gpt2": TINY["gpt2"].clone(**ONE_LAYER),
    "variant": VARIANT.clone(**ONE_LAYER, context_length=6),  # For parts of the context.
}
# (prompt, answer) as tokens, together T + 1 at most.
SOME = [([3, 4], [5, 0, 6]), ([1], [2]), ([7, 8, 9, 10], [1, 2])]
WORDS = [{"question": f"{word}>", "answer": word[::-1]} for word in ("ab", "bca", "c", "acb")]


def marked(some):
    """The tokens of pairs as input_pipeline/pairs.py keeps them."""
    return np.array([t for p, a in some for t in (*(~x for x in p), *a)], np.int32)


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def data_of(path, **keys):
    data = default.get_config().data
    data.update(name="text", path=str(path), field="answer", prompt_field="question")
    data.update(keys)
    return data


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@partial(jax.jit, static_argnames="model")
def by_hand(model, params):
    """Nats, and squared log-normalizers, of all answers: each pair alone and unpadded."""
    nats, squares = [], []
    for prompt, answer in SOME:
        tokens = jnp.array([*prompt, *answer])
        logits_TV = model.apply({"params": params}, tokens[None, :-1])[0, len(prompt) - 1 :]
        nats.append(-jax.nn.log_softmax(logits_TV)[np.arange(len(answer)), np.array(answer)])
        squares.append(jax.nn.logsumexp(logits_TV, axis=-1) ** 2)
    return jnp.concatenate(nats), jnp.concatenate(squares)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_window_is_a_pair_and_its_padding(data):
    tokens = st.lists(st.integers(0, 300), min_size=1, max_size=6)
    some = data.draw(st.lists(st.tuples(tokens, tokens), min_size=1, max_size=8))
    whole = Pairs(marked(some))
    assert len(whole) == len(some)
    assert whole.first_prompt().tolist() == some[0][0]
    length = data.draw(st.integers(2, 13))
    rows = [[*(~t for t in p), *a] for p, a in some if len(p) + len(a) <= length]
    if not rows:
        with pytest.raises(UserError, match=r"none of the .* pairs of val fits: expected"):
            whole.fitting(length - 1, "of val")
        return
    kept = whole.fitting(length - 1, "of val")
    assert (len(kept), kept.left_out) == (len(rows), len(some) - len(rows))
    # Past the last one is padding, none of which is a target.
    found = kept.windows(np.arange(len(rows) + 2), length - 1)
    assert found.tolist() == [row + [-1] * (length - len(row)) for row in [*rows, [], []]]
    drawn = batches.train_batches(
        kept,
        seed=1,
        batch_size=5,
        context_length=length - 1,
        steps_per_dispatch=3,
        start_step=4,
        num_steps=9,
    )
    for first, rows_KBT in drawn:
        assert first in (3, 6) and rows_KBT.shape == (3, 5, length)
        assert {tuple(row) for row in rows_KBT.reshape(-1, length)} <= set(map(tuple, found[:-2]))


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "num_parts", "objective"),
    [
        ("bigram", 1, Objective()),
        ("gpt2", 2, Objective(z_loss=0.3)),
        ("variant", 2, Objective(z_loss=0.3, num_chunks=3)),
    ],
)
def test_a_loss_is_that_of_the_answers_alone(name, num_parts, objective):
    """Against each pair alone and unpadded: the loss, and its gradient."""
    model = MODELS[name]
    state = create_state(model, optax.sgd(0.1), 0, data_mesh(1))
    state = state.replace(params=jax.tree.map(lambda leaf: 3 * leaf, state.params))

    @partial(jax.value_and_grad, has_aux=True)
    def expected(params):
        nats, squares = by_hand(model, params)
        return nats.mean() + objective.z_loss * squares.mean(), nats.mean()

    (_, loss), gradient = jax.jit(expected)(state.params)
    # A fourth row is all padding.
    batch_BT = Pairs(marked(SOME)).windows(np.arange(4), 6 if name == "variant" else T)
    found, found_gradient = jax.jit(loss_and_gradient, static_argnums=(3, 4))(
        state, batch_BT, np.uint32(0), num_parts, objective._replace(is_marked=True)
    )
    assert float(found) == pytest.approx(float(loss), rel=1e-5)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=0, atol=2e-5 * largest), found_gradient, gradient
    )


def test_a_step_on_pairs_that_is_not_finite_is_examined(tmp_path):
    """The row of a token that only prompts have."""
    state = create_state(MODELS["bigram"], optax.sgd(0.1), 0, data_mesh(1))
    params = jax.tree.map(lambda table_VV: table_VV.at[3].set(jnp.inf), state.params)
    finding = divergence.examine(
        MODELS["bigram"],
        state.replace(params=params),
        Pairs(marked(SOME)).windows(np.arange(2), T),
        seed=0,
        num_parts=1,
        objective=Objective(is_marked=True),
        mesh=data_mesh(1),
        workdir=tmp_path,
    )
    assert finding.output == "next_token"


@pytest.mark.slow
def test_an_evaluation_is_over_the_answers():
    """Whatever else is in a pair's batch."""
    model, token_bytes = MODELS["gpt2"], np.arange(1, V + 1, dtype=np.int32)
    params = create_state(model, optax.sgd(0.1), 0, data_mesh(1)).params
    nats, _ = map(np.asarray, by_hand(model, params))
    num_bytes = sum(token_bytes[answer].sum() for _, answer in SOME)
    for batch_size in (1, 3, 8):
        scores = evaluate(
            model,
            params,
            Pairs(marked(SOME)),
            token_bytes,
            batch_size=batch_size,
            context_length=T,
            mesh=data_mesh(1),
        )
        assert scores["loss"] == pytest.approx(nats.mean(), rel=1e-5)
        bits = nats.sum() / math.log(2)
        assert scores["bits_per_byte"] == pytest.approx(bits / num_bytes, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "separator", "ending"),
    [
        ("char", "", ""),
        ("char", ".\n", ".\n"),
        ("byte", "", ""),
        ("gpt2", "", "<|endoftext|>"),
        ("gpt2", "\n", "\n"),
        ("bpe:258", "<|endoftext|>", "<|endoftext|>"),
    ],
)
def test_an_answer_ends_with_the_separator_or_the_tokenizers_end(
    name, separator, ending, tmp_path, cache
):
    path = write(tmp_path / "x.jsonl", WORDS)
    data = data_of(path, tokenizer=name, document_separator=separator)
    loaded, again = corpus.load(data), corpus.load(data)  # Encoded, and from the cache.
    for one, other in ((loaded.train, again.train), (loaded.val, again.val)):
        np.testing.assert_array_equal(one.tokens, other.tokens)
    tokenizer = loaded.tokenizer
    ends = tokenizer.encode(ending).tolist() if ending else []
    assert len(ends) == 1 or ending in ("", ".\n")
    expected = [
        (tokenizer.encode(word["question"]), [*tokenizer.encode(word["answer"]), *ends])
        for word in WORDS
    ]
    # The first 90 % of the pairs, and the rest.
    assert loaded.train.tokens.tolist() == marked(expected[:3]).tolist()
    assert loaded.val.tokens.tolist() == marked(expected[3:]).tolist()
    assert tokenizer.decode(loaded.val.first_prompt()) == "acb>"


def test_pairs_may_be_anywhere_that_records_are(tmp_path, cache):
    table = write(tmp_path / "x.jsonl", WORDS)
    whole = corpus.load(data_of(table))
    digests = {whole.digest}
    columns = {key: [word[key] for word in WORDS] for key in ("answer", "question")}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    parquet = corpus.load(data_of(tmp_path / "x.parquet"))
    np.testing.assert_array_equal(parquet.train.tokens, whole.train.tokens)
    own = corpus.load(data_of(tmp_path / "x.parquet", val_path=str(table)))
    assert (len(own.train), len(own.val)) == (4, 4)
    # The same file read otherwise is another text.
    for changes in ({"prompt_field": ""}, {"prompt_field": "answer", "field": "question"}):
        digests.add(corpus.load(data_of(table, **changes)).digest)
    assert len(digests) == 3
    assert corpus.load(data_of(table, prompt_field="")).train.dtype == np.uint8


REFUSED = {
    "no field of answers": (
        WORDS,
        {"field": ""},
        "--config.data.prompt_field=question: expected with --config.data.field, the field of the",
    ),
    "another prompt field": (
        WORDS,
        {"prompt_field": "ask"},
        "line 1 has no field 'ask': set --config.data.prompt_field (--prompt_field of evaluate.py)",
    ),
    "another answer field": (
        WORDS,
        {"field": "reply"},
        "line 1 has no field 'reply': set --config.data.field (--field of evaluate.py) to one of",
    ),
    "an empty prompt": (
        [*WORDS, {"question": "", "answer": "a"}],
        {},
        "line 5: its field 'question' is empty: expected a text",
    ),
    "an empty answer": (
        [{"question": "a", "answer": ""}, *WORDS],
        {},
        "line 1: its field 'answer' is empty: expected a text",
    ),
    "a number": (
        [{"question": 3, "answer": "a"}],
        {},
        "line 1: its field 'question' is 3, expected a text",
    ),
    "one pair": (WORDS[:1], {}, "x.jsonl has 1 pairs: expected 2 or more"),
    "a data set": (
        WORDS,
        {"name": "tiny_shakespeare", "path": "", "field": ""},
        "--config.data.prompt_field=question: expected with --config.data.name=text",
    ),
    "no pairs to validate on": (WORDS, {"val_path": "@.jsonl"}, "there are no pairs of the valid"),
    "a text": (
        WORDS,
        {"path": "@.txt"},
        "empty.txt has no records: expected .jsonl or .parquet files with prompts, 'question', and",
    ),
    "none that fits": (
        [{"question": "abcdefgh", "answer": "i"}, {"question": "abcdefgh", "answer": "ij"}] * 2,
        {},
        "--config.model.context_length=4: none of the 3 pairs to train on fits: expected 8 at "
        "least, and 9 for all of them",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_pair_is_named(name, tmp_path, cache):
    records, changes, message = REFUSED[name]
    path = write(tmp_path / "x.jsonl", records)
    for suffix in (".jsonl", ".txt"):
        (tmp_path / f"empty{suffix}").write_text("\n")
    changes = {key: value.replace("@", f"{tmp_path}/empty") for key, value in changes.items()}
    config = smoke("bigram", **{"model.context_length": 4})
    config.data = data_of(changes.pop("path", path), **changes)
    with pytest.raises(UserError) as caught:
        set_up(config)
    assert message in str(caught.value) and "\n" not in str(caught.value)


ENDED = {"data.document_separator": ".", "model.context_length": 9}
REVERSES = {
    **ENDED,
    "model.embed_dim": 32,
    "model.num_heads": 4,
    "model.dropout_rate": 0.0,
    "train.num_steps": 200,
    "train.batch_size": 64,
    "train.steps_per_dispatch": 50,
    "eval.every_steps": 100,
    "sample.every_steps": 100,
    "train.log_every_steps": 100,
    "optimizer.learning_rate": 0.005,
    "optimizer.warmup_steps": 50,
}


@pytest.fixture(scope="module")
def reverser(tmp_path_factory):
    """A run that learned to reverse words, its pairs, and what its command printed."""
    folder = tmp_path_factory.mktemp("reverser")
    words = ["".join(letters) for letters in itertools.product("abcd", repeat=4)]
    random.Random(0).shuffle(words)
    records = [{"question": f"{word}>", "answer": word[::-1]} for word in words]
    records[3]["answer"] += "d"  # Ten tokens fit with the context of nine, eleven do not.
    path = write(folder / "pairs.jsonl", records)
    keys = {"name": "text", "path": path, "field": "answer", "prompt_field": "question"}
    flags = [f"--config.data.{key}={value}" for key, value in keys.items()]
    flags += [f"--config.{key}={value}" for key, value in REVERSES.items()]
    flags += ["--config=gpt2:smoke", f"--workdir={folder / 'run'}"]
    result = run("main.py", *flags, WANDB_MODE="disabled")
    assert result.returncode == 0, result.stderr
    return folder / "run", records, result.stdout


@pytest.mark.long
def test_a_task_is_learned_and_its_first_lines_say_what_of(reverser):
    workdir, records, printed = reverser
    first_lines = printed.splitlines()
    assert "2,550 characters, 130 of them to predict" in first_lines[0]
    assert first_lines[1] == "text: 1 file, 2,561 characters"
    assert first_lines[2] == (
        "pairs: 229 to train on, 26 to validate on; 1 and 0 left out, of more than 10 tokens "
        "(model.context_length + 1)"
    )
    unseen = records[230:]
    first = unseen[0]
    assert first_lines[4] == (
        "sample.prompt: samples continue the first prompt of the validation split, "
        f"{first['question']!r}"
    )
    samples = list(run_folder.read_lines(workdir / run_folder.SAMPLES))
    assert {sample["prompt"] for sample in samples} == {first["question"]}
    assert samples[-1]["text"] == first["answer"]  # Up to the end.
    opened = harness.open_run(workdir)
    for record in unseen:
        prompt = record["question"]
        assert opened.generate(prompt, 8, temperature=0, stop=".") == prompt + record["answer"]
    words = [f"--workdir={workdir}", f"--prompt={first['question']}", "--stop=.", "--temperature=0"]
    result = run("generate.py", *words)
    assert result.stdout == f"{first['question']}{first['answer']}\n"


@pytest.mark.long
def test_pairs_are_evaluated_by_their_answers(reverser, tmp_path):
    workdir, records, _ = reverser
    summary = run_folder.read_json(workdir / run_folder.SUMMARY)
    result = run("evaluate.py", f"--workdir={workdir}", "--split=val")
    scores = json.loads(result.stdout)
    assert scores["val/loss"] == pytest.approx(summary["val/loss"], rel=1e-6)
    assert scores["val/loss"] < 0.1 and scores["val/left_out"] == 0
    # The same pairs under other names, with the one that does not fit.
    others = [{"p": one["question"], "a": one["answer"]} for one in [*records[230:], records[3]]]
    write(tmp_path / "others.jsonl", others)
    (tmp_path / "plain.txt").write_text("abcd>dcba.bacd>dcab.")
    opened = harness.open_run(workdir, "latest")
    with pytest.raises(UserError, match="has no field 'question'"):
        opened.evaluate_text(str(tmp_path / "others.jsonl"))
    text = opened.evaluate_text(str(tmp_path / "others.jsonl"), "a", "p")
    assert text["text/loss"] == pytest.approx(summary["val/loss"], rel=1e-6)
    assert text["text/left_out"] == 1
    with pytest.raises(UserError, match=r"plain.txt has no records: expected .jsonl or"):
        opened.evaluate_text(str(tmp_path / "plain.txt"), prompt_field="p")
    # Not as pairs, so that each character counts, those of the questions too.
    for plain in (
        opened.evaluate_text(str(tmp_path / "others.jsonl"), "a"),
        opened.evaluate_text(str(tmp_path / "plain.txt")),
    ):
        assert plain["text/loss"] > 0.3 and "text/left_out" not in plain
    flags = [f"--workdir={workdir}", f"--text={tmp_path}/others.jsonl"]
    result = run("evaluate.py", *flags, "--field=a", "--prompt_field=p")
    assert json.loads(result.stdout) == {"step": 200, **text}
    result = run("evaluate.py", *flags, "--prompt_field=p")
    assert_refused(result, "line 1 has no field 'answer': set --config.data.field (--field of eval")


@pytest.mark.long
def test_a_resumed_run_on_pairs_equals_the_uninterrupted_one(tmp_path):
    config = smoke("gpt2", **{**ENDED, "train.grad_accumulation_steps": 2, "checkpoint.keep": 9})
    config.data = data_of(write(tmp_path / "x.jsonl", WORDS * 9), document_separator=".")
    train.train_and_evaluate(config, tmp_path / "whole")
    resume_from(10, tmp_path / "whole", tmp_path / "resumed", config)
    for one, other in zip(
        arrays(tmp_path / "whole", 20), arrays(tmp_path / "resumed", 20), strict=True
    ):
        jax.tree.map(np.testing.assert_array_equal, one, other)
    assert lines(tmp_path / "whole") == lines(tmp_path / "resumed")


@pytest.mark.long
def test_a_folder_of_gpt2_weights_is_fine_tuned_on_pairs(tmp_path):
    """Its tokenizer has an end of text, which the model learns to write after an answer."""
    text = tmp_path / "text.txt"
    text.write_text("to be, or not to be: that is the question. abc>cba" * 40)
    end = "<|endoftext|>"
    before = {"data.name": "text", "data.path": str(text), "data.tokenizer": "bpe:270"}
    changes = {**before, "data.document_separator": end, "train.num_steps": 1}
    offline = {"tracking.wandb_mode": "disabled", "sample.num_tokens": 0}
    harness.train("gpt2:smoke", tmp_path / "first", **changes, **offline)
    folder = tmp_path / "weights"
    result = run("export.py", f"--workdir={tmp_path / 'first'}", f"--output={folder}")
    assert result.returncode == 0, result.stderr
    pairs = write(tmp_path / "pairs.jsonl", WORDS * 9)
    keys = {"data.name": "text", "data.path": str(pairs), "data.field": "answer"}
    keys |= {"data.prompt_field": "question", "model.init_from": str(folder)}
    keys |= {"model.context_length": 16, "model.dropout_rate": 0.0, "train.batch_size": 16}
    keys |= {"optimizer.learning_rate": 0.03, "train.num_steps": 150, "eval.every_steps": 0}
    trained = harness.train("gpt2:smoke", tmp_path / "run", **{**keys, **offline})
    for word in WORDS:
        made = trained.generate(word["question"], 8, temperature=0)
        assert made.startswith(word["question"] + word["answer"] + end)
    # The weights alone know less of it.
    flags = [f"--text={pairs}", "--field=answer", "--prompt_field=question"]
    result = run("evaluate.py", f"--workdir={folder}", *flags)
    assert json.loads(result.stdout)["text/loss"] > 2
    assert trained.evaluate_text(str(pairs))["text/loss"] < 0.5
