"""playground.py: its page writes what generate.py writes, measures what JAX does, and is safe."""

import base64
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from flax import linen as nn

import harness
import models
from benchmarks import playground as benchmark
from inference.sampling import Sampling, limit_logits
from inspection import interception
from playground_page import exporter, page, scripts
from runtime.errors import UserError
from tests import browser, stages
from tests.command import assert_refused
from tests.forked import run
from tests.playground_runs import STEP, open_entry, random_params, write_run, write_text

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u202e"
STAGES = ("bigram", "self_attention", "multi_head_attention", "transformer_decoder", "gpt2")
# By the names of their runs: an experiment, and changes of its config.
RUNS = {
    **{stage: (f"{stage}:smoke", {}) for stage in STAGES},
    "gpt2-byte": ("gpt2:smoke", {"data.tokenizer": "byte"}),
    "gpt2-learned": ("gpt2:smoke+rotary+grouped_queries", {"data.tokenizer": "bpe:300"}),
}
PROMPT, NUM_TOKENS = "First Citizen:\nWe", 60


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    write_text(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory, text):
    """Returns a folder of runs of all stages, with the page of their weights in float32."""
    path = tmp_path_factory.mktemp("playground") / "runs"
    for name, (experiment, changes) in RUNS.items():
        write_run(path / name, experiment, text, **changes)
    made = run("playground.py", path, "--dtype=float32")
    assert made.returncode == 0, made.stderr
    size = (path / "playground.html").stat().st_size
    assert made.stdout == f"page: {path}/playground.html, {size / 1e6:.1f} MB\n"
    return path


def opened_run(folder, name):
    return harness.open_run(folder / name, "best")


# JSON has no typed arrays, and null for NaN.
ASK = """async ([action, args]) => {
  const plain = (_, value) => (ArrayBuffer.isView(value) ? [...value] : value);
  return JSON.stringify((await ask(action, args)) ?? null, plain);
}"""
# Texts on the page, after what was just written is drawn.
WRITTEN = """(all) => new Promise(requestAnimationFrame).then(
  () => all.map((text) => text.lastChild.data)
)"""


def ask(opened, action, **args):
    """Returns the answer of the page's worker."""
    return json.loads(opened.evaluate(ASK, [action, args]))


def write(opened, *, prompt=PROMPT, temperature=0.0, top_k=0, top_p=1.0, seed=0, count=NUM_TOKENS):
    """Returns the texts of the models that the page writes, by its own controls."""
    fields = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    for name, value in {**fields, "count": count, "prompt": prompt}.items():
        opened.fill(f"#{name}", str(value))
    opened.click("#run")
    return written(opened)


def written(opened):
    """Returns the text of each model on the page, when all is written."""
    opened.wait_for_selector("#continue-notes:has-text('Done.')")
    ask(opened, "run")  # Answered at the end of what a step has begun.
    texts = opened.locator("#continuations pre").evaluate_all(WRITTEN)
    return dict(zip(shown_names(opened), texts, strict=True))


def models_of(opened):
    return opened.evaluate("() => data.models")


def shown_names(opened):
    return [model["name"] for model in models_of(opened)]


