// From the bytes of a file to upright 8-bit RGB, as numclip_runtime.images does it.
//
// PNG is decoded here, exactly. The browser decodes the rest, from a copy without colour profile
// and orientation: numclip-run ignores the first, and the second is applied here, to all formats.

import { decodePng, latin1 } from "./png.js";

const MAX_PIXELS = 1 << 27; // a picture and its turned copy take 1 GiB
const STRIP = 1 << 22; // pixels that pass through a canvas at a time: Safari's ends at 16 million
const FOREIGN = [
  [/^(II\*\0|MM\0\*|II\+\0|MM\0\+)/, "TIFF file"],
  [/^....ftyp(heic|heix|hevc|hevx|heim|heis|mif1|msf1)/s, "HEIC photo"],
  [/^(\xff\x4f\xff\x51|\0\0\0\x0cjP {2})/, "JPEG 2000 file"],
  [/^(\xff\x0a|\0\0\0\x0cJXL )/, "JPEG XL file"],
  [/^8BPS/, "Photoshop file"],
  [/^%PDF/, "PDF file"],
  [/^P[1-7]\s/, "PNM file"],
  [/^\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!DOCTYPE svg|<svg)/is, "SVG drawing"],
  [/^PK\x03\x04/, "ZIP archive"],
  [/^....ftyp/s, "video"],
];

// Return the orientation in EXIF as it stands there, or nothing if there is none.
export function exifOrientation(exif) {
  const start = latin1(exif.subarray(0, 6)) === "Exif\0\0" ? 6 : 0;
  const view = new DataView(exif.buffer, exif.byteOffset + start, exif.byteLength - start);
  try {
    const little = view.getUint16(0) === 0x4949;
    const place = view.getUint32(4, little), count = view.getUint16(place, little);
    for (let i = 0, at = place + 2; i < count; i++, at += 12) {
      if (view.getUint16(at, little) !== 0x0112) continue;
      const wide = view.getUint16(at + 2, little) === 4; // a long, in place of a short
      return wide ? view.getUint32(at + 8, little) : view.getUint16(at + 8, little);
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // damaged EXIF ends early
  }
}

function orientationOf({ exif, xmp }) {
  const found = exif && exifOrientation(exif);
  return found ?? Number(/tiff:Orientation(?:="|>)([0-9])/.exec(xmp ?? "")?.[1] ?? 1);
}

// Return the JPEG with nothing but what its pixels need, and where it tells its orientation.
function bareJpeg(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const kept = [bytes.subarray(0, 2)], found = {};
  let at = 2;
  while (at + 4 <= bytes.length) {
    if (bytes[at] !== 0xff) throw new Error("damaged");
    const marker = bytes[at + 1];
    if (marker === 0xff) { // a fill byte
      at += 1;
      continue;
    }
    const end = at + 2 + view.getUint16(at + 2), content = bytes.subarray(at + 4, end);
    if (marker === 0xda) break;
    const head = marker === 0xe1 ? latin1(content.subarray(0, 29)) : "";
    if (head.startsWith("Exif\0\0")) found.exif ??= content;
    else if (head === "http://ns.adobe.com/xap/1.0/\0") found.xmp ??= latin1(content);
    // Of the application's segments, JFIF and Adobe's tell how colours are stored
    const application = (marker & 0xf0) === 0xe0 && marker !== 0xe0 && marker !== 0xee;
    if (!application && marker !== 0xfe) kept.push(bytes.subarray(at, end));
    at = end;
  }
  const scans = bytes.subarray(at);
  for (let i = scans.length - 2; ; i--) {
    if (i < 0) throw new Error("cut short");
    if (scans[i] === 0xff && scans[i + 1] === 0xd9) break;
  }
  return { file: new Blob([...kept, scans]), ...found };
}

// Return the WebP without its flags for profile, EXIF and XMP, and where it tells its orientation.
function bareWebp(bytes) {
  const copy = bytes.slice(), view = new DataView(copy.buffer), found = {};
  for (let at = 12; at + 8 <= bytes.length;) {
    const type = latin1(bytes.subarray(at, at + 4)), size = view.getUint32(at + 4, true);
    const content = bytes.subarray(at + 8, at + 8 + size);
    if (type === "VP8X") copy[at + 8] &= ~0x2c;
    else if (type === "EXIF") found.exif ??= content;
    else if (type === "XMP ") found.xmp ??= latin1(content);
    at += 8 + size + (size & 1);
  }
  return { file: new Blob([copy]), ...found };
}

// Return the GIF with an opaque first picture: its transparent index has a colour like all others.
function opaqueGif(bytes) {
  const copy = bytes.slice(), table = copy[10] & 0x80 ? 3 << ((copy[10] & 7) + 1) : 0;
  for (let at = 13 + table; copy[at] === 0x21;) { // extensions before the first picture
    if (copy[at + 1] === 0xf9) copy[at + 3] &= ~1;
    for (at += 2; copy[at]; at += copy[at] + 1);
    at += 1;
  }
  return { file: new Blob([copy]) };
}

// Return the pixels of what a canvas can draw; `alpha` is the lowest alpha among them.
export function pixelsOf(image, width, height) {
  if (width * height > MAX_PIXELS) throw new Error(`too large, ${width} x ${height} pixels`);
  const rows = Math.min(height, Math.max(1, Math.floor(STRIP / width)));
  const canvas = new OffscreenCanvas(width, rows);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.globalCompositeOperation = "copy";
  const data = new Uint8Array(width * height * 4);
  for (let top = 0; top < height; top += rows) {
    context.drawImage(image, 0, -top);
    const left = Math.min(rows, height - top);
    data.set(context.getImageData(0, 0, width, left).data, top * width * 4);
  }
  let alpha = 255;
  for (let i = 3; i < data.length; i += 4) if (data[i] < alpha) alpha = data[i];
  return { width, height, data, alpha };
}

// Return the pixels as they were decoded: a canvas has multiplied colours by their alpha, and lost
// those under transparent parts. Nothing where the browser has no WebGL, or only for small pictures.
function pixelsWithAlpha(image) {
  const { width, height } = image;
  const gl = new OffscreenCanvas(1, 1).getContext("webgl");
  if (!gl || Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return undefined;
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, image);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  const texture = gl.getParameter(gl.TEXTURE_BINDING_2D);
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  const data = new Uint8Array(width * height * 4);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, data);
  const whole = gl.getError() === gl.NO_ERROR;
  gl.getExtension("WEBGL_lose_context")?.loseContext(); // a page may have 16
  return whole ? { width, height, data, alpha: 255 } : undefined;
}

async function decodedByBrowser(file) {
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  let image;
  try {
    // In one piece: Firefox looks for the kind of a file in the first part of a blob alone
    image = await createImageBitmap(new Blob([await file.arrayBuffer()]), options);
  } catch {
    throw new Error("damaged, or of a kind that this browser does not read");
  }
  try {
    const picture = pixelsOf(image, image.width, image.height);
    return picture.alpha === 255 ? picture : pixelsWithAlpha(image) ?? picture;
  } finally {
    image.close();
  }
}

// Turn a picture upright; orientations as in EXIF.
export function upright(picture, orientation) {
  if (!(orientation >= 2 && orientation <= 8)) return picture;
  const { width: w, height: h } = picture, last = w * h - 1;
  // Index of the first pixel in the output, and the steps to its right and lower neighbours
  const [start, right, down] = {
    2: [w - 1, -1, w], 3: [last, -1, -w], 4: [last - w + 1, 1, -w], 5: [0, w, 1],
    6: [last - w + 1, -w, 1], 7: [last, -w, -1], 8: [w - 1, w, -1],
  }[orientation];
  const [width, height] = orientation < 5 ? [w, h] : [h, w];
  const source = new Uint32Array(picture.data.buffer, picture.data.byteOffset, w * h);
  const out = new Uint32Array(w * h);
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0, at = start + y * down; x < width; x++, at += right) out[i++] = source[at];
  }
  return { ...picture, width, height, data: new Uint8Array(out.buffer) };
}

