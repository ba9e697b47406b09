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
# # Stage 5: GPT-2
#
# **Which of GPT-2's choices matter at this size?** Its blocks are those of stage 4, with dropout,
# GELU, biases, its own initial weights, and one matrix for both ends of the model.
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
# The stage before comes first: if `4_transformer_decoder.py` has trained it, it is found. This
# stage's own run is the longest of the course.

# %%
before = harness.train("transformer_decoder:" + PRESET, RUNS / "transformer_decoder", **SETTINGS)

# %%
gpt2 = harness.train("gpt2:" + PRESET, RUNS / "gpt2", **SETTINGS)

# %% [markdown]
# ## Compare it with the stage before
#
# This run is also longer than that of stage 4. Compare the curves where both have the same compute.

# %%
both = harness.compare(RUNS / "transformer_decoder", RUNS / "gpt2", against="flops")
for run in (before, gpt2):
    print(f"{run.workdir.name:22} {run.summary['val/loss']:.3f}")
both

# %%
for run in (before, gpt2):
    print(f"--- {run.workdir.name}\n{run.generate('ROMEO:', num_tokens=200)}\n")

# %% [markdown]
# The *temperature* says how bold it is: near zero it writes what is likeliest, above one it takes
# risks.

# %%
for temperature in (0.1, 0.8, 1.5):
    text = gpt2.generate("ROMEO:", num_tokens=100, temperature=temperature)
    print(f"--- temperature {temperature}\n{text}\n")

# %% [markdown]
# ## Experiment: change one key
#
# Both runs get the number of updates of the stage before, and differ in `CHANGE` alone. Others to
# try: `{"model.activation": "relu"}`, `{"model.tied_embeddings": False}`,
# `{"model.use_bias": False}`. A new name makes a new folder.

# %%
NAME, CHANGE = "dropout", {"model.dropout_rate": 0.1}

short = {"train.num_steps": before.config.train.num_steps, "sample.num_tokens": 0}
as_it_is = harness.train("gpt2:" + PRESET, RUNS / "change/none", **short, **SETTINGS)
changed = harness.train("gpt2:" + PRESET, RUNS / "change" / NAME, **CHANGE, **short, **SETTINGS)

# %%
for run in (as_it_is, changed):
    train_loss, val_loss = run.evaluate("train")["train/loss"], run.evaluate("val")["val/loss"]
    print(f"{run.workdir.name:10} on the training text {train_loss:.3f}, on others {val_loss:.3f}")
harness.compare(as_it_is.workdir, changed.workdir)

# %% [markdown]
# ## Questions
#
# - Dropout hinders training on purpose. Is the gap between the two texts wide enough here to gain
#   from that? How would you change the run so that it is?
# - Tied embeddings save V x D parameters. Which share of this model is that? And of GPT-2, whose
#   vocabulary is far larger?
# - Which of the changes makes a difference that is larger than that between two seeds?
# - Which temperature would you choose for a text that you would like to read?
#
# ## Where to go next
#
# The page of this stage is `docs/stages/5.md`. `python -m exercises.check 5` checks its exercises.
# `docs/gpt2.md` explores what came after GPT-2, and `python main.py --list` shows every experiment.
