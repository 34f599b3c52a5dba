// The page: takes pictures, asks the worker for numbers, and shows them. All text that comes from
// outside (names of files, the model's phrases) is set as text, never as HTML.

import { COVERAGE, binEdges, numberText } from "./metadata.js";

const $ = (id) => document.getElementById(id);
const MOST_BINS = 12; // bars that are shown; of more bins, those of the most probable ones
const FORMULA = /^[=+\-@\t\r]/; // a spreadsheet would run such a cell
const results = []; // {name, file, prediction, reason}
const queue = [];
let metadata, shown, stream, busy = false, current, frameWaits = false;

// Started from a blob, a worker keeps the page's Content-Security-Policy; by its address it has
// only what the server sends, and a static host sends none.
const start = `import ${JSON.stringify(new URL("worker.js", import.meta.url).href)};`;
const worker = new Worker(
  URL.createObjectURL(new Blob([start], { type: "text/javascript" })), { type: "module" },
);

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

const percent = (share) => `${Math.round(share * 100)} %`;
const withUnit = (text) => (metadata.task.unit ? `${text} ${metadata.task.unit}` : text);
const ends = ({ interval }) => interval?.map((end) => numberText(metadata.task, end)).join(" to ");

// ---- one result

function showScale({ value, interval }) {
  const bins = binEdges(metadata.task), low = bins[0][0], width = bins.at(-1)[1] - low;
  const place = (number) => `${Math.min(Math.max((number - low) / width, 0), 1) * 100}%`;
  const marks = bins.slice(1, MOST_BINS).map(([edge]) => ["edge", edge]);
  if (interval) marks.unshift(["interval", ...interval]);
  marks.push(["value", value]);
  $("scale").replaceChildren(...marks.map(([kind, from, to]) => {
    const mark = element("i", undefined, kind);
    mark.style.left = place(from);
    if (to !== undefined) mark.style.width = `${((to - from) / width) * 100}%`;
    return mark;
  }));
}

function showBins({ bin, shares }) {
  const order = shares.map((_, k) => k).sort((a, b) => shares[b] - shares[a]);
  const kept = order.slice(0, MOST_BINS).sort((a, b) => a - b);
  $("bins").replaceChildren(...kept.map((k) => {
    const row = element("li", undefined, k === bin ? "best" : ""), bar = element("span", "", "bar");
    const length = element("i");
    length.style.width = `${shares[k] * 100}%`;
    bar.append(length);
    row.append(element("span", metadata.task.phrases[k]), bar, element("b", percent(shares[k])));
    return row;
  }));
}

function remarks({ value, bin, exact }, milliseconds) {
  const bins = binEdges(metadata.task), [low, high] = bins[bin];
  const said = [`Computed in ${Math.round(milliseconds)} ms.`];
  if ((value < low || value > high) && metadata.task.prediction !== "class") {
    said.push("The number weighs all bins, and so lies outside the most probable one.");
  }
  if (!exact) said.push("Transparent parts were read as black, so numclip-run may differ.");
  return said.join(" ");
}

function show({ name, file, prediction, reason, milliseconds }) {
  $("result").hidden = false;
  $("video").hidden = $("live").hidden = !stream;
  $("name").textContent = name;
  if ($("photo").src) URL.revokeObjectURL($("photo").src);
  $("photo").hidden = !file || !prediction;
  if (!$("photo").hidden) $("photo").src = URL.createObjectURL(file);
  $("number").classList.toggle("bad", !prediction);
  $("scale").hidden = $("bins").hidden = !prediction;
  $("interval").textContent = $("remarks").textContent = "";
  if (!prediction) {
    $("number").textContent = `${reason}.`;
    return;
  }
  const { task } = metadata;
  $("number").replaceChildren(numberText(task, prediction.value), " ", element("small", task.unit));
  if (prediction.interval) {
    $("interval").textContent = `${percent(COVERAGE)} interval ${withUnit(ends(prediction))}`;
  }
  showScale(prediction);
  showBins(prediction);
  $("remarks").textContent = remarks(prediction, milliseconds);
}

// ---- the table

function select(result) {
  shown = result;
  for (const row of $("rows").children) row.removeAttribute("aria-current");
  result.row.setAttribute("aria-current", "true");
  show(result);
}

function addRow(result) {
  const { name, prediction, reason } = result, row = element("tr"), first = element("td");
  const button = element("button", name);
  button.type = "button";
  button.addEventListener("click", () => select(result));
  first.append(button);
  row.append(first);
  if (prediction) {
    row.append(
      element("td", numberText(metadata.task, prediction.value)),
      element("td", ends(prediction) ?? "–"),
      element("td", metadata.task.phrases[prediction.bin]),
    );
  } else {
    const cell = element("td", `${reason}.`, "bad");
    cell.colSpan = 3;
    row.append(cell);
  }
  $("rows").append(row);
  $("all").hidden = false;
  result.row = row;
}

function table() {
  const { task } = metadata;
  const head = ["file", "value", "unit", "interval_low", "interval_high", "bin"];
  const lines = [[...head, ...task.phrases.map((phrase) => `p_${phrase}`), "error"]];
  for (const { name, prediction, reason } of results) {
    const numbers = prediction
      ? [prediction.value, task.unit, ...(prediction.interval ?? ["", ""]),
        task.phrases[prediction.bin], ...prediction.shares]
      : Array(5 + task.phrases.length).fill("");
    lines.push([name, ...numbers, reason ?? ""]);
  }
  return lines;
}

