"""What has been changed in GPT-2 since: other positions, norms and MLPs, each a part of stage 5.

`experiments/gpt2.py` has each as a preset, and `sweeps/architecture.yaml` compares them.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from models.dense import Dense
from models.self_attention import Initializer, KeyValueCache, Position
from models.transformer_decoder import LayerNorm

# GPT-2's GELU is the tanh form (Hendrycks and Gimpel, 2016), not the exact one.
gelu = partial(nn.gelu, approximate=True)


def relu_squared(x: jax.Array) -> jax.Array:
    """max(x, 0) squared (So et al., 2021)."""
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
    """An MLP whose units are switched by others: down(silu(gate(x)) * up(x)), Shazeer (2020).

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
    """What a token is after the one before it, so that no attention need find that one.

    Embeddings of n-grams, here of 2, in a table of `num_rows` that pairs share where it has fewer
    rows than there are pairs (Pagnoni et al., 2024, section 3.2.1). A window's first has none.
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


def rotate(x_BTHK: jax.Array, start: Position) -> jax.Array:
    """Turns pairs of numbers by angles that grow with the position, the first `start`.

    Then a product of query and key depends on how far they stand apart (Su et al., 2021). Number k
    is paired with number k + K / 2, as in GPT-NeoX and Llama.
    """
    T, K = x_BTHK.shape[1], x_BTHK.shape[-1]
    speed_K = 10_000.0 ** (-jnp.arange(K // 2) / (K // 2))
    angle_T1K = ((start + jnp.arange(T))[:, None] * speed_K[None])[:, None]
    cos_1T1K, sin_1T1K = jnp.cos(angle_T1K)[None], jnp.sin(angle_T1K)[None]
    one, other = jnp.split(x_BTHK, 2, axis=-1)
    turned = one * cos_1T1K - other * sin_1T1K, other * cos_1T1K + one * sin_1T1K
    return jnp.concatenate(turned, axis=-1)


def alibi_slopes(num_heads: int) -> np.ndarray:
    """By how much each head's scores fall with the distance, [H]: ALiBi (Press et al., 2021).

    A geometric row from 2 ** (-8 / H) on; of heads that are no power of two, as the authors do it:
    the row of the power below, and every other number of the row of the one above.
    """
    power = 2 ** int(np.log2(num_heads))
    row = 2.0 ** (-8 / power * np.arange(1, power + 1))
    between = 2.0 ** (-4 / power * np.arange(1, 2 * (num_heads - power), 2))
    return np.concatenate([row, between]).astype(np.float32)


def soft_cap(logits: jax.Array, cap: float) -> jax.Array:
    """Logits squeezed between -cap and cap by a tanh (Gemma 2, 2024)."""
    return cap * jnp.tanh(logits / cap)
