// Resize, crop and normalisation, equal to numclip_runtime.preprocess bit for bit.
//
// A picture is {width, height, data}: data holds 4 bytes a pixel, R, G, B and one that is ignored.
// Source of the resize: Pillow 13, src/libImaging/Resample.c: two passes, each in fixed point with
// 22 bits after the point, each rounded to 8 bits.

const PRECISION_BITS = 32 - 8 - 2;
const HALF = 1 << (PRECISION_BITS - 1);
const MAX_RESIZED_PIXELS = 50_000_000; // as in numclip_runtime.preprocess
const SHARES = [0.125, 0.375, 0.625, 0.875]; // places along each side of a cell, as there

const FILTERS = {
  bilinear: { support: 1, weight: (x) => (Math.abs(x) < 1 ? 1 - Math.abs(x) : 0) },
  bicubic: {
    support: 2,
    weight(signed) {
      const a = -0.5, x = Math.abs(signed);
      if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
      return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
    },
  },
};

// Return, for each of `to` output pixels, its first input pixel, their number and their weights.
function coefficients(from, to, { support: reach, weight }) {
  const scale = from / to;
  const filterScale = Math.max(scale, 1); // wider than the filter itself: antialiased
  const support = reach * filterScale;
  const size = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(to), count = new Int32Array(to);
  const weights = new Int32Array(to * size);
  const row = new Float64Array(size), inverse = 1 / filterScale;
  for (let i = 0; i < to; i++) {
    const centre = (i + 0.5) * scale;
    const low = Math.max(Math.trunc(centre - support + 0.5), 0);
    const n = Math.min(Math.trunc(centre + support + 0.5), from) - low;
    let sum = 0;
    for (let k = 0; k < n; k++) sum += row[k] = weight((k + low - centre + 0.5) * inverse);
    for (let k = 0; k < n; k++) {
      const fixed = (sum === 0 ? row[k] : row[k] / sum) * (1 << PRECISION_BITS);
      weights[i * size + k] = Math.trunc(fixed + (fixed < 0 ? -0.5 : 0.5));
    }
    first[i] = low;
    count[i] = n;
  }
  return { first, count, weights, size };
}

function clip8(sum) {
  const level = sum >> PRECISION_BITS;
  return level < 0 ? 0 : level > 255 ? 255 : level;
}

function horizontal({ width, height, data }, to, filter) {
  const { first, count, weights, size } = coefficients(width, to, filter);
  const out = new Uint8Array(to * height * 4);
  for (let y = 0, target = 0; y < height; y++) {
    const line = y * width * 4;
    for (let x = 0; x < to; x++, target += 4) {
      let r = HALF, g = HALF, b = HALF;
      let source = line + first[x] * 4;
      const end = x * size + count[x];
      for (let k = x * size; k < end; k++, source += 4) {
        const weight = weights[k];
        r = (r + data[source] * weight) | 0;
        g = (g + data[source + 1] * weight) | 0;
        b = (b + data[source + 2] * weight) | 0;
      }
      out[target] = clip8(r);
      out[target + 1] = clip8(g);
      out[target + 2] = clip8(b);
    }
  }
  return { width: to, height, data: out };
}

function vertical({ width, height, data }, to, filter) {
  const { first, count, weights, size } = coefficients(height, to, filter);
  const stride = width * 4;
  const out = new Uint8Array(to * stride), sums = new Int32Array(stride);
  for (let y = 0; y < to; y++) {
    sums.fill(HALF);
    for (let k = 0; k < count[y]; k++) { // row by row: memory is read in its order
      const weight = weights[y * size + k], line = (first[y] + k) * stride;
      for (let x = 0; x < stride; x++) sums[x] += data[line + x] * weight;
    }
    for (let x = 0; x < stride; x++) out[y * stride + x] = clip8(sums[x]);
  }
  return { width, height: to, data: out };
}

export function resize(picture, width, height, interpolation) {
  const filter = FILTERS[interpolation];
  const passes = [];
  if (width !== picture.width) passes.push((p) => horizontal(p, width, filter));
  if (height !== picture.height) passes.push((p) => vertical(p, height, filter));
  const lost = picture.height - height;
  // Since Pillow 13; before, the horizontal pass came first
  if (lost > 0 && lost > (picture.width - width) * 2) passes.reverse();
  return passes.reduce((p, pass) => pass(p), picture);
}

