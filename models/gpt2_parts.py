"""Alternatives to GPT-2's parts for models/gpt2_variants.py: norms, MLPs, a pair embedding."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.gpt2 import gelu, init
from models.layers import KeyValueCache, Position
from models.transformer_decoder import LayerNorm

MakeModule = Callable[..., nn.Module]


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "gelu_exact": partial(nn.gelu, approximate=False),
    "relu": nn.relu,
    "relu_squared": lambda x: jnp.square(nn.relu(x)),  # So et al. (2021).
    "silu": nn.silu,
}
NORMS: dict[str, MakeModule] = {
    "layer_norm": LayerNorm,
    "rms_norm": nn.RMSNorm,  # Zhang and Sennrich (2019): no mean, no bias.
    "rms_norm_unscaled": partial(nn.RMSNorm, use_scale=False),
}


class VariantMlp(nn.Module):
    """Two dense layers with ACTIVATIONS[activation] between; or the gated MLP of "swiglu".

    SwiGLU (Shazeer, 2020) is down(silu(gate(x)) * up(x)). With F = 8/3 D its three matrices have as
    many parameters as the two of another MLP.
    """

    make_dense: MakeModule
    make_out: MakeModule
    activation: str
    hidden_dim: int = 0  # F; 0 is 4 D, or 8 round(D / 3) for "swiglu".

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        D = x_BTD.shape[-1]
        if self.activation == "swiglu":
            F = self.hidden_dim or 8 * round(D / 3)
            gate_BTF, up_BTF = (self.make_dense(F, name=name)(x_BTD) for name in ("gate", "up"))
            h_BTF = nn.silu(gate_BTF) * up_BTF
        else:
            h_BTF = self.make_dense(self.hidden_dim or 4 * D, name="up")(x_BTD)
            h_BTF = ACTIVATIONS[self.activation](h_BTF)
        return self.make_out(D, name="down")(h_BTF)


class PairEmbed(nn.Module):
    """Bigram embedding: one row for a token and the one before it (Pagnoni et al., 2024, 3.2.1).

    Pairs share rows, by their number modulo `num_rows`, if there are more pairs than rows. The
    first token of a window has no pair: its embedding is 0.
    """

    num_rows: int
    vocab_size: int
    context_length: int
    embed_dim: int

    @nn.compact
    def __call__(self, tokens_BT: jax.Array, start: Position) -> jax.Array:
        T = tokens_BT.shape[1]
        past = KeyValueCache(self.context_length, name="past")
        (tokens_BS1,) = past(start, token=tokens_BT[..., None])
        before_BS = jnp.pad(tokens_BS1[..., 0], ((0, 0), (1, 0)))
        before_BT = jax.lax.dynamic_slice_in_dim(before_BS, start, T, axis=1)
        pair_BT = (before_BT * self.vocab_size + tokens_BT) % self.num_rows
        embed = nn.Embed(self.num_rows, self.embed_dim, embedding_init=init, name="table")
        is_first_T1 = (start + jnp.arange(T) == 0)[:, None]
        return jnp.where(is_first_T1, 0.0, embed(pair_BT))
