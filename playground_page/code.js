"use strict";
// Section "The code that runs": the worker's script, file by file.

// Fills the section; a file is put into the page when it is opened.
function startCode() {
  const [, ...parts] = document.getElementById("worker").textContent.split(/^\/\/ ==== (.*)\n/m);
  for (let i = 0; i < parts.length; i += 2) {
    const pre = element("pre", { tabindex: "0" });
    const details = element("details", {}, element("summary", {}, parts[i]), pre);
    details.addEventListener("toggle", () => (pre.textContent = details.open ? parts[i + 1].trim() : ""));
    document.getElementById("code").append(details);
  }
}
