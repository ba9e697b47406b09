"use strict";
// Three games: guess the next character, which stage wrote this, break it.

// Characters in a round of guessing, those that can be read before them, and guesses for each.
const ROUND = 20;
const READ_BEFORE = 60;
const MOST_GUESSES = 5;
// Weight of what is believed before the first guess: as that of four guessed characters.
const BELIEF = 4;
// Characters that a model writes to be recognized, and how it samples them.
const WRITTEN = 120;
const SAMPLING = { temperature: 0.8, top_k: 0, top_p: 1 };
// Characters that a model with a head switched off reads. Each head costs a reading.
const BROKEN = 200;

// Returns a random number from 0 to 1. All that the games draw comes from here.
function random() {
  return Math.random();
}

// Returns one of some things, drawn at random.
function pick(things) {
  return things[Math.floor(random() * things.length)];
}

// Returns a character as a sentence names it.
function named(character) {
  return { " ": "a space", "\n": "a new line" }[character] ?? `“${character}”`;
}

// Returns the bits that a character costs if it took `guesses` guesses. The probability is learnt
// from the characters before: counts[g - 1] of them took g guesses, the last of the counts more than
// five. More than five guesses leave it open which of `numLeft` characters it is.
function guessBits(counts, guesses, numLeft) {
  const p = (count, belief) => (count + BELIEF * belief) / (counts.reduce((sum, n) => sum + n, 0) + BELIEF);
  if (guesses <= MOST_GUESSES) return -Math.log2(p(counts[guesses - 1], 1 / (guesses * (guesses + 1))));
  return -Math.log2(p(counts[MOST_GUESSES], 1 / (MOST_GUESSES + 1)) / Math.max(1, numLeft));
}

// Returns a score of which nothing is counted yet.
function newScore(name) {
  return { name, counts: Array(MOST_GUESSES + 1).fill(0), bits: 0, ownBits: 0 };
}

// Counts a character that took some guesses and had the probability p.
function record(score, guesses, numLeft, p) {
  score.bits += guessBits(score.counts, guesses, numLeft);
  score.ownBits -= Math.log2(p);
  score.counts[Math.min(guesses, MOST_GUESSES + 1) - 1]++;
}

// Returns a name as it may be broken into lines: after underscores.
function breakable(name) {
  return name.split("_").flatMap((part, i) => (i ? ["_", element("wbr", {}), part] : [part]));
}

// Returns a table; in each row the first cell is the heading, and the others are numbers.
function tableOf(caption, headings, rows) {
  const cell = (text, i) =>
    i ? element("td", { class: "number" }, text) : element("th", { scope: "row" }, ...breakable(text));
  const heading = (text, i) => element("th", { scope: "col", ...(i ? { class: "number" } : {}) }, text);
  const head = element("thead", {}, element("tr", {}, ...headings.map(heading)));
  const body = element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map(cell))));
  return element("table", {}, element("caption", {}, caption), head, body);
}

// Returns a table with a bar in each row: { name, value, text, isNext }. Values below 0 are orange.
function barsOf(caption, rows) {
  const largest = Math.max(...rows.map(({ value }) => Math.abs(value)), 1e-9);
  const made = rows.map(({ name, value, text, isNext }) => {
    const bar = element("span", { class: value < 0 ? "bar negative" : "bar" });
    bar.style.width = `${(100 * Math.abs(value)) / largest}%`;
    const heading = element("th", { scope: "row" }, ...breakable(name));
    const number = element("td", { class: "number" }, text);
    return element("tr", isNext ? { class: "is-next" } : {}, heading, element("td", {}, bar), number);
  });
  return element("table", { class: "bars named" }, element("caption", {}, caption), element("tbody", {}, ...made));
}

