// One .tflite file in the browser: pixels in, probabilities out, labels from its own metadata.
import {centre, draw} from './picture.js';

const TOP = 5;
const RUNS = 10; // after an answer is shown, to tell a latency that is more than one reading
const NO_LABELS = 'The file holds no labels; export it with xkd_keras.export.';
const byId = (id) => document.getElementById(id);
const drawing = byId('drawing');
const seen = byId('seen');
const brush = drawing.getContext('2d', {willReadFrequently: true});
let litert;
let model;
let labels;
let threshold; // of probability, below which the image may be of none of the labels
let side; // {height, width} of what the network takes
let cropRatio; // share of the sides that the network saw when it was evaluated

// A file with metadata ends in a ZIP archive, stored without compression: its files by name.
function packed(buffer) {
  const view = new DataView(buffer);
  let end = buffer.byteLength - 22;
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end--;
  if (end < 0) throw new Error(NO_LABELS);
  const count = view.getUint16(end + 10, true);
  const directory = view.getUint32(end + 12, true);
  // Offsets count from where the archive begins, or from the start of the file: take what fits.
  let at = end - directory;
  const shift = at - view.getUint32(end + 16, true);
  const text = (start, length) => new TextDecoder().decode(new Uint8Array(buffer, start, length));
  const files = {};
  for (let i = 0; i < count; i++) {
    const size = view.getUint32(at + 20, true);
    const [name, extra, comment] = [28, 30, 32].map((offset) => view.getUint16(at + offset, true));
    const local = view.getUint32(at + 42, true) + shift;
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    files[text(at + 46, name)] = text(start, size);
    at += 46 + name + extra + comment;
  }
  if (!('labels.txt' in files)) throw new Error(NO_LABELS);
  return files;
}

function pixels() {
  const rgb = centre(drawing, side, cropRatio);
  seen.width = side.width;
  seen.height = side.height;
  const shown = new ImageData(side.width, side.height);
  for (let i = 0; i < rgb.length / 3; i++) {
    shown.data.set([...rgb.subarray(3 * i, 3 * i + 3), 255], 4 * i);
  }
  seen.getContext('2d').putImageData(shown, 0, 0);
  return rgb;
}

async function run(rgb) {
  const input = new litert.Tensor(rgb, [1, side.height, side.width, 3]);
  const outputs = await model.run(input);
  const answer = await outputs[0].moveTo('wasm');
  const probabilities = Array.from(answer.toTypedArray());
  answer.delete(); // LiteRT.js leaves memory to us; moveTo has taken the output
  input.delete();
  return probabilities;
}

async function classify() {
  const rgb = pixels();
  const probabilities = await run(rgb);
  const best = probabilities.map((p, i) => [p, labels[i]]).sort((a, b) => b[0] - a[0]);
  byId('answers').replaceChildren(...best.slice(0, TOP).map(row));
  byId('unsure').hidden = best[0][0] >= threshold;
  await new Promise((shown) => setTimeout(shown, 50)); // so that the browser draws it before the page is busy again
  const times = [];
  for (let i = 0; i < RUNS; i++) {
    const began = performance.now();
    await run(rgb);
    times.push(performance.now() - began);
  }
  times.sort((a, b) => a - b);
  const [least, median] = [times[0], times[RUNS / 2]].map((time) => time.toFixed(2));
  byId('facts').textContent = `${median} ms an image (median of ${RUNS}; at best ${least} ms), `
    + `${labels.length} classes, ${side.width} × ${side.height} pixels`;
  document.body.dataset.answer = best[0][1]; // for who drives this page by a program
}

function row([probability, label]) {
  const line = document.createElement('li');
  const cells = ['span', 'span', 'span'].map((kind) => line.appendChild(document.createElement(kind)));
  cells[0].textContent = cells[0].title = label;
  cells[1].className = 'bar';
  cells[1].style.width = `${100 * probability}%`;
  cells[2].textContent = `${(100 * probability).toFixed(1)} %`;
  return line;
}

let queue = Promise.resolve();
const update = () => {
  queue = queue.then(classify).catch(tell);
};

function tell(error) {
  forget();
  byId('error').textContent = error.message ?? String(error);
}

async function show(blob) {
  byId('error').textContent = '';
  try {
    await draw(blob, drawing);
    update();
  } catch (error) {
    tell(error);
  }
}

