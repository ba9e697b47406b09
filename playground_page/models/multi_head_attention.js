"use strict";
// Stage 3, multi-head self-attention: H heads in parallel, each of width K = D / H.
//
// New here: heads, and the output projection. Stage 2's attention is one head, with K = D.

// Returns the columns of each of H heads.
function splitHeads(x_TD, H) {
  const K = x_TD.D / H;
  return Array.from({ length: H }, (_, h) => x_TD.columns(h * K, K));
}

// Returns the columns of all heads side by side.
function joinHeads(y_HTK) {
  const [{ T, D: K }] = y_HTK;
  const y_TD = new Matrix(T, y_HTK.length * K);
  y_HTK.forEach((y_TK, h) => {
    for (let t = 0; t < T; t++) y_TD.row(t).set(y_TK.row(t), h * K);
  });
  return y_TD;
}

// H heads of K = D / H each, concatenated and projected (Vaswani et al., 2017, 3.2.2).
function MultiHeadAttention(layer, x_TD, pass) {
  const H = layer.num_heads;
  const [q_TD, k_TD, v_TD] = ["query", "key", "value"].map((name) => Dense(layer[name], x_TD));
  const [k_SD, v_SD] = KeyValueCache(layer.past, [k_TD, v_TD], pass);
  const [q_HTK, k_HSK, v_HSK] = [q_TD, k_SD, v_SD].map((x) => splitHeads(x, H));
  const y_HTK = q_HTK.map((q_TK, h) =>
    causalAttention(q_TK, k_HSK[h], v_HSK[h], pass, headName(layer, h)),
  );
  return Dense(layer.out, joinHeads(y_HTK));
}

// Stage 2's model with several heads in place of one.
function MultiHeadAttentionModel(model, tokens_T, pass) {
  const x_TD = TokenPositionEmbed(model.embed, tokens_T, pass);
  return Dense(model.logits, MultiHeadAttention(model.attention, x_TD, pass));
}
