"""Comparison of runs: reads run folders, writes one HTML page; the library behind report.py.

    runs.py     a run folder as a `Run`
    rows.py     the comparison table, and the settings that differ between runs
    charts.py   Vega-Lite specs, made with Altair
    sweeps.py   the runs of a sweep: the best one, its command, findings as sentences
    statistics.py, sweep_charts.py   intervals, tests and importance; their charts
    scaling.py, scaling_charts.py    scaling law of loss over size and tokens; its charts
    vocabulary_charts.py             runs with different tokenizers
    page.py     the HTML file, from page.html, page.css and page.js
    figures.py  the same charts as SVG files

Nothing here writes to a run folder, and nothing that trains imports from here.
"""
