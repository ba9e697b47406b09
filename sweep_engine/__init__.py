"""Runs W&B sweep files without a server: the machinery behind `python sweeps/run.py FILE`.

runner.py has the loop: it starts runs, polls them, stops some early, and records how they end.
`sweeps/` has the command and the sweep files, each headed by the question it answers.
"""
