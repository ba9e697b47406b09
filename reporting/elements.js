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

// Returns the place that a key moves a cursor to among the characters of a text; null for other keys.
function moved(key, characters, current) {
  // The character of the next line in the same column, or the line's last.
  const vertical = (direction) => {
    const top = characters[current].offsetTop;
    const left = characters[current].offsetLeft;
    const ahead = direction > 0 ? characters.slice(current) : characters.slice(0, current).reverse();
    const line = ahead.find((one) => one.offsetTop !== top)?.offsetTop;
    if (line === undefined) return current;
    const near = characters.filter((one) => one.offsetTop === line);
    near.sort((a, b) => Math.abs(a.offsetLeft - left) - Math.abs(b.offsetLeft - left));
    return characters.indexOf(near[0]);
  };
  const moves = {
    ArrowRight: () => current + 1,
    ArrowLeft: () => current - 1,
    ArrowDown: () => vertical(1),
    ArrowUp: () => vertical(-1),
    Home: () => 0,
    End: () => characters.length - 1,
  };
  return moves[key]?.() ?? null;
}
