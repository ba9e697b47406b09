"use strict";
// Alternatives to GPT-2's parts for gpt2_variants.js: norms, MLPs, a pair embedding.

// Returns GELU, x times the normal distribution function of x; erf by Abramowitz and Stegun, 7.1.26,
// whose error is below 2e-7.
function geluExact(x) {
  const z = Math.abs(x) / Math.SQRT2;
  const t = 1 / (1 + 0.3275911 * z);
  const series = [1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592];
  const tail = series.reduce((sum, a) => (sum + a) * t, 0) * Math.exp(-z * z);
  return x * (x > 0 ? 1 - tail / 2 : tail / 2);
}

// Returns x times the logistic function of x.
function silu(x) {
  return x / (1 + Math.exp(-x));
}

const ACTIVATIONS = {
  gelu,
  gelu_exact: geluExact,
  relu: (x) => Math.max(x, 0),
  relu_squared: (x) => Math.max(x, 0) ** 2, // So et al. (2021).
  silu,
};

// Divides each position's features by their root mean square (Zhang and Sennrich, 2019).
function RMSNorm(layer, x_TD) {
  const { scale: scale_D, epsilon } = layer;
  return eachRow(x_TD, (x_D, y_D) => {
    const square = x_D.reduce((sum, x) => sum + x * x, 0) / x_D.length;
    const factor = 1 / Math.sqrt(square + epsilon);
    for (let d = 0; d < x_D.length; d++) y_D[d] = x_D[d] * factor * (scale_D?.[d] ?? 1);
  });
}

const NORMS = { LayerNorm, RMSNorm };

// Applies the norm that a layer has.
function normed(layer, x_TD) {
  return NORMS[layer.class](layer, x_TD);
}

// Two dense layers with an activation between; or the gated MLP of "swiglu" (Shazeer, 2020),
// down(silu(gate(x)) * up(x)).
function VariantMlp(layer, x_TD) {
  const up_TF = Dense(layer.up, x_TD);
  if (layer.activation !== "swiglu") {
    return Dense(layer.down, eachNumber(up_TF, ACTIVATIONS[layer.activation]));
  }
  const h_TF = eachRow(Dense(layer.gate, x_TD), (gate_F, y_F, t) => {
    const up_F = up_TF.row(t);
    for (let f = 0; f < y_F.length; f++) y_F[f] = silu(gate_F[f]) * up_F[f];
  });
  return Dense(layer.down, h_TF);
}

// Bigram embedding: one row for a token and the one before it (Pagnoni et al., 2024, 3.2.1). Pairs
// share rows, by their number modulo `num_rows`. The first token of a window has no pair: 0.
function PairEmbed(layer, tokens_T, pass) {
  const T = tokens_T.length;
  const token_T1 = new Matrix(T, 1, Float32Array.from(tokens_T));
  const [token_S1] = KeyValueCache(layer.past, [token_T1], pass);
  const pairs_T = tokens_T.map((token, t) => {
    const place = token_S1.T - T + t;
    const before = place ? token_S1.row(place - 1)[0] : 0;
    const pair = (Math.imul(before, layer.vocab_size) + token) | 0; // 32 bits, as JAX has.
    return ((pair % layer.num_rows) + layer.num_rows) % layer.num_rows;
  });
  const y_TD = Embed(layer.table, pairs_T);
  if (token_S1.T === T) y_TD.row(0).fill(0);
  return y_TD;
}
