// What a person does on the page, and what is to be seen then.
const fs = require("fs");
const path = require("path");

const SCRUBBER = ".motioncache-scrubber";

// the page's own way in: a file dropped on the canvas
async function drop(page, file) {
  const before = await page.evaluate(() => app.graph);
  await page.evaluate(
    ({ text, name }) => {
      const data = new DataTransfer();
      data.items.add(new File([text], name, { type: "application/json" }));
      const event = { bubbles: true, cancelable: true, dataTransfer: data, clientX: 900, clientY: 500 };
      const canvas = document.querySelector("#graph-canvas");
      canvas.dispatchEvent(new DragEvent("dragover", event));
      canvas.dispatchEvent(new DragEvent("drop", event));
    },
    { text: fs.readFileSync(file, "utf8"), name: path.basename(file) },
  );
  const loaded = () => app.graph._nodes.some((n) => n.type === "MotionCacheMotionMap");
  await page.waitForFunction(loaded, null, { timeout: 60000 });
  await page.waitForTimeout(1500);
  return before;
}

async function fit(page) {
  await page.evaluate(() => {
    const boxes = app.graph._nodes.map((n) => [...n.pos, n.pos[0] + n.size[0], n.pos[1] + n.size[1]]);
    const [x0, y0] = [0, 1].map((i) => Math.min(...boxes.map((b) => b[i])));
    const [x1, y1] = [2, 3].map((i) => Math.max(...boxes.map((b) => b[i])));
    const { ds } = app.canvas;
    ds.scale = Math.min(1780 / (x1 - x0 + 60), 900 / (y1 - y0 + 90));
    ds.offset[0] = 90 / ds.scale - x0;
    ds.offset[1] = 110 / ds.scale - y0;
    app.canvas.setDirty(true, true);
  });
  await page.waitForTimeout(800);
}

// one node, so large that its words can be read
async function zoom(page, type) {
  await page.evaluate((wanted) => {
    const node = app.graph._nodes.find((n) => n.type === wanted);
    const { ds } = app.canvas;
    ds.scale = Math.min(1.4, 900 / (node.size[1] + 60));
    ds.offset[0] = 300 / ds.scale - node.pos[0];
    ds.offset[1] = 120 / ds.scale - node.pos[1];
    app.canvas.setDirty(true, true);
  }, type);
  await page.waitForTimeout(800);
}

async function seen(page) {
  return page.evaluate(() => {
    const nodes = app.graph._nodes.filter((n) => n.type.startsWith("MotionCache"));
    return nodes.map((n) => ({
      type: n.type,
      images: (n.imgs ?? []).map((i) => [i.naturalWidth, i.naturalHeight]),
      widgets: Object.fromEntries((n.widgets ?? []).map((w) => [w.name, w.value])),
    }));
  });
}

// presses Run and waits; why it failed, or nothing
async function run(page) {
  await page.evaluate(() => {
    window.ended = new Promise((resolve) => {
      app.api.addEventListener("execution_success", () => resolve(""), { once: true });
      app.api.addEventListener("execution_error", (e) => resolve(e.detail.exception_message));
    });
  });
  await page.click('[data-testid="queue-button"]');
  const failed = await page.evaluate(() => window.ended);
  await page.waitForTimeout(2500);
  return failed;
}

// what the scrubber shows: its words, its picture, its size on the screen
async function scrubber(page) {
  const found = page.locator(SCRUBBER);
  const count = await found.count();
  if (count !== 1) return { count };
  return found.evaluate((element) => {
    const canvas = element.querySelector("canvas");
    const box = element.getBoundingClientRect();
    const sliders = [...element.querySelectorAll("input")];
    return {
      count: 1,
      visible: element.checkVisibility(),
      shows: canvas.dataset.shows ?? "",
      picture: canvas.toDataURL(),
      pixels: [canvas.width, canvas.height],
      box: [box.width, box.height],
      words: element.innerText,
      views: [...element.querySelectorAll("option")].map((o) => o.value),
      most: sliders.map((s) => Number(s.max)),
    };
  });
}

// moves the sliders and the view as a person does, with the keyboard
async function scrub(page) {
  const [steps, frames] = [0, 1].map((i) => page.locator(`${SCRUBBER} input`).nth(i));
  const shown = { start: await scrubber(page) };
  await steps.focus();
  await page.keyboard.press("Home");
  shown.firstStep = await scrubber(page);
  await page.keyboard.press("End");
  shown.lastStep = await scrubber(page);
  await frames.focus();
  await page.keyboard.press("End");
  shown.lastFrame = await scrubber(page);
  for (const view of shown.start.views) {
    await page.locator(`${SCRUBBER} select`).selectOption(view);
    shown[view] = await scrubber(page);
  }
  return shown;
}

module.exports = { SCRUBBER, drop, fit, zoom, seen, run, scrubber, scrub };
