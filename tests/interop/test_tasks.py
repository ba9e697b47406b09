"""Tasks, as `evaluate.py` scores them, against lm-evaluation-harness on the same files."""

import json

import lm_eval
import numpy as np
import pytest
import torch
import yaml
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from tests.command import run
from tests.tokenizer_folders import KINDS

WORDS = ["the", "thing", "that", "they", "then", "thought", "they", "then", "the", "né", "€uro"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a folder of random GPT-2 weights, far from uniform, with a tokenizer."""
    path = tmp_path_factory.mktemp("gpt2")
    KINDS["special token first, GPT2Tokenizer"](path)
    sizes = dict(n_positions=48, n_embd=24, n_head=3, n_layer=2, bos_token_id=0, eos_token_id=0)
    num_tokens = len(AutoTokenizer.from_pretrained(path))
    model = GPT2LMHeadModel(GPT2Config(**sizes, vocab_size=num_tokens))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    model.save_pretrained(path)
    return path


def texts(seed, low, high):
    draw = np.random.default_rng(seed)
    while True:
        yield " ".join(draw.choice(WORDS, draw.integers(low, high)))


def theirs(folder, tmp_path, name, task):
    """Returns the scores of lm-evaluation-harness for a task on a local file."""
    (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **task}))
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(folder), "device": "cpu", "dtype": "float32"},
        tasks=[name],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
    )
    return found["results"][name]


def ours(folder, path, task):
    flags = [f"--workdir={folder}", f"--text={path}", f"--task={task}"]
    result = run("evaluate.py", *flags, HF_HUB_OFFLINE="1")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def local(path):
    return {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
    }


def test_last_words_are_scored_as_lambada_is(folder, tmp_path):
    path = tmp_path / "passages.jsonl"
    made = texts(1, 2, 30)  # Some are longer than the context of 48 tokens.
    path.write_text("".join(f"{json.dumps({'text': next(made)})}\n" for _ in range(120)))
    task = {
        **local(path),
        "output_type": "loglikelihood",
        "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
        "doc_to_target": "{{' '+text.split(' ')[-1]}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    }
    expected = theirs(folder, tmp_path, "last_words", task)
    found = ours(folder, path, "last_word")
    assert found["last_word/examples"] == 120
    assert found["last_word/perplexity"] == pytest.approx(expected["perplexity,none"], rel=1e-4)
    assert found["last_word/accuracy"] == pytest.approx(expected["acc,none"], abs=1e-9)


def test_choices_are_scored_as_hellaswag_is(folder, tmp_path):
    path = tmp_path / "choices.jsonl"
    beginnings, endings = texts(2, 1, 12), texts(3, 1, 7)
    draw = np.random.default_rng(4)
    records = [
        {
            "ctx": next(beginnings),
            "endings": [next(endings) for _ in range(4)],
            "label": int(draw.integers(4)),
        }
        for _ in range(80)
    ]
    path.write_text("".join(f"{json.dumps(one)}\n" for one in records))
    task = {
        **local(path),
        "output_type": "multiple_choice",
        "doc_to_text": "{{ctx}}",
        "doc_to_target": "{{label}}",
        "doc_to_choice": "endings",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    expected = theirs(folder, tmp_path, "choices", task)
    found = ours(folder, path, "choices")
    assert (found["choices/examples"], found["choices/chance"]) == (80, 0.25)
    assert found["choices/accuracy"] == pytest.approx(expected["acc,none"], abs=1e-9)
    normalized = found["choices/accuracy_per_character"]
    assert normalized == pytest.approx(expected["acc_norm,none"], abs=1e-9)
    assert len({found[f"choices/accuracy{name}"] for name in ("", "_per_character")}) == 2
