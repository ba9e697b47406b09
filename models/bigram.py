"""Stage 1, bigram: the next token depends on the current token and nothing else.

New here: the model contract that all five stages keep, and the axis letters (models/__init__.py).
"""

import jax
from flax import linen as nn


class Bigram(nn.Module):
    """A V x V table: row i holds the logits of the token after token i."""

    vocab_size: int

    @nn.compact
    def __call__(self, tokens_BT: jax.Array, *, start: int = 0, train: bool = False) -> jax.Array:
        del start, train  # Arguments of the contract that later stages use.
        return nn.Embed(self.vocab_size, self.vocab_size, name="next_token")(tokens_BT)
