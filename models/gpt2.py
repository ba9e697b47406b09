"""Stage 5, GPT-2: stage 4 with the choices of Radford et al. (2019).

New here: dropout, GELU, biases in attention, initial weights from N(0, 0.02) with those that
write to the residual stream scaled down by depth, and one matrix for tokens in and out.
"""

from functools import partial

import jax
from flax import linen as nn

from models.dropout import Dropout
from models.self_attention import Position, TokenPositionEmbed
from models.transformer_decoder import Block, LayerNorm

# The released code's GELU is the tanh form (Hendrycks and Gimpel, 2016), not the exact one.
gelu = partial(nn.gelu, approximate=True)


class GPT2(nn.Module):
    """The decoder as GPT-2 has it; logits are products with the token embeddings."""

    vocab_size: int
    context_length: int
    embed_dim: int
    num_heads: int
    num_layers: int
    dropout_rate: float = 0.1

    def setup(self):
        init = nn.initializers.normal(0.02)
        # 2 L sub-layers add to the residual stream: section 2.3 keeps its variance at 1 / sqrt.
        out_init = nn.initializers.normal(0.02 / (2 * self.num_layers) ** 0.5)
        self.embed = TokenPositionEmbed(
            self.vocab_size, self.context_length, self.embed_dim, embedding_init=init
        )
        self.dropout = Dropout(self.dropout_rate)
        self.block = [
            Block(
                self.num_heads,
                self.context_length,
                attention_bias=True,
                activation=gelu,
                dropout_rate=self.dropout_rate,
                kernel_init=init,
                out_init=out_init,
            )
            for _ in range(self.num_layers)
        ]
        self.final_norm = LayerNorm()

    def __call__(
        self, tokens_BT: jax.Array, *, start: Position = 0, train: bool = False
    ) -> jax.Array:
        x_BTD = self.dropout(self.embed(tokens_BT, start), deterministic=not train)
        for block in self.block:
            x_BTD = block(x_BTD, start=start, train=train)
        return self.embed.unembed(self.final_norm(x_BTD))
