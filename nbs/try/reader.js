// Reads a CAPTCHA with one of the lab's networks, in the browser: what `Bundle.predict` does in Python.
// Nothing in this file knows the page.

const ORT = './onnxruntime-web/ort.wasm.bundle.min.mjs';

/** Grey as Pillow makes it, from the RGBA bytes of a canvas. */
export function grey(rgba) {
  const out = new Uint8Array(rgba.length / 4);
  for (let i = 0; i < out.length; i++) {
    const [r, g, b] = rgba.subarray(4 * i, 4 * i + 3);
    out[i] = (19595 * r + 38470 * g + 7471 * b + 32768) >> 16;
  }
  return out;
}

/** The width an image has once its height is what the network wants; an Error where the network can't take that. */
export function fitWidth(width, height, input) {
  const w = Math.max(1, Math.round(width * input.height / height));
  if (w < input.min_width || w > input.max_width) throw new Error(`That image is too ${w > input.max_width ? 'wide' : 'narrow'} for a line of text.`);
  return w;
}

/** An image (anything a canvas can draw) as grey bytes of the network's height, on white paper. */
export function pixels(image, input) {
  const canvas = document.createElement('canvas');
  canvas.height = input.height;
  canvas.width = fitWidth(image.width, image.height, input);
  const c = canvas.getContext('2d', { willReadFrequently: true });
  c.fillStyle = '#fff';
  c.fillRect(0, 0, canvas.width, canvas.height);
  c.imageSmoothingQuality = 'high';
  c.drawImage(image, 0, 0, canvas.width, canvas.height);
  return { grey: grey(c.getImageData(0, 0, canvas.width, canvas.height).data), width: canvas.width, height: canvas.height };
}

/** The likeliest symbol of each frame, as indices: row after row of log probabilities, `n` numbers each. */
export function likeliest(logp, n) {
  return Array.from({ length: logp.length / n }, (_, t) => {
    const row = logp.subarray(n * t, n * t + n);
    return row.indexOf(Math.max(...row));
  });
}

/** Drop repeats, then blanks: the indices of the text. */
export const collapse = (frames, blank) => frames.filter((k, t) => k !== blank && k !== frames[t - 1]);

/** Probability of a text: the sum over all its paths through the frames (CTC's forward algorithm). */
export function probability(logp, n, ids, blank, temperature) {
  const states = [blank, ...ids.flatMap((k) => [k, blank])];
  const maySkip = states.map((k, s) => s > 1 && k !== blank && k !== states[s - 2]);
  let score = states.map((_, s) => (s ? 0 : 1));  // before the first frame we stand on the first blank
  for (let t = 0; t < logp.length / n; t++) {
    const row = Array.from(logp.subarray(n * t, n * t + n), (v) => Math.exp(v / temperature));
    const sum = row.reduce((a, b) => a + b);
    score = states.map((k, s) => (score[s] + (s ? score[s - 1] : 0) + (maySkip[s] ? score[s - 2] : 0)) * row[k] / sum);
  }
  return Math.min(1, score.at(-1) + (score.at(-2) ?? 0));
}

/** The network's answer in words: text, confidence (0 to 1), and what each frame says ('' is a blank). */
export function decode(logp, { vocab, blank, decode: how }) {
  const symbols = ['', ...vocab], frames = likeliest(logp, symbols.length), ids = collapse(frames, blank);
  return {
    text: ids.map((k) => symbols[k]).join(''),
    confidence: probability(logp, symbols.length, ids, blank, how.temperature),
    frames: frames.map((k) => symbols[k]),
  };
}

/** A function that reads images with one reader of `readers.json`; files are looked for beside this one. */
export async function openReader(info) {
  const ort = await import(ORT);
  ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(new URL(info.file, import.meta.url).href);
  return async (image) => {
    const { grey: data, width, height } = pixels(image, info.input);
    const answer = await session.run({ images: new ort.Tensor('uint8', data, [1, height, width]) });
    return decode(answer.logp.data, info);
  };
}
