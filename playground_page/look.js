"use strict";
// Section "Look at a character": what each model expects after it, and where a head looks from it.

// Characters of a text that is looked at, at most.
const LOOKED_AT = 200;

// Starts the section. `chosen` has the model and the head whose attention is shown, and
// `switchedOff[m]` the names of what is switched off in model m. Returns `look(text, source)`, which
// shows a text; `reread(m)` after a switch; `redraw()` after another choice; and `onCursor`, to set.
function startLook(chosen, switchedOff) {
  const text = document.getElementById("look-text");
  const place = document.getElementById("look-place");
  const cards = data.models.map(makeCard);
  // Nats per token compare models of one tokenizer.
  const areMixed = new Set(data.models.map((model) => model.tokenizer)).size > 1;
  const unit = areMixed ? "bits a byte" : "nats a token";
  const section = { onCursor: () => {} };
  let characters = [];
  let spans = [];
  let cursor = 0;

  function makeCard(model) {
    const loss = element("small", {});
    const bars = element("tbody", {});
    const remarks = element("small", {});
    const table = element("table", { class: "bars" }, element("caption", {}, model.name, loss, remarks), bars);
    document.getElementById("look-guesses").append(table);
    return { loss, remarks, bars, whole: NaN, unknown: [] };
  }

  // Shows the last characters of a text, and lets all models read them.
  async function look(shown, source) {
    characters = Array.from(shown).slice(-LOOKED_AT);
    spans = characters.map((character, i) => {
      const isSign = character === "\n" || character === " ";
      return element("span", { "data-i": i, ...(isSign ? { class: "sign" } : {}) }, visible(character));
    });
    text.replaceChildren(...spans.flatMap((span, i) => (characters[i] === "\n" ? [span, element("br", {})] : [span])));
    document.getElementById("look-source").textContent = source;
    cursor = Math.min(Math.floor(characters.length / 3), characters.length - 1);
    await Promise.all(cards.map((_, m) => read(m, true)));
    await move(cursor);
  }

  // Lets a model read the text; `isNew` if it has not read it with everything switched on.
  async function read(m, isNew) {
    const card = cards[m];
    const ofText = characters;
    const loss = async (off) => {
      const { total, mean, bytes, unknown } = await ask("read", { model: m, text: ofText.join(""), off });
      card.unknown = unknown;
      return areMixed ? total / Math.LN2 / bytes : mean;
    };
    if (isNew) card.whole = await loss([]);
    if (ofText !== characters) return; // Another text came meanwhile.
    const now = isNew && !switchedOff[m].size ? card.whole : await loss([...switchedOff[m]]);
    if (ofText !== characters) return;
    const change = now - card.whole;
    const more = switchedOff[m].size ? ` (${change < 0 ? "−" : "+"}${Math.abs(change).toFixed(3)})` : "";
    card.loss.textContent = Number.isFinite(now) ? `${now.toFixed(3)} ${unit}${more}` : "needs a longer text";
    if (!isNew) document.getElementById("look-loss").textContent = `${data.models[m].name}: ${card.loss.textContent}`;
  }

  // Shows the guesses of a model at the cursor.
  async function guess(m) {
    const { token, guesses, p } = await ask("guesses", { model: m, character: cursor });
    const rows = guesses.map(({ text: piece, p: share, isNext }) => {
      const bar = element("span", { class: "bar" });
      bar.style.width = `${100 * share}%`;
      const cells = [element("th", { scope: "row" }, visible(piece)), element("td", {}, bar), element("td", { class: "number" }, percent(share))];
      return element("tr", isNext ? { class: "is-next" } : {}, ...cells);
    });
    if (guesses.length && !guesses.some(({ isNext }) => isNext) && Number.isFinite(p)) {
      const cells = [element("th", { scope: "row" }, "the next"), element("td", {}), element("td", { class: "number" }, percent(p))];
      rows.push(element("tr", { class: "is-next" }, ...cells));
    }
    cards[m].bars.replaceChildren(...rows);
    // A token of several characters is read as a whole, wherever in it the cursor stands.
    const { unknown } = cards[m];
    const remarks = Array.from(token ?? "").length > 1 ? [`after the token ${visible(token)}`] : [];
    if (unknown.length) remarks.push(`without ${unknown.map(visible).join(" ")}`);
    cards[m].remarks.textContent = remarks.join(", ");
  }

  // Shades the text by the attention of the chosen head.
  async function shade() {
    const { model, head } = chosen;
    const weights = head ? await ask("attention", { model, head, character: cursor }) : [];
    spans.forEach((span, i) => span.style.setProperty("--shade", Math.sqrt(weights[i] ?? 0)));
    const order = [...weights.keys()].sort((a, b) => weights[b] - weights[a]).slice(0, 3);
    const named = (i) => (i === cursor ? "itself" : `${visible(characters[i])} ${cursor - i} back`);
    const most = order.map((i) => `${named(i)} ${weights[i].toFixed(2)}`).join(", ");
    document.getElementById("look-most").textContent = most && `The chosen head looks most at: ${most}.`;
  }

  const draw = latest(async () => {
    if (!spans.length) return;
    const { model } = chosen;
    await Promise.all([...cards.keys()].map(guess));
    await shade();
    await section.onCursor(model, cursor);
  });

  // Moves the cursor to a character.
  function move(to) {
    spans[cursor]?.classList.remove("current");
    cursor = Math.min(Math.max(to, 0), spans.length - 1);
    spans[cursor]?.classList.add("current");
    const before = characters.slice(Math.max(0, cursor - 20), cursor + 1).map(visible).join("");
    const next = cursor + 1 < characters.length ? `comes ${visible(characters[cursor + 1])}` : "the text ends";
    place.textContent = `After …${before} ${next}.`;
    const values = { valuemax: spans.length - 1, valuenow: cursor, valuetext: place.textContent };
    for (const [name, value] of Object.entries(values)) text.setAttribute(`aria-${name}`, value);
    return draw();
  }

  // Reads the text again after a switch of a model.
  async function reread(m) {
    await read(m, false);
    await draw();
  }

  text.addEventListener("keydown", (event) => {
    const to = spans.length ? moved(event.key, spans, cursor) : null;
    if (to === null) return;
    event.preventDefault();
    move(to);
    spans[cursor].scrollIntoView({ block: "nearest" });
  });
  // Where the mouse was: text that is scrolled under one at rest moves no cursor.
  let mouse = "";
  for (const kind of ["pointermove", "pointerdown"]) {
    text.addEventListener(kind, (event) => {
      const { i } = event.target.dataset;
      const before = mouse;
      mouse = `${event.screenX} ${event.screenY}`;
      if (i === undefined || Number(i) === cursor) return;
      if (kind === "pointerdown" || mouse !== before) move(Number(i));
    });
  }
  return Object.assign(section, { look, reread, redraw: draw });
}
