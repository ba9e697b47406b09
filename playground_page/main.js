"use strict";
// Starts the page: hands the models to the worker, and connects the sections.

// The largest difference from JAX's log probabilities that rounding explains.
const TOLERANCE = 1e-3;

const BROWSERS = "It is written for Chrome 104, Firefox 104, Safari 16.4, and newer ones.";

// Shows above everything what is wrong with this page.
function complain(text) {
  const note = document.getElementById("failures");
  note.textContent = text;
  note.hidden = false;
}

// Hands the models to the worker. Says which of them it does not compute as JAX does.
async function loadModels() {
  const texts = document.querySelectorAll("script.model");
  const loaded = await Promise.all(
    data.models.map(({ heads }, m) => ask("load", { model: m, exported: texts[m].textContent, heads })),
  );
  const wrong = data.models.filter((_, m) => !(loaded[m].difference < TOLERANCE)).map(({ name }) => name);
  if (!wrong.length) return;
  complain(
    `This page does not compute the same probabilities as JAX for ${wrong.join(", ")}: ` +
      `its code or this browser differs. Use generate.py for ${wrong.length > 1 ? "them" : "it"}.`,
  );
}

async function main() {
  // What is switched off in each model, and the model and the head whose attention is shown.
  const switchedOff = data.models.map(() => new Set());
  const chosen = {};
  startCode();
  const section = startLook(chosen, switchedOff);
  const continued = startContinue(switchedOff, (text, name) => {
    section.look(text, `The end of what ${name} wrote, with the prompt.`);
    document.getElementById("look-title").scrollIntoView();
    document.getElementById("look-text").focus({ preventScroll: true });
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
    const readers = data.held_out_of || "the models";
    return section.look(passage, `From text that ${readers} had not in training.`);
  };
  document.getElementById("another-passage")?.addEventListener("click", lookAtNext);
  await loadModels();
  await lookAtNext();
  startGames();
  document.body.dataset.ready = true; // For tests and measurements.
}

main().catch((error) => complain(`This page does not work in this browser: ${error.message}. ${BROWSERS}`));
