import { put, say } from "./words.js";

// Shows the maps of one run: a view, an evaluation and a latent frame at a time.
// The data are what nodes/pictures/scrubber.py sends: one grey picture a view, evaluations down, frames across.

const STYLE = {
  root: "display:none;flex-direction:column;gap:4px;width:100%;height:100%;min-height:0;" +
    "box-sizing:border-box;padding:4px;font:11px sans-serif;color:var(--input-text,#ddd)",
  row: "display:flex;align-items:center;gap:6px;flex:none;min-width:0",
  picture: "flex:1 1 0;min-height:150px;width:100%;object-fit:contain;display:block",
  select: "flex:none;background:var(--comfy-input-bg,#222);color:inherit;" +
    "border:1px solid var(--border-color,#444);border-radius:4px;font:inherit;padding:1px 4px",
  name: "flex:none;width:58px",
  // gives way before the facts beside it
  note: "flex:0 99999 auto;min-width:0;overflow:hidden;text-overflow:ellipsis;white-space:nowrap;opacity:.7",
  why: "display:none;flex:1 1 auto;min-height:60px;padding:8px;overflow:auto;font-size:12px;line-height:1.4",
  slider: "flex:1 1 auto;min-width:40px;margin:0",
  words: "flex:1 1 auto;min-width:0;overflow:hidden;text-overflow:ellipsis;white-space:nowrap",
  bar: "flex:none;width:44px;height:9px;border-radius:2px",
};
const WIDE = 512;
// all of them on one picture, with captions, as the node's output has it
const SHEET = "sheet";

function make(tag, style, inside = [], more = {}) {
  const element = Object.assign(document.createElement(tag), more);
  element.style.cssText = style;
  element.append(...inside);
  return element;
}

function load(source) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error(`no picture at ${source}`));
    image.src = source;
  });
}

function pixels(image) {
  const canvas = make("canvas", "", [], { width: image.width, height: image.height });
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(image, 0, 0);
  const { data } = pen.getImageData(0, 0, image.width, image.height);
  return Uint8Array.from({ length: image.width * image.height }, (_, i) => data[4 * i]);
}

function shades(anchors) {
  const table = new Uint8ClampedArray(256 * 3);
  for (let value = 0; value < 256; value++) {
    const at = (value / 255) * (anchors.length - 1);
    const low = Math.min(Math.floor(at), anchors.length - 2);
    for (let channel = 0; channel < 3; channel++) {
      const [from, to] = [anchors[low][channel], anchors[low + 1][channel]];
      table[3 * value + channel] = from + (to - from) * (at - low);
    }
  }
  return table;
}

// the number that a value of 0..255 stands for, in the words of the legend
function reading(value, { low, high }) {
  const [from, to] = [Number.parseFloat(low), Number.parseFloat(high)];
  if (Number.isNaN(from)) return value > 127 ? high : low;
  const number = from + ((to - from) * value) / 255;
  return high.endsWith("%") ? `${number.toFixed(0)}%` : number.toFixed(high.includes(".") ? 2 : 0);
}

