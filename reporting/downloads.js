"use strict";

// Saves what the page holds as files: charts as PNG and SVG, rows as CSV. None of it needs a network.

function save(name, suffix, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${name.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "")}.${suffix}`;
  link.click();
  // The browser has to begin to read it before.
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const picture = {
  svg: async (view) => new Blob([await view.toSVG()], { type: "image/svg+xml" }),
  // Twice the pixels, for print.
  png: async (view) => {
    const canvas = await view.toCanvas(2);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  },
};

const views = new Map();

// Puts buttons below a chart, which save its newest view on white.
function offerPictures(chart, view) {
  const isNew = !views.has(chart);
  views.set(chart, view);
  if (!isNew) return;
  const buttons = document.createElement("p");
  buttons.className = "downloads";
  for (const suffix of Object.keys(picture)) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = suffix.toUpperCase();
    button.setAttribute("aria-label", `${button.textContent} of ${chart.dataset.name}`);
    button.addEventListener("click", async () => {
      const shown = views.get(chart);
      shown.background("white");
      save(chart.dataset.name, suffix, await picture[suffix](shown));
      shown.background("transparent");
    });
    buttons.append(button);
  }
  chart.after(buttons);
}

// Quotes as RFC 4180 says. A cell that a spreadsheet would take for a formula becomes a text.
function toCsv(rows, names) {
  const fields = [...new Set(rows.flatMap(Object.keys))];
  const cell = (value) => {
    if (typeof value === "string" && /^[=+\-@\t\r]/.test(value)) value = `'${value}`;
    const text = String(value ?? "");
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = rows.map((row) => fields.map((field) => cell(row[field])));
  return [fields.map((field) => cell(names[field] ?? field)), ...lines].map((line) => `${line.join(",")}\r\n`).join("");
}
