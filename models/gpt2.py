"""Stage 5, GPT-2: stage 4 with the choices of Radford et al. (2019), and others made since.

New here: dropout, GELU, biases in attention, initial weights from N(0, 0.02) with those that
write to the residual stream scaled down by depth, and one matrix for tokens in and out. What is
not GPT-2's is neutral unless a config asks for it, and stands in models/since_gpt2.py.
"""

from functools import partial

import jax
from flax import linen as nn

from models import plain
from models.dense import Dense
from models.dropout import Dropout
from models.multi_head_attention import MultiHeadAttention
from models.self_attention import Position, TokenPositionEmbed
from models.since_gpt2 import (
    ACTIVATIONS,
    NORMS,
    PairEmbed,
    SwiGLU,
    alibi_slopes,
    rotate,
    soft_cap,
)
from models.transformer_decoder import Block, Mlp

# Which words a config may have for these.
CHOICES = {
    "positions": ("learned", "rotary", "alibi", "none"),
    "norm": tuple(NORMS),
    "activation": (*ACTIVATIONS, "swiglu"),
}


class GPT2(nn.Module):
    """The decoder as GPT-2 has it; logits are products with the token embeddings."""

    vocab_size: int
    context_length: int
    embed_dim: int
    num_heads: int
    num_layers: int
    dropout_rate: float = 0.1
    attention_dropout_rate: float = -1.0  # Of the weights of attention; -1: dropout_rate.
    # What follows was changed by others since.
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
        # start smaller, and logits are divided by as much as D has grown. Then what a sub-layer or
        # the head says keeps its size; their learning rates are optimizer.py's business.
        self.widening = self.embed_dim / self.mup_base_dim if self.mup_base_dim else 1.0
        init, embed_init = (nn.initializers.normal(0.02 / x**0.5) for x in (self.widening, 1.0))
        # 2 L sub-layers add to the residual stream: section 2.3 keeps its variance at 1 / sqrt.
        out_init = nn.initializers.normal(0.02 / (2 * self.num_layers * self.widening) ** 0.5)
        if self.zero_init:
            out_init = nn.initializers.zeros
        inits = dict(kernel_init=init, out_init=out_init, use_bias=self.use_bias)
        norm = partial(NORMS[self.norm], epsilon=self.norm_epsilon)
        if self.norm == "layer_norm":
            norm = partial(norm, use_bias=self.use_bias)
        attention_rate = self.attention_dropout_rate
        attention = partial(
            MultiHeadAttention,
            self.num_heads,
            self.context_length,
            dropout_rate=self.dropout_rate if attention_rate < 0 else attention_rate,
            num_kv_heads=self.num_kv_heads,
            query_key_norm=norm if self.query_key_norm else None,
            rotate=rotate if self.positions == "rotary" else None,
            slopes=alibi_slopes if self.positions == "alibi" else None,
            **inits,
        )
        mlp = partial(SwiGLU, hidden_dim=self.mlp_dim, **inits)
        if self.activation != "swiglu":
            mlp = partial(Mlp, ACTIVATIONS[self.activation], hidden_dim=self.mlp_dim, **inits)
        self.embed = TokenPositionEmbed(
            self.vocab_size,
            self.context_length,
            self.embed_dim,
            embedding_init=embed_init,
            learns_positions=self.positions == "learned",
        )
        if self.num_pair_embeddings:
            self.pair_embed = PairEmbed(
                self.num_pair_embeddings,
                self.vocab_size,
                self.context_length,
                self.embed_dim,
                embed_init,
            )
        self.dropout = Dropout(self.dropout_rate)
        self.block = [
            Block(attention, mlp, norm, dropout_rate=self.dropout_rate)
            for _ in range(self.num_layers)
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

        if self.remat and not plain.is_wanted():
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
            x_BTD /= self.widening
        logits_BTV = self.embed.unembed(x_BTD) if self.tied_embeddings else self.logits(x_BTD)
        return soft_cap(logits_BTV, self.logit_soft_cap) if self.logit_soft_cap else logits_BTV