function clear() {
  [drawing.width, drawing.height] = [280, 280];
  brush.fillStyle = '#000';
  brush.fillRect(0, 0, 280, 280);
  forget();
}

// Leaves no answer of the picture before beside another one.
function forget() {
  byId('answers').replaceChildren();
  byId('unsure').hidden = true;
  byId('facts').textContent = '';
}

// Where an event is, in pixels of the canvas, and how many of them a pixel of the page has. The
// canvas keeps its proportions within its frame (object-fit: contain).
function place(event) {
  const scale = Math.max(drawing.width / drawing.clientWidth, drawing.height / drawing.clientHeight);
  const x = (event.offsetX - drawing.clientWidth / 2) * scale + drawing.width / 2;
  const y = (event.offsetY - drawing.clientHeight / 2) * scale + drawing.height / 2;
  return [x, y, scale];
}

function listen() {
  let last; // where the pen was, in pixels of the canvas; none while it is up
  const stroke = (event) => {
    const [x, y, scale] = place(event);
    brush.strokeStyle = '#fff';
    brush.lineWidth = 26 * scale;
    brush.lineCap = 'round';
    brush.beginPath();
    brush.moveTo(...(last ?? [x, y]));
    brush.lineTo(x, y);
    brush.stroke();
    last = [x, y];
  };
  drawing.addEventListener('pointerdown', (event) => {
    drawing.setPointerCapture(event.pointerId); // so that it is heard when it is lifted elsewhere
    stroke(event);
  });
  drawing.addEventListener('pointermove', (event) => {
    if (last) stroke(event);
  });
  for (const end of ['pointerup', 'pointercancel']) {
    drawing.addEventListener(end, () => {
      if (!last) return;
      last = undefined;
      update();
    });
  }
  byId('clear').addEventListener('click', clear);
  byId('invert').addEventListener('click', () => {
    brush.globalCompositeOperation = 'difference';
    brush.fillStyle = '#fff';
    brush.fillRect(0, 0, drawing.width, drawing.height);
    brush.globalCompositeOperation = 'source-over';
    update();
  });
  byId('file').addEventListener('change', (event) => {
    show(event.target.files[0]);
    event.target.value = ''; // so that the same file may be chosen again
  });
  document.addEventListener('dragover', (event) => {
    event.preventDefault();
    document.body.classList.add('dropping');
  });
  document.addEventListener('dragleave', () => document.body.classList.remove('dropping'));
  document.addEventListener('drop', (event) => {
    event.preventDefault();
    document.body.classList.remove('dropping');
    if (event.dataTransfer.files.length) show(event.dataTransfer.files[0]);
  });
  document.addEventListener('paste', (event) => {
    if (event.clipboardData.files.length) show(event.clipboardData.files[0]);
  });
}

async function start() {
  const answer = await fetch('model.tflite', {cache: 'no-cache'}); // asks whether it is still the same
  if (!answer.ok) throw new Error('There is no model.tflite beside this page.');
  // Another server than ours knows the file by this name alone.
  const [, name] = /filename\*=UTF-8''(\S+)/.exec(answer.headers.get('Content-Disposition')) ?? [, 'model.tflite'];
  byId('model').textContent = decodeURIComponent(name);
  const file = await answer.arrayBuffer();
  const files = packed(file);
  labels = files['labels.txt'].split('\n').slice(0, -1);
  threshold = Number(files['threshold.txt'] ?? 0);
  cropRatio = Number(new URLSearchParams(location.search).get('crop_ratio') ?? files['crop_ratio.txt'] ?? 1);
  if (!(cropRatio > 0 && cropRatio <= 1)) throw new Error('crop_ratio: valid: above 0, up to 1.');
  litert = await import('@litertjs/core').catch(() => {
    throw new Error('LiteRT.js is not beside this page, in node_modules/@litertjs.');
  });
  await litert.loadLiteRt('./node_modules/@litertjs/core/wasm/');
  model = await litert.loadAndCompile(new Uint8Array(file), {accelerator: 'wasm'});
  const [, height, width] = model.getInputDetails()[0].shape;
  side = {height, width};
  clear();
  listen();
  byId('facts').textContent = `Ready: ${labels.length} classes, ${width} × ${height} pixels.`;
  document.body.dataset.ready = 'yes';
}

start().catch(tell);
