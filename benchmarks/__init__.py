"""How fast this is beside other implementations, measured so that the figures can be believed.

Both sides do the same work on the same batches in turn (rounds.py), each in a process of its own
with the same memory settings. PyTorch is run in the way that suits the work best. A shared machine
that slows down slows both, and the ratio is taken pair by pair. Batches are made beforehand: what
is timed is the training step, not the input pipeline, which is timed alone.

- `compare.py`: the command, `make bench`. It goes through works.py and, with measure.py and
  start.py, comes to the rows that results.py keeps and show.py shows.
- `ours.py`, `theirs.py`: a worker process of each side; peers.py holds the models in PyTorch,
  variants.py the ways of running them, and peak.py says what the machine could do.
- `sweep.py`: a sweep against its runs in turn, `make bench-sweep`.
- `checkpointing.py`: what saving costs, `make bench-checkpoint`.
- `gpu_check.py`: correctness and speed on one GPU, within minutes. checklist.py runs the parts in
  gpu_parts/, each under the limit of bounded.py; gpu_compiled.py has what is compiled without one.
"""
