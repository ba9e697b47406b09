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
# # Stage 3: multi-head attention
#
# **Is it better to look at several places at once than at one?** The width is cut into heads that
# attend apart from each other, and a projection joins what they found.
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
# The stage before comes first: if `2_self_attention.py` has trained it, it is found.

# %%
before = harness.train("self_attention:" + PRESET, RUNS / "self_attention", **SETTINGS)

# %%
heads = harness.train("multi_head_attention:" + PRESET, RUNS / "multi_head_attention", **SETTINGS)

# %% [markdown]
# ## Compare it with the stage before
#
# This stage is also wider, reads a longer context and trains for longer. `docs/comparison.md`
# compares stages at equal compute.

# %%
both = harness.compare(RUNS / "self_attention", RUNS / "multi_head_attention", against="flops")
for run in (before, heads):
    print(f"{run.workdir.name:22} {run.summary['val/loss']:.3f}")
both

# %%
for run in (before, heads):
    print(f"--- {run.workdir.name}\n{run.generate('ROMEO:', num_tokens=150)}\n")

# %% [markdown]
# ## Experiment: one head, two, four
#
# Only `model.num_heads` changes. H heads share the width, so each is narrower when there are more,
# and the number of parameters stays the same. So does the number of updates.

# %%
runs = []
for num_heads in (1, 2, 4):
    folder = RUNS / f"heads/{num_heads}_heads"
    changes = {"model.num_heads": num_heads, "sample.num_tokens": 0}
    runs.append(harness.train("multi_head_attention:" + PRESET, folder, **changes, **SETTINGS))

# %%
for run in (*runs, heads):
    num_heads, size = run.config.model.num_heads, run.summary["num_params"]
    print(f"{num_heads:2} heads, {size:,} parameters: {run.summary['val/loss']:.3f}")
harness.compare(*(run.workdir for run in (*runs, heads)))

# %% [markdown]
# What does each head look at? A line a head: the share of its weight on the current character and
# on those one, two and three characters back, as a mean over a text.

# %%
text = heads.tokenizer.decode(heads.splits()["val"][: heads.config.model.context_length])
weights_HTS = heads.attention(text)[0]
print("      " + "".join(f"{back:>7} back" for back in range(4)))
for head, weights_TS in enumerate(weights_HTS):
    shares = (np.diagonal(weights_TS, -back).mean() for back in range(4))
    print(f"head {head:2}" + "".join(f"{share:11.0%} " for share in shares))

# %% [markdown]
# ## Questions
#
# - Where does the gain end when heads are added? What gets too small for each of them?
# - Do any two heads look at the same place? Does any head look at one place alone?
# - Which lines of `models/multi_head_attention.py` would you change so that each head has the full
#   width? What would that cost?
# - Train it with `"model.without": "projection"` in a new folder. What can the model no longer do?
#
# ## Where to go next
#
# The page of this stage is `docs/stages/3.md`. `python -m exercises.check 3` checks its exercises.
# `4_transformer_decoder.py` stacks attention into blocks.
