"""GPT-2 with what others have changed in it since, each a knob whose default is GPT-2's own.

`experiments/gpt2.py` has each as a preset, and `sweeps/architecture.yaml` compares them. With every
knob neutral this is models/gpt2.py, parameter by parameter; models.build then returns that.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from models.gpt2 import GPT2, init
from models.gpt2_parts import (
    ACTIVATIONS,
    NORMS,
    Initializer,
    PairEmbed,
    SwiGLU,
    alibi_slopes,
    apply_rope,
    soft_cap,
)
from models.layers import Dense, Dropout, KeyValueCache, Position, reference, tied_logits
from models.self_attention import causal_attention

# Words that a config may have for these.
CHOICES = {
    "positions": ("learned", "rotary", "alibi", "none"),
    "norm": tuple(NORMS),
    "activation": (*ACTIVATIONS, "swiglu"),
}


class VariantAttention(nn.Module):
    """GPT-2's attention with its knobs."""

    num_heads: int
    context_length: int
    dropout_rate: float = 0.0
    kernel_init: Initializer = init
    out_init: Initializer = init
    use_bias: bool = True
    positions: str = "learned"
    num_kv_heads: int = 0  # Heads of keys and values; 0: as many as there are queries.
    query_key_norm: Callable[..., nn.Module] | None = None

    @nn.compact
    def __call__(self, x_BTD: jax.Array, *, start: Position = 0, train: bool = False) -> jax.Array:
        B, T, D = x_BTD.shape
        H, K = self.num_heads, D // self.num_heads
        G = self.num_kv_heads or H
        dense = partial(Dense, use_bias=self.use_bias, kernel_init=self.kernel_init)
        q_BTHK, k_BTGK, v_BTGK = (
            dense(count * K, name=name)(x_BTD).reshape(B, T, count, K)
            for name, count in (("query", H), ("key", G), ("value", G))
        )
        if self.query_key_norm:
            q_BTHK = self.query_key_norm(name="query_norm")(q_BTHK)
            k_BTGK = self.query_key_norm(name="key_norm")(k_BTGK)
        if self.positions == "rotary":
            q_BTHK, k_BTGK = apply_rope(q_BTHK, start), apply_rope(k_BTGK, start)
        past = KeyValueCache(self.context_length, name="past")
        k_BSHK, v_BSHK = past(start, key=k_BTGK, value=v_BTGK)
        if G < H:  # H / G neighbours share a key and a value (Ainslie et al., 2023).
            k_BSHK, v_BSHK = (jnp.repeat(x, H // G, axis=2) for x in (k_BSHK, v_BSHK))
        drop = Dropout(self.dropout_rate) if train and self.dropout_rate else None
        slopes_H = alibi_slopes(H) if self.positions == "alibi" else None
        attend = causal_attention
        if drop or slopes_H is not None:
            attend = partial(attend, weights_of=partial(attention_weights, drop, slopes_H))
        y_BTHK = attend(q_BTHK, k_BSHK, v_BSHK, start=start)
        out = Dense(D, use_bias=self.use_bias, kernel_init=self.out_init, name="out")
        return out(y_BTHK.reshape(B, T, D))


def attention_weights(
    drop: Dropout | None,
    slopes_H: np.ndarray | None,
    scores_BHTS: jax.Array,
    distance_TS: jax.Array,
) -> jax.Array:
    """Returns the weights of attention, with ALiBi if there are slopes, and with dropout."""
    if slopes_H is not None:
        scores_BHTS -= jnp.multiply.outer(slopes_H, distance_TS)[None]
    weights_BHTS = jax.nn.softmax(scores_BHTS)
    return drop(weights_BHTS, deterministic=False) if drop else weights_BHTS


class VariantMlp(nn.Module):
    """Two dense layers with any activation between."""

    activation: Callable[[jax.Array], jax.Array]
    kernel_init: Initializer
    out_init: Initializer
    use_bias: bool
    hidden_dim: int  # F; 0 is 4 D.

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        D = x_BTD.shape[-1]
        F = self.hidden_dim or 4 * D
        up = Dense(F, use_bias=self.use_bias, kernel_init=self.kernel_init, name="up")
        down = Dense(D, use_bias=self.use_bias, kernel_init=self.out_init, name="down")
        return down(self.activation(up(x_BTD)))


class VariantBlock(nn.Module):
    """GPT-2's block, made of whatever parts it is given."""

    make_attention: Callable[[], nn.Module]
    make_mlp: Callable[[], nn.Module]
    make_norm: Callable[[], nn.Module]
    dropout_rate: float

    def setup(self):
        self.attention_norm, self.mlp_norm = self.make_norm(), self.make_norm()
        self.attention, self.mlp = self.make_attention(), self.make_mlp()
        self.dropout = Dropout(self.dropout_rate)

    def __call__(self, x_BTD: jax.Array, *, start: Position = 0, train: bool = False) -> jax.Array:
        drop = partial(self.dropout, deterministic=not train)
        x_BTD += drop(self.attention(self.attention_norm(x_BTD), start=start, train=train))
        x_BTD += drop(self.mlp(self.mlp_norm(x_BTD)))
        return x_BTD


class VariantEmbed(nn.Module):
    """Token embeddings, and those of positions where they are learned."""

    vocab_size: int
    context_length: int
    embed_dim: int
    embedding_init: Initializer
    learns_positions: bool

    def setup(self):
        embed = partial(nn.Embed, features=self.embed_dim, embedding_init=self.embedding_init)
        self.token = embed(self.vocab_size)
        if self.learns_positions:
            self.position = embed(self.context_length)

    def __call__(self, tokens_BT: jax.Array, start: Position) -> jax.Array:
        T = tokens_BT.shape[1]
        if self.context_length < T:
            raise ValueError(f"{T} tokens do not fit into a context of {self.context_length}")
        if not self.learns_positions:
            return self.token(tokens_BT)
        positions_1T = start + jnp.arange(T)[None]
        return self.token(tokens_BT) + self.position(positions_1T)


class GPT2Variant(GPT2):
    """GPT-2 with knobs: experiments/default.py says what each is."""

    mlp_dim: int = 0
    positions: str = "learned"
    norm: str = "layer_norm"
    norm_epsilon: float = 1e-5
    activation: str = "gelu"
    use_bias: bool = True
    query_key_norm: bool = False
    num_kv_heads: int = 0
    logit_soft_cap: float = 0.0
    tied_embeddings: bool = True
    zero_init: bool = False
    num_pair_embeddings: int = 0
    mup_base_dim: int = 0
    remat: bool = False  # Recomputes a block's activations in the backward pass.

    def setup(self):
        # muP (Yang et al., 2021), with heads of one width: matrices whose inputs grow in number
        # start smaller, and logits are divided by as much as D has grown. Then the outputs of a
        # sub-layer and of the head keep their size; learning rates are the optimizer's business.
        self.width_multiplier = self.embed_dim / self.mup_base_dim if self.mup_base_dim else 1.0
        kernel_init, embed_init = (
            nn.initializers.normal(0.02 / x**0.5) for x in (self.width_multiplier, 1.0)
        )
        # 2 L sub-layers add to the residual stream: section 2.3 keeps its variance at 1 / sqrt.
        out_init = nn.initializers.normal(
            0.02 / (2 * self.num_layers * self.width_multiplier) ** 0.5
        )
        if self.zero_init:
            out_init = nn.initializers.zeros
        inits = dict(kernel_init=kernel_init, out_init=out_init, use_bias=self.use_bias)
        norm = partial(NORMS[self.norm], epsilon=self.norm_epsilon)
        if self.norm == "layer_norm":
            norm = partial(norm, use_bias=self.use_bias)
        attention = partial(
            VariantAttention,
            self.num_heads,
            self.context_length,
            self.attention_dropout_rate,
            positions=self.positions,
            num_kv_heads=self.num_kv_heads,
            query_key_norm=norm if self.query_key_norm else None,
            **inits,
        )
        mlp = partial(SwiGLU, hidden_dim=self.mlp_dim, **inits)
        if self.activation != "swiglu":
            activation = ACTIVATIONS[self.activation]
            mlp = partial(VariantMlp, activation, hidden_dim=self.mlp_dim, **inits)
        sizes = self.vocab_size, self.context_length, self.embed_dim
        self.embed = VariantEmbed(*sizes, embed_init, self.positions == "learned")
        if self.num_pair_embeddings:
            self.pair_embed = PairEmbed(self.num_pair_embeddings, *sizes, embed_init)
        self.dropout = Dropout(self.dropout_rate)
        self.block = [
            VariantBlock(attention, mlp, norm, self.dropout_rate) for _ in range(self.num_layers)
        ]
        self.final_norm = norm()
        if not self.tied_embeddings:
            self.logits = Dense(self.vocab_size, use_bias=False, kernel_init=embed_init)

    def __call__(
        self, tokens_BT: jax.Array, *, start: Position = 0, train: bool = False
    ) -> jax.Array:
        return self.head(self.features(tokens_BT, start=start, train=train))

    def features(
        self, tokens_BT: jax.Array, *, start: Position = 0, train: bool = False
    ) -> jax.Array:
        """Returns the residual stream after the last norm, [B, T, D]."""

        # `start` and `train` stay outside of what nn.remat traces: cuDNN's attention needs to know
        # that the text is read from its beginning.
        def apply_block(block: nn.Module, x_BTD: jax.Array) -> jax.Array:
            return block(x_BTD, start=start, train=train)

        if self.remat and not reference.is_forced():
            apply_block = nn.remat(apply_block)
        x_BTD = self.embed(tokens_BT, start)
        if self.num_pair_embeddings:
            x_BTD += self.pair_embed(tokens_BT, start)
        x_BTD = self.dropout(x_BTD, deterministic=not train)
        for block in self.block:
            x_BTD = apply_block(block, x_BTD)
        return self.final_norm(x_BTD)

    def head(self, x_BTD: jax.Array) -> jax.Array:
        """Returns the logits [B, T, V] of `features`, or of some of them."""
        if self.mup_base_dim:
            x_BTD /= self.width_multiplier
        if self.tied_embeddings:
            logits_BTV = tied_logits(x_BTD, self.embed.token.embedding)
        else:
            logits_BTV = self.logits(x_BTD)
        return soft_cap(logits_BTV, self.logit_soft_cap) if self.logit_soft_cap else logits_BTV
