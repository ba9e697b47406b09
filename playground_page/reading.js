"use strict";
// Reading and writing with a model: windows of a text, nats of its tokens, and its continuation.

const STAGES = {
  Bigram,
  SelfAttentionModel,
  MultiHeadAttentionModel,
  TransformerDecoder,
  GPT2,
  GPT2Variant,
};

// Returns the numbers that base64 holds, as float32.
function decodeNumbers(base64, dtype) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
  if (dtype === "float32") return new Float32Array(bytes.buffer);
  return new Float32Array(bytes.length / 2).map((_, i) => FLOAT16[bytes[2 * i] + 256 * bytes[2 * i + 1]]);
}

// Every float16 by its bits.
const FLOAT16 = Float32Array.from({ length: 65536 }, (_, bits) => {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
});

// Returns a module as the models take it: with matrices and vectors, and paths.
function openModule(exported, dtype, path = "") {
  const opened = { path };
  for (const [name, value] of Object.entries(exported)) {
    if (Array.isArray(value)) {
      const [shape, base64] = value;
      const numbers = decodeNumbers(base64, dtype);
      opened[name] = shape.length === 2 ? new Matrix(...shape, numbers) : numbers;
    } else if (typeof value === "object") {
      opened[name] = openModule(value, dtype, path ? `${path}/${name}` : name);
    } else opened[name] = value;
  }
  return opened;
}

// Returns a model with its tokenizer, from what playground_page/page.py wrote.
function openModel({ tree, dtype, tokenizer, context_length, check }) {
  const module = openModule(tree, dtype);
  return { module, tokenizer: openTokenizer(tokenizer), context_length, check };
}

// Returns the logits [T, V] of tokens that fit into the context.
function forward(model, tokens_T, { start = 0, kept = null, off = new Set(), seen = null } = {}) {
  return STAGES[model.module.class](model.module, tokens_T, { start, kept, off, seen });
}

// Returns the windows in which a text of n tokens is read: up to T tokens each. After the first, a
// window begins with half a window that has been read before, so that no token lacks a past; the
// tokens from `counts` on are those that count.
function windows(n, T) {
  const half = Math.max(1, Math.floor(T / 2));
  const found = [];
  for (let start = 0, counts = 0; counts < n; start += half) {
    const end = Math.min(start + T, n);
    found.push({ start, counts, end });
    counts = end;
  }
  return found;
}

// Reads a text. Returns its tokens, the windows with what was seen in them, the log probabilities
// after each token, the nats of each token, NaN for the first, and of those after it the total, the
// mean, and their bytes.
function read(model, text, off = new Set()) {
  const encoded = model.tokenizer.encode(text);
  const { tokens } = encoded;
  const seen = [];
  const logP = [];
  for (const window of windows(tokens.length, model.context_length)) {
    window.seen = {};
    const logits_TV = forward(model, tokens.slice(window.start, window.end), { off, seen: window.seen });
    for (let t = window.counts; t < window.end; t++) logP.push(logSoftmax(logits_TV.row(t - window.start)));
    seen.push(window);
  }
  const nats = Float64Array.from(tokens, (token, t) => (t ? -logP[t - 1][token] : NaN));
  const total = nats.slice(1).reduce((sum, x) => sum + x, 0);
  const bytes = tokens.slice(1).reduce((sum, token) => sum + model.tokenizer.bytes[token].length, 0);
  const mean = tokens.length > 1 ? total / (tokens.length - 1) : NaN;
  return { ...encoded, windows: seen, logP, nats, total, mean, bytes };
}

// Returns the logarithms of the probabilities.
function logSoftmax(row) {
  const most = row.reduce((a, b) => Math.max(a, b), -Infinity);
  const total = Math.log(row.reduce((sum, score) => sum + Math.exp(score - most), 0)) + most;
  return row.map((score) => score - total);
}

// Returns the largest difference from the log probabilities that JAX computed: after each of some
// tokens, those of some tokens. Relative where they are large.
function difference(model) {
  const { tokens, ids, log_p } = model.check;
  const logits_TV = forward(model, tokens);
  const differences = log_p.flatMap((expected, t) => {
    const own = logSoftmax(logits_TV.row(t));
    return expected.map((value, i) => Math.abs(own[ids[i]] - value) / Math.max(1, Math.abs(value)));
  });
  return differences.reduce((a, b) => (a > b ? a : b), 0);
}

// Returns the probability of each character after a text, the likeliest first. For tokens that hold
// several characters it is that of the tokens that begin with it.
function nextCharacters(model, text) {
  const tokens = model.tokenizer.encode(text).tokens.slice(-model.context_length);
  const logits_TV = forward(model, tokens);
  const p_V = softmax(logits_TV.row(tokens.length - 1));
  const p = new Map();
  model.beginnings ??= model.tokenizer.bytes.map((_, token) => Array.from(textOf(model, [token]))[0]);
  p_V.forEach((share, token) => {
    const character = model.beginnings[token];
    if (character) p.set(character, (p.get(character) ?? 0) + share);
  });
  return [...p].sort((a, b) => b[1] - a[1]);
}

// Returns the text of tokens, with U+FFFD for bytes that are not whole characters.
function textOf(model, tokens) {
  const pieces = tokens.map((token) => model.tokenizer.bytes[token]);
  const bytes = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let end = 0;
  for (const piece of pieces) {
    bytes.set(piece, end);
    end += piece.length;
  }
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
}

// A text that a model continues. As inference/generation.py: each token is read once, with a
// key/value cache, until the window is full; then the window slides, every token gets another
// position, and all are read again.
class Continuation {
  constructor(model, prompt, sampling, seed, off = new Set()) {
    const encoded = model.tokenizer.encode(prompt);
    Object.assign(this, { model, sampling, off, unknown: encoded.unknown, made: [] });
    this.window = encoded.tokens.slice(-model.context_length);
    this.numRead = 0;
    this.kept = {};
    this.random = randomNumbers(seed);
  }

  // Adds a token to the text, and returns it.
  next() {
    const { model, off, kept, numRead: start } = this;
    const unread = this.window.slice(start);
    const logits_TV = forward(model, unread, { start, kept, off });
    const token = sampleToken(this.sampling, logits_TV.row(unread.length - 1), this.random());
    this.numRead = this.window.length;
    this.window.push(token);
    this.made.push(token);
    if (this.window.length > model.context_length) {
      this.window.shift();
      this.numRead = 0;
      this.kept = null;
    }
    return token;
  }
}
