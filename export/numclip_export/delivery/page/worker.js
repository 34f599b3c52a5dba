// The model, beside the page: it loads the ONNX file, and answers each picture with a prediction.

import * as ort from "./ort/ort.wasm.bundle.min.js";
import { canvasIsExact, decode, pixelsOf } from "./decode.js";
import { interval, readMetadata } from "./metadata.js";
import { normalise, packed, resizeAndCrop } from "./resample.js";

ort.env.logLevel = "error";
// Threads share memory, which browsers allow only to pages with two more headers (COOP and COEP)
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;

// Fetch the model, and report how much of it has come.
async function download(url) {
  const response = await fetch(url, { cache: "no-cache" }); // asks whether it has changed
  if (!response.ok) throw new Error(`the server answers ${response.status} for ${url.pathname}`);
  const total = Number(response.headers.get("content-length")), parts = [];
  let loaded = 0;
  for (const reader = response.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    loaded += value.length;
    postMessage({ kind: "loading", loaded, total });
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function loadModel() {
  const file = await download(new URL("model.onnx", import.meta.url));
  const metadata = readMetadata(file);
  postMessage({ kind: "loading", loaded: file.length, total: file.length });
  const session = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
  return { metadata, session };
}

async function predict({ metadata, session }, picture) {
  const { preprocessing: spec } = metadata, square = resizeAndCrop(picture, spec);
  const side = spec.crop;
  const images = metadata.input === "uint8"
    ? new ort.Tensor("uint8", packed(square), [1, side, side, 3])
    : new ort.Tensor("float32", normalise(square, spec), [1, 3, side, side]);
  const { values, bin_probs: probabilities } = await session.run({ images });
  const value = values.data[0], shares = Array.from(probabilities.data);
  return {
    value,
    interval: interval(metadata, value, shares),
    bin: shares.indexOf(Math.max(...shares)),
    shares,
    exact: picture.alpha === 255,
  };
}

const model = loadModel();
model.then(
  async ({ metadata }) => postMessage({ kind: "ready", metadata, exact: await canvasIsExact() }),
  (error) => postMessage({ kind: "failed", reason: String(error.message ?? error) }),
);

// A picture comes as the bytes of its file, or as a frame of the camera.
self.onmessage = async ({ data: { bytes, frame } }) => {
  try {
    const started = performance.now();
    const picture = bytes
      ? await decode(new Uint8Array(bytes))
      : pixelsOf(frame, frame.width, frame.height);
    frame?.close();
    const prediction = await predict(await model, picture);
    postMessage({ kind: "done", prediction, milliseconds: performance.now() - started });
  } catch (error) {
    postMessage({ kind: "done", reason: String(error.message ?? error) });
  }
};
