"use strict";

const switches = document.getElementById("switches");

function drawCurves() {
  const chosen = new FormData(switches);
  const shown = new Set(chosen.getAll("shown"));
  const scale = chosen.has("log") ? "log" : "linear";
  const spec = data.curves[`${chosen.get("loss")} ${chosen.get("position")} ${scale}`];
  const points = data.csv.curves.filter((point) => shown.has(point.series));
  draw("curves", { ...spec, datasets: { ...spec.datasets, points } });
}

function chooseScale() {
  switches.elements.log.checked = data.log[new FormData(switches).get("position")];
}

switches.addEventListener("change", (event) => {
  if (event.target.name === "position") chooseScale();
  drawCurves();
});

const slider = document.getElementById("checkpoint");
const steps = [...new Set(data.samples.flat().map((sample) => sample.step))].sort((a, b) => a - b);

function showSamples() {
  const step = steps[slider.value];
  const when = `${step.toLocaleString("en")} updates`;
  document.getElementById("when").textContent = when;
  slider.setAttribute("aria-valuetext", when);
  document.querySelectorAll(".samples article").forEach((article, run) => {
    // A run that ended earlier keeps showing its last sample.
    const sample = data.samples[run].findLast((candidate) => candidate.step <= step);
    for (const name of ["when", "prompt", "text"]) {
      article.querySelector(`.${name}`).textContent = (sample ?? data.no_sample)[name];
    }
  });
}

if (steps.length) {
  slider.max = steps.length - 1;
  slider.value = slider.max;
  slider.addEventListener("input", showSamples);
  showSamples();
}

chooseScale();
drawCurves();
draw("bits", data.bits);
if (data.staircase) draw("staircase", data.staircase);
data.sweeps.forEach((charts, sweep) => {
  charts.forEach((spec, place) => {
    draw(`sweep-${sweep}-${place}`, spec);
  });
});
