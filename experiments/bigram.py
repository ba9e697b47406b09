"""Stage 1 on a CPU: a table of 65 x 65 logits, trained until it counts as well as counting."""

from experiments import default


def get_config(preset: str = ""):
    config = default.get_config()
    config.tracking.stage = 1
    config.tracking.notes = "a V x V table: the next token from the current one alone"
    config.model.name = "bigram"
    return default.with_preset(config, preset, {"smoke": default.SMOKE})
