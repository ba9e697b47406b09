# ---
# jupyter:
#   jupytext:
#     notebook_metadata_filter: -jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Stage 1: the bigram model
#
# **How well can the next character be guessed from the current one alone?** The whole model is a
# table with one row a character, and training fills it in.
#
# Start it with `make notebooks`. Every key of `experiments/default.py` can be changed in a call of
# `harness.train`. Run folders are in `runs/notebooks`.

# %%
import os
import sys
from pathlib import Path

import numpy as np

# Jupyter starts a notebook in its own folder; the harness is in the folder above.
ROOT = Path.cwd().parent
sys.path.insert(0, str(ROOT))

import harness

# "smoke" trains tiny models for seconds, to see that every cell works.
PRESET = os.environ.get("COURSE_PRESET", "")
RUNS = ROOT / "runs/notebooks" / PRESET
# A second run of a cell finds the finished run, or goes on with an interrupted one.
# After a change of any other key, name another folder.
SETTINGS = {"checkpoint.resume": True, "eval.milestones": True, "tracking.sinks": ()}

# %% [markdown]
# ## Train it
#
# The model starts with random numbers. Each update lowers the *loss* a little: the mean of
# minus the log of the probability that the model gave to the character that came. A line has the
# loss on the training text, and some the loss on the *validation* text, which no update sees.

# %%
bigram = harness.train("bigram:" + PRESET, RUNS / "bigram", **SETTINGS)

# %% [markdown]
# The loss on the validation text. A guess among all characters with equal chances has the loss
# log V, for V characters.

# %%
V = bigram.tokenizer.vocab_size
print(f"{V} characters, a guess: {np.log(V):.3f}, the model: {bigram.summary['val/loss']:.3f}")
bigram.plot()

# %% [markdown]
# ## Let it write
#
# It draws a character from the row of the last one, appends it, and goes on. Compare pairs of
# neighbours with English, then whole words.

# %%
print(bigram.generate("ROMEO:", num_tokens=200))

# %% [markdown]
# ## Experiment: what did it learn?
#
# Row i of the table has the *logits* of what follows character i; softmax makes them
# probabilities. Counting the pairs of the training text gives the same probabilities without any
# training.

# %%
table_VV = np.asarray(bigram.params["next_token"]["embedding"], np.float64)
learned_VV = np.exp(table_VV) / np.exp(table_VV).sum(axis=1, keepdims=True)

train_text, val_text = bigram.splits()["train"], bigram.splits()["val"]
counts_VV = np.zeros((V, V))
np.add.at(counts_VV, (train_text[:-1], train_text[1:]), 1)
counted_VV = counts_VV / counts_VV.sum(axis=1, keepdims=True)

# %%
LETTER = "q"
(row,) = bigram.tokenizer.encode(LETTER)
print(f"after {LETTER!r}   learned  counted")
for token in np.argsort(-learned_VV[row])[:5]:
    name = repr(bigram.tokenizer.decode([token]))
    print(f"{name:>9}   {learned_VV[row, token]:7.3f}  {counted_VV[row, token]:7.3f}")

# %% [markdown]
# Does training reach what counting reaches? One is added to every count, so that a pair that the
# training text lacks has a probability above zero.

# %%
smooth_VV = (counts_VV + 1) / (counts_VV + 1).sum(axis=1, keepdims=True)
for name, probabilities_VV in {"learned": learned_VV, "counted": smooth_VV}.items():
    loss = -np.log(probabilities_VV[val_text[:-1], val_text[1:]]).mean()
    print(f"{name}: {loss:.3f} nats per character")

# %% [markdown]
# ## Questions
#
# - Which letters are easy to follow, and which are hard? Change `LETTER`.
# - Which rows differ most from the counts? How often do their characters occur?
# - The table has V x V numbers. How many would a table need that looks at the last two characters?
#   At the last ten?
# - Change `optimizer.learning_rate` and `train.num_steps`, each in a new folder. Can any setting
#   lead below the loss that counting gives?
#
# ## Where to go next
#
# The page of this stage is `docs/stages/1.md`. `python -m exercises.check 1` checks its exercises.
# `2_self_attention.py` looks further back than one character.
