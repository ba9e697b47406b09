"use strict";
// GPT-2 with later changes to its architecture, each a setting whose default is GPT-2's own.

// GPT-2's attention with optional RoPE, ALiBi, shared keys and values, and query-key norm.
function VariantAttention(layer, x_TD, pass) {
  const H = layer.num_heads;
  const G = layer.num_kv_heads || H;
  const { start } = pass;
  const { query_norm, key_norm } = layer;
  const [q_TD, k_TD, v_TD] = ["query", "key", "value"].map((name) => Dense(layer[name], x_TD));
  let q_HTK = splitHeads(q_TD, H);
  let k_GTK = splitHeads(k_TD, G);
  if (query_norm) {
    q_HTK = q_HTK.map((q_TK) => normed(query_norm, q_TK));
    k_GTK = k_GTK.map((k_TK) => normed(key_norm, k_TK));
  }
  if (layer.positions === "rotary") {
    q_HTK = q_HTK.map((q_TK) => applyRope(q_TK, start));
    k_GTK = k_GTK.map((k_TK) => applyRope(k_TK, start));
  }
  const [k_SD, v_SD] = KeyValueCache(layer.past, [joinHeads(k_GTK), v_TD], pass);
  const [k_GSK, v_GSK] = [k_SD, v_SD].map((x) => splitHeads(x, G));
  const slopes_H = layer.positions === "alibi" ? alibiSlopes(H) : null;
  const y_HTK = q_HTK.map((q_TK, h) => {
    const g = Math.floor((h * G) / H); // H / G neighbours share a key and a value.
    let scores_TS = causalScores(q_TK, k_GSK[g], start);
    if (slopes_H) scores_TS = subtract(scores_TS, alibiPenalties(slopes_H[h], start, scores_TS.T, scores_TS.D));
    const weights_TS = eachRow(scores_TS, (row, y) => y.set(softmax(row)));
    return product(expose(pass, headName(layer, h), weights_TS), v_GSK[g]);
  });
  return Dense(layer.out, joinHeads(y_HTK));
}

// GPT-2's block with the given attention, MLP and norm.
function VariantBlock(layer, x_TD, pass) {
  const h_TD = normed(layer.attention_norm, x_TD);
  x_TD = add(x_TD, VariantAttention(layer.attention, h_TD, pass));
  const y_TD = VariantMlp(layer.mlp, normed(layer.mlp_norm, x_TD));
  return add(x_TD, unlessOff(pass, layer.mlp.path, y_TD));
}

// GPT-2's embeddings without those of positions.
function TokenEmbed(layer, tokens_T) {
  return Embed(layer.token, tokens_T);
}

const EMBEDS = { TiedEmbed, TokenEmbed };

// GPT-2 with the settings that experiments/default.py describes.
function GPT2Variant(model, tokens_T, pass) {
  let x_TD = EMBEDS[model.embed.class](model.embed, tokens_T, pass);
  if (model.pair_embed) x_TD = add(x_TD, PairEmbed(model.pair_embed, tokens_T, pass));
  for (let l = 0; l < model.num_layers; l++) x_TD = VariantBlock(model[`block_${l}`], x_TD, pass);
  return head(model, normed(model.final_norm, x_TD));
}

// Returns the logits of the last features; muP (Yang et al., 2021) divides them by the width
// multiplier, and a soft cap limits them by a tanh (Gemma 2, 2024).
function head(model, x_TD) {
  const width = model.mup_base_dim ? model.embed_dim / model.mup_base_dim : 1;
  x_TD = eachNumber(x_TD, (x) => x / width);
  const logits_TV = model.logits ? Dense(model.logits, x_TD) : unembed(model.embed, x_TD);
  const cap = model.logit_soft_cap;
  return cap ? eachNumber(logits_TV, (x) => cap * Math.tanh(x / cap)) : logits_TV;
}
