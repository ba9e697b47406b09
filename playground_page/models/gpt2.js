"use strict";
// Stage 5, GPT-2: stage 4 as Radford et al. (2019) built it.
//
// New here: GELU; biases in attention, which are parameters like others; one matrix for token
// embedding and logits. Dropout and the initial weights matter in training alone.

// Returns GELU in GPT-2's tanh form (Hendrycks and Gimpel, 2016).
function gelu(x) {
  return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x)));
}

// Stage 3's attention; its dense layers have biases here.
function GPT2Attention(layer, x_TD, pass) {
  return MultiHeadAttention(layer, x_TD, pass);
}

// Stage 4's MLP with GELU.
function GPT2Mlp(layer, x_TD) {
  return Dense(layer.down, eachNumber(Dense(layer.up, x_TD), gelu));
}

// Stage 4's block with these.
function GPT2Block(layer, x_TD, pass) {
  const h_TD = LayerNorm(layer.attention_norm, x_TD);
  x_TD = add(x_TD, GPT2Attention(layer.attention, h_TD, pass));
  const y_TD = GPT2Mlp(layer.mlp, LayerNorm(layer.mlp_norm, x_TD));
  return add(x_TD, unlessOff(pass, layer.mlp.path, y_TD));
}

// Stage 2's embeddings; the token embedding also makes the logits (Press and Wolf, 2017).
function TiedEmbed(layer, tokens_T, pass) {
  return TokenPositionEmbed(layer, tokens_T, pass);
}

// Returns the product of each row with the embedding of each token.
function unembed(layer, x_TD) {
  return rowProducts(x_TD, layer.token.embedding);
}

// Stage 4's model with GPT-2's embeddings and blocks.
function GPT2(model, tokens_T, pass) {
  let x_TD = TiedEmbed(model.embed, tokens_T, pass);
  for (let l = 0; l < model.num_layers; l++) x_TD = GPT2Block(model[`block_${l}`], x_TD, pass);
  return unembed(model.embed, LayerNorm(model.final_norm, x_TD));
}
