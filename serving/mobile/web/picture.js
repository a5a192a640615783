// A picture as the network saw it when it was evaluated: upright, on white, its centre, scaled.

const SIDE = 65500; // pixels of an image's side, and of the whole image: as the networks' own decoder
const PIXELS = 100000000;
const ORIENTATION = 0x0112; // of EXIF
const BACKGROUND = '#fff'; // transparent pixels are laid on it, as in training

// What draws a stored image of width w and height h upright, by the orientation of EXIF.
const UPRIGHT = {
  2: (w, h) => [-1, 0, 0, 1, w, 0],
  3: (w, h) => [-1, 0, 0, -1, w, h],
  4: (w, h) => [1, 0, 0, -1, 0, h],
  5: (w, h) => [0, 1, 1, 0, 0, 0],
  6: (w, h) => [0, 1, -1, 0, h, 0],
  7: (w, h) => [0, -1, -1, 0, h, w],
  8: (w, h) => [0, -1, 1, 0, 0, w],
};

// Draws a file on a canvas of its size, upright. Browsers turn a picture as its EXIF says, but not
// all of them a WebP: that is done here. Colour profiles are left out, as in training.
export async function draw(blob, canvas) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const way = hideFromBrowser(bytes);
  refuseIfLarge(...sides(bytes)); // a browser that cannot decode it would not say why
  const decode = (options) => createImageBitmap(new Blob([bytes]), {colorSpaceConversion: 'none', ...options});
  const image = await decode({imageOrientation: 'from-image'})
    .catch(() => decode({})) // Safari before 17.2 does so, and does not know the name for it
    .catch(() => {
      throw new Error('That is no image that this browser can read.');
    });
  const {width, height} = image;
  refuseIfLarge(width, height);
  [canvas.width, canvas.height] = way >= 5 ? [height, width] : [width, height];
  const brush = canvas.getContext('2d', {willReadFrequently: true});
  brush.fillStyle = BACKGROUND;
  brush.fillRect(0, 0, canvas.width, canvas.height);
  brush.setTransform(...(UPRIGHT[way]?.(width, height) ?? [1, 0, 0, 1, 0, 0]));
  brush.drawImage(image, 0, 0);
  brush.resetTransform();
  image.close();
  // A canvas that is too large for a browser stays empty without a word, as in Safari on phones.
  if (brush.getImageData(0, 0, 1, 1).data[3] !== 255) {
    throw new Error(`The image has ${width} × ${height} pixels, too many for this browser.`);
  }
}

function refuseIfLarge(width, height) {
  if (Math.max(width, height) > SIDE || width * height > PIXELS) {
    throw new Error(`The image has ${width} × ${height} pixels; valid: sides up to ${SIDE}, ${PIXELS} in all.`);
  }
}

// Returns width and height as the header of a file has them; zeros of a format that is not known here.
function sides(bytes) {
  const view = new DataView(bytes.buffer);
  const name = (at) => String.fromCharCode(...bytes.subarray(at, at + 4));
  try {
    if (name(0) === '\x89PNG') return [view.getUint32(16), view.getUint32(20)];
    if (name(0) === 'GIF8') return [view.getUint16(6, true), view.getUint16(8, true)];
    if (name(0).startsWith('BM')) return [view.getInt32(18, true), Math.abs(view.getInt32(22, true))];
    if (name(12) === 'VP8X') return [24, 27].map((at) => 1 + view.getUint32(at - 1, true) / 256 | 0);
    if (name(0).startsWith('\xff\xd8')) return jpegSides(view);
  } catch {
    // It ends early: the decoder will say that it is no image.
  }
  return [0, 0];
}

// The same of a JPEG: they are in its frame, the first of the blocks C0 to CF but C4, C8 and CC.
function jpegSides(view) {
  for (let at = 2; view.getUint8(at) === 0xff; at += 2 + view.getUint16(at + 2)) {
    while (view.getUint8(at + 1) === 0xff) at++; // a block may begin with more than one
    const kind = view.getUint8(at + 1);
    if (kind === 0xc0 || (kind > 0xc0 && kind < 0xd0 && kind % 4)) return [view.getUint16(at + 7), view.getUint16(at + 5)];
  }
  return [0, 0];
}

