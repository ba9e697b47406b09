"use strict";

for (const [name, spec] of Object.entries(data.figures)) draw(`chart-${name}`, spec);

function showPassage(passage) {
  const text = document.getElementById("passage-text");
  const panel = document.getElementById("passage-guesses");
  const characters = [...text.querySelectorAll(".c")];
  let current = 0;

  function row(model) {
    const token = model.at[current];
    const guesses = model.guesses[token].map((piece, place) => {
      const isRight = piece === model.pieces[token];
      const cell = element("td", isRight ? { class: "right" } : {});
      cell.append(`${visible(piece)} `, element("small", {}, percent(model.p_guesses[token][place])));
      return cell;
    });
    const p = element("td", { class: "number" }, percent(model.p[token]));
    const name = element("th", { scope: "row" }, model.name);
    // Its token is longer than the character that is shown.
    const piece = model.pieces[token];
    if (piece !== passage.pieces[current]) name.append(element("small", {}, ` token ${visible(piece)}`));
    return element("tr", {}, name, p, ...guesses);
  }

  function show(place) {
    characters[current].classList.remove("current");
    current = Math.min(Math.max(place, 0), characters.length - 1);
    characters[current].classList.add("current");
    const before = passage.pieces.slice(Math.max(0, current - 24), current).map(visible).join("");
    const caption = element("caption", {}, `After …${before} comes `, element("b", {}, visible(passage.pieces[current])));
    const width = Math.max(...passage.models.map((model) => model.guesses[0].length));
    const headings = ["model", "p(right)", "best guesses"].map((heading, column) =>
      element("th", { scope: "col", ...(column === 2 ? { colspan: width } : {}), ...(column === 1 ? { class: "number" } : {}) }, heading),
    );
    panel.replaceChildren(
      element("table", { class: "guesses" }, caption, element("thead", {}, element("tr", {}, ...headings)), element("tbody", {}, ...passage.models.map(row))),
    );
  }

  text.addEventListener("keydown", (event) => {
    const to = moved(event.key, characters, current);
    if (to === null) return;
    event.preventDefault();
    show(to);
    characters[current].scrollIntoView({ block: "nearest" });
  });
  text.addEventListener("pointerover", (event) => {
    const character = event.target.closest(".c");
    if (character) show(Number(character.dataset.i));
  });
  text.addEventListener("pointerdown", (event) => {
    const character = event.target.closest(".c");
    if (character) show(Number(character.dataset.i));
  });
  show(passage.known.findIndex((place) => place > 0 && place < passage.models.length));
}

if (data.sections.passage) showPassage(data.sections.passage);
