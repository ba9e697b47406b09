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
# # Stage 4: the transformer decoder
#
# **What makes attention stackable?** A block adds an MLP, which works on each position alone; a
# residual stream and LayerNorm let many blocks train as one.
#
# Start it with `make notebooks`. Every key of `experiments/default.py` can be changed in a call of
# `harness.train`. Run folders are in `runs/notebooks`.

# %%
import os
import sys
from pathlib import Path

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
# The stage before comes first: if `3_multi_head_attention.py` has trained it, it is found.

# %%
before = harness.train("multi_head_attention:" + PRESET, RUNS / "multi_head_attention", **SETTINGS)

# %%
decoder = harness.train("transformer_decoder:" + PRESET, RUNS / "transformer_decoder", **SETTINGS)

# %% [markdown]
# ## Compare it with the stage before
#
# The chart has the floating-point operations of training as its axis, the cost of each run on any
# machine.

# %%
both = harness.compare(RUNS / "multi_head_attention", RUNS / "transformer_decoder", against="flops")
for run in (before, decoder):
    print(f"{run.workdir.name:22} {run.summary['val/loss']:.3f}")
both

# %%
for run in (before, decoder):
    print(f"--- {run.workdir.name}\n{run.generate('ROMEO:', num_tokens=200)}\n")

# %% [markdown]
# ## Experiment: take one thing away
#
# One run has a single block, the other no LayerNorm. All else stays as it is: the width, the text,
# the number of updates. Guess the order of the losses before you run the cell.

# %%
TAKEN_AWAY = {
    "one_block": {"model.num_layers": 1},
    "without_layer_norm": {"model.without": "layer_norm"},
}
runs = [decoder]
for name, changes in TAKEN_AWAY.items():
    changes = {**changes, "sample.num_tokens": 0}
    folder = RUNS / "taken_away" / name
    runs.append(harness.train("transformer_decoder:" + PRESET, folder, **changes, **SETTINGS))

# %%
for run in runs:
    print(f"{run.workdir.name:22} {run.summary['val/loss']:.3f}")
harness.compare(*(run.workdir for run in runs))

# %% [markdown]
# ## Questions
#
# - Which of the two does this run need more? Did you guess the order?
# - Most parameters of a block are in one of its parts. Which one?
# - One block costs less per update. Give it the compute of the whole stack by `train.num_steps`, in
#   a new folder. Which of them is better now?
# - Leave out the MLP: `"model.without": "mlp"`. How does that compare with stage 3? And without the
#   residual stream, `"residual"`?
# - Seeds differ, too. Train the stage with `"seed": 1` in a new folder. Which of the differences
#   above are larger than that one?
#
# ## Where to go next
#
# The page of this stage is `docs/stages/4.md`. `python -m exercises.check 4` checks its exercises.
# `5_gpt2.py` builds the decoder as GPT-2 was built.
