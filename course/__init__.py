"""The documentation site: pages filled with measured numbers, formulas, source files as pages.

`make docs` builds it. docs/conf.py loads `course.site`.
"""
