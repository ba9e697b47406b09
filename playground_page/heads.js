"use strict";
// The pictures of a model's heads, and the switches of its heads and MLPs.

// Starts the part. Calls `onSwitch(m)` when a switch of model m was pressed, and `onChoice()` when
// another head was chosen; `chosen` and `switchedOff` are those of look.js. Returns `draw`, which
// shows the heads at a character.
function startHeads(chosen, switchedOff, onSwitch, onChoice) {
  const container = document.getElementById("look-heads");
  const models = document.getElementById("look-models");
  const last = data.models.length - 1;
  let canvases = [];
  // What the pictures show: model and character, and the worker's name of the window.
  let drawn = null;
  let known = "";

  data.models.forEach((model, m) => {
    const radio = element("input", { type: "radio", name: "look-model", value: m, ...(m === last ? { checked: "" } : {}) });
    radio.addEventListener("change", () => choose(m));
    models.append(element("label", {}, radio, element("span", {}, model.name)));
  });

  // Returns a button that switches a head or an MLP.
  function switchOf(m, { name }, label, text) {
    const made = button(text, () => {
      const isOff = switchedOff[m].has(name);
      if (isOff) switchedOff[m].delete(name);
      else switchedOff[m].add(name);
      made.setAttribute("aria-pressed", isOff);
      onSwitch(m);
    });
    made.setAttribute("aria-pressed", !switchedOff[m].has(name));
    made.setAttribute("aria-label", label);
    return made;
  }

  function headOf(m, head) {
    const name = `layer ${head.layer}, head ${head.head}`;
    const canvas = element("canvas", { width: 1, height: 1 });
    canvases.push(canvas);
    const view = button(canvas, () => {
      for (const other of container.querySelectorAll(".view")) other.setAttribute("aria-pressed", other === view);
      chosen.head = head.name;
      onChoice();
    });
    view.className = "view";
    view.setAttribute("aria-label", `Attention of ${name}`);
    view.setAttribute("aria-pressed", chosen.head === head.name);
    const toggle = switchOf(m, head, `${head.layer}.${head.head}, ${name}, on`, `${head.layer}.${head.head}`);
    toggle.classList.add("switch");
    return element("div", { class: "head" }, view, toggle);
  }

  // Shows the heads and MLPs of a model.
  function choose(m) {
    const { heads, mlps } = data.models[m];
    chosen.model = m;
    chosen.head = heads[0]?.name;
    canvases = [];
    known = "";
    const layers = new Set([...heads, ...mlps].map(({ layer }) => layer));
    const parts = [...layers].map((layer) => {
      const ofLayer = (all) => all.filter((one) => one.layer === layer);
      const toggles = ofLayer(mlps).map((mlp) => {
        const toggle = switchOf(m, mlp, `MLP of layer ${layer}, on`, "MLP");
        toggle.classList.add("mlp");
        return toggle;
      });
      const title = element("h4", {}, `Layer ${layer}`);
      return element("div", { class: "layer" }, title, ...ofLayer(heads).map((head) => headOf(m, head)), ...toggles);
    });
    if (parts.length) parts.push(button(`All of ${data.models[m].name} on`, () => allOn(m)));
    else parts.push(element("p", {}, "This model has no heads and no MLPs."));
    container.replaceChildren(...parts);
    onChoice();
  }

  // Switches everything of a model on.
  function allOn(m) {
    for (const one of container.querySelectorAll("[aria-pressed=false]:not(.view)")) one.setAttribute("aria-pressed", true);
    switchedOff[m].clear();
    onSwitch(m);
  }

  // Draws the heads of model m in the window of the text that holds a character.
  async function draw(m, character) {
    if (!canvases.length) return;
    const { key, size, images } = await ask("thumbnails", { model: m, character, known });
    if (m !== chosen.model || !images.length) return;
    known = key;
    drawn = [m, character];
    const color = getComputedStyle(container).getPropertyValue("--accent").trim();
    const [red, green, blue] = [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));
    const rgb = (blue << 16) | (green << 8) | red; // Little-endian: the opacity comes last, in front.
    images.forEach((weights, i) => {
      const image = new ImageData(size, size);
      const pixels = new Uint32Array(image.data.buffer);
      weights.forEach((weight, j) => (pixels[j] = (Math.sqrt(weight / 255) * 255 << 24) | rgb));
      Object.assign(canvases[i], { width: size, height: size }).getContext("2d").putImageData(image, 0, 0);
    });
  }

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    known = "";
    if (drawn) draw(...drawn);
  });
  choose(last);
  return { draw };
}
