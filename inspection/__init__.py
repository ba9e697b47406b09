"""Inspection: what a trained model does, measured and given as JSON. It draws nothing.

    views.py         all measurements of one model: one function a view of the page
    subject.py       a trained model with its held-out text
    scores.py        every held-out token scored once
    passage.py       what it guesses in a passage
    kinds.py, account.py   its loss by kind of character
    tokens.py        each token's place, kind and score, to compare runs with other tokens
    ngrams.py, yardstick.py   n-grams, and the one that is as good as a model
    context.py       how far back it looks
    heads.py         what each head attends to, and what it buys
    induction.py     induction heads on a made text
    layers.py        logit lens, the logit as a sum, activation patching
    tables.py        what follows one token; embeddings of tokens and of positions
    growth.py        a model at each snapshot of its training
    magnitudes.py    gradients and activations of its parts, for growth.py
    interception.py  reading and editing activations while a model runs
    windows.py       windows of a held-out text, and means over them

look_inside.py runs them; `reporting/` draws the page from the JSON.
"""
