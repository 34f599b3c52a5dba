// The model's own facts: read from the ONNX file, and applied as numclip_runtime does.

const METADATA_PROPS = 14, KEY = 1, VALUE = 2; // field numbers of ONNX
const SCHEMA_VERSION = 1;
export const COVERAGE = 0.9; // of the interval that is shown

// Yield [number, start, end] of each protobuf field between two places.
function* fields(bytes, start, end) {
  let at = start;
  function varint() {
    let value = 0, factor = 1;
    for (;;) {
      if (at >= end) throw new Error("ends early");
      const byte = bytes[at++];
      value += (byte & 0x7f) * factor;
      if (byte < 0x80) return value;
      factor *= 128;
    }
  }
  while (at < end) {
    const tag = varint(), kind = tag % 8;
    if (kind === 0) {
      varint();
      continue;
    }
    const length = kind === 2 ? varint() : { 1: 8, 5: 4 }[kind];
    if (length === undefined || at + length > end) throw new Error("not an ONNX file");
    yield [Math.floor(tag / 8), at, at + length];
    at += length;
  }
}

// Return the metadata that numclip-export wrote into an ONNX file.
export function readMetadata(bytes) {
  const utf8 = new TextDecoder("utf-8", { fatal: true });
  for (const [number, start, end] of fields(bytes, 0, bytes.length)) {
    if (number !== METADATA_PROPS) continue;
    const entry = {};
    for (const [part, first, last] of fields(bytes, start, end)) {
      entry[part] = utf8.decode(bytes.subarray(first, last));
    }
    if (entry[KEY] !== "numclip") continue;
    const metadata = JSON.parse(entry[VALUE]);
    if (metadata.schema_version !== SCHEMA_VERSION) {
      throw new Error(`its metadata are of schema ${metadata.schema_version}, which is unknown here`);
    }
    return metadata;
  }
  throw new Error("it holds no metadata of numclip");
}

// Return the bins of a task as [low, high], label units.
export function binEdges({ bin_edges: edges, label_offset: offset = 0 }) {
  return edges.slice(1).map((high, k) => [edges[k] + offset, high + offset]);
}

const isOneNumber = ([low, high]) => Number.isInteger(low) && high - low === 1;

// Return the numbers that stand for the bins, see `Task.bin_values`; label units.
export function binValues(task) {
  const offset = task.label_offset ?? 0, edges = task.bin_edges;
  const bins = edges.slice(1).map((high, k) => [edges[k], high]); // without the offset
  const classes = bins.every(isOneNumber);
  return bins.map(([low, high], k) => {
    if (task.whole_numbers) {
      const closed = k === bins.length - 1 && !classes, end = high + offset;
      const first = Math.ceil(low + offset);
      const final = closed ? Math.floor(end) : Math.ceil(end) - 1;
      if (final >= first) return (first + final) / 2;
    }
    return (isOneNumber([low, high]) ? low : (low + high) / 2) + offset;
  });
}

// Return [low, high] of a prediction's interval, see `Calibration.intervals`; null: not calibrated.
export function interval({ task, calibration }, value, probabilities) {
  const place = calibration?.coverages.indexOf(COVERAGE) ?? -1;
  if (place < 0) return null;
  const edges = binEdges(task);
  const numbers = calibration.measured_from === "values"
    ? binValues(task)
    : edges.map(([low, high]) => (low + high) / 2);
  const spread = numbers.reduce((sum, c, k) => sum + probabilities[k] * (c - value) ** 2, 0);
  const half = calibration.factors[place] * Math.sqrt(spread + calibration.scale_floor ** 2);
  const low = edges[0][0], high = edges.at(-1)[1];
  return [value - half, value + half].map((end) => Math.min(Math.max(end, low), high));
}

// Return a number as text, with as many digits as the range can tell apart; see `Task.number`.
export function numberText({ bin_edges: edges }, value) {
  const size = Math.log10(edges.at(-1) - edges[0]), exponent = Math.floor(size);
  if (-exponent > 9 || exponent > 14) {
    const largest = Math.max(Math.abs(edges[0]), Math.abs(edges.at(-1)));
    return value.toExponential(Math.min(Math.floor(Math.log10(largest)) - exponent + 2, 100));
  }
  return value.toFixed(Math.max(3 - Math.round(size), 0));
}
