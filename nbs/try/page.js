// The page `try`: choose an image or drop one, and see what a reader makes of it. Nothing is sent anywhere.
import { openReader } from './reader.js';

const MOST_BYTES = 5e6, MOST_PIXELS = 2e7;
const $ = (id) => document.getElementById(`try-${id}`);
const say = (text) => { $('answer').textContent = text; };
const readers = {};  // by name, each opened when first asked for
let known, last = 0, shown;  // readers.json; number of the newest question; the image being shown

const choose = (name) => known.readers.find((r) => r.name === name);
const fill = (select, names) => select.replaceChildren(...names.map(([value, text]) => new Option(text, value)));

async function read() {
  if (!shown) return;
  const mine = ++last, { image, text } = shown, info = choose($('reader').value);
  if (!(info.name in readers)) say('Loading the reader …');
  try {
    readers[info.name] ??= openReader(info).catch(() => {
      delete readers[info.name];
      throw new Error('The reader could not be loaded. Is there still a connection to this site?');
    });
    const ask = await readers[info.name], start = performance.now(), found = await ask(image);
    if (mine === last) answer(found, text, performance.now() - start);
  } catch (e) {
    if (mine === last) { $('frames').textContent = ''; say(e.message); }
  }
}

function answer({ text, confidence, frames }, truth, ms) {
  const sure = `${(100 * confidence).toFixed(confidence > 0.9995 ? 0 : 1)} % sure, ${Math.max(1, Math.round(ms))} ms`;
  const judged = truth === undefined ? '' : text === truth ? ' Right.' : ` Wrong: it says ${truth}.`;
  $('answer').replaceChildren('Read: ', Object.assign(document.createElement('strong'), { textContent: text || 'nothing' }), ` (${sure}).${judged}`);
  $('answer').dataset.text = text;
  $('answer').dataset.confidence = confidence;
  $('frames').textContent = frames.map((s) => s || '·').join('');
}

/** Show an image and read it; of two that are asked for at once, the later one stays. */
async function show(getting, alt, { file, text } = {}) {
  const mine = ++last, blob = await getting, bitmap = await createImageBitmap(blob).catch(() => null);
  if (mine !== last) return;
  if (!bitmap) return say(`${blob.name} is not an image that this browser can open.`);
  if (bitmap.width * bitmap.height > MOST_PIXELS) return say(`${blob.name} has too many pixels: ${MOST_PIXELS / 1e6} million at most.`);
  URL.revokeObjectURL($('image').src);
  Object.assign($('image'), { src: URL.createObjectURL(blob), alt });
  shown = { image: bitmap, file, text };
  await read();
}

async function showNew() {
  const set = known.sets[$('set').value], others = set.images.filter((o) => o.file !== shown?.file);
  const next = others[Math.floor(Math.random() * others.length)];
  const getting = fetch(new URL(next.file, import.meta.url)).then((r) => r.blob());
  await show(getting, `A rendered CAPTCHA, ${set.name}`, next).catch(() => say('That image could not be loaded. Is there still a connection to this site?'));
}

async function showFile(file) {
  if (!file) return;
  if (file.size > MOST_BYTES) return say(`${file.name} is too large: ${MOST_BYTES / 1e6} MB at most.`);
  await show(file, `Your image, ${file.name}`);
}

function listen() {
  const drop = $('drop');
  $('new').addEventListener('click', showNew);
  $('reader').addEventListener('change', read);
  $('set').addEventListener('change', () => { $('reader').value = known.sets[$('set').value].reader; showNew(); });
  $('file').addEventListener('change', (e) => { showFile(e.target.files[0]); e.target.value = ''; });
  for (const [event, over] of [['dragover', true], ['dragleave', false], ['drop', false]]) {
    drop.addEventListener(event, (e) => { e.preventDefault(); drop.classList.toggle('over', over); });
  }
  drop.addEventListener('drop', (e) => showFile(e.dataTransfer.files[0]));
}

try {
  known = await (await fetch(new URL('readers.json', import.meta.url))).json();
} catch { say('This copy of the site was built without the reader, so the page can only be looked at.'); }
if (known) {
  fill($('set'), known.sets.map((s, i) => [i, s.name]));
  fill($('reader'), known.readers.map((r) => [r.name, r.title]));
  listen();
  document.getElementById('try').disabled = false;
  await showNew();
}
