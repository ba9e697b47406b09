"""Stage 5, GPT-2: stage 4 as Radford et al. (2019) built it.

New here: dropout, which zeroes random activations in training (Srivastava et al., 2014); GELU;
biases in attention; initial weights of standard deviation 0.02, less by depth in the layers that
write to the residual stream; one matrix for token embedding and logits.
Later changes to the architecture are in models/gpt2_variants.py.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.layers import Dense, Dropout, KeyValueCache, Position, in_query_blocks, tied_logits
from models.self_attention import causal_attention, causal_scores
from models.transformer_decoder import LayerNorm

gelu = partial(nn.gelu, approximate=True)  # GPT-2's tanh form (Hendrycks and Gimpel, 2016).
init = nn.initializers.normal(0.02)


@in_query_blocks
def attention_with_dropout(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    start: Position = 0,
    drop: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """Returns stage 2's attention with `drop` on the softmax; the fast kernels have no dropout."""
    weights = drop(jax.nn.softmax(causal_scores(query, key, start)))
    return jnp.einsum("B...TS,BS...K->BT...K", weights, value)


class GPT2Attention(nn.Module):
    """Stage 3's attention with biases, GPT-2's initial weights, and dropout on the softmax."""

    num_heads: int
    context_length: int
    out_init: nn.initializers.Initializer
    dropout_rate: float

    @nn.compact
    def __call__(self, x_BTD: jax.Array, *, start: Position = 0, train: bool = False) -> jax.Array:
        B, T, D = x_BTD.shape
        H = self.num_heads
        q_BTHK, k_BTHK, v_BTHK = (
            Dense(D, kernel_init=init, name=name)(x_BTD).reshape(B, T, H, D // H)
            for name in ("query", "key", "value")
        )
        past = KeyValueCache(self.context_length, name="past")
        k_BSHK, v_BSHK = past(start, key=k_BTHK, value=v_BTHK)
        attend = causal_attention
        if train and self.dropout_rate:
            drop = partial(Dropout(self.dropout_rate), deterministic=False)
            attend = partial(attention_with_dropout, drop=drop)
        y_BTHK = attend(q_BTHK, k_BSHK, v_BSHK, start=start)
        return Dense(D, kernel_init=self.out_init, name="out")(y_BTHK.reshape(B, T, D))


class GPT2Mlp(nn.Module):
    """Stage 4's MLP with GELU."""

    out_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        D = x_BTD.shape[-1]
        h_BTF = gelu(Dense(4 * D, kernel_init=init, name="up")(x_BTD))
        return Dense(D, kernel_init=self.out_init, name="down")(h_BTF)


class GPT2Block(nn.Module):
    """Stage 4's block with dropout on the output of each sub-layer."""

    num_heads: int
    context_length: int
    out_init: nn.initializers.Initializer
    dropout_rate: float
    attention_dropout_rate: float

    @nn.compact
    def __call__(self, x_BTD: jax.Array, *, start: Position = 0, train: bool = False) -> jax.Array:
        rate, T = self.attention_dropout_rate, self.context_length
        drop = partial(Dropout(self.dropout_rate, name="dropout"), deterministic=not train)
        attention = GPT2Attention(self.num_heads, T, self.out_init, rate, name="attention")
        h_BTD = LayerNorm(name="attention_norm")(x_BTD)
        x_BTD += drop(attention(h_BTD, start=start, train=train))
        h_BTD = LayerNorm(name="mlp_norm")(x_BTD)
        x_BTD += drop(GPT2Mlp(self.out_init, name="mlp")(h_BTD))
        return x_BTD


class TiedEmbed(nn.Module):
    """Stage 2's embeddings; the token embedding also makes the logits (Press and Wolf, 2017)."""

    vocab_size: int
    context_length: int
    embed_dim: int

    def setup(self) -> None:
        """Creates both tables; a compact method would hide them from `unembed`."""
        embed = partial(nn.Embed, features=self.embed_dim, embedding_init=init)
        self.token, self.position = embed(self.vocab_size), embed(self.context_length)

    def __call__(self, tokens_BT: jax.Array, start: Position) -> jax.Array:
        T = tokens_BT.shape[1]
        if self.context_length < T:
            raise ValueError(f"{T} tokens do not fit into a context of {self.context_length}")
        positions_1T = start + jnp.arange(T)[None]
        return self.token(tokens_BT) + self.position(positions_1T)

    def unembed(self, x_BTD: jax.Array) -> jax.Array:
        """Returns the logits [B, T, V]: products with the token embeddings."""
        return tied_logits(x_BTD, self.token.embedding)


class GPT2(nn.Module):
    """Stage 4's model with GPT-2's embeddings and blocks."""

    vocab_size: int
    context_length: int
    embed_dim: int
    num_heads: int
    num_layers: int
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.1

    @nn.compact
    def __call__(
        self, tokens_BT: jax.Array, *, start: Position = 0, train: bool = False
    ) -> jax.Array:
        # 2 L sub-layers add to the residual stream; 1 / sqrt(2 L) keeps its variance (section 2.3).
        out_init = nn.initializers.normal(0.02 / (2 * self.num_layers) ** 0.5)
        embed = TiedEmbed(self.vocab_size, self.context_length, self.embed_dim, name="embed")
        x_BTD = embed(tokens_BT, start)
        x_BTD = Dropout(self.dropout_rate, name="dropout")(x_BTD, deterministic=not train)
        for layer in range(self.num_layers):
            block = GPT2Block(
                self.num_heads,
                self.context_length,
                out_init,
                self.dropout_rate,
                self.attention_dropout_rate,
                name=f"block_{layer}",
            )
            x_BTD = block(x_BTD, start=start, train=train)
        return embed.unembed(LayerNorm(name="final_norm")(x_BTD))
