"""Runs W&B sweep files without a server: the machinery behind `python sweeps/run.py FILE`.

    sweep_file.py      parses and checks a sweep file
    distributions.py   a parameter's distribution as an inverse CDF
    search.py          next point of a grid, random or Bayesian search
    hyperband.py       early termination
    command.py         command line of one run
    journal.py         decisions and outcomes on disk, from which a sweep resumes
    progress.py        progress of one run, read from its folder
    workers.py         processes of the runs
    fork_server.py     process that forks each run from itself
    runner.py          the loop: start, poll, stop early, record
    view.py            live table or event lines

`sweeps/` has the command and the sweep files, each headed by the question it answers.
"""
