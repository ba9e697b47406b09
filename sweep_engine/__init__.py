"""Machinery of sweeps without a server: `python sweeps/run.py FILE` runs a W&B sweep file here.

    sweep_file.py      the file, checked: what is swept, how, what ends a run early
    distributions.py   a parameter of it: from a number in [0, 1] to a value
    search.py          the next point of a grid, a random or a Bayesian search
    hyperband.py       which running runs to stop
    command.py         the command line of one run
    journal.py         what was decided and what happened, on disk
    workers.py         the processes that runs live in
    view.py            what a person sees meanwhile
    fork_server.py     the process that forks each run from itself

`sweeps/` has the files, each with the question it answers on top, and the loop around all this.
"""
