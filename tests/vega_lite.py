"""Checks specs of charts against Vega-Lite's schema, which Altair brings."""

import functools
from collections.abc import Iterable

import altair as alt
import jsonschema


@functools.cache
def validator() -> jsonschema.Draft7Validator:
    """Returns the validator of a whole spec."""
    return jsonschema.Draft7Validator(alt.load_schema())


def assert_valid(specs: Iterable[dict]) -> None:
    """There is a spec, and all are valid."""
    specs = list(specs)
    assert specs
    for spec in specs:
        assert next(validator().iter_errors(spec), None) is None
