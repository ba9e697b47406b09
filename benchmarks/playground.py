"""Speed of the page with the models: `make bench-playground` writes playground.json.

playground.py writes the page of runs/ladder, and a headless Chromium opens it, a new window each
round, and uses its controls. Times are what a reader waits for: they end when the browser is about
to draw. All models of the page compute at the same time, in one worker.
"""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from absl import flags

import run_folder
from benchmarks import checks, commands, results
from runtime import errors
from runtime.errors import UserError
from tests import browser

ROUNDS = 5
# Tokens after the context of every model, when each token costs a whole window.
BEYOND = 60
PROMPT = "ROMEO:\n"

# Notes when the page is ready, and its longest task of more than 50 ms.
WATCH = """
window.longest = 0;
new PerformanceObserver((list) => {
  for (const { duration } of list.getEntries()) longest = Math.max(longest, duration);
}).observe({ type: "longtask", buffered: true });
new MutationObserver(() => {
  if (document.body?.dataset.ready) window.readyAt ??= performance.now();
}).observe(document, { subtree: true, attributes: true });
"""
# Presses Run; returns milliseconds until all models have written as many tokens as asked for.
WRITE = """async (counts) => {
  const made = data.models.map(() => 0);
  const hear = ({ data }) => { if (data.made) made[data.model] = data.made; };
  worker.addEventListener("message", hear);
  const began = performance.now();
  document.getElementById("run").click();
  const times = [];
  for (const count of counts) {
    while (Math.min(...made) < count) await new Promise(requestAnimationFrame);
    times.push(performance.now() - began);
  }
  worker.removeEventListener("message", hear);
  return times;
}"""
# Presses the switch of a head; returns milliseconds until loss and continuation have changed.
SWITCH = """async () => {
  const shown = ["#look-guesses caption", "#continuations pre"].map(
    (name) => [...document.querySelectorAll(name)].at(-1),
  );
  const texts = () => shown.map((one) => one.textContent);
  const before = texts();
  const began = performance.now();
  document.querySelector("#look-heads .switch").click();
  while (texts().some((text, i) => text === before[i])) await new Promise(requestAnimationFrame);
  return performance.now() - began;
}"""


def main() -> None:
    """Writes the page, measures it, writes the file and prints it."""
    flag = flags.FLAGS
    checks.check_output(flag.output)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, browser.launch() as chromium:
        path = Path(folder, "playground.html")
        words = [sys.executable, "playground.py", flag.folder, f"--output={path}"]
        made = subprocess.run(words, cwd=commands.ROOT, capture_output=True, text=True)
        if made.returncode:
            raise UserError(made.stderr.strip().removeprefix("error: "))
        rounds = [measure(chromium, path) for _ in range(ROUNDS)]
        result = {
            "machine": results.host(),
            "browser": chromium.version,
            "bytes": path.stat().st_size,
            "rounds": ROUNDS,
            **{name: statistics.median(one[name] for one in rounds) for name in rounds[0]},
        }
    run_folder.write_json(Path(flag.output), result)
    for name, value in result.items():
        print(f"{name}: {value}")


def measure(chromium: Any, path: Path) -> dict[str, float]:
    """Returns the times of one window of the page."""
    with browser.open_file(chromium, path, script=WATCH) as page:
        page.wait_for_selector("body[data-ready]")
        contexts = [model["context_length"] for model in page.evaluate("() => data.models")]
        # Every character of the prompt is a token, or less.
        within, beyond = min(contexts) - len(PROMPT), max(contexts)
        values = {"prompt": PROMPT, "temperature": "1", "count": str(beyond + BEYOND)}
        for name, value in values.items():
            page.fill(f"#{name}", value)
        first, window, full, end = page.evaluate(WRITE, [1, within, beyond, beyond + BEYOND])
        page.wait_for_selector("#continue-notes:has-text('Done.')")
        return {
            "seconds_until_ready": page.evaluate("() => readyAt") / 1e3,
            "ms_to_first_token": first,
            "tokens_per_second_within_context": 1e3 * within / window,
            "tokens_per_second_beyond_context": 1e3 * BEYOND / (end - full),
            "ms_of_switched_head": page.evaluate(SWITCH),
            "ms_of_longest_task": page.evaluate("() => longest"),
        }


if __name__ == "__main__":
    flags.DEFINE_string("folder", "runs/ladder", "Folder of the runs in the page.")
    flags.DEFINE_string("output", "benchmarks/playground.json", "File to write.")
    errors.run_command(main)
