"use strict";
// The worker that computes: answers the page's messages, one after the other, and tells it what the
// models write while they write it.

const models = [];
// The reading of each model's text, and the continuation of its prompt.
const readings = [];
const continuations = [];
// Milliseconds between two messages about what is written.
const INTERVAL = 30;
let running = null;

// Tokens that the page shows as guesses.
const NUM_GUESSES = 8;

const actions = {
  // Opens a model, and returns by how much its nats differ from JAX's.
  load({ model, exported, heads }) {
    models[model] = { ...openModel(JSON.parse(exported)), heads };
    return { difference: difference(models[model]) };
  },

  // Reads a text, and keeps what was seen. Returns the nats of each token, NaN for the first, the
  // bytes of those after it, and the characters left out.
  read({ model, text, off }) {
    const reading = (readings[model] = read(models[model], text, new Set(off)));
    return { nats: reading.nats, bytes: bytesOf(models[model], reading), unknown: reading.unknown };
  },

  // Returns the guesses after a character of the text that was read, and the token that it is in.
  guesses({ model, character }) {
    const { logP, tokens, tokenAt, nats } = readings[model];
    const place = tokenAt[character];
    if (!(place >= 0)) return { guesses: [] }; // The text has changed meanwhile.
    const order = [...logP[place].keys()].sort((a, b) => logP[place][b] - logP[place][a]);
    const guesses = order.slice(0, NUM_GUESSES).map((token) => ({
      text: textOf(models[model], [token]),
      p: Math.exp(logP[place][token]),
      isNext: token === tokens[place + 1],
    }));
    return { token: textOf(models[model], [tokens[place]]), guesses, p: Math.exp(-nats[place + 1]) };
  },

  // Returns the weights of a head from a character on each character before it and itself.
  attention({ model, character, head }) {
    const { tokenAt } = readings[model];
    const place = tokenAt[character];
    const window = windowOf(readings[model], place);
    if (!window) return [];
    const weights_S = window.seen[head].row(place - window.start);
    const own = tokenAt.slice(0, character + 1).map((token) => token - window.start);
    return Array.from(own, (token) => weights_S[token] ?? 0);
  },

  // Returns the weights of each head over the window that holds a character: [T, T], a byte each.
  thumbnails({ model, character }) {
    const window = windowOf(readings[model], Math.max(readings[model].tokenAt[character], 0));
    if (!window) return { size: 0, images: [] };
    const size = window.end - window.start;
    const images = models[model].heads.map(({ name }) => Uint8Array.from(window.seen[name].data, (weight) => Math.round(255 * weight)));
    return { size, images };
  },

  // Returns the probability of each next character.
  next({ model, text }) {
    return nextCharacters(models[model], text);
  },

  // Returns the continuation of a prompt, whole.
  write({ model, prompt, sampling, seed, count, off }) {
    const text = new Continuation(models[model], prompt, sampling, seed, new Set(off));
    for (let n = 0; n < count; n++) text.next();
    return textOf(models[model], text.made);
  },

  // Returns the nats of a text after its first token, and the bytes.
  score({ model, text, off }) {
    const reading = read(models[model], text, new Set(off));
    return { nats: reading.nats.slice(1).reduce((sum, x) => sum + x, 0), bytes: bytesOf(models[model], reading) };
  },

  // Returns the loss of a text in nats per token, and what switching off each head alone adds.
  async costs({ model, text }) {
    const loss = (off) => mean(read(models[model], text, new Set(off)).nats.slice(1));
    const whole = loss([]);
    const costs = [];
    for (const head of models[model].heads) {
      costs.push({ ...head, cost: loss([head.name]) - whole });
      await pause();
    }
    return { loss: whole, heads: costs };
  },

  // Begins the continuation of a prompt by a model, up to `count` tokens. Returns the unknown characters.
  begin({ model, prompt, sampling, seed, off, count }) {
    const text = new Continuation(models[model], prompt, sampling, seed, new Set(off));
    const isEmpty = !text.window.length;
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    const left = isEmpty ? 0 : count;
    continuations[model] = Object.assign(text, { left, decoder, untold: [], isNew: true });
    return { unknown: text.unknown, isEmpty };
  },

  // Lets these models write on, by `count` tokens.
  advance({ which, count }) {
    for (const text of which.map((model) => continuations[model])) {
      if (text.window.length) text.left += count;
    }
  },

  // Writes until nothing is left to write. A call while that goes on waits for its end.
  async run() {
    running ??= writeAll();
    try {
      await running;
    } finally {
      running = null;
    }
  },

  // Stops all writing.
  stop() {
    for (const text of continuations) text.left = 0;
  },
};

// Lets all models write, a token each in turn, until none has a token left to write.
async function writeAll() {
  let told = -Infinity;
  while (continuations.some((text) => text.left > 0)) {
    for (const text of continuations) {
      if (text.left <= 0) continue;
      text.untold.push(text.next());
      text.left--;
    }
    if (performance.now() - told > INTERVAL || continuations.some((text) => text.isNew)) {
      continuations.forEach(tellWritten);
      told = performance.now();
    }
    await pause();
  }
  continuations.forEach(tellWritten);
}

// Tells the page what a model wrote since the last time; at the end its whole text, in which U+FFFD
// stands for a character that has begun, as in generate.py.
function tellWritten(text, model) {
  const { bytes } = text.model.tokenizer;
  const pieces = text.untold.map((token) => text.decoder.decode(bytes[token], { stream: true }));
  if (!pieces.length && !text.isNew) return;
  const isDone = text.left <= 0;
  const written = isDone ? textOf(text.model, text.made) : pieces.join("");
  postMessage({ model, written, isNew: text.isNew || isDone, made: text.made.length });
  text.untold = [];
  text.isNew = false;
}

// Returns the window that a token counts in; undefined for a token that the text does not have.
function windowOf({ windows }, place) {
  return windows.find(({ counts, end }) => counts <= place && place < end);
}

// Returns the bytes of a reading after its first token.
function bytesOf(model, { tokens }) {
  return tokens.slice(1).reduce((sum, token) => sum + model.tokenizer.bytes[token].length, 0);
}

// Returns the mean.
function mean(numbers) {
  return numbers.reduce((sum, x) => sum + x, 0) / numbers.length;
}

// Lets messages in that have come meanwhile.
function pause() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => resolve(port1.close());
    port2.postMessage(null);
  });
}

addEventListener("message", async ({ data: { id, action, args } }) => {
  try {
    postMessage({ id, answer: await actions[action](args) });
  } catch (error) {
    postMessage({ id, error: String(error?.stack ?? error) });
  }
});
