"""Comparison of runs: reads run folders, writes one HTML page; the library behind report.py.

    runs.py     a run folder as a `Run`
    groups.py   groups of seeds, and what they are called
    rows.py     the comparison table, and the settings that differ between runs
    charts.py   Vega-Lite specs, made with Altair
    staircase.py                     the loss of each stage of a ladder as a step
    sweeps.py   the runs of a sweep: the best one, its command, findings as sentences
    effects.py                       effect of one number at each setting of the others
    comparison.py                    tested differences as sentences, or as a matrix
    statistics.py, sweep_charts.py   intervals, tests and importance; their charts
    scaling.py, scaling_charts.py    scaling law of loss over size and tokens; its charts
    vocabulary_charts.py             runs with different tokenizers
    page.py     the HTML file, from frame.html, page.html, page.css, page.js and downloads.js
    watch.py    the page served and renewed while runs go on, with watch.js and waiting.html
    figures.py  the same charts as SVG files

Nothing here writes to a run folder, and nothing that trains imports from here.
"""
