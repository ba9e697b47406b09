"use strict";
// Stage 2, scaled dot-product self-attention: each position looks back at the ones before it.
//
// New here: position embeddings; queries, keys and values; the causal mask; the 1/sqrt(K) scale.

// Returns query . key / sqrt(K), [T, S], with -Infinity for keys after the query.
function causalScores(q_TK, k_SK, start) {
  const scores_TS = rowProducts(eachNumber(q_TK, (x) => x / Math.sqrt(q_TK.D)), k_SK);
  for (let t = 0; t < q_TK.T; t++) scores_TS.row(t).fill(-Infinity, start + t + 1);
  return scores_TS;
}

// Returns softmax(query . key / sqrt(K)) . value over the past (Vaswani et al., 2017, eq. 1).
// `name` is the head's.
function causalAttention(q_TK, k_SK, v_SK, pass, name) {
  const scores_TS = causalScores(q_TK, k_SK, pass.start);
  const weights_TS = expose(pass, name, eachRow(scores_TS, (row, y) => y.set(softmax(row))));
  return product(weights_TS, v_SK);
}

// Returns the embedding of each token plus that of its position.
function TokenPositionEmbed(layer, tokens_T, pass) {
  const positions_T = tokens_T.map((_, t) => pass.start + t);
  return add(Embed(layer.token, tokens_T), Embed(layer.position, positions_T));
}

// Causal attention with queries, keys and values that are linear maps of x, without biases.
function SelfAttention(layer, x_TD, pass) {
  const [q_TK, k_TK, v_TK] = ["query", "key", "value"].map((name) => Dense(layer[name], x_TD));
  const [k_SK, v_SK] = KeyValueCache(layer.past, [k_TK, v_TK], pass);
  return causalAttention(q_TK, k_SK, v_SK, pass, headName(layer, 0));
}

// Embeddings, self-attention with K = D, and a linear map to the logits.
function SelfAttentionModel(model, tokens_T, pass) {
  const x_TD = TokenPositionEmbed(model.embed, tokens_T, pass);
  return Dense(model.logits, SelfAttention(model.attention, x_TD, pass));
}
