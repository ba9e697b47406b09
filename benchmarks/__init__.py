"""Benchmarks against other implementations.

Both sides train on the same batches in turns (rounds.py), each in its own process with the same
memory settings; PyTorch runs in its fastest variant. Load on a shared machine slows both sides, so
the ratio is taken within each round. Batches are drawn beforehand: the training step is timed
without the input pipeline, which has rows of its own.

- `compare.py`: the command, `make bench`. For each of workloads.py, measure.py and start.py make
  the rows; results.py keeps them and show.py prints and plots them.
- `ours.py`, `theirs.py`: the worker processes. peers.py holds the models in PyTorch, variants.py
  picks PyTorch's fastest variant, peak.py measures the machine's peak FLOP/s.
- `losses.py`: losses of the optimized against the reference implementations, `make bench-losses`.
- `sweep.py`: a sweep against its runs one after another, `make bench-sweep`.
- `checkpointing.py`: the cost of a save, `make bench-checkpoint`.
- `speedrun.py`: the speedruns with three seeds, `make speedrun`.
- `growth.py`: time and memory as context, width, vocabulary and text grow, `make bench-growth`;
  read_text.py reads the texts.
- `profile_step.py`: the time of a training step by part of the model.
- `gpu_check.py`: correctness and speed on one GPU, within minutes. checklist.py runs gpu_parts/,
  each with a time limit (commands.py). gpu_compile.py compiles for a GPU without one
  (training/topology.py); gpu_compiled.py adds its rows to the check's.
"""

from runtime import process

process.require_packages()
