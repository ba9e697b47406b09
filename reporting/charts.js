"use strict";

// Draws charts from the data in the page.

const data = JSON.parse(document.getElementById("data").textContent);

const options = {
  actions: false,
  // Interprets expressions: the Content-Security-Policy forbids compiling them.
  ast: true,
  renderer: "svg",
  tooltip: { theme: "page" },
  config: {
    ...data.theme,
    // Vega measures text, so it needs the font's real name.
    font: getComputedStyle(document.body).fontFamily,
    // The width has it evaluated again in a window made narrower.
    axisYDiscrete: { labelLimit: { expr: "min(300, 0.42 * windowSize()[0] + 0 * width)" } },
  },
};

async function draw(id, spec) {
  const chart = document.getElementById(id);
  offerPictures(chart, (await vegaEmbed(chart, spec, options)).view);
}

for (const button of document.querySelectorAll("[data-csv]")) {
  const name = button.dataset.csv;
  button.addEventListener("click", () => {
    save(name, "csv", new Blob([toCsv(data.csv[name], data.fields)], { type: "text/csv" }));
  });
}
