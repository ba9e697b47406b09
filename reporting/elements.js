"use strict";

// A character as it is shown alone.
function visible(piece) {
  return piece.replaceAll("\n", "⏎").replaceAll(" ", "␣");
}

function percent(p) {
  return `${(100 * p).toFixed(p < 0.1 ? 1 : 0)} %`;
}

// Builds an element with children, texts as text nodes.
function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
