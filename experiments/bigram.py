"""Stage 1 on a CPU: a table of 65 x 65 logits, trained until it is as good as counting.

Counting which character follows which in the training split scores 2.48 on the validation split,
and no training gets this model below. Big batches (8,192 characters) keep the rare rows of the
table from jumping about; a longer run fits pairs that the training split has by chance: after
5,000 steps the validation loss has risen by 0.01.
"""

from experiments import default


def get_config(preset: str = ""):
    config = default.get_config()
    config.tracking.stage = 1
    config.tracking.notes = "a V x V table: the next token from the current one alone"
    config.model.name = "bigram"
    config.model.context_length = 32  # The table sees one token; this only shapes the batch.
    config.optimizer.learning_rate = 0.02  # A table has no layers for a step to run away in.
    config.train.batch_size = 256
    config.train.num_steps = 1500
    config.eval.every_steps = 500
    config.sample.every_steps = 500
    return default.with_preset(config, preset, PRESETS)


PRESETS = {"smoke": default.SMOKE, "equal_flops": default.equal_flops(257_500)}
