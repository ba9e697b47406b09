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
    use_bias: bool = True
    hidden_dim: int = 0  # F; 0 is 4 D.

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        D = x_BTD.shape[-1]
        F = self.hidden_dim or 4 * D
        up = Dense(F, use_bias=self.use_bias, kernel_init=self.kernel_init, name="up")
        down = Dense(D, use_bias=self.use_bias, kernel_init=self.out_init, name="down")
        return down(self.activation(up(x_BTD)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): pre-LayerNorm, Xiong et al. (2020)."""

    make_attention: Callable[[], nn.Module]
    # Neutral here; stage 5 has others.
    make_mlp: Callable[[], nn.Module] = Mlp
    make_norm: Callable[[], nn.Module] = LayerNorm
    dropout_rate: float = 0.0

    def setup(self):
        self.attention_norm = self.make_norm()
        self.attention = self.make_attention()
        self.mlp_norm = self.make_norm()
        self.mlp = self.make_mlp()
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
            block = Block(partial(MultiHeadAttention, self.num_heads, T), name=f"block_{layer}")
            x_BTD = block(x_BTD, start=start, train=train)
        x_BTD = LayerNorm(name="final_norm")(x_BTD)
        return Dense(self.vocab_size, name="logits")(x_BTD)
