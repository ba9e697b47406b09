"""A vocabulary with more rows than there are tokens, which `mesh.tensor` can divide.

GPT-2's 50,257 tokens have no small divisors; 50,304 rows have many. The rows beyond the tokens are
trained with the others, their logits are hidden, and they are cut off where a trained model is
opened: generation, evaluation and exports never see them.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from models.layers import Position


class Padded(nn.Module):
    """`stage`, whose logits beyond the `num_tokens` first are so low that they have probability 0.

    They stay finite, for a loss or gradient that is not is a sign of divergence.
    """

    stage: nn.Module
    num_tokens: int

    def setup(self) -> None:
        """Gives the parameters the names that they have without this wrapper."""
        nn.share_scope(self, self.stage)

    def __call__(
        self, tokens_BT: jax.Array, *, start: Position = 0, train: bool = False
    ) -> jax.Array:
        return self._hidden(self.stage(tokens_BT, start=start, train=train))

    def features(
        self, tokens_BT: jax.Array, *, start: Position = 0, train: bool = False
    ) -> jax.Array:
        """Returns the stage's features, for a stage that has them."""
        return self.stage.features(tokens_BT, start=start, train=train)

    def head(self, x_BTD: jax.Array) -> jax.Array:
        """Returns the logits [B, T, V] of `features`, or of a part of them."""
        return self._hidden(self.stage.head(x_BTD))

    def _hidden(self, logits_BTV: jax.Array) -> jax.Array:
        is_token_V = jnp.arange(logits_BTV.shape[-1]) < self.num_tokens
        return jnp.where(is_token_V, logits_BTV, jnp.finfo(logits_BTV.dtype).min)


def without_padding(model: nn.Module) -> nn.Module:
    """Returns the stage with as many rows as tokens; `model` itself if it is not `Padded`."""
    if not isinstance(model, Padded):
        return model
    stage = model.stage
    if hasattr(stage, "vocab_size"):
        return stage.clone(vocab_size=model.num_tokens)
    return stage.clone(stage=stage.stage.clone(vocab_size=model.num_tokens))  # `Without` an idea.


def pad(params: dict, model: nn.Module) -> dict:
    """Returns NumPy parameters of the stage without padding with rows of zeros for `model`."""
    if not isinstance(model, Padded):
        return params
    return jax.tree.map(
        lambda x, to: np.pad(x, [(0, n - m) for m, n in zip(x.shape, to.shape, strict=True)]),
        params,
        shapes_of(model),
    )


def cut(params: dict, model: nn.Module) -> dict:
    """Returns the parameters of a `Padded` model without its padding, for `without_padding`."""
    return jax.tree.map(
        lambda x, to: x[tuple(map(slice, to.shape))], params, shapes_of(without_padding(model))
    )


def shapes_of(model: nn.Module) -> dict:
    """Returns the shapes of a model's parameters."""
    tokens_11 = jnp.zeros((1, 1), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), tokens_11)["params"]
