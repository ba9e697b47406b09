"use strict";
// The page's side of the worker that computes: questions, and what the models write meanwhile; and
// the buttons that ask.

const data = JSON.parse(document.getElementById("data").textContent);
const waiting = new Map();
let onWritten = () => {};

// Starts the worker from its text in the page.
function startWorker() {
  const text = document.getElementById("worker").textContent;
  return new Worker(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
}

const worker = startWorker();
worker.addEventListener("message", ({ data: message }) => {
  if (message.id === undefined) return onWritten(message);
  const { resolve, reject } = waiting.get(message.id);
  waiting.delete(message.id);
  if (message.error === undefined) resolve(message.answer);
  else reject(new Error(message.error));
});
// A worker that can't start answers nothing.
worker.addEventListener("error", ({ message }) => {
  for (const { reject } of waiting.values()) reject(new Error(message || "no worker starts"));
});

// Returns a promise of the worker's answer; worker.js has the actions.
function ask(action, args = {}) {
  const id = (ask.count = (ask.count ?? 0) + 1);
  worker.postMessage({ id, action, args });
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

// Returns a function that calls f at once, or after its running call with the latest arguments.
function latest(f) {
  let next = null;
  let isRunning = false;
  return async (...args) => {
    next = args;
    if (isRunning) return;
    isRunning = true;
    try {
      while (next) {
        const now = next;
        next = null;
        await f(...now);
      }
    } finally {
      isRunning = false;
    }
  };
}

// Returns a button with a text.
function button(text, onClick, attributes = {}) {
  const made = element("button", { type: "button", ...attributes }, text);
  made.addEventListener("click", onClick);
  return made;
}
