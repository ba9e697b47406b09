"""How fast this is beside other implementations, measured so that the figures can be believed.

Both sides do the same work on the same batches in turn (rounds.py), each in a process of its own
with the same memory settings and the number of threads that suits it. A shared machine that slows
down slows both, and the ratio is taken pair by pair. Batches are made beforehand: what is timed is
the training step, not the input pipeline.

- `train_step.py`: the command. `make bench` runs it for the five stages.
- `sweep.py`: a sweep against its runs in turn, `make bench-sweep`.
- `ours.py`, `peers.py`: a worker process of each side; peers.py holds the models in PyTorch.
"""