// Returns the orientation of a WebP, and renames its EXIF so that no browser turns it as well.
function hideFromBrowser(bytes) {
  const view = new DataView(bytes.buffer);
  const name = (at) => String.fromCharCode(...bytes.subarray(at, at + 4));
  if (name(0) !== 'RIFF' || name(8) !== 'WEBP') return 1;
  for (let at = 12, size; at + 8 <= bytes.length; at += 8 + size + size % 2) {
    size = view.getUint32(at + 4, true);
    if (name(at) !== 'EXIF') continue;
    bytes.set([88, 88, 88, 88], at);
    try {
      return orientation(view, at + 8 + (name(at + 8) === 'Exif' ? 6 : 0));
    } catch {
      return 1; // it is damaged: the picture is used as it is
    }
  }
  return 1;
}

function orientation(view, start) {
  const little = view.getUint8(start) === 73; // "I"
  const directory = start + view.getUint32(start + 4, little);
  for (let i = 0; i < view.getUint16(directory, little); i++) {
    const entry = directory + 2 + 12 * i;
    if (view.getUint16(entry, little) === ORIENTATION) return view.getUint16(entry + 8, little);
  }
  return 1;
}

// The pixels of a canvas that the network sees, RGB 0..255: it is scaled until it covers the
// network's size, divided by cropRatio, and the centre is cut out. Browsers scale by filters of their own,
// so it is done here, by the filter of training: a triangle as wide as a pixel of the coarser image.
export function centre(canvas, side, cropRatio = 1) {
  const least = [side.width, side.height].map((length) => even(length / cropRatio));
  const factor = Math.max(least[0] / canvas.width, least[1] / canvas.height);
  const across = taps(canvas.width, factor, least[0], side.width);
  const down = taps(canvas.height, factor, least[1], side.height);
  const [left, right] = reach(across);
  const [top, bottom] = reach(down);
  const brush = canvas.getContext('2d', {willReadFrequently: true});
  const {data} = brush.getImageData(left, top, right - left, bottom - top);
  const row = (y) => across.map(({from, weights}) => [0, 1, 2].map((channel) => weights.reduce(
    (sum, weight, i) => sum + weight * data[4 * ((y - top) * (right - left) + from - left + i) + channel], 0)));
  const rows = new Map(); // scaled across, by their place: each is used a few times
  const rgb = new Float32Array(side.width * side.height * 3);
  down.forEach(({from, weights}, y) => {
    for (const old of rows.keys()) if (old < from) rows.delete(old);
    weights.forEach((weight, i) => {
      if (!rows.has(from + i)) rows.set(from + i, row(from + i));
      rows.get(from + i).flat().forEach((value, x) => rgb[y * side.width * 3 + x] += weight * value);
    });
  });
  return rgb.map((value) => Math.min(255, Math.max(0, even(value))));
}

// For each pixel of the result along one side: the pixels that it is made of, and their weights.
function taps(length, factor, least, count) {
  const scaled = Math.max(even(length * factor), least);
  const scale = scaled / length;
  const offset = Math.floor((scaled - count) / 2);
  const radius = Math.max(1 / scale, 1);
  return Array.from({length: count}, (_, i) => {
    const middle = (i + 0.5 + offset) / scale;
    const from = Math.max(0, Math.floor(middle - radius));
    const to = Math.min(length, Math.ceil(middle + radius));
    const raw = Array.from({length: to - from}, (_, j) => Math.max(0, 1 - Math.abs(from + j + 0.5 - middle) / radius));
    const sum = raw.reduce((a, b) => a + b);
    return {from, weights: raw.map((weight) => weight / sum)};
  });
}

function reach(of) {
  return [of[0].from, Math.max(...of.map(({from, weights}) => from + weights.length))];
}

// The nearest whole number; of two, the even one, as in training.
function even(value) {
  return Math.abs(value % 1) === 0.5 ? 2 * Math.round(value / 2) : Math.round(value);
}
