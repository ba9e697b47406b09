"""Settings of the site that `make docs` builds: Sphinx reads this file."""

import sys
from pathlib import Path

# The package `course` is beside this folder.
sys.path.insert(0, str(Path(__file__).parent.parent))

from course import formulas, site

project = "Transformers from Scratch"
author = "The Transformers from Scratch authors"
extensions = ["myst_parser", "course.site"]
exclude_patterns = ["_*"]
# Every link is checked.
nitpicky = True

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

html_theme = "furo"
html_title = project
html_math_renderer = formulas.NAME
html_static_path = [str(site.STATIC)]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
