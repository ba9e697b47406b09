"""Models in a page: what playground.py writes.

exporter.py     a Flax module and its parameters as JSON
vocabulary.py   a tokenizer as JSON
scripts.py      the JavaScript: which files make the page, and which the models' worker
page.py         the HTML file
models/*.js     the forward pass of the five stages, file by file as models/*.py
tokenizers.js, sampling.js, reading.js, worker.js   the models' worker
ask.js, continue.js, look.js, heads.js, games.js, code.js, main.js, *.html, page.css   the page
"""
