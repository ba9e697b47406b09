"""Formulas as MathML, made when the site is built: a page needs no script and no font for them."""

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

NAME = "mathml"
log = logging.getLogger(__name__)
converter = LatexToMathML(fancy_error=False)


def setup(app: Sphinx) -> None:
    """Makes MathML the renderer of formulas."""
    app.add_html_math_renderer(NAME, (visit_math, None), (visit_math_block, None))


def mathml(node: nodes.Element, is_block: bool) -> str:
    """Returns the MathML of a formula; of one that can't be read, warns with its place."""
    latex = node.astext()
    try:
        return converter.convert_with_local_state(latex, displaystyle=is_block)
    except LatexError as error:
        message = "formula %s can't be read: character %s"
        log.warning(message, latex, error, location=node, type="course")
        return ""


def visit_math(self: HTML5Translator, node: nodes.math) -> None:
    """Writes a formula in a line."""
    self.body.append(mathml(node, is_block=False))
    raise nodes.SkipNode


def visit_math_block(self: HTML5Translator, node: nodes.math_block) -> None:
    """Writes a formula of its own line, with its number if it has one."""
    self.body.append(self.starttag(node, "div", CLASS="math", tabindex="0"))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})</span>')
    self.body.append(f"{mathml(node, is_block=True)}</div>\n")
    raise nodes.SkipNode
