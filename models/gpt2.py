"""Stage 5, GPT-2: stage 4 with the choices of Radford et al. (2019).

New here: dropout, GELU, biases in attention, initial weights from N(0, 0.02) with those that
write to the residual stream scaled down by depth, and one matrix for tokens in and out.
What others have changed since is in models/gpt2_variants.py.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.layers import Dense, Dropout, KeyValueCache, Position, tied_logits
from models.self_attention import causal_attention
from models.transformer_decoder import LayerNorm

gelu = partial(nn.gelu, approximate=True)  # GPT-2's tanh form (Hendrycks and Gimpel, 2016).
init = nn.initializers.normal(0.02)


class GPT2Attention(nn.Module):
    """Stage 3's attention with biases, GPT-2's initial weights, and dropout of its weights."""

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
            attend = partial(attend, weights_of=lambda scores, _: drop(jax.nn.softmax(scores)))
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
    """Stage 4's block with dropout on what is added to the residual stream."""

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
    """Stage 2's embeddings; the logits are products with the token embeddings."""

    vocab_size: int
    context_length: int
    embed_dim: int

    def setup(self):
        embed = partial(nn.Embed, features=self.embed_dim, embedding_init=init)
        self.token, self.position = embed(self.vocab_size), embed(self.context_length)

    def __call__(self, tokens_BT: jax.Array, start: Position) -> jax.Array:
        T = tokens_BT.shape[1]
        if self.context_length < T:
            raise ValueError(f"{T} tokens do not fit into a context of {self.context_length}")
        positions_1T = start + jnp.arange(T)[None]
        return self.token(tokens_BT) + self.position(positions_1T)

    def unembed(self, x_BTD: jax.Array) -> jax.Array:
        """Returns the logits [B, T, V]."""
        return tied_logits(x_BTD, self.token.embedding)


class GPT2(nn.Module):
    """The decoder as GPT-2 has it."""

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
        # 2 L sub-layers add to the residual stream: section 2.3 keeps its variance at 1 / sqrt.
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
