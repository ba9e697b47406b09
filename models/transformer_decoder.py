"""Stage 4, transformer decoder: attention and a small network in turn, as deep as wanted.

New here: the MLP, the residual stream that each sub-layer adds to, LayerNorm before each
sub-layer, and blocks on top of each other.
"""

from collections.abc import Callable
from functools import partial

import jax
from flax import linen as nn

from models.dense import Dense
from models.dropout import Dropout
from models.multi_head_attention import MultiHeadAttention
from models.self_attention import Initializer, Position, TokenPositionEmbed

# GPT-2's epsilon; Flax's own default is 1e-6.
LayerNorm = partial(nn.LayerNorm, epsilon=1e-5)


class Mlp(nn.Module):
    """What a position does with what attention brought it: F = 4 D units, each for itself."""

    # Neutral here; stage 5 has its own.
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    kernel_init: Initializer = nn.initializers.lecun_normal()
    out_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        D = x_BTD.shape[-1]
        h_BTF = Dense(4 * D, kernel_init=self.kernel_init, name="up")(x_BTD)
        return Dense(D, kernel_init=self.out_init, name="down")(self.activation(h_BTF))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): pre-LayerNorm, Xiong et al. (2020)."""

    num_heads: int
    context_length: int
    # Neutral here; stage 5 turns them on.
    attention_bias: bool = False
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    dropout_rate: float = 0.0
    kernel_init: Initializer = nn.initializers.lecun_normal()
    out_init: Initializer = nn.initializers.lecun_normal()

    def setup(self):
        inits = dict(kernel_init=self.kernel_init, out_init=self.out_init)
        self.attention_norm = LayerNorm()
        self.attention = MultiHeadAttention(
            self.num_heads,
            self.context_length,
            use_bias=self.attention_bias,
            dropout_rate=self.dropout_rate,
            **inits,
        )
        self.mlp_norm = LayerNorm()
        self.mlp = Mlp(self.activation, **inits)
        self.dropout = Dropout(self.dropout_rate)

    def __call__(self, x_BTD: jax.Array, *, start: Position = 0, train: bool = False) -> jax.Array:
        drop = partial(self.dropout, deterministic=not train)
        x_BTD += drop(self.attention(self.attention_norm(x_BTD), start=start, train=train))
        x_BTD += drop(self.mlp(self.mlp_norm(x_BTD)))
        return x_BTD


class TransformerDecoder(nn.Module):
    """Embeddings, `num_layers` blocks, a last LayerNorm and a linear map to the logits."""

    vocab_size: int
    context_length: int
    embed_dim: int
    num_heads: int
    num_layers: int

    @nn.compact
    def __call__(
        self, tokens_BT: jax.Array, *, start: Position = 0, train: bool = False
    ) -> jax.Array:
        D, T = self.embed_dim, self.context_length
        x_BTD = TokenPositionEmbed(self.vocab_size, T, D, name="embed")(tokens_BT, start)
        for layer in range(self.num_layers):
            block = Block(self.num_heads, T, name=f"block_{layer}")
            x_BTD = block(x_BTD, start=start, train=train)
        x_BTD = LayerNorm(name="final_norm")(x_BTD)
        return Dense(self.vocab_size, name="logits")(x_BTD)
