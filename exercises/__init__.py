"""Exercises of the course: three for each stage and a last one over all.

You write your answers in `stage_1.py` to `stage_5.py` and `last.py`; `python -m exercises.check`
says which are right.

    catalogue.py   the list: titles, kinds, files, hints
    check.py       the command
    learner.py     runs your code, with a time limit, and says where it fails
    compare.py     first difference of two arrays, and the classic mistake that explains it
    checks/        the expected answers, from the project's own models and data
"""

from runtime import process

process.require_packages()