function halfEven(number) { // Python's round()
  const floor = Math.floor(number);
  if (number - floor !== 0.5) return Math.round(number);
  return floor % 2 === 0 ? floor : floor + 1;
}

function firstPixel(cell, length, count, side, share) {
  const start = Math.floor(((cell + share) * length) / count - share * (side - 1));
  return Math.min(Math.max(start, 0), length - side);
}

// Return the sum of squared differences between neighbouring pixels of the green channel.
function detail({ width, data }, left, top, side) {
  let sum = 0;
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      const at = ((top + y) * width + left + x) * 4 + 1;
      if (x + 1 < side) sum += (data[at + 4] - data[at]) ** 2;
      if (y + 1 < side) sum += (data[at + width * 4] - data[at]) ** 2;
    }
  }
  return sum;
}

function mirrored(picture, side) { // an image smaller than a piece is continued
  const width = Math.max(picture.width, side), height = Math.max(picture.height, side);
  const data = new Uint8Array(width * height * 4);
  const fold = (i, length) => (i % (2 * length) < length ? i % length : length - 1 - (i % length));
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = (fold(y, picture.height) * picture.width + fold(x, picture.width)) * 4;
      data.set(picture.data.subarray(from, from + 4), (y * width + x) * 4);
    }
  }
  return { width, height, data };
}

// Return pieces of the picture at full resolution side by side, each the most detailed of its cell.
function mosaic(whole, spec) {
  const count = spec.fragments ?? 1, side = Math.floor(spec.crop / count);
  const picture = Math.min(whole.width, whole.height) < side ? mirrored(whole, side) : whole;
  const data = new Uint8Array(spec.crop * spec.crop * 4);
  for (let i = 0; i < count; i++) {
    for (let j = 0; j < count; j++) {
      let best = null;
      for (const down of SHARES) {
        for (const across of SHARES) {
          const top = firstPixel(i, picture.height, count, side, down);
          const left = firstPixel(j, picture.width, count, side, across);
          const found = detail(picture, left, top, side);
          if (best === null || found > best.found) best = { found, left, top };
        }
      }
      for (let y = 0; y < side; y++) {
        const from = ((best.top + y) * picture.width + best.left) * 4;
        const to = ((i * side + y) * spec.crop + j * side) * 4;
        data.set(picture.data.subarray(from, from + side * 4), to);
      }
    }
  }
  return { width: spec.crop, height: spec.crop, data };
}

// Return the network's square of pixels, from an upright picture and the model's preprocessing.
export function resizeAndCrop(picture, spec) {
  if (spec.resize_mode === "fragments") return mosaic(picture, spec);
  const { width: w, height: h } = picture;
  let width = spec.resize, height = spec.resize;
  if (spec.resize_mode === "shortest") {
    const scaled = Math.trunc((spec.resize * Math.max(w, h)) / Math.min(w, h));
    if (w <= h) height = scaled;
    else width = scaled;
    if (width * height > MAX_RESIZED_PIXELS) {
      throw new Error(`too long and narrow, it would become ${width} x ${height} before the crop`);
    }
  }
  const resized = resize(picture, width, height, spec.interpolation);
  if (width === spec.crop && height === spec.crop) return resized;
  const left = halfEven((width - spec.crop) / 2), top = halfEven((height - spec.crop) / 2);
  const data = new Uint8Array(spec.crop * spec.crop * 4);
  for (let y = 0; y < spec.crop; y++) {
    const start = ((top + y) * width + left) * 4;
    data.set(resized.data.subarray(start, start + spec.crop * 4), y * spec.crop * 4);
  }
  return { width: spec.crop, height: spec.crop, data };
}

// Return (3, H, W) float32: pixel * factor + shift, rounded after each step as numpy does.
export function normalise({ width, height, data }, { mean, std }) {
  const area = width * height, out = new Float32Array(3 * area);
  for (let c = 0; c < 3; c++) {
    const factor = Math.fround(1 / (255 * std[c])), shift = Math.fround(-mean[c] / std[c]);
    const levels = Float32Array.from({ length: 256 }, (_, v) => Math.fround(v * factor) + shift);
    for (let i = 0; i < area; i++) out[c * area + i] = levels[data[i * 4 + c]];
  }
  return out;
}

// Return (H, W, 3) uint8, for models that normalise by themselves.
export function packed({ width, height, data }) {
  const out = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) out[i * 3 + c] = data[i * 4 + c];
  }
  return out;
}
