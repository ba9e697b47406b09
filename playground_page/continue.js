"use strict";
// Section "Continue a text": all models continue the prompt, side by side.

// Starts the section. `switchedOff[m]` has the names of what is switched off in model m, and
// `look(text, source)` shows a text to the models. Returns `rewrite(m)`, which lets a model write its
// text again.
function startContinue(switchedOff, look) {
  const form = document.getElementById("continue");
  const notes = document.getElementById("continue-notes");
  const field = (name) => document.getElementById(name);
  const cards = data.models.map(makeCard);
  const changed = new Set();
  // Of the texts on the page: what they continue and how.
  let current = null;

  function makeCard(model, m) {
    const prompt = element("span", { class: "prompt" });
    const made = document.createTextNode("");
    const pre = element("pre", { tabindex: "0", role: "group", "aria-label": `Continuation by ${model.name}` }, prompt, made);
    const facts = [`${model.parameters.toLocaleString("en")} parameters, context ${model.context_length}`];
    if (model.loss !== null) facts.push(`val loss ${model.loss.toFixed(3)}`);
    const looking = button("Look at this text", () => look(current.prompt + card.text, model.name));
    looking.disabled = true;
    const off = element("p", { class: "when" });
    const card = { looking, off, prompt, made, text: "", numMade: 0, problem: "" };
    const heading = element("h3", {}, model.name);
    const article = element("article", {}, heading, element("p", { class: "when" }, facts.join(", ")), off, pre, looking);
    if (model.notes) heading.after(element("p", { class: "when" }, model.notes));
    document.getElementById("continuations").append(article);
    return card;
  }

  function show() {
    for (const m of changed) {
      const { made, text, looking } = cards[m];
      made.data = text;
      looking.disabled = !(current.prompt + text);
      const pre = made.parentNode;
      pre.scrollTop = pre.scrollHeight;
    }
    changed.clear();
  }

  onWritten = ({ model: m, written, isNew, made }) => {
    cards[m].numMade = made;
    cards[m].text = isNew ? written : cards[m].text + written;
    if (!changed.size) requestAnimationFrame(show);
    changed.add(m);
  };

  // Returns what the form asks for, or null if a field is wrong, which the browser says.
  function asked() {
    if (!form.reportValidity()) return null;
    const number = (name) => Number(field(name).value);
    const sampling = { temperature: number("temperature"), top_k: number("top_k"), top_p: number("top_p") };
    return { prompt: field("prompt").value, sampling, seed: number("seed") };
  }

  // Begins the texts of some models anew, with `count` tokens.
  async function begin(which, count) {
    tell("Writing.");
    const begun = which.map(async (m) => {
      const card = cards[m];
      card.count = count;
      card.prompt.textContent = current.prompt;
      const off = [...switchedOff[m]];
      card.off.textContent = off.length ? `${off.length} switched off` : "";
      const { unknown, isEmpty } = await ask("begin", { model: m, ...current, off, count });
      card.problem = unknown.length ? `${unknown.map(visible).join(" ")} left out, unknown to` : "";
      if (isEmpty) card.problem = "Nothing to continue for";
    });
    await Promise.all(begun);
    tell("Writing.");
    await ask("run");
    tell("Done.");
  }

  // Shows what goes on, after what is wrong with the prompt, once for all models that say the same.
  function tell(what) {
    const problems = new Map();
    cards.forEach(({ problem }, m) => {
      if (problem) problems.set(problem, [...(problems.get(problem) ?? []), data.models[m].name]);
    });
    notes.textContent = [...[...problems].map(([problem, names]) => `${problem} ${names.join(", ")}.`), what].join(" ");
  }

  // Stops all texts; those that are written again later get as long as they are now.
  async function stop() {
    await ask("stop");
    for (const card of cards) card.count = card.numMade;
  }

  function run(event) {
    event.preventDefault();
    const next = asked();
    if (!next) return;
    current = next;
    begin([...cards.keys()], Number(field("count").value));
  }

  // One more token of each text; of new ones if the form has changed.
  async function step() {
    const next = asked();
    if (!next) return;
    if (JSON.stringify(next) !== JSON.stringify(current)) {
      current = next;
      return begin([...cards.keys()], 1);
    }
    for (const card of cards) card.count++;
    await ask("advance", { which: [...cards.keys()], count: 1 });
    await ask("run");
  }

  form.addEventListener("submit", run);
  field("stop").addEventListener("click", stop);
  field("step").addEventListener("click", step);
  for (const name of ["temperature", "top_p"]) {
    const shown = form.querySelector(`output[for=${name}]`);
    field(name).addEventListener("input", () => (shown.textContent = Number(field(name).value).toFixed(2).replace(/\.?0+$/, "")));
  }
  return { rewrite: (m) => current && begin([m], cards[m].count) };
}
