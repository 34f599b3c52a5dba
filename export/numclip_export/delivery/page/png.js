// PNG to 8-bit RGB, as Pillow and numclip_runtime.images.rgb read it.
//
// A browser's canvas multiplies colours by their alpha, which destroys what lies under transparent
// parts, and applies gamma and profiles. numclip-run does neither: alpha is left out. Only the
// unpacking (DecompressionStream) is the browser's.

const SIGNATURE = 8; // bytes
const LARGEST_TEXT = 1 << 16; // bytes of a text that may tell the orientation
const CHANNELS = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };
const DEPTHS = { 0: [1, 2, 4, 8, 16], 2: [8, 16], 3: [1, 2, 4, 8], 4: [8, 16], 6: [8, 16] };
// x and y of the first pixel, and the steps to the next: the 7 pictures of an interlaced one
const ADAM7 = [
  [0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2],
];

// Return bytes as text, a character each; the TextDecoder of that name is windows-1252.
export function latin1(bytes) {
  return Array.from(bytes, (code) => String.fromCharCode(code)).join("");
}

// Yield [type, content] of each chunk up to the end.
function* chunks(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = SIGNATURE; at + 12 <= bytes.length;) {
    const length = view.getUint32(at), type = latin1(bytes.subarray(at + 4, at + 8));
    if (type === "IEND") return;
    yield [type, bytes.subarray(at + 8, at + 8 + length)];
    at += 12 + length;
  }
}

// Unpack zlib data; never more than `most` bytes of it.
async function inflated(parts, most) {
  const packed = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  const reader = packed.getReader(), out = new Uint8Array(most);
  let size = 0;
  try {
    while (size < most) {
      const { done, value } = await reader.read();
      if (done) break;
      const fits = value.subarray(0, most - size);
      out.set(fits, size);
      size += fits.length;
    }
  } catch {
    if (size < most) throw new Error("damaged or cut short");
  }
  reader.cancel().catch(() => {});
  return out.subarray(0, size);
}

// Undo the filters of one picture's rows, in place; return its rows without their filter bytes.
function unfiltered(data, rows, rowBytes, pixelBytes) {
  for (let y = 0; y < rows; y++) {
    const line = y * (rowBytes + 1) + 1, above = line - rowBytes - 1, kind = data[line - 1];
    if (kind > 4) throw new Error("damaged");
    for (let x = 0; kind > 0 && x < rowBytes; x++) {
      const a = x < pixelBytes ? 0 : data[line + x - pixelBytes];
      const b = y === 0 ? 0 : data[above + x];
      if (kind === 1) data[line + x] += a;
      else if (kind === 2) data[line + x] += b;
      else if (kind === 3) data[line + x] += (a + b) >> 1;
      else {
        const c = x < pixelBytes || y === 0 ? 0 : data[above + x - pixelBytes];
        const pa = Math.abs(b - c), pb = Math.abs(a - c), pc = Math.abs(a + b - 2 * c);
        data[line + x] += pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
      }
    }
  }
  return (y) => data.subarray(y * (rowBytes + 1) + 1, (y + 1) * (rowBytes + 1));
}

// Return a function that puts pixel x of a row into four bytes of the output.
function pixelReader({ depth, colour }, palette) {
  const channels = CHANNELS[colour], white = (1 << depth) - 1;
  if (colour === 3 || (colour === 0 && depth < 8)) {
    const perByte = 8 / depth;
    return (row, x, out, at) => {
      const shift = (perByte - 1 - (x % perByte)) * depth;
      const level = (row[Math.floor(x / perByte)] >> shift) & white;
      for (let c = 0; c < 3; c++) {
        out[at + c] = colour === 3 ? palette[level * 3 + c] ?? 0 : (level * 255) / white;
      }
    };
  }
  if (depth === 16 && colour === 0) { // the only 16 bits that are scaled: of others the high byte
    return (row, x, out, at) => {
      const level = Math.round(((row[2 * x] << 8) | row[2 * x + 1]) * (255 / 65535));
      out[at] = out[at + 1] = out[at + 2] = level;
    };
  }
  const size = depth / 8, step = channels * size, next = channels > 2 ? size : 0;
  return (row, x, out, at) => {
    for (let c = 0; c < 3; c++) out[at + c] = row[x * step + c * next];
  };
}

