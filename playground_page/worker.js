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
// Milliseconds after which messages are let in.
const PATIENCE = 10;
let numReadings = 0;
let numCosts = 0;

// Tokens that the page shows as guesses.
const NUM_GUESSES = 8;

const actions = {
  // Opens a model, and returns by how much its log probabilities differ from JAX's.
  load({ model, exported, heads }) {
    models[model] = { ...openModel(JSON.parse(exported)), heads };
    return { difference: difference(models[model]) };
  },

  // Reads a text, and keeps what was seen. Returns the nats of its tokens, and the characters left out.
  read({ model, text, off }) {
    const reading = (readings[model] = read(models[model], text, new Set(off)));
    const { nats, total, mean, bytes, unknown } = reading;
    return { nats, total, mean, bytes, unknown };
  },

  // Returns the guesses after a character of the text that was read, and the token that it is in.
  guesses({ model, character }) {
    const { logP, tokens, tokenAt, nats } = readings[model];
    const place = tokenAt[character];
    if (!(place >= 0)) return { guesses: [] }; // The text has changed meanwhile.
    const guesses = largest(logP[place], NUM_GUESSES).map((token) => ({
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

  // Returns the weights of each head over the window that holds a character: [T, T], a byte each. Of
  // the `known` window, which is drawn already, nothing.
  thumbnails({ model, character, known }) {
    const reading = readings[model];
    const window = windowOf(reading, Math.max(reading.tokenAt[character], 0));
    if (!window) return { images: [] };
    reading.number ??= ++numReadings;
    const key = `${reading.number}-${window.start}`;
    if (key === known) return { key, images: [] };
    const images = models[model].heads.map(({ name }) =>
      Uint8Array.from(window.seen[name].data, (weight) => Math.round(255 * weight)),
    );
    return { key, size: window.end - window.start, images };
  },

  // Returns the probability of each next character.
  next({ model, text }) {
    return nextCharacters(models[model], text);
  },

  // Returns the continuation of a prompt, whole; null if the model knows no character of the prompt.
  async write({ model, prompt, sampling, seed, count, off }) {
    const text = new Continuation(models[model], prompt, sampling, seed, new Set(off));
    if (!text.window.length) return null;
    for (let n = 0; n < count; n++) {
      text.next();
      await pause();
    }
    return textOf(models[model], text.made);
  },

  // Returns the nats of a text after its first token, and the bytes.
  score({ model, text, off }) {
    const { total, bytes } = read(models[model], text, new Set(off));
    return { nats: total, bytes };
  },

  // Returns the loss of a text in nats per token, and what switching off each head alone adds. A
  // newer question ends it.
  async costs({ model, text }) {
    const question = ++numCosts;
    const loss = read(models[model], text).mean;
    const costs = [];
    for (const head of models[model].heads) {
      await pause();
      if (question !== numCosts) break;
      costs.push({ ...head, cost: read(models[model], text, new Set([head.name])).mean - loss });
    }
    return { loss, heads: costs };
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

  // Stops all writing, and returns when the page has been told all.
  async stop() {
    for (const text of continuations) text.left = 0;
    await running;
  },
};

// Lets all models write, a token each in turn, until none has a token left to write.
async function writeAll() {
  let told = -Infinity;
  let paused = performance.now();
  while (continuations.some((text) => text.left > 0)) {
    for (const model of continuations.keys()) {
      const text = continuations[model];
      if (text.left <= 0) continue;
      text.untold.push(text.next());
      text.left--;
      if (performance.now() - paused < PATIENCE) continue;
      await pause();
      paused = performance.now();
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

// Returns the places of the largest numbers, the largest first.
function largest(row, count) {
  const places = [];
  row.forEach((number, place) => {
    if (places.length === count && number <= row[places[count - 1]]) return;
    const before = places.findIndex((other) => row[other] < number);
    places.splice(before < 0 ? places.length : before, 0, place);
    places.length = Math.min(places.length, count);
  });
  return places;
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