// Starts "Guess the next character": Shannon's game, beside the models.
function startShannon() {
  const part = (name) => document.getElementById(`shannon-${name}`);
  const field = part("guess");
  const say = (text) => (part("result").textContent = text);
  let round = null;
  // Guesses wait for each other, and for what the models expect.
  let queue = Promise.resolve();

  function begin() {
    const characters = [...pick(data.passages)];
    const latestStart = Math.max(1, characters.length - ROUND);
    const earliest = Math.min(READ_BEFORE, latestStart);
    const start = earliest + Math.floor(random() * (latestStart - earliest + 1));
    round = { characters, start, place: start, end: Math.min(start + ROUND, characters.length), wrong: [], took: [] };
    round.you = newScore("you");
    round.stages = data.models.map(({ name }) => newScore(name));
    expect();
    part("begin").textContent = "Another passage";
    part("game").hidden = false;
    part("expected").replaceChildren();
    part("score").replaceChildren();
    say("");
    show();
    field.focus();
  }

  // Asks all models for the next character while the player thinks.
  function expect() {
    const text = round.characters.slice(0, round.place).join("");
    round.expected = Promise.all(data.models.map((_, model) => ask("next", { model, text })));
  }

  function guess(character) {
    const own = round;
    queue = queue.then(() => judge(own, character));
  }

  // Judges a guess; null gives up.
  async function judge(own, character) {
    const expected = await own.expected;
    if (own !== round) return;
    if (own.place === own.end) return say("This round is over. Another passage begins a new one.");
    const right = own.characters[own.place];
    const known = new Set(expected.flatMap((next) => next.map(([one]) => one)));
    if (character === right) return settle(expected, known, own.wrong.length + 1);
    if (character === null) return settle(expected, known, MOST_GUESSES + 1);
    if (own.wrong.includes(character)) return say(`You have guessed ${named(character)} before: not counted.`);
    if (!known.has(character)) return say(`No model knows ${named(character)}: not counted.`);
    own.wrong.push(character);
    const left = MOST_GUESSES - own.wrong.length;
    if (!left) return settle(expected, known, MOST_GUESSES + 1);
    say(`Not ${named(character)}. ${left} ${left > 1 ? "guesses" : "guess"} left.`);
    show();
  }

  // Reveals the character, counts it for all, and goes on to the next.
  function settle(expected, known, guesses) {
    const { characters, place, wrong, you, stages } = round;
    const right = characters[place];
    record(you, guesses, known.size - wrong.length, 1);
    const rows = expected.map((next, m) => {
      const at = next.findIndex(([one]) => one === right);
      const p = at < 0 ? 0 : next[at][1];
      record(stages[m], at < 0 ? Infinity : at + 1, known.size - MOST_GUESSES, p);
      const best = next.length ? `${visible(next[0][0])} ${percent(next[0][1])}` : "–";
      return [stages[m].name, best, percent(p), at < 0 ? "–" : at + 1];
    });
    const headings = ["model", "best guess", "p(right)", "guesses"];
    part("expected").replaceChildren(tableOf(`What the models expected before ${named(right)}`, headings, rows));
    round.took.push(guesses);
    round.place++;
    round.wrong = [];
    if (round.place < round.end) expect();
    const n = round.took.length;
    const found = guesses > MOST_GUESSES ? `It was ${named(right)}.` : `Right: ${named(right)}, at guess ${guesses}.`;
    const over = `The round is over: you have ${(you.bits / n).toFixed(2)} bits a character.`;
    say(round.place < round.end ? found : `${found} ${over}`);
    showScore(n);
    show();
  }

  function showScore(n) {
    const { you, stages } = round;
    const each = (bits) => (bits / n).toFixed(2).replace("Infinity", "∞");
    const row = ({ name, counts, bits, ownBits }) => [name, counts[0], each(bits), each(ownBits)];
    const rows = [[...row(you).slice(0, 3), "–"], ...stages.map(row)];
    const caption = `Score after ${n} ${n > 1 ? "characters" : "character"}`;
    const headings = ["who", "first try", "bits by guesses", "bits by p"];
    part("score").replaceChildren(tableOf(caption, headings, rows));
  }

  // Shows the text up to the place, with the characters that were guessed.
  function show() {
    const { characters, start, place, end, took, wrong } = round;
    const guessed = characters.slice(start, place).map((character, i) => {
      const span = element("span", { class: "guessed" }, character === "\n" ? "⏎\n" : character);
      span.style.setProperty("--shade", (took[i] - 1) / MOST_GUESSES);
      return span;
    });
    const caret = place < end ? [element("span", { class: "caret" }, "?")] : [];
    part("text").replaceChildren(characters.slice(0, start).join(""), ...guessed, ...caret);
    part("text").scrollTop = part("text").scrollHeight;
    const tried = wrong.length ? ` Not ${wrong.map(visible).join(" ")}` : "";
    part("place").textContent = place < end ? `Character ${place - start + 1} of ${end - start}.${tried}` : "";
  }

  part("begin").addEventListener("click", begin);
  part("space").addEventListener("click", () => guess(" "));
  part("line").addEventListener("click", () => guess("\n"));
  part("skip").addEventListener("click", () => guess(null));
  field.addEventListener("input", () => {
    const typed = [...field.value].at(-1);
    field.value = "";
    if (typed) guess(typed);
  });
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    guess("\n");
  });
}

