"use strict";
// Sampling of a token from logits: temperature, top-k and top-p, in this order, as inference/sampling.py.

const GREEDY = 1e-5;

// Returns a function that returns random numbers from 0 to 1, the same for the same seed: mulberry32
// (Ettinger, 2017). JAX's numbers are others, so a sampled text is not that of generate.py.
function randomNumbers(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

// Returns the token of the largest logit, the first of equal ones.
function likeliest(logits_V) {
  let best = 0;
  for (let v = 1; v < logits_V.length; v++) if (logits_V[v] > logits_V[best]) best = v;
  return best;
}

// Returns logits over the temperature, -Infinity outside top-k and top-p (Holtzman et al., 2019).
function limitLogits({ temperature, top_k, top_p }, logits_V) {
  let limited_V = logits_V.map((logit) => logit / temperature);
  const keepFrom = (least) => limited_V.map((logit) => (logit < least ? -Infinity : logit));
  if (top_k) {
    const descending_V = limited_V.slice().sort((a, b) => b - a);
    limited_V = keepFrom(descending_V[Math.min(top_k, descending_V.length) - 1]);
  }
  if (top_p < 1) {
    const descending_V = limited_V.slice().sort((a, b) => b - a);
    const p_V = softmax(descending_V);
    // A token stays if the likelier ones hold less than top_p; the likeliest always stays.
    let last = 0;
    for (let before = p_V[0]; last + 1 < p_V.length && before < top_p; before += p_V[last]) last++;
    limited_V = keepFrom(descending_V[last]);
  }
  return limited_V;
}

// Returns a token, drawn with a random number from 0 to 1.
function sampleToken(sampling, logits_V, random) {
  if (sampling.temperature < GREEDY) return likeliest(logits_V);
  const p_V = softmax(limitLogits(sampling, logits_V));
  let rest = random;
  for (let v = 0; v < p_V.length; v++) {
    rest -= p_V[v];
    if (rest < 0) return v;
  }
  return likeliest(p_V); // The probabilities added up to a little less than 1.
}
