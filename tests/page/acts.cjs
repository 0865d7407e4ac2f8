// What a person does on the page, and what is to be seen then.
const fs = require("fs");
const path = require("path");

const SCRUBBER = ".motioncache-scrubber";

const ready = () => {
  const known = window.app?.graph && window.LiteGraph?.registered_node_types?.MotionCachePatcher;
  return known && !document.querySelector(".p-blockui-mask");
};

// a page whose nodes are known, in one of the two ways to draw them, in a language
async function open(page, url, mode, locale = "en") {
  const set = (name, data) =>
    page.request.post(`${url}/settings/${name}`, { data, headers: { "Content-Type": "application/json" } });
  await set("Comfy.TutorialCompleted", "true");
  await set("Comfy.Locale", JSON.stringify(locale));
  await set("Comfy.VueNodes.Enabled", String(mode === "vue"));
  await set("Comfy.Execution.PreviewMethod", '"latent2rgb"');
  await page.goto(url);
  await page.waitForFunction(ready, null, { timeout: 120000 });
  await page.waitForTimeout(1500);
}

// the page's own way in: a file dropped on the canvas
async function drop(page, file) {
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
}

async function set(page, name, value) {
  await page.evaluate(
    ([wanted, to]) => {
      const all = app.graph._nodes.flatMap((n) => n.widgets ?? []);
      all.filter((w) => w.name === wanted).forEach((w) => (w.value = to));
    },
    [name, value],
  );
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
    ds.scale = Math.min(1.4, 780 / (node.size[1] + 60));
    ds.offset[0] = 300 / ds.scale - node.pos[0];
    // below the page's bar and the buttons over a chosen node
    ds.offset[1] = 240 / ds.scale - node.pos[1];
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
  await page.waitForTimeout(3000);
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

// the last evaluation and the last frame
async function toTheEnd(page) {
  for (const i of [0, 1]) {
    await page.locator(`${SCRUBBER} input`).nth(i).focus();
    await page.keyboard.press("End");
  }
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

// the page loaded anew, as a person does after a hiccup
async function reload(page) {
  await page.reload();
  const back = () => app.graph._nodes.some((n) => n.type === "MotionCacheMotionMap");
  await page.waitForFunction(ready, null, { timeout: 120000 });
  await page.waitForFunction(back, null, { timeout: 60000 });
  await page.waitForTimeout(3000);
  return scrubber(page);
}

// what the search for nodes answers
async function search(page, words) {
  const toggle = () => page.evaluate(() => app.extensionManager.command.execute("Workspace.SearchBox.Toggle"));
  await toggle();
  await page.waitForTimeout(1000);
  await page.keyboard.type(words);
  await page.waitForTimeout(1500);
  const found = await page.locator('[role="dialog"]').last().innerText();
  await page.keyboard.press("Escape");
  await page.waitForTimeout(500);
  return found;
}

// the help of a node, through the button over it
async function help(page, type) {
  await page.evaluate((wanted) => {
    const node = app.graph._nodes.find((n) => n.type === wanted);
    app.canvas.selectNode(node);
    app.canvas.setDirty(true, true);
  }, type);
  await page.locator('[data-testid="info-button"]').click();
  await page.waitForTimeout(2000);
  return page.evaluate(() => document.body.innerText);
}

// the node taken out of the graph; how many scrubbers are left
async function remove(page, type) {
  await page.evaluate((wanted) => {
    app.graph.remove(app.graph._nodes.find((n) => n.type === wanted));
  }, type);
  await page.waitForTimeout(800);
  return page.locator(SCRUBBER).count();
}

module.exports = {
  drop, fit, help, open, reload, remove, run, scrub, scrubber, search, seen, set, toTheEnd, zoom,
};
