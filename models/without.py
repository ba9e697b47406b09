"""The stages, each without one of its ideas, to measure how much that idea gains.

`Without(stage, idea)` runs the stage's own code, with the sub-modules that IDEAS lists replaced by
functions. A function gets the sub-module, its call and the arguments of the call. A sub-module that
is not called has no parameters; all others keep their names.

Settings take the other ideas away: one head (`num_heads`), GELU, biases and tied embeddings.
experiments/without.py has a preset for each idea, and sweeps/ideas.yaml compares them.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.gpt2 import GPT2Attention, GPT2Block, GPT2Mlp, TiedEmbed
from models.layers import Dropout, Position
from models.multi_head_attention import MultiHeadAttention
from models.self_attention import SelfAttention, TokenPositionEmbed
from models.transformer_decoder import Block, LayerNorm, Mlp

Call = Callable[..., jax.Array]


def unchanged(module: nn.Module, call: Call, x: jax.Array, **_) -> jax.Array:
    """Returns the argument."""
    del module, call
    return x


def zeros(module: nn.Module, call: Call, x: jax.Array, **_) -> jax.Array:
    """Returns zeros, which add nothing to the residual stream."""
    del module, call
    return jnp.zeros_like(x)


def unscaled_query(module: nn.Module, call: Call, x_BTD: jax.Array) -> jax.Array:
    """Returns the queries times sqrt(K), which undoes the scale 1 / sqrt(K)."""
    q_BTD = call(x_BTD)
    num_heads = getattr(module.parent, "num_heads", 1)
    return q_BTD * (q_BTD.shape[-1] // num_heads) ** 0.5


def see_all(
    module: nn.Module, call: Call, x_BTD: jax.Array, *, start: Position, **kwargs
) -> jax.Array:
    """Places the queries after the last key, so that each sees the whole window.

    Text that is generated keeps the mask: later tokens do not exist yet.
    """
    is_generated = module.is_mutable_collection("cache") and not module.is_initializing()
    return call(x_BTD, start=start if is_generated else x_BTD.shape[1], **kwargs)


def token_embed(module: nn.Module, call: Call, tokens_BT: jax.Array, start: Position) -> jax.Array:
    """Embeds the token alone."""
    del call, start
    if isinstance(module, TiedEmbed):
        return module.token(tokens_BT)
    return nn.Embed(module.vocab_size, module.embed_dim, name="token")(tokens_BT)


def chain(module: Block, call: Call, x_BTD: jax.Array, *, start: Position) -> jax.Array:
    """Returns mlp(norm(attention(norm(x)))): no sum with x."""
    del call
    attention = MultiHeadAttention(module.num_heads, module.context_length, name="attention")
    x_BTD = attention(LayerNorm(name="attention_norm")(x_BTD), start=start)
    return Mlp(name="mlp")(LayerNorm(name="mlp_norm")(x_BTD))


def gpt2_chain(
    module: GPT2Block, call: Call, x_BTD: jax.Array, *, start: Position, train: bool
) -> jax.Array:
    """Returns the same with GPT-2's attention, MLP and dropout."""
    del call
    rate, T = module.attention_dropout_rate, module.context_length
    drop = partial(Dropout(module.dropout_rate, name="dropout"), deterministic=not train)
    attention = GPT2Attention(module.num_heads, T, module.out_init, rate, name="attention")
    h_BTD = LayerNorm(name="attention_norm")(x_BTD)
    x_BTD = drop(attention(h_BTD, start=start, train=train))
    h_BTD = LayerNorm(name="mlp_norm")(x_BTD)
    return drop(GPT2Mlp(module.out_init, name="mlp")(h_BTD))


def redrawn(module: nn.Module, call: Call, x: jax.Array) -> jax.Array:
    """Draws the initial weights by Flax's defaults, those of stages 2 to 4."""
    y = call(x)
    if module.is_initializing():
        name, init = "embedding", nn.Embed.embedding_init
        if isinstance(module, nn.Dense):
            name, init = "kernel", nn.Dense.kernel_init
        drawn: jax.Array = module.get_variable("params", name)
        module.put_variable("params", name, init(module.make_rng("params"), drawn.shape))
    return y


# By idea: the sub-modules, by class or by name, and what replaces their calls.
IDEAS: dict[str, dict[type[nn.Module] | str, Callable[..., jax.Array]]] = {
    "scale": {"query": unscaled_query},
    "mask": {SelfAttention: see_all, MultiHeadAttention: see_all, GPT2Attention: see_all},
    "positions": {TokenPositionEmbed: token_embed, TiedEmbed: token_embed},
    "projection": {"out": unchanged},
    "residual": {Block: chain, GPT2Block: gpt2_chain},
    "layer_norm": {nn.LayerNorm: unchanged},
    "mlp": {Mlp: zeros, GPT2Mlp: zeros, "mlp_norm": unchanged},
    "initialization": {nn.Dense: redrawn, nn.Embed: redrawn},
}


def replace(idea: str, call: Call, args, kwargs, context) -> jax.Array:
    """Calls a sub-module, or what replaces it: an interceptor for `nn.intercept_methods`."""
    module, replaced = context.module, IDEAS[idea]
    instead = replaced.get(type(module)) or replaced.get(module.name)
    if context.method_name != "__call__" or not instead:
        return call(*args, **kwargs)
    return instead(module, call, *args, **kwargs)


class Without(nn.Module):
    """`stage` without `idea`, one of IDEAS."""

    stage: nn.Module
    idea: str

    def setup(self) -> None:
        """Gives the parameters the names that they have without this wrapper."""
        nn.share_scope(self, self.stage)

    def __call__(
        self, tokens_BT: jax.Array, *, start: Position = 0, train: bool = False
    ) -> jax.Array:
        with nn.intercept_methods(partial(replace, self.idea)):
            return self.stage(tokens_BT, start=start, train=train)
