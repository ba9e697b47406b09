"use strict";

// Shows the weights of every head from one character of a text: section "Heads" of the page.
function showHeads(runs) {
  const text = document.getElementById("heads-text");
  const table = element("table", { class: "strips" });
  document.getElementById("heads-weights").replaceChildren(table);
  let run, characters, chosen;

  // Row t of a head: its weights on tokens 0 to t, a byte each.
  const row = (bytes, t) => bytes.subarray((t * (t + 1)) / 2, ((t + 1) * (t + 2)) / 2);
  function choose(t) {
    chosen = t;
    characters.forEach((character, place) => {
      character.tabIndex = place === t ? 0 : -1;
      character.setAttribute("aria-pressed", place === t);
    });
    for (const { bytes, cells, most } of run.heads) {
      const weights = row(bytes, t);
      cells.forEach((cell, place) => {
        cell.style.setProperty("--shade", (weights[place] ?? 0) / 255);
        cell.classList.toggle("marked", place === t);
        cell.classList.toggle("later", place > t);
      });
      const order = [...weights.keys()].sort((a, b) => weights[b] - weights[a]).slice(0, 3);
      const share = (place) => (weights[place] / 255).toFixed(2);
      const named = (place) => (place === t ? "itself" : `${visible(run.pieces[place])} ${t - place} back`);
      most.textContent = order.map((place) => `${named(place)} ${share(place)}`).join(", ");
    }
  }

  function show(name) {
    const { pieces, weights } = runs[name];
    run = { pieces, heads: [] };
    characters = pieces.map((piece, place) => {
      const made = element("button", { type: "button", class: "character" }, visible(piece));
      made.addEventListener("pointerenter", () => choose(place));
      made.addEventListener("focus", () => choose(place));
      return made;
    });
    text.replaceChildren(...characters);
    table.replaceChildren();
    weights.forEach((layer, l) => {
      layer.forEach((encoded, h) => {
        const bytes = Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0));
        const cells = pieces.map((piece) => element("span", { class: "weight" }, visible(piece)));
        const most = element("div", { class: "most" });
        const strip = element("td", { class: "strip" }, ...cells, most);
        table.insertRow().append(element("th", { scope: "row" }, `${l + 1}.${h + 1}`), strip);
        run.heads.push({ bytes, cells, most });
      });
    });
    choose(Math.min(chosen ?? Infinity, pieces.length - 1));
  }

  text.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const last = characters.length - 1;
    characters[Math.max(0, Math.min(last, chosen + step))].focus();
  });
  const choice = document.getElementById("heads-runs");
  choice?.addEventListener("change", (event) => show(event.target.value));
  // One run has no choice. The order of keys is not that of the runs.
  show(choice?.querySelector(":checked").value ?? Object.keys(runs)[0]);
}

if (data.sections.heads) showHeads(data.sections.heads);