function delimited(separator) {
  const cell = (value) => {
    const text = typeof value === "string" && FORMULA.test(value) ? `'${value}` : String(value);
    return /["\r\n]/.test(text) || text.includes(separator) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return table().map((line) => `${line.map(cell).join(separator)}\r\n`).join("");
}

// ---- pictures one after the other

function next() {
  if (busy || !metadata) return;
  current = queue.shift(); // nothing for a frame of the camera
  if (current) {
    busy = true;
    current.file.arrayBuffer().then(
      (bytes) => worker.postMessage({ bytes }, [bytes]),
      () => answered({ reason: "the file cannot be read" }),
    );
  } else if (stream && frameWaits) {
    busy = true;
    frameWaits = false;
    createImageBitmap($("video")).then(
      (frame) => worker.postMessage({ frame }, [frame]), () => { busy = false; },
    );
  }
}

function answered({ prediction, reason, milliseconds }) {
  const job = current;
  busy = false;
  if (job) {
    const result = { ...job, prediction, milliseconds, reason };
    results.push(result);
    addRow(result);
    if (!stream && (queue.length === 0 || results.length === 1)) select(result);
    const answer = reason ?? withUnit(numberText(metadata.task, prediction.value));
    if (queue.length > 0) say(`${queue.length} pictures left.`);
    else say(`${job.name}: ${answer}.`, Boolean(reason));
  } else if (stream && prediction) {
    show({ name: "Camera", prediction, milliseconds });
  }
  next();
}

function add(files) {
  for (const file of files) queue.push({ name: file.name, file });
  next();
}

// ---- camera

async function startCamera() {
  try {
    if (!navigator.mediaDevices) throw new Error("a page needs https:// or localhost for it");
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    const why = { NotAllowedError: "it was not allowed", NotFoundError: "there is none" };
    say(`The camera cannot be used: ${why[error.name] ?? error.message}.`, true);
    return;
  }
  $("video").srcObject = stream;
  await $("video").play();
  $("camera").disabled = true;
  say("The camera is on.");
  const tick = () => {
    if (!stream) return;
    frameWaits = true;
    next();
    setTimeout(tick, 200);
  };
  tick();
}

function stopCamera() {
  if (!stream) return;
  for (const track of stream.getTracks()) track.stop();
  stream = undefined;
  $("video").srcObject = null;
  $("video").hidden = $("live").hidden = true;
  $("camera").disabled = false;
  if (shown) show(shown);
  else $("result").hidden = true;
  say("The camera is off.");
}

function keepFrame() {
  const canvas = element("canvas"), video = $("video");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  const name = `camera ${new Date().toLocaleTimeString()}.png`;
  canvas.toBlob((blob) => add([new File([blob], name, { type: "image/png" })]), "image/png");
}

// ---- the worker's answers

function ready({ metadata: facts, exact }) {
  metadata = facts;
  const { task, precision } = facts, bins = binEdges(task);
  const [low, high] = [bins[0][0], bins.at(-1)[1]].map((edge) => Number(edge.toPrecision(12)));
  document.title = $("title").textContent = task.name;
  $("range").textContent = `A number from ${withUnit(`${low} to ${high}`)} for each picture.`;
  $("unit").textContent = task.unit || "Number";
  $("coverage").textContent = `${percent(COVERAGE)} interval`;
  $("facts").textContent = `Model: ${precision}, ${task.phrases.length} bins, `
    + "run by onnxruntime-web (Microsoft, MIT licence) with WebAssembly.";
  $("progress").hidden = true;
  $("files").disabled = $("camera").disabled = false;
  if (exact) say("Ready.");
  else say("This browser changes pixels against tracking, so numbers of JPEGs will be off.", true);
  next();
}

worker.onmessage = ({ data }) => {
  if (data.kind === "ready") ready(data);
  else if (data.kind === "done") answered(data);
  else if (data.kind === "failed") {
    $("progress").hidden = true;
    say(`The model cannot be loaded: ${data.reason}.`, true);
  } else {
    const { loaded, total } = data, done = total > 0 && loaded >= total;
    $("progress").hidden = false;
    $("progress").max = total || 1;
    if (total) $("progress").value = loaded;
    const sizes = `${(loaded / 1e6).toFixed(0)}${total ? ` of ${(total / 1e6).toFixed(0)}` : ""} MB`;
    $("status").textContent = done ? "Starting the model …" : `Loading the model, ${sizes} …`;
  }
};
worker.onerror = () => {
  $("progress").hidden = true;
  say("The model cannot be loaded: a file of this page is missing, or the browser is too old.", true);
};

$("files").addEventListener("change", ({ target }) => {
  add(target.files);
  target.value = ""; // the same files can be chosen again
});
$("camera").addEventListener("click", startCamera);
$("stop").addEventListener("click", stopCamera);
$("shoot").addEventListener("click", keepFrame);
$("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(delimited("\t")).then(
    () => say("The table was copied."), () => say("The browser refuses to copy; download it.", true),
  );
});
$("save").addEventListener("click", () => {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob(["\ufeff", delimited(",")], { type: "text/csv" }));
  link.download = `${metadata.task.name}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
});
$("clear").addEventListener("click", () => {
  results.length = 0;
  shown = undefined;
  $("rows").replaceChildren();
  $("all").hidden = $("result").hidden = true;
  say("Ready.");
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
addEventListener("dragleave", () => document.body.classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  add(event.dataTransfer.files);
});
addEventListener("paste", ({ clipboardData }) => add(clipboardData.files));
document.addEventListener("visibilitychange", () => document.hidden && stopCamera());
addEventListener("pagehide", stopCamera);
say("Loading the model …");
