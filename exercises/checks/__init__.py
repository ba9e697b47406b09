"""Checks of the exercises, a module a file of answers, a function an exercise.

A check has the name of the exercise's first function. It returns a remark on a right answer, or ""
for none, and raises Wrong with one line for any other.

    text.py       the text, and the loss of a table on it
    training.py   short runs in a temporary folder
    heads.py      attention weights of weights set by hand
"""
