"use strict";

// Weights of every head from one character of a text: section "Heads" of the page.
if (data.heads) {
  const text = document.getElementById("heads-text");
  const table = document.createElement("table");
  table.className = "strips";
  document.getElementById("heads-weights").replaceChildren(table);
  let run, characters, chosen;

  // Row t of a head: its weights on tokens 0 to t, a byte each.
  const row = (bytes, t) => bytes.subarray((t * (t + 1)) / 2, ((t + 1) * (t + 2)) / 2);
  const visible = (token) => token.replaceAll("\n", "↵").replaceAll(" ", "␣");

  function element(tag, className, content = "") {
    const made = document.createElement(tag);
    made.className = className;
    made.textContent = content;
    return made;
  }

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
      const named = (place) => (place === t ? "itself" : `${visible(run.tokens[place])} ${t - place} back`);
      most.textContent = order.map((place) => `${named(place)} ${share(place)}`).join(", ");
    }
  }

  function show(name) {
    const { tokens, weights } = data.heads[name];
    run = { tokens, heads: [] };
    characters = tokens.map((token, place) => {
      const made = element("button", "character", visible(token));
      made.type = "button";
      made.addEventListener("pointerenter", () => choose(place));
      made.addEventListener("focus", () => choose(place));
      return made;
    });
    text.replaceChildren(...characters);
    table.replaceChildren();
    weights.forEach((layer, l) => {
      layer.forEach((encoded, h) => {
        const bytes = Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0));
        const cells = tokens.map((token) => element("span", "weight", visible(token)));
        const most = element("div", "most");
        const strip = element("td", "strip");
        strip.append(...cells, most);
        const line = table.insertRow();
        const heading = element("th", "", `${l + 1}.${h + 1}`);
        heading.scope = "row";
        line.append(heading, strip);
        run.heads.push({ bytes, cells, most });
      });
    });
    choose(Math.min(chosen ?? tokens.length - 1, tokens.length - 1));
  }

  text.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const last = characters.length - 1;
    characters[Math.max(0, Math.min(last, chosen + step))].focus();
  });
  document.getElementById("heads-runs")?.addEventListener("change", (event) => show(event.target.value));
  show(Object.keys(data.heads).at(-1));
}