// Decode a file to an upright picture. `alpha` below 255: colours under transparent parts are lost.
export async function decode(bytes) {
  if (bytes.length === 0) throw new Error("the file is empty");
  const head = latin1(bytes.subarray(0, 512));
  if (head.startsWith("\x89PNG\r\n\x1a\n")) {
    const picture = await decodePng(bytes, MAX_PIXELS);
    return upright({ ...picture, alpha: 255 }, orientationOf(picture));
  }
  let bare;
  if (head.startsWith("\xff\xd8\xff")) bare = bareJpeg(bytes);
  else if (/^RIFF....WEBP/s.test(head)) bare = bareWebp(bytes);
  else if (/^GIF8[79]a/.test(head)) bare = opaqueGif(bytes);
  else if (/^(BM|....ftypavi[fs])/s.test(head)) bare = { file: new Blob([bytes]) };
  else {
    const kind = FOREIGN.find(([pattern]) => pattern.test(head))?.[1];
    throw new Error(kind ? `a ${kind}; save it as JPEG or PNG` : "not a picture");
  }
  return upright(await decodedByBrowser(bare.file), orientationOf(bare));
}

// Return whether a canvas gives back what was drawn: some browsers add noise, against tracking.
export async function canvasIsExact() {
  const drawn = new ImageData(64, 64);
  for (let i = 0; i < drawn.data.length; i++) drawn.data[i] = i % 4 === 3 ? 255 : (i * 7919) % 251;
  const { data } = pixelsOf(await createImageBitmap(drawn), 64, 64);
  return data.every((level, i) => level === drawn.data[i]);
}
