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
# # Stage 2: self-attention
#
# **How can a model use more than the last character?** Each position looks back at all before it,
# and decides by itself how much of each to take.
#
# Start it with `make notebooks`. Every key of `experiments/default.py` can be changed in a call of
# `harness.train`. Run folders are in `runs/notebooks`.

# %%
import os
import sys
from pathlib import Path

import altair as alt
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

_ = alt.renderers.enable("svg")  # Charts are pictures, drawn without a network.

# %% [markdown]
# ## Train it
#
# The bigram model comes first, to compare with: if `1_bigram.py` has trained it, it is found.

# %%
bigram = harness.train("bigram:" + PRESET, RUNS / "bigram", **SETTINGS)

# %%
attention = harness.train("self_attention:" + PRESET, RUNS / "self_attention", **SETTINGS)

# %% [markdown]
# ## Compare it with the stage before
#
# The losses are those of the validation text.

# %%
both = harness.compare(RUNS / "bigram", RUNS / "self_attention")
for run in (bigram, attention):
    print(f"{run.workdir.name:16} {run.summary['val/loss']:.3f}")
both

# %%
for run in (bigram, attention):
    print(f"--- {run.workdir.name}\n{run.generate('ROMEO:', num_tokens=150)}\n")

# %% [markdown]
# ## Experiment: what does it look at?
#
# For each character of a text, a *query*, the model gives a weight to that character and to each
# one before it, the *keys*. The weights of a query sum to one. A dark square means that the query
# of that row takes much from the key of that column. The triangle above the diagonal is empty: the
# *causal mask* hides what comes later.

# %%
TEXT = "First Citi"
weights_TS = attention.attention(TEXT)[0, 0]  # Of layer 0 and head 0; there are no others.

labels = [f"{i:02} {char!r}" for i, char in enumerate(TEXT)]
squares = [
    {"query": labels[t], "key": labels[s], "weight": float(weights_TS[t, s])}
    for t in range(len(TEXT))
    for s in range(t + 1)
]
alt.Chart(alt.Data(values=squares), width=340, height=340, padding=20).mark_rect().encode(
    x=alt.X("key:N", axis=alt.Axis(labelAngle=0, labelExpr="slice(datum.label, 3)")),
    y=alt.Y("query:N", axis=alt.Axis(labelExpr="slice(datum.label, 3)")),
    color=alt.Color("weight:Q", scale=alt.Scale(range=["white", "navy"], domain=[0, 1])),
)

# %% [markdown]
# The same for a longer text, as a mean over its queries: how much of the weight goes how far back?
# Position embeddings tell the model where a key stands.

# %%
val_text = attention.splits()["val"]
T = attention.config.model.context_length
windows = [attention.tokenizer.decode(val_text[i : i + T]) for i in range(0, 32 * T, T)]
mean_TS = np.mean([attention.attention(window)[0, 0] for window in windows], axis=0)
by_distance = [
    {"characters back": back, "mean weight": float(np.diagonal(mean_TS, -back).mean())}
    for back in range(T)
]
alt.Chart(alt.Data(values=by_distance), width=500, height=200).mark_bar().encode(
    x="characters back:O", y="mean weight:Q"
)

# %% [markdown]
# ## Questions
#
# - Does the model look at the current character most, or at an earlier one? Why?
# - Try texts with spaces, line ends and names in capitals as `TEXT`. Which keys stand out?
# - Attention adds up the values of its keys. What of their order is lost by that?
# - Train it with `"model.without": "positions"`, then with `"mask"`, each in a new folder. Guess
#   both losses before. Is the model with the lowest loss the best one? Let it write.
#
# ## Where to go next
#
# The page of this stage is `docs/stages/2.md`. `python -m exercises.check 2` checks its exercises.
# `3_multi_head_attention.py` looks at several places at once.
