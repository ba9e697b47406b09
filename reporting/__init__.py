"""What report.py is made of: runs read from disk, the rows that compare them, charts, the page.

    runs.py     a run folder as a `Run`
    rows.py     runs side by side: the cells of the table, what differs between them
    charts.py   Vega-Lite specs, made with Altair
    sweeps.py   the runs of a sweep: the best, how it is repeated, what can be said
    statistics.py, sweep_charts.py   intervals, tests and importance; their pictures
    scaling.py, scaling_charts.py    how the loss falls with size and tokens; its pictures
    vocabulary_charts.py             runs with different tokenizers
    page.py     one HTML file out of all of it, with page.html, page.css and page.js
    figures.py  the same charts as files

Nothing here writes to a run folder, and nothing that trains reads from here.
"""
