// The page: takes pictures, asks the worker for numbers, and shows them.

import { $, add, element, results, say, select, show, showLast, showTask, takeFiles } from "./view.js";

const queue = [];
let ready = false, stream, busy = false, current, frameWaits = false;

// Started from a blob, a worker keeps the page's Content-Security-Policy; by its address it has
// only what the server sends, and a static host sends none.
const start = `import ${JSON.stringify(new URL("worker.js", import.meta.url).href)};`;
const worker = new Worker(
  URL.createObjectURL(new Blob([start], { type: "text/javascript" })), { type: "module" },
);

// ---- pictures one after the other

function next() {
  if (busy || !ready) return;
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
  const job = current, remarks = [`Computed in ${Math.round(milliseconds)} ms.`];
  busy = false;
  if (prediction && !prediction.exact) {
    remarks.push("Transparent parts were read as black, so numclip-run may differ.");
  }
  if (job) {
    const result = { ...job, prediction, reason, remarks };
    const said = add(result);
    if (!stream && (queue.length === 0 || results.length === 1)) select(result);
    if (queue.length > 0) say(`${queue.length} pictures left.`);
    else say(said, Boolean(reason));
  } else if (stream && prediction) {
    show({ name: "Camera", prediction, remarks });
  }
  next();
}

function take(files) {
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
  $("video").hidden = $("live").hidden = false;
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
  showLast();
  say("The camera is off.");
}

function keepFrame() {
  const canvas = element("canvas"), video = $("video");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  const name = `camera ${new Date().toLocaleTimeString()}.png`;
  canvas.toBlob((blob) => take([new File([blob], name, { type: "image/png" })]), "image/png");
}

// ---- the worker's answers

function loaded({ metadata: { task, precision }, exact }) {
  ready = true;
  showTask(task);
  $("facts").textContent = `Model: ${precision}, ${task.phrases.length} bins, `
    + "run by onnxruntime-web (Microsoft, MIT licence) with WebAssembly.";
  $("progress").hidden = true;
  $("files").disabled = $("camera").disabled = false;
  if (exact) say("Ready.");
  else say("This browser changes pixels against tracking, so numbers of JPEGs will be off.", true);
  next();
}

worker.onmessage = ({ data }) => {
  if (data.kind === "ready") loaded(data);
  else if (data.kind === "done") answered(data);
  else if (data.kind === "failed") {
    $("progress").hidden = true;
    say(`The model cannot be loaded: ${data.reason}.`, true);
  } else {
    const { loaded: bytes, total } = data, done = total > 0 && bytes >= total;
    $("progress").hidden = false;
    $("progress").max = total || 1;
    if (total) $("progress").value = bytes;
    const sizes = `${(bytes / 1e6).toFixed(0)}${total ? ` of ${(total / 1e6).toFixed(0)}` : ""} MB`;
    $("status").textContent = done ? "Starting the model …" : `Loading the model, ${sizes} …`;
  }
};
worker.onerror = () => {
  $("progress").hidden = true;
  say("The model cannot be loaded: a file of this page is missing, or the browser is too old.", true);
};

takeFiles(take);
$("camera").addEventListener("click", startCamera);
$("stop").addEventListener("click", stopCamera);
$("shoot").addEventListener("click", keepFrame);
document.addEventListener("visibilitychange", () => document.hidden && stopCamera());
addEventListener("pagehide", stopCamera);
say("Loading the model …");
