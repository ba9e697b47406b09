"use strict";
// Starts the page: hands the models to the worker, and connects the sections.

// The largest difference between this page's nats of a token and JAX's that rounding explains.
const TOLERANCE = 1e-3;

// Hands the models to the worker. Says which of them it does not compute as JAX does.
async function loadModels() {
  const texts = document.querySelectorAll("script.model");
  const loaded = await Promise.all(
    data.models.map(({ heads }, m) => ask("load", { model: m, exported: texts[m].textContent, heads })),
  );
  const wrong = data.models.filter((_, m) => !(loaded[m].difference < TOLERANCE));
  if (!wrong.length) return;
  const note = document.getElementById("failures");
  const names = wrong.map(({ name }) => name).join(", ");
  note.textContent = `This page does not compute the same probabilities as JAX for ${names}: its code or this browser differs. Use generate.py for ${wrong.length > 1 ? "them" : "it"}.`;
  note.hidden = false;
}

async function main() {
  const switchedOff = data.models.map(() => new Set());
  const chosen = { model: data.models.length - 1, head: undefined };
  startCode();
  const section = startLook(chosen, switchedOff);
  const continued = startContinue(switchedOff, (text, source) => {
    document.getElementById("look-title").scrollIntoView({ behavior: "smooth" });
    return section.look(text, `Written by ${source}, with the prompt.`);
  });
  await loadModels();
  const onSwitch = (m) => {
    continued.rewrite(m);
    section.reread(m);
  };
  let draw = () => {};
  section.onCursor = (m, character) => draw(m, character);
  let isLooking = false;
  ({ draw } = startHeads(chosen, switchedOff, onSwitch, () => isLooking && section.redraw()));
  let place = 0;
  const showPassage = () => {
    const passage = data.passages[place++ % data.passages.length] ?? data.prompt;
    isLooking = true;
    return section.look(Array.from(passage).slice(0, LOOKED_AT).join(""), data.passages.length ? "From text that the models were not trained on." : "The prompt.");
  };
  document.getElementById("another-passage")?.addEventListener("click", showPassage);
  await showPassage();
  if (window.startGames) startGames();
  document.body.dataset.ready = "true";
}

main();
