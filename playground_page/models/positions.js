"use strict";
// Position encodings that came after GPT-2's learned one, for gpt2_variants.js.

// Applies the rotary position embedding (RoPE, Su et al., 2021) to tokens from `start` on.
// Dimension k is rotated together with k + K / 2, as in GPT-NeoX and Llama.
function applyRope(x_TK, start) {
  const half = x_TK.D / 2;
  return eachRow(x_TK, (x_K, y_K, t) => {
    for (let k = 0; k < half; k++) {
      const angle = (start + t) * 10000 ** (-k / half);
      const [one, other] = [x_K[k], x_K[k + half]];
      y_K[k] = one * Math.cos(angle) - other * Math.sin(angle);
      y_K[k + half] = other * Math.cos(angle) + one * Math.sin(angle);
    }
  });
}

// Returns each head's penalty on scores per token of distance: ALiBi (Press et al., 2021).
// A geometric sequence from 2 ** (-8 / H) on. If H is no power of two, the authors take the sequence
// of the power below, then every other element of that of the power above.
function alibiSlopes(H) {
  const power = 2 ** Math.floor(Math.log2(H));
  return Array.from({ length: H }, (_, h) =>
    h < power ? 2 ** ((-8 / power) * (h + 1)) : 2 ** ((-4 / power) * (2 * (h - power) + 1)),
  );
}

// Returns ALiBi's penalties of a head, [T, S]: slope times the distance in tokens from key to query.
function alibiPenalties(slope, start, T, S) {
  return eachRow(new Matrix(T, S), (_, penalties_S, t) => {
    for (let s = 0; s < S; s++) penalties_S[s] = slope * (start + t - s);
  });
}
