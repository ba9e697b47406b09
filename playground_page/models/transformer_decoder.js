"use strict";
// Stage 4, transformer decoder: a stack of blocks, each of attention and an MLP.
//
// New here: the MLP; the residual stream that each sub-layer (attention or MLP) adds to; the stack;
// LayerNorm before each sub-layer and after the last.

// Gives each position's features mean 0 and variance 1, then scales and shifts them (Ba et al.,
// 2016).
function LayerNorm(layer, x_TD) {
  const { scale: scale_D, bias: bias_D, epsilon } = layer;
  return eachRow(x_TD, (x_D, y_D) => {
    const mean = x_D.reduce((sum, x) => sum + x, 0) / x_D.length;
    const variance = x_D.reduce((sum, x) => sum + (x - mean) ** 2, 0) / x_D.length;
    const factor = 1 / Math.sqrt(variance + epsilon);
    for (let d = 0; d < x_D.length; d++) {
      y_D[d] = (x_D[d] - mean) * factor * (scale_D?.[d] ?? 1) + (bias_D?.[d] ?? 0);
    }
  });
}

// Multi-layer perceptron: two dense layers with a ReLU between, at each position; F = 4 D.
function Mlp(layer, x_TD) {
  const h_TF = eachNumber(Dense(layer.up, x_TD), (x) => Math.max(x, 0));
  return Dense(layer.down, h_TF);
}

// x + attention(norm(x)), then x + mlp(norm(x)): pre-LayerNorm (Xiong et al., 2020).
function Block(layer, x_TD, pass) {
  const h_TD = LayerNorm(layer.attention_norm, x_TD);
  x_TD = add(x_TD, MultiHeadAttention(layer.attention, h_TD, pass));
  const y_TD = Mlp(layer.mlp, LayerNorm(layer.mlp_norm, x_TD));
  return add(x_TD, unlessOff(pass, layer.mlp.path, y_TD));
}

// Embeddings, `num_layers` blocks, a last LayerNorm and a linear map to the logits.
function TransformerDecoder(model, tokens_T, pass) {
  let x_TD = TokenPositionEmbed(model.embed, tokens_T, pass);
  for (let l = 0; l < model.num_layers; l++) x_TD = Block(model[`block_${l}`], x_TD, pass);
  return Dense(model.logits, LayerNorm(model.final_norm, x_TD));
}