// Return key and content of a text chunk, or nothing.
async function text(type, content) {
  const zero = content.indexOf(0), key = latin1(content.subarray(0, Math.max(zero, 0)));
  if (key !== "XML:com.adobe.xmp" && key !== "Raw profile type exif") return [];
  let rest = content.subarray(zero + 1), packed = type === "zTXt";
  if (type === "zTXt") rest = rest.subarray(1);
  if (type === "iTXt") {
    packed = rest[0] === 1;
    rest = rest.subarray(2);
    for (let i = 0; i < 2; i++) rest = rest.subarray(rest.indexOf(0) + 1); // language, translation
  }
  return [key, latin1(packed ? await inflated([rest], LARGEST_TEXT) : rest)];
}

// Decode a PNG; `exif` (bytes) and `xmp` (text) tell its orientation, if they are there.
export async function decodePng(bytes, mostPixels) {
  const data = [], found = {};
  let header, palette = new Uint8Array(0);
  for (const [type, content] of chunks(bytes)) {
    if (type === "IHDR" && content.length >= 13) {
      const view = new DataView(content.buffer, content.byteOffset);
      const [depth, colour, , , interlaced] = content.subarray(8);
      header = { width: view.getUint32(0), height: view.getUint32(4), depth, colour, interlaced };
    } else if (type === "PLTE") palette = content;
    else if (type === "IDAT") data.push(content);
    else if (type === "eXIf") found.exif ??= content;
    else if (/^([tz]TXt|iTXt)$/.test(type) && content.length <= LARGEST_TEXT) {
      const [key, value] = await text(type, content).catch(() => []);
      if (key === "XML:com.adobe.xmp") found.xmp ??= value;
      else if (key) found.raw ??= value;
    }
  }
  const { width, height, depth, colour, interlaced } = header ?? {};
  if (!DEPTHS[colour]?.includes(depth) || !width || !height) throw new Error("damaged");
  if (width * height > mostPixels) throw new Error(`too large, ${width} x ${height} pixels`);
  if (found.raw && !found.exif) { // ImageMagick: three lines, then hexadecimal digits
    const digits = found.raw.split("\n").slice(3).join("").match(/[0-9a-f]{2}/gi) ?? [];
    found.exif = Uint8Array.from(digits, (pair) => parseInt(pair, 16));
  }
  const bits = CHANNELS[colour] * depth, pixelBytes = Math.max(bits >> 3, 1);
  const passes = (interlaced ? ADAM7 : [[0, 0, 1, 1]])
    .map(([x0, y0, dx, dy]) => ({
      x0, y0, dx, dy,
      columns: Math.ceil((width - x0) / dx),
      rows: Math.ceil((height - y0) / dy),
    }))
    .filter(({ columns, rows }) => columns > 0 && rows > 0);
  for (const pass of passes) pass.rowBytes = Math.ceil((pass.columns * bits) / 8);
  const size = passes.reduce((sum, { rows, rowBytes }) => sum + rows * (rowBytes + 1), 0);
  const raw = await inflated(data, size);
  if (raw.length < size) throw new Error("cut short");
  const out = new Uint8Array(width * height * 4), read = pixelReader(header, palette);
  let at = 0;
  for (const { x0, y0, dx, dy, columns, rows, rowBytes } of passes) {
    const end = at + rows * (rowBytes + 1);
    const row = unfiltered(raw.subarray(at, end), rows, rowBytes, pixelBytes);
    at = end;
    for (let y = 0; y < rows; y++) {
      const line = row(y), start = ((y0 + y * dy) * width + x0) * 4;
      for (let x = 0; x < columns; x++) read(line, x, out, start + x * dx * 4);
    }
  }
  return { width, height, data: out, ...found };
}
