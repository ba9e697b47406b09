"""Parts that others have put in the place of GPT-2's: positions, norms, MLPs, embeddings.

models/gpt2_variants.py makes models of them.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from models.gpt2 import gelu
from models.layers import Dense, KeyValueCache, Position
from models.transformer_decoder import LayerNorm

Initializer = nn.initializers.Initializer


def relu_squared(x: jax.Array) -> jax.Array:
    """Returns max(x, 0) squared (So et al., 2021)."""
    return jnp.square(nn.relu(x))


ACTIVATIONS = {
    "gelu": gelu,
    "gelu_exact": partial(nn.gelu, approximate=False),
    "relu": nn.relu,
    "relu_squared": relu_squared,
    "silu": nn.silu,
}
NORMS = {
    "layer_norm": LayerNorm,
    "rms_norm": nn.RMSNorm,  # Zhang and Sennrich (2019): no mean, no bias.
    "rms_norm_unscaled": partial(nn.RMSNorm, use_scale=False),
}


class SwiGLU(nn.Module):
    """Gated MLP: down(silu(gate(x)) * up(x)), Shazeer (2020).

    F is about 8/3 D, so that three matrices have as many numbers as the two of an `Mlp`.
    """

    kernel_init: Initializer
    out_init: Initializer
    use_bias: bool
    hidden_dim: int = 0  # F; 0 is 8 round(D / 3).

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        D = x_BTD.shape[-1]
        F = self.hidden_dim or 8 * round(D / 3)
        wide = partial(Dense, F, use_bias=self.use_bias, kernel_init=self.kernel_init)
        gate_BTF, up_BTF = wide(name="gate")(x_BTD), wide(name="up")(x_BTD)
        down = Dense(D, use_bias=self.use_bias, kernel_init=self.out_init, name="down")
        return down(nn.silu(gate_BTF) * up_BTF)


class PairEmbed(nn.Module):
    """Embedding of a token together with the one before it, a bigram.

    In a table of `num_rows` that pairs share where it has fewer rows than there are pairs (Pagnoni
    et al., 2024, section 3.2.1). The first token of a window has none.
    """

    num_rows: int
    vocab_size: int
    context_length: int
    embed_dim: int
    embedding_init: Initializer

    @nn.compact
    def __call__(self, tokens_BT: jax.Array, start: Position) -> jax.Array:
        T = tokens_BT.shape[1]
        past = KeyValueCache(self.context_length, name="past")
        (tokens_BS1,) = past(start, token=tokens_BT[..., None])
        before_BS = jnp.pad(tokens_BS1[..., 0], ((0, 0), (1, 0)))
        before_BT = jax.lax.dynamic_slice_in_dim(before_BS, start, T, axis=1)
        pair_BT = (before_BT * self.vocab_size + tokens_BT) % self.num_rows
        embed = nn.Embed(
            self.num_rows, self.embed_dim, embedding_init=self.embedding_init, name="table"
        )
        is_first_T1 = (start + jnp.arange(T) == 0)[:, None]
        return jnp.where(is_first_T1, 0.0, embed(pair_BT))


def apply_rope(x_BTHK: jax.Array, start: Position) -> jax.Array:
    """Applies the rotary position embedding (RoPE, Su et al., 2021) from position `start` on.

    Number k is paired with number k + K / 2, as in GPT-NeoX and Llama.
    """
    T, K = x_BTHK.shape[1], x_BTHK.shape[-1]
    speed_K = 10_000.0 ** (-jnp.arange(K // 2) / (K // 2))
    angle_T1K = ((start + jnp.arange(T))[:, None] * speed_K[None])[:, None]
    cos_1T1K, sin_1T1K = jnp.cos(angle_T1K)[None], jnp.sin(angle_T1K)[None]
    one, other = jnp.split(x_BTHK, 2, axis=-1)
    turned = one * cos_1T1K - other * sin_1T1K, other * cos_1T1K + one * sin_1T1K
    return jnp.concatenate(turned, axis=-1)


def alibi_slopes(num_heads: int) -> np.ndarray:
    """Returns each head's slope of the scores over the distance, [H]: ALiBi (Press et al., 2021).

    A geometric sequence from 2 ** (-8 / H) on. For a number of heads that is no power of two, as
    its authors do it: that of the power below, then every other number of that of the power above.
    """
    power = 2 ** int(np.log2(num_heads))
    row = 2.0 ** (-8 / power * np.arange(1, power + 1))
    between = 2.0 ** (-4 / power * np.arange(1, 2 * (num_heads - power), 2))
    return np.concatenate([row, between]).astype(np.float32)


def soft_cap(logits: jax.Array, cap: float) -> jax.Array:
    """Returns logits limited to between -cap and cap by a tanh (Gemma 2, 2024)."""
    return cap * jnp.tanh(logits / cap)
