// An image, and what every model of the server says to it: TF Serving's own REST, as any client uses it.

const TOP = 5;
const RUNS = 5; // requests a model: a latency that is more than one reading
const byId = (id) => document.getElementById(id);
const cards = new Map(); // by the model's name

function element(kind, parent, text = '', name = '') {
  const made = parent.appendChild(document.createElement(kind));
  made.textContent = text;
  made.className = name;
  return made;
}

// Base64, as JSON carries bytes.
async function encoded(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = '';
  for (let i = 0; i < bytes.length; i += 0x8000) {
    text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  }
  return btoa(text);
}

async function ask(model, body) {
  const began = performance.now();
  const answer = await fetch(`v1/models/${encodeURIComponent(model)}:predict`, {method: 'POST', body});
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error.split('\n')[0]); // then come names of the graph's nodes
  return [found.predictions[0], performance.now() - began];
}

function row(parent, label, probability) {
  const line = element('li', parent);
  element('span', line, label).title = label;
  element('span', line, '', 'bar').style.width = `${100 * probability}%`;
  element('span', line, `${(100 * probability).toFixed(1)} %`);
}

async function show(model, body) {
  const card = cards.get(model);
  card.replaceChildren();
  element('h2', card, model);
  const times = [];
  try {
    let answer;
    for (let i = 0; i < RUNS; i++) {
      const [found, time] = await ask(model, body);
      answer = found;
      times.push(time);
    }
    times.sort((a, b) => a - b);
    if (answer.scores[0] < (answer.threshold ?? 0)) {
      element('p', card, 'None of these? The model is less sure than its threshold asks.', 'unsure');
    }
    const list = element('ol', card);
    answer.labels.slice(0, TOP).forEach((label, i) => row(list, label, answer.scores[i]));
    const [least, median] = [times[0], times[(RUNS - 1) / 2]].map((time) => time.toFixed(1));
    element('p', card, `${median} ms per request (median of ${RUNS}; minimum ${least} ms)`);
    card.dataset.answer = answer.labels[0]; // for who drives this page by a program
  } catch (error) {
    card.dataset.answer = '';
    element('p', card, error.message, 'wrong');
  }
}

let queue = Promise.resolve();

function send(blob) {
  byId('error').textContent = '';
  URL.revokeObjectURL(byId('image').src);
  byId('image').src = URL.createObjectURL(blob);
  byId('image').hidden = false;
  queue = queue.then(async () => {
    const instances = [{b64: await encoded(blob)}];
    const body = JSON.stringify({signature_name: 'serving_bytes', instances});
    for (const model of cards.keys()) await show(model, body); // alone, so that latencies compare
    document.body.dataset.done = 1 + Number(document.body.dataset.done ?? 0);
  }).catch(tell);
}

function tell(error) {
  byId('error').textContent = error.message;
}

function listen() {
  byId('file').addEventListener('change', (event) => event.target.files[0] && send(event.target.files[0]));
  document.addEventListener('dragover', (event) => {
    event.preventDefault();
    document.body.classList.add('dropping');
  });
  document.addEventListener('dragleave', () => document.body.classList.remove('dropping'));
  document.addEventListener('drop', (event) => {
    event.preventDefault();
    document.body.classList.remove('dropping');
    if (event.dataTransfer.files.length) send(event.dataTransfer.files[0]);
  });
  document.addEventListener('paste', (event) => {
    if (event.clipboardData.files.length) send(event.clipboardData.files[0]);
  });
}

async function start() {
  const {models} = await (await fetch('models.json')).json();
  for (const model of models) {
    const card = element('article', byId('models'));
    element('h2', card, model);
    element('p', card, 'waits for an image');
    cards.set(model, card);
  }
  listen();
  document.body.dataset.ready = 'yes';
}

start().catch(tell);
