// A picture as the network saw it when it was evaluated: upright, on white, its centre, scaled.

const SIDE = 65500; // pixels of an image's side, and of the whole image: as the networks' own decoder
const PIXELS = 100000000;
const BACKGROUND = '#fff'; // transparent pixels are laid on it, as in training

// Draws a file on a canvas of its size. Browsers turn it as its EXIF says; colour profiles are left
// out, as in training.
export async function draw(blob, canvas) {
  const options = {imageOrientation: 'from-image', colorSpaceConversion: 'none'};
  const image = await createImageBitmap(blob, options).catch(() => {
    throw new Error('That is no image that this browser can read.');
  });
  const {width, height} = image;
  if (Math.max(width, height) > SIDE || width * height > PIXELS) {
    throw new Error(`The image has ${width} × ${height} pixels; valid: sides up to ${SIDE}, ${PIXELS} in all.`);
  }
  [canvas.width, canvas.height] = [width, height];
  const brush = canvas.getContext('2d', {willReadFrequently: true});
  brush.fillStyle = BACKGROUND;
  brush.fillRect(0, 0, width, height);
  brush.drawImage(image, 0, 0);
  image.close();
}

// The pixels of a canvas that the network sees, RGB 0..255: the shorter side is scaled to the
// network's, divided by cropRatio, and the centre is cut out. Browsers scale by filters of their own,
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