// Starts "Which stage wrote this?".
function startWhich() {
  const part = (name) => document.getElementById(`which-${name}`);
  const say = (text) => (part("result").textContent = text);
  // The text begins after this character, which is not shown. A new line, if the models know it.
  const knowsLines = !data.passages.length || data.passages.some((text) => text.includes("\n"));
  const prompt = knowsLines ? "\n" : [...data.passages[0]][0];
  const score = { right: 0, played: 0 };
  const buttons = data.models.map(({ name }, m) => button(name, () => answer(m), { "aria-pressed": "false" }));
  part("answers").append(...buttons);
  let round = null;

  async function begin() {
    const own = (round = { author: pick([...data.models.keys()]), text: null, isOver: false });
    const seed = Math.floor(random() * 2 ** 32);
    part("begin").textContent = "Next text";
    part("game").hidden = false;
    part("text").textContent = "";
    part("losses").replaceChildren();
    for (const one of buttons) one.setAttribute("aria-pressed", "false");
    say("A model is writing …");
    const asked = { model: own.author, prompt, sampling: SAMPLING, seed, count: WRITTEN, off: [] };
    const written = await ask("write", asked);
    if (own !== round) return;
    if (written === null) return begin(); // It does not know the prompt: another model.
    own.text = [...written].slice(0, WRITTEN).join("");
    part("text").textContent = own.text;
    say("Which stage wrote this?");
  }

  async function answer(m) {
    const own = round;
    if (own.text === null || own.isOver) return;
    own.isOver = true;
    buttons[m].setAttribute("aria-pressed", "true");
    const isRight = m === own.author;
    score.played++;
    if (isRight) score.right++;
    const author = data.models[own.author].name;
    say(`${isRight ? "Right" : "No"}: it was ${author}. ${score.right} of ${score.played} right so far.`);
    const text = prompt + own.text;
    const losses = await Promise.all(data.models.map((_, model) => ask("score", { model, text, off: [] })));
    if (own !== round) return;
    const rows = losses.map(({ nats, bytes }, model) => {
      // A model that knows no character of the text reads no bytes.
      const value = bytes ? nats / Math.LN2 / bytes : 0;
      const name = model === own.author ? `${data.models[model].name}, who wrote it` : data.models[model].name;
      return { name, value, text: bytes ? value.toFixed(2) : "–", isNext: model === own.author };
    });
    part("losses").replaceChildren(barsOf("Loss of this text in bits a byte: low where a model expects it", rows));
  }

  part("begin").addEventListener("click", begin);
}

// Starts "Break it": the head that costs most.
function startBreak() {
  const part = (name) => document.getElementById(`break-${name}`);
  const say = (text) => (part("result").textContent = text);
  const chosen = () => Number(part("models").querySelector(":checked").value);
  const label = ({ layer, head }) => `${layer}.${head}`;
  let round = null;

  // Models that have a choice of heads.
  const playable = [...data.models.keys()].filter((m) => data.models[m].heads.length > 1);
  playable.forEach((m, i) => {
    const radio = element("input", { type: "radio", name: "break-model", value: m, ...(i ? {} : { checked: "" }) });
    part("models").append(element("label", {}, radio, element("span", {}, data.models[m].name)));
  });
  if (!playable.length) {
    part("none").hidden = false;
    part("begin").hidden = true;
    part("models").hidden = true;
  }

  function buttonOf(head) {
    const attributes = { "aria-label": `Layer ${head.layer}, head ${head.head}`, "aria-pressed": "false" };
    return button(label(head), (event) => answer(head, event.target), attributes);
  }

  // Begins a round. The worker computes while the player thinks.
  function begin(text) {
    const model = chosen();
    round = { model, text, isOver: false, costs: ask("costs", { model, text }) };
    part("begin").textContent = "Another passage";
    part("game").hidden = false;
    part("text").textContent = text;
    part("bars").replaceChildren();
    const { heads } = data.models[model];
    const rows = [...new Set(heads.map(({ layer }) => layer))].map((layer) => {
      const ofLayer = heads.filter((head) => head.layer === layer);
      return [element("span", {}, `Layer ${layer}`), ...ofLayer.map(buttonOf)];
    });
    part("heads").replaceChildren(...rows.map((row) => element("div", { class: "buttons" }, ...row)));
    say("Which head costs most?");
  }

  async function answer(guessed, pressed) {
    const own = round;
    if (own.isOver) return;
    own.isOver = true;
    pressed.setAttribute("aria-pressed", "true");
    say(`Switching off ${data.models[own.model].heads.length} heads, one at a time …`);
    const { loss, heads: costs } = await own.costs;
    if (own !== round) return;
    if (!Number.isFinite(loss)) return say("This model does not know the characters of this text.");
    const order = costs.slice().sort((a, b) => b.cost - a.cost);
    const rank = order.findIndex(({ name }) => name === guessed.name) + 1;
    const rows = order.map((one, i) => {
      const text = `${one.cost < 0 ? "−" : "+"}${Math.abs(one.cost).toFixed(3)}`;
      const name = i + 1 === rank ? `${label(one)}, your guess` : label(one);
      return { name, value: one.cost, text, isNext: i + 1 === rank };
    });
    const caption = `Nats a token that each head costs, over the loss of ${loss.toFixed(3)} with all heads`;
    part("bars").replaceChildren(barsOf(caption, rows));
    const verdict = rank === 1 ? "Right" : "No";
    const place = `Your guess ${label(guessed)} is number ${rank} of ${order.length}.`;
    say(`${verdict}: ${label(order[0])} costs most. ${place}`);
  }

  part("begin").addEventListener("click", () => begin([...pick(data.passages)].slice(0, BROKEN).join("")));
  part("models").addEventListener("change", () => round && begin(round.text));
}

// Starts the games. Two of them need held-out text.
function startGames() {
  if (data.passages.length) {
    startShannon();
    startBreak();
  }
  if (data.models.length > 1) startWhich();
}
