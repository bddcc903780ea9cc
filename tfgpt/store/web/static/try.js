// Sends a prompt to one or two models at once, and shows what they write while they write it.
"use strict";
const form = document.getElementById("try");
const token = document.querySelector("meta[name=csrf]").content;
const stop = document.getElementById("stop");
let running = null;

function settings() {
  const given = new FormData(form);
  const number = (name) => Number(given.get(name));
  const names = ["max_new_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "seed"];
  return { prompt: given.get("prompt"), ...Object.fromEntries(names.map((name) => [name, number(name)])) };
}

function show(pane, message) {
  const answer = pane.querySelector(".answer");
  if (message.reference) pane.querySelector("h2").textContent = message.reference;
  if (message.piece) answer.textContent += message.piece;
  if (message.error) pane.querySelector(".state").textContent = message.error;
  if (message.done && message.done.scores) {
    const scores = Object.entries(message.done.scores).sort((one, other) => other[1] - one[1]);
    answer.textContent = scores.map(([label, score]) => `${(100 * score).toFixed(1).padStart(5)} %  ${label}`).join("\n");
  }
  if (message.done) {
    const seconds = (performance.now() - pane.started) / 1000;
    const count = message.done.token_count === undefined ? "" : `${message.done.token_count} token${message.done.token_count === 1 ? "" : "s"}, ended by ${message.done.finish_reason}, `;
    pane.querySelector(".state").textContent = `${count}${seconds.toFixed(1)} s`;
  }
}

async function ask(pane, reference, asked, signal) {
  pane.hidden = false;
  pane.started = performance.now();
  pane.querySelector("h2").textContent = reference;
  pane.querySelector(".answer").textContent = "";
  pane.querySelector(".state").textContent = "The model is loaded, and then writes …";
  const headers = { "Content-Type": "application/json", "X-CSRF-Token": token };
  const response = await fetch("/try", { method: "POST", headers, body: JSON.stringify({ ...asked, reference }), signal });
  if (!response.ok) {
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const message = page.querySelector("[role=alert]");
    pane.querySelector(".state").textContent = message ? message.textContent : `The store answered ${response.status}.`;
    return;
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const lines = (rest + part.value).split("\n");
    rest = lines.pop();
    lines.forEach((line) => show(pane, JSON.parse(line)));
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const references = [form.elements.first.value.trim(), form.elements.second.value.trim()];
  const panes = [...document.querySelectorAll(".pane")];
  const asked = settings();
  running = new AbortController();
  form.querySelector("button[type=submit]").disabled = true;
  stop.disabled = false;
  panes.forEach((pane, number) => { pane.hidden = !references[number]; });
  await Promise.all(panes.map(async (pane, number) => {
    if (!references[number]) return;
    try {
      await ask(pane, references[number], asked, running.signal);
    } catch (error) {
      pane.querySelector(".state").textContent = error.name === "AbortError" ? "stopped" : `The connection broke: ${error.message}`;
    }
  }));
  form.querySelector("button[type=submit]").disabled = false;
  stop.disabled = true;
});

stop.addEventListener("click", () => running && running.abort());
