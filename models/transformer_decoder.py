"""Stage 4, transformer decoder: a stack of blocks, each of attention and an MLP.

New here: the MLP; the residual stream that each sub-layer (attention or MLP) adds to; the stack;
LayerNorm before each sub-layer and after the last, which gives each position's features mean 0 and
variance 1, then scales and shifts them (Ba et al., 2016).
"""

from functools import partial

import jax
from flax import linen as nn

from models.layers import Dense, Position
from models.multi_head_attention import MultiHeadAttention
from models.self_attention import TokenPositionEmbed

LayerNorm = partial(nn.LayerNorm, epsilon=1e-5)  # The usual value; Flax's default is 1e-6.


class Mlp(nn.Module):
    """Multi-layer perceptron: two dense layers with a ReLU between, at each position; F = 4 D."""

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        D = x_BTD.shape[-1]
        h_BTF = nn.relu(Dense(4 * D, name="up")(x_BTD))
        return Dense(D, name="down")(h_BTF)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): pre-LayerNorm (Xiong et al., 2020)."""

    num_heads: int
    context_length: int

    @nn.compact
    def __call__(self, x_BTD: jax.Array, *, start: Position = 0) -> jax.Array:
        attention = MultiHeadAttention(self.num_heads, self.context_length, name="attention")
        x_BTD += attention(LayerNorm(name="attention_norm")(x_BTD), start=start)
        x_BTD += Mlp(name="mlp")(LayerNorm(name="mlp_norm")(x_BTD))
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
        del train
        D, T = self.embed_dim, self.context_length
        x_BTD = TokenPositionEmbed(self.vocab_size, T, D, name="embed")(tokens_BT, start)
        for layer in range(self.num_layers):
            block = Block(self.num_heads, T, name=f"block_{layer}")
            x_BTD = block(x_BTD, start=start)
        x_BTD = LayerNorm(name="final_norm")(x_BTD)
        return Dense(self.vocab_size, name="logits")(x_BTD)
