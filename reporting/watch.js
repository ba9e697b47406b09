"use strict";

// Reloads the page when there is a newer version, and keeps its place and what was chosen.

const KEPT = "report";

function keep() {
  const form = document.getElementById("switches");
  const chosen = form && {
    loss: form.elements.loss.value,
    position: form.elements.position.value,
    log: form.elements.log.checked,
    hidden: [...form.querySelectorAll("[name=shown]:not(:checked)")].map((box) => box.value),
  };
  const state = { chosen, top: scrollY, height: document.documentElement.scrollHeight };
  sessionStorage.setItem(KEPT, JSON.stringify(state));
}

function restore() {
  const state = JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
  const form = document.getElementById("switches");
  sessionStorage.removeItem(KEPT);
  if (!state) return;
  if (form && state.chosen) {
    form.elements.loss.value = state.chosen.loss;
    form.elements.position.value = state.chosen.position;
    form.elements.log.checked = state.chosen.log;
    for (const box of form.querySelectorAll("[name=shown]")) {
      box.checked = !state.chosen.hidden.includes(box.value);
    }
    drawCurves();
  }
  // Charts have no height before they are drawn, and growing ones would move the page.
  document.documentElement.style.overflowAnchor = "none";
  document.body.style.minHeight = `${state.height}px`;
  scrollTo(0, state.top);
}

async function look() {
  try {
    const headers = { "If-None-Match": `"${document.body.dataset.version}"` };
    const answer = await fetch("/", { headers, cache: "no-store" });
    if (answer.status === 200) {
      keep();
      location.reload();
      return;
    }
  } catch {
    // The server has ended: the page stays as it is, and looks for a new one.
  }
  setTimeout(look, 2000);
}

history.scrollRestoration = "manual";
restore();
setTimeout(look, 2000);