def nats_in_windows(model, params, tokens, T):
    """Returns the nats of each token after the first, each in the window that it counts in."""
    half, places = max(1, T // 2), np.arange(len(tokens) - 1)
    begin = np.maximum(0, np.ceil((places + 1 - T) / half).astype(int)) * half
    starts, window = np.unique(begin, return_inverse=True)
    padded = np.concatenate([tokens, np.zeros(T, np.int32)])
    windows = np.stack([padded[start : start + T] for start in starts])
    log_p = np.asarray(jax.nn.log_softmax(model.apply({"params": params}, windows)))
    return -log_p[window, places - begin, tokens[1:]]


def nats_without(trained, tokens, off):
    """Returns the nats with the outputs of these heads and MLPs replaced by zeros."""
    attentions = interception.attentions(trained.model, trained.params)

    def edit(i, x_BTHK):
        own = [f"{attentions[i].path}/{head}" not in off for head in range(x_BTHK.shape[2])]
        return x_BTHK * np.array(own)[None, None, :, None]

    edits = interception.head_edits(attentions, edit)
    mlps = {name: lambda x_BTD: 0 * x_BTD for name in off if name.endswith("/mlp")}
    edits["outputs"] = {**edits["outputs"], **mlps}
    logits = interception.run(trained.model, trained.params, tokens[None], **edits).logits[0]
    return -np.asarray(jax.nn.log_softmax(logits))[np.arange(len(tokens) - 1), tokens[1:]]


def tiny_entry(name, stage="transformer_decoder", **options):
    model = stages.TINY[stage]
    return open_entry(name, model, random_params(model), stages.T, **options)


@pytest.mark.slow
class TestPage:
    __test__ = browser.is_wanted()

    @pytest.fixture(scope="class")
    def chromium(self):
        with browser.launch() as chromium:
            yield chromium

    @pytest.fixture(scope="class")
    def opened(self, chromium, folder):
        with browser.open_file(chromium, folder / "playground.html") as opened:
            opened.wait_for_selector("body[data-ready]")
            yield opened

    @pytest.mark.long
    def test_all_runs_are_there_by_stage_and_compute_what_jax_does(self, opened):
        assert sorted(shown_names(opened)) == sorted(RUNS)
        assert shown_names(opened)[:4] == list(STAGES[:4])
        assert not opened.is_visible("#failures")

    @pytest.mark.long
    def test_greedy_text_is_that_of_generate(self, folder, opened):
        """By each stage and tokenizer, from within the context and past it."""
        written = write(opened)
        for name in RUNS:
            expected = opened_run(folder, name).generate(PROMPT, NUM_TOKENS, temperature=0)
            assert PROMPT + written[name] == expected, name
            # A text that repeats one token would survive any fault.
            assert len(set(written[name])) > 1

    @pytest.mark.long
    def test_one_choice_is_the_greedy_one(self, opened):
        greedy = write(opened)
        assert write(opened, temperature=1, top_k=1, seed=5) == greedy
        assert write(opened, temperature=1, top_p=0.05, seed=6) != greedy
        assert write(opened, temperature=1, seed=5) != greedy

    @pytest.mark.long
    def test_the_nats_of_a_long_text_are_those_of_its_windows(self, folder, opened, text):
        """After the first window of T tokens each begins T / 2 before those that count in it."""
        shown = text.read_text()[100:230]
        for m, name in enumerate(shown_names(opened)):
            trained = opened_run(folder, name)
            tokens, T = trained.tokenizer.encode(shown), trained.config.model.context_length
            answer = ask(opened, "read", model=m, text=shown, off=[])
            expected = nats_in_windows(trained.model, trained.params, tokens, T)
            np.testing.assert_allclose(answer["nats"][1:], expected, atol=1e-4, err_msg=name)
            total = ask(opened, "score", model=m, text=shown, off=[])
            assert total["nats"] == pytest.approx(sum(expected), abs=1e-2)
            assert total["bytes"] == trained.tokenizer.token_bytes[tokens[1:]].sum()
            assert len(tokens) > 2.5 * T

    @pytest.mark.long
    @pytest.mark.parametrize("name", [*STAGES[1:], "gpt2-learned"])
    def test_what_is_off_is_zero(self, folder, opened, text, name):
        """Each head and each MLP alone, and all heads at once."""
        m = shown_names(opened).index(name)
        shown = models_of(opened)[m]
        trained = opened_run(folder, name)
        T = trained.config.model.context_length
        tokens = trained.tokenizer.encode(text.read_text()[50:100])[:T]
        words = trained.tokenizer.decode(tokens)
        names = [one["name"] for one in (*shown["heads"], *shown["mlps"])]
        heads = [one["name"] for one in shown["heads"]]
        found = []
        for off in ([], *([one] for one in names), heads):
            answer = ask(opened, "read", model=m, text=words, off=off)
            expected = nats_without(trained, tokens, off)
            np.testing.assert_allclose(answer["nats"][1:], expected, atol=1e-4, err_msg=str(off))
            found.append(expected)
        assert all(np.abs(found[0] - other).max() > 1e-3 for other in found[1:])

    def test_the_benchmark_measures(self, chromium, folder):
        """It presses the controls of this page; no test asserts a speed."""
        found = benchmark.measure(chromium, folder / "playground.html")
        assert found.pop("ms_of_longest_task") >= 0
        assert all(value > 0 for value in found.values()), found

    @pytest.mark.long
    def test_a_model_whose_code_was_changed_is_named(self, chromium, tmp_path, monkeypatch):
        """A fork's MLP with another activation keeps its name, and the page its own."""
        good = tiny_entry("kept")

        class Mlp(nn.Module):
            @nn.compact
            def __call__(self, x_BTD):
                h_BTF = nn.gelu(nn.Dense(4 * x_BTD.shape[-1], use_bias=False, name="up")(x_BTD))
                return nn.Dense(x_BTD.shape[-1], use_bias=False, name="down")(h_BTF)

        monkeypatch.setattr("models.transformer_decoder.Mlp", Mlp)
        changed = tiny_entry("changed")
        for entries, expected in (([good], None), ([good, changed], "as JAX for changed:")):
            path = tmp_path / "page.html"
            path.write_text(page.render(entries, []))
            with browser.open_file(chromium, path) as shown:
                shown.wait_for_selector("body[data-ready]")
                assert shown.is_visible("#failures") == bool(expected)
                assert (expected or "") in shown.inner_text("#failures")

    @pytest.mark.long
    def test_hostile_names_notes_and_texts_stay_text(self, chromium, tmp_path):
        """browser.open_file fails if a script of theirs runs, or asks for anything."""
        name = HOSTILE.replace("/", "")  # Of a folder.
        (tmp_path / "text.txt").write_text(f"{HOSTILE}\n" * 300)
        notes = {"tracking.notes": HOSTILE}
        write_run(tmp_path / "runs" / name, "gpt2:smoke", tmp_path / "text.txt", **notes)
        write_run(tmp_path / "runs" / f"{name}2", "bigram:smoke", tmp_path / "text.txt", **notes)
        (tmp_path / "runs" / f"{name}3").mkdir()
        (tmp_path / "runs" / f"{name}3" / "config.json").write_text("{}")
        made = run("playground.py", tmp_path / "runs")
        assert made.returncode == 0, made.stderr
        path = tmp_path / "runs/playground.html"
        assert "\u202e" not in json.loads(json.dumps(path.read_text())).partition("<main>")[0]
        with browser.open_file(chromium, path) as shown:
            shown.wait_for_selector("body[data-ready]")
            # Data, two models, the worker, elements.js, and the page's own.
            assert shown.locator("script").count() == 5 + len(scripts.PAGE)
            assert shown.locator("img").count() == 0
            headings = shown.locator("#continuations h3").all_inner_texts()
            assert all("<img src=x onerror=alert(2)>" in heading for heading in headings)
            assert not any("\u202e" in heading for heading in headings)
            assert "<script>alert(1)" in shown.locator("#continuations article").first.inner_text()
            assert "alert(1)" in shown.inner_text("#look-text")
            made = write(shown, prompt=HOSTILE, temperature=1)
            assert all(len(text) == NUM_TOKENS for text in made.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", stages.TINY | stages.CHANGED)
def test_the_export_is_what_flax_has(name):
    """All fields of the model, all parameters, and a class at each of its modules."""
    model = (stages.TINY | stages.CHANGED)[name]
    params = random_params(model)
    tree = exporter.export(model, params, "float32", "a run")
    fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    plain = {key: value for key, value in fields.items() if isinstance(value, int | float | str)}
    assert plain.items() <= tree.items()
    assert tree["class"] == type(model).__name__
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in leaves:
        node = tree
        for key in path[:-1]:
            node = node[key.key]
            assert node["class"] in scripts.computable()
        shape, encoded = node[path[-1].key]
        assert tuple(shape) == leaf.shape
        numbers = np.frombuffer(base64.b64decode(encoded), "<f4").reshape(shape)
        np.testing.assert_array_equal(numbers, leaf)


@pytest.mark.parametrize("name", stages.TINY)
def test_the_switches_are_the_heads_and_mlps_of_jax(name):
    model = stages.TINY[name]
    params = random_params(model)
    found = exporter.switches(exporter.export(model, params, "float16", "a run"))
    attentions = [] if name == "bigram" else interception.attentions(model, params)
    expected = [f"{one.path}/{head}" for one in attentions for head in range(one.num_heads)]
    assert [head["name"] for head in found["heads"]] == expected
    layers = sorted(key for key in params if key.startswith("block_"))
    assert [mlp["name"] for mlp in found["mlps"]] == [f"{layer}/mlp" for layer in layers]


def test_a_module_that_the_page_lacks_is_refused(monkeypatch):
    class SparseMlp(models.transformer_decoder.Mlp):
        """A fork's."""

    monkeypatch.setattr("models.transformer_decoder.Mlp", SparseMlp)
    with pytest.raises(UserError) as error:
        tiny_entry("my run")
    (line,) = str(error.value).splitlines()
    for words in ("my run", "SparseMlp", "block_0/mlp", "generate.py"):
        assert words in line


@pytest.mark.long
def test_a_parameter_outside_of_float16_needs_float32(tmp_path, text):
    def edit(params):
        kernel = params["logits"]["kernel"]
        head = {**params["logits"], "kernel": kernel.at[0, 0].set(65_520.0)}
        return {**params, "logits": head}

    write_run(tmp_path / "run", "self_attention:smoke", text, edit=edit)
    refused = run("playground.py", tmp_path / "run")
    assert_refused(refused, "run has parameters that are not finite in float16")
    assert "--dtype=float32" in refused.stderr and "generate.py" in refused.stderr
    assert not (tmp_path / "run/playground.html").exists()
    assert run("playground.py", tmp_path / "run", "--dtype=float32").returncode == 0


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        ((), ["no run to play with: name a folder"]),
        (("{folder}/nowhere",), ["does not exist: expected a run folder"]),
        (("{folder}/bigram/checkpoints",), ["holds no run"]),
        (("{folder}", "--output={folder}/no/page.html"), ["in a folder that can be written"]),
        (("{folder}", "--output={folder}"), ["expected a file"]),
        (("{folder}/gpt2", "--max_megabytes=0.05"), ["--max_megabytes=0.05", "generate.py"]),
        (("{folder}/bigram", "--checkpoint=99"), ["checkpoint '99': expected one of best, latest"]),
        (("{folder}", "--dtype=int8"), ["dtype", "float16"]),
        (("{folder}", "--colour=red"), ["colour"]),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(folder, tmp_path, arguments, messages):
    flags = [argument.replace("{folder}", str(folder)) for argument in arguments]
    if not any(flag.startswith("--output") for flag in flags):
        flags.append(f"--output={tmp_path}/page.html")
    refused = run("playground.py", *flags)
    for message in messages:
        assert_refused(refused, message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_a_damaged_run_is_named_and_left_out(folder, tmp_path):
    for name in ("bigram", "gpt2"):
        shutil.copytree(folder / name, tmp_path / name)
    path = tmp_path / f"gpt2/checkpoints/{STEP}/params.safetensors"
    path.write_bytes(b"half")
    made = run("playground.py", tmp_path)
    assert made.returncode == 0, made.stderr
    (line,) = made.stderr.splitlines()
    assert line.startswith("warning: left out: ") and f"checkpoint {STEP} is damaged" in line
    content = (tmp_path / "playground.html").read_text()
    assert content.count('class="model"') == 1
    assert "Left out: " in content and "is damaged" in content
    # And alone it is an error.
    assert_refused(run("playground.py", tmp_path / "gpt2"), "is damaged")


@pytest.mark.long
def test_without_its_text_a_run_is_still_carried(folder, tmp_path, text):
    shutil.copy(text, tmp_path / "text.txt")
    write_run(tmp_path / "run", "bigram:smoke", tmp_path / "text.txt")
    for held_out in (True, False):
        made = run("playground.py", tmp_path / "run")
        assert made.returncode == 0 and made.stderr == ""
        content = (tmp_path / "run/playground.html").read_text()
        assert ('id="another-passage"' in content) == held_out
        (tmp_path / "text.txt").unlink(missing_ok=True)


def test_the_scripts_end_where_they_should():
    """They are in the page as they are."""
    for script in (scripts.worker(), *map(scripts.read, scripts.PAGE)):
        assert "</script" not in script.lower() and "<!--" not in script


@pytest.mark.slow
class TestParts:
    """Functions of the worker alone, in an empty page."""

    __test__ = browser.is_wanted()

    @pytest.fixture(scope="class")
    def opened(self):
        with browser.launch() as chromium:
            opened = chromium.new_page()
            opened.add_script_tag(content=scripts.worker())
            yield opened

    @pytest.mark.long
    def test_every_float16_is_read(self, opened):
        """Subnormal ones, too; none of the page's is infinite or no number."""
        bits = np.arange(2**16, dtype="<u2")
        numbers = bits.view("<f2")
        bits, numbers = bits[np.isfinite(numbers)], numbers[np.isfinite(numbers)]
        decode = "(encoded) => [...decodeNumbers(encoded, 'float16')]"
        found = opened.evaluate(decode, base64.b64encode(bits.tobytes()).decode())
        np.testing.assert_array_equal(np.array(found), numbers.astype(float))

    @pytest.mark.long
    def test_limits_are_those_of_generate(self, opened):
        """The same tokens stay, and with the same logits: ties, all of them, and one alone."""
        rng = np.random.default_rng(0)
        cases = []
        for _ in range(200):
            logits = rng.normal(0, rng.choice([0.3, 3]), rng.choice([1, 7, 40]))
            if rng.random() < 0.3:
                logits = logits.round(0)
            chosen = Sampling(
                float(rng.choice([0.05, 0.8, 1, 2])),
                int(rng.choice([0, 1, 3, 40, 100_000])),
                float(rng.choice([0.05, 0.5, 0.9, 0.999, 1])),
            )
            cases.append((chosen, logits.astype(np.float32)))
        limit = """(cases) => cases.map(([sampling, logits]) => {
          const limited = [...limitLogits(sampling, Float32Array.from(logits))];
          return limited.map((logit) => (logit === -Infinity ? null : logit));
        })"""
        asked = [[chosen._asdict(), logits.tolist()] for chosen, logits in cases]
        for (chosen, logits), found in zip(cases, opened.evaluate(limit, asked), strict=True):
            expected = np.asarray(limit_logits(chosen, logits))
            kept = np.isfinite(expected)
            assert [one is not None for one in found] == kept.tolist(), (chosen, logits)
            np.testing.assert_allclose(
                np.array(found)[kept].astype(float), expected[kept], rtol=1e-5
            )

    @pytest.mark.long
    @pytest.mark.parametrize(
        "chosen", [Sampling(), Sampling(0.5), Sampling(2, 3), Sampling(1, 0, 0.7)]
    )
    def test_draws_have_the_probabilities_of_the_limited_logits(self, opened, chosen):
        logits = np.array([0.5, -1.0, 2.0, 1.5, -3.0, 0.0], np.float32)
        N = 40_000
        draw = """([sampling, logits, N]) => {
          const random = randomNumbers(7);
          const counts = logits.map(() => 0);
          const logits_V = Float32Array.from(logits);
          for (let n = 0; n < N; n++) counts[sampleToken(sampling, logits_V, random())]++;
          return counts;
        }"""
        counts = np.array(opened.evaluate(draw, [chosen._asdict(), logits.tolist(), N]))
        p = np.asarray(jax.nn.softmax(limit_logits(chosen, logits)), float)
        assert counts[p == 0].sum() == 0
        # Five standard deviations of a binomial distribution.
        assert (np.abs(counts - N * p) <= 5 * np.sqrt(N * p * (1 - p))).all()

    @pytest.mark.long
    def test_the_random_numbers_are_those_of_mulberry32(self, opened):
        draw = """(seeds) => seeds.map((seed) => {
          const random = randomNumbers(seed);
          return Array.from({ length: 50 }, random);
        })"""
        seeds = [0, 1, 2**32 - 1]
        found = opened.evaluate(draw, seeds)
        assert found == [[*mulberry32(seed, 50)] for seed in seeds]

    @pytest.mark.long
    def test_greedy_takes_the_first_of_equal_logits(self, opened):
        greedy = (
            "() => [0, 9e-6].map((temperature) => sampleToken({ temperature }, [1, 5, 2, 5], 0.99))"
        )
        assert opened.evaluate(greedy) == [1, 1]


def mulberry32(seed, count):
    """Yields the numbers of Ettinger's generator, with Python's integers."""
    mask = 2**32 - 1
    for n in range(1, count + 1):
        state = (seed + n * 0x6D2B79F5) & mask
        mixed = (state ^ state >> 15) * (state | 1) & mask
        mixed ^= (mixed + ((mixed ^ mixed >> 7) * (mixed | 61) & mask)) & mask
        yield ((mixed ^ mixed >> 14) & mask) / 2**32
