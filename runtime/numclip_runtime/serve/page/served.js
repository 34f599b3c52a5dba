// The server's own page: sends pictures, one after the other, and shows the numbers.

import { $, add, results, say, select, showTask, takeFiles } from "./view.js";

const queue = [];
let task, token, busy = false;

const later = (seconds) => new Promise((resolve) => { setTimeout(resolve, 1000 * seconds); });

// Ask the server; a busy one is asked again when it says so.
async function ask(path, options = {}) {
  for (;;) {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const response = await fetch(path, { ...options, headers, cache: "no-store" });
    if (response.status !== 429 && response.status !== 503) return response;
    const seconds = Number(response.headers.get("retry-after")) || 1;
    say(`The server is busy; asking again in ${seconds} s …`);
    await later(seconds);
  }
}

async function reasonOf(response) {
  const found = await response.json().catch(() => ({}));
  return (found.error ?? `the server answers ${response.status}`).replace(/\.$/, "");
}

// ---- pictures

async function predicted({ name, file }) {
  const form = new FormData();
  form.append("images", file, name);
  const response = await ask("predict", { method: "POST", body: form });
  if (!response.ok) return { reason: await reasonOf(response) };
  const [record] = await response.json();
  if (record.error !== undefined) {
    const reason = record.error.replace(/\.$/, "");
    return { reason: reason.startsWith(`${name}: `) ? reason.slice(name.length + 2) : reason };
  }
  const shares = task.phrases.map((phrase) => record.bin_probs[phrase]);
  const { value, interval } = record, bin = task.phrases.indexOf(record.bin);
  return { prediction: { value, interval, bin, shares } };
}

async function next() {
  if (busy || !task) return;
  busy = true;
  while (queue.length > 0) {
    const job = queue.shift(), began = performance.now();
    const answer = await predicted(job).catch(() => ({ reason: "the server cannot be reached" }));
    const remarks = [`Answered in ${Math.round(performance.now() - began)} ms.`];
    const result = { ...job, ...answer, remarks }, said = add(result);
    if (queue.length === 0 || results.length === 1) select(result);
    if (queue.length > 0) say(`${queue.length} pictures left.`);
    else say(said, Boolean(answer.reason));
  }
  busy = false;
}

takeFiles((files) => {
  for (const file of files) queue.push({ name: file.name, file });
  next();
});

// ---- the model, and the token that the server may ask for

async function connect() {
  const response = await ask("model").catch(() => undefined);
  $("ask").hidden = response?.status !== 401;
  if (response?.ok) {
    const facts = await response.json();
    task = facts.task;
    showTask(task);
    $("facts").textContent = `Model: ${facts.file}, ${facts.precision}, ${task.phrases.length} bins, `
      + `SHA-256 ${facts.sha256.slice(0, 12)}, numclip ${facts.version}.`;
    $("files").disabled = false;
    say("Ready.");
    next();
  } else if (response?.status === 401) {
    say(token ? "This is not the server's token." : "Give the token first.", Boolean(token));
    $("token").focus();
  } else {
    say(`The server does not answer: ${response ? await reasonOf(response) : "no connection"}.`, true);
  }
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  connect();
});
say("Connecting …");
connect();
