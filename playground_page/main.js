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
  // What is switched off in each model, and the model and the head whose attention is shown.
  const switchedOff = data.models.map(() => new Set());
  const chosen = {};
  startCode();
  const section = startLook(chosen, switchedOff);
  const continued = startContinue(switchedOff, (text, name) => {
    section.look(text, `Written by ${name}, with the prompt.`);
    document.getElementById("look-title").scrollIntoView();
  });
  const onSwitch = (m) => {
    continued.rewrite(m);
    section.reread(m);
  };
  section.onCursor = startHeads(chosen, switchedOff, onSwitch, section.redraw).draw;
  let place = 0;
  const lookAtNext = () => {
    const { passages, prompt } = data;
    if (!passages.length) return section.look(prompt, "The prompt.");
    const passage = Array.from(passages[place++ % passages.length]).slice(0, LOOKED_AT).join("");
    return section.look(passage, "From text that the models were not trained on.");
  };
  document.getElementById("another-passage")?.addEventListener("click", lookAtNext);
  await loadModels();
  await lookAtNext();
  startGames();
  document.body.dataset.ready = true; // For tests and measurements.
}

main();