export function createScrubber(url) {
  const listeners = new AbortController();
  const select = make("select", STYLE.select, [], { title: say("what the map shows") });
  const facts = make("span", STYLE.words);
  const canvas = make("canvas", STYLE.picture);
  const sheet = make("img", STYLE.picture, [], { alt: "The maps on one sheet" });
  const sliders = ["step", "frame"].map((name) => ({
    input: make("input", STYLE.slider, [], { type: "range", min: 0, step: 1, ariaLabel: name }),
    words: make("span", "flex:none;width:62px;text-align:right;white-space:nowrap"),
    name: make("span", STYLE.name, [say(name)]),
  }));
  const why = make("div", STYLE.why);
  const [low, bar, high] = [make("span", "flex:none"), make("span", STYLE.bar), make("span", "flex:none")];
  const title = make("span", STYLE.words);
  // what a single map has and the sheet has not
  const single = [
    canvas,
    make("div", STYLE.row, [low, bar, high, title]),
    ...sliders.map(({ name, input, words }) =>
      make("div", STYLE.row, [name, input, words])),
  ];
  const head = make("div", STYLE.row, [select, facts, make("span", STYLE.note, [say("preview of the last run")])]);
  const element = make("div", STYLE.root, [head, sheet, why, ...single]);
  element.className = "motioncache-scrubber";
  const [steps, frames] = sliders.map(({ input }) => input);
  let run = null;
  let asked = 0;
  let telling = false;

  const tokenAt = (row, column, y, x) => {
    const [height, width] = run.data.grid;
    const across = run.data.frames.length * width;
    return run.maps[select.value][(row * height + y) * across + column * width + x];
  };

  function under(pen, column) {
    const { below } = run.data;
    const [width, height] = below.size;
    const [left, top] = [column % below.columns, Math.floor(column / below.columns)];
    pen.imageSmoothingEnabled = true;
    // only the map has colours, so that they are the legend's
    pen.filter = "grayscale(1)";
    pen.drawImage(run.below, left * width, top * height, width, height, 0, 0, canvas.width, canvas.height);
    pen.filter = "none";
    pen.globalAlpha = run.data.opacity;
  }

  function draw() {
    const { data, table } = run;
    const [height, width] = data.grid;
    const [row, column] = [Number(steps.value), Number(frames.value)];
    const tile = make("canvas", "", [], { width, height });
    const colours = new ImageData(width, height);
    for (let i = 0; i < width * height; i++) {
      const value = tokenAt(row, column, Math.floor(i / width), i % width);
      colours.data.set(table.subarray(3 * value, 3 * value + 3), 4 * i);
      colours.data[4 * i + 3] = 255;
    }
    tile.getContext("2d").putImageData(colours, 0, 0);
    const pen = canvas.getContext("2d");
    if (data.below) under(pen, column);
    pen.imageSmoothingEnabled = data.smooth;
    pen.drawImage(tile, 0, 0, canvas.width, canvas.height);
    pen.globalAlpha = 1;
    describe(row, column);
  }

  function describe(row, column) {
    const { data } = run;
    const step = data.views[select.value].steps[row];
    const { sigma, kind, active } = data.evaluations[step];
    const what = kind === "partial" ? say("computed in part, {0}", `${Math.round(100 * active)}%`)
      : say(kind === "reuse" ? "foretold" : "computed");
    const parts = [what, say("noise {0}", sigma.toFixed(2))];
    if (new Set(data.chunks).size > 1) parts.push(say("chunk {0}", data.chunks[column]));
    facts.textContent = parts.join(", ");
    // people count from 1
    sliders[0].words.textContent = say("{0} of {1}", step + 1, data.of.steps);
    sliders[1].words.textContent = say("{0} of {1}", data.frames[column] + 1, data.frames.at(-1) + 1);
    canvas.dataset.shows = `${select.value} ${step} ${data.frames[column]}`;
  }

  // the step whose map has the most to see: where the values are farthest apart
  function liveliest(view) {
    const { steps: found } = run.data.views[view];
    const size = run.maps[view].length / found.length;
    let [best, most] = [found.length - 1, 0];
    found.forEach((_, row) => {
      let [sum, squares] = [0, 0];
      for (let i = row * size; i < (row + 1) * size; i++) {
        sum += run.maps[view][i];
        squares += run.maps[view][i] ** 2;
      }
      const spread = squares / size - (sum / size) ** 2;
      if (spread > most) [best, most] = [row, spread];
    });
    return found[best];
  }

  // keeps the step where the view has it, or takes the nearest
  function choose(wanted) {
    const [whole, lacks] = [select.value === SHEET, run.data.missing?.[select.value]];
    sheet.style.display = whole ? "block" : "none";
    why.style.display = lacks ? "block" : "none";
    for (const part of single) part.style.display = whole || lacks ? "none" : part === canvas ? "block" : "flex";
    if (whole || lacks) {
      why.textContent = lacks ? put(lacks) : "";
      facts.textContent = whole ? `${run.sheet.width} × ${run.sheet.height}` : "";
      return;
    }
    const { steps: found, legend, all } = run.data.views[select.value];
    const off = found.map((s) => Math.abs(s - wanted));
    steps.max = found.length - 1;
    steps.value = off.indexOf(Math.min(...off));
    [low.textContent, high.textContent] = [legend.low, legend.high];
    const left = run.data.of.frames - run.data.frames.length;
    const parts = [say(legend.title)];
    if (found.length < all) parts.push(say("{0} of {1} steps", found.length, all));
    if (left > 0) parts.push(say("{0} of {1} frames", run.data.frames.length, run.data.of.frames));
    title.textContent = title.title = parts.join("; ");
    draw();
  }

  const drawn = () => run && run.data.views[select.value];

  function read({ offsetX, offsetY }) {
    if (!drawn()) return;
    const [height, width] = run.data.grid;
    const scale = Math.min(canvas.clientWidth / canvas.width, canvas.clientHeight / canvas.height);
    const x = (offsetX - (canvas.clientWidth - canvas.width * scale) / 2) / (canvas.width * scale);
    const y = (offsetY - (canvas.clientHeight - canvas.height * scale) / 2) / (canvas.height * scale);
    if (x < 0 || y < 0 || x >= 1 || y >= 1) return;
    const [i, j] = [Math.floor(y * height), Math.floor(x * width)];
    const { legend } = run.data.views[select.value];
    const value = tokenAt(Number(steps.value), Number(frames.value), i, j);
    facts.textContent = say("token {0}, {1}: {2}", j + 1, i + 1, reading(value, legend));
  }

  const on = (target, name, react) =>
    target.addEventListener(name, react, { signal: listeners.signal });
  let step = 0;
  on(select, "change", () => choose(step));
  on(steps, "input", () => {
    step = run.data.views[select.value].steps[Number(steps.value)];
    draw();
  });
  on(frames, "input", draw);
  on(canvas, "pointermove", read);
  on(canvas, "pointerleave", () => drawn() && describe(Number(steps.value), Number(frames.value)));
  // the canvas of the graph would drag the node
  for (const { input } of sliders) on(input, "pointerdown", (event) => event.stopPropagation());

  return {
    element,
    get shown() {
      return run !== null || telling;
    },
    // rejects where a file is gone; an answer that a newer one has overtaken is dropped
    async show(data) {
      const mine = ++asked;
      const names = Object.keys(data.views);
      const files = names.map((name) => load(url(data.views[name].file)));
      const images = await Promise.all(files);
      const below = data.below && (await load(url(data.below.file)));
      const whole = await load(url(data.sheet));
      if (mine !== asked || listeners.signal.aborted) return;
      const maps = Object.fromEntries(names.map((name, i) => [name, pixels(images[i])]));
      const before = run && { data: run.data, view: select.value, frame: Number(frames.value) };
      telling = false;
      head.style.display = "flex";
      run = { data, maps, below, sheet: whole, table: shades(data.colors) };
      sheet.src = whole.src;
      const views = [...names, ...Object.keys(data.missing ?? {}), SHEET];
      select.replaceChildren(...views.map((name) => new Option(say(name), name)));
      sliders[0].name.textContent = say(data.unit ?? "step");
      // a run again leaves the view and the evaluation alone, unless the node's own were changed
      const same = before?.data.view === data.view && before.data.step === data.step;
      select.value = same && views.includes(before.view) ? before.view : data.view;
      if (!same) step = data.step < 0 ? liveliest(names.includes(data.view) ? data.view : names[0]) : data.step;
      frames.max = data.frames.length - 1;
      frames.value = before ? Math.min(before.frame, frames.max) : Math.floor(data.frames.length / 2);
      const [height, width] = data.grid;
      const [wide, tall] = data.below ? data.below.size : [width, height];
      const scale = Math.max(1, Math.floor(WIDE / Math.max(wide, tall)));
      [canvas.width, canvas.height] = [wide * scale, tall * scale];
      bar.style.background = `linear-gradient(to right, ${data.colors.map((c) => `rgb(${c})`)})`;
      element.style.display = "flex";
      choose(step);
    },
    hide() {
      asked++;
      run = null;
      telling = false;
      element.style.display = "none";
    },
    // a sentence, where there is no map
    tell(words) {
      telling = true;
      for (const part of [head, sheet, ...single]) part.style.display = "none";
      why.textContent = words;
      element.style.display = "flex";
      why.style.display = "block";
    },
    close() {
      asked++;
      listeners.abort();
    },
  };
}
