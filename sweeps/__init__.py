"""Sweeps without a server: `python sweeps/run.py FILE` runs a W&B sweep file on this machine.

    sweep_file.py      the file, checked: what is swept, how, what ends a run early
    distributions.py   a parameter of it: from a number in [0, 1] to a value
    search.py          the next point of a grid, a random or a Bayesian search
    hyperband.py       which running runs to stop
    command.py         the command line of one run
    journal.py         what was decided and what happened, on disk
    worker.py          the processes that runs live in
    view.py            what a person sees meanwhile
    run.py             the loop around them

The other files are the sweeps, each with the question it answers on top. All are valid for
`wandb sweep` as they are.
"""
