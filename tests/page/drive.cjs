// node drive.cjs <server> <workflow.json> <folder for pictures> <classic|vue> <chromium>
// Opens the workflow in a browser, presses Run and prints what is to be seen, as JSON.
const fs = require("fs");
const os = require("os");
const path = require("path");
const { chromium } = require("playwright-core");

const [url, file, folder, mode, executablePath] = process.argv.slice(2);
const SIZE = { width: 1900, height: 1060 };
const FLAGS = ["--no-sandbox", "--disable-gpu", "--no-proxy-server", "--disable-dev-shm-usage"];

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

async function run(page, errors) {
  const set = (name, data) =>
    page.request.post(`${url}/settings/${name}`, { data, headers: { "Content-Type": "application/json" } });
  await set("Comfy.TutorialCompleted", "true");
  await set("Comfy.VueNodes.Enabled", String(mode === "vue"));
  await page.goto(url);
  const ready = () => window.app?.graph && window.LiteGraph?.registered_node_types?.MotionCachePatcher;
  await page.waitForFunction(ready, null, { timeout: 120000 });
  await page.waitForTimeout(1500);
  const workflow = JSON.parse(fs.readFileSync(file, "utf8"));
  await page.evaluate((graph) => app.loadGraphData(graph), workflow);
  await page.waitForTimeout(2000);
  await page.evaluate((value) => {
    // the server does not run again what it has run for another page
    const all = app.graph._nodes.flatMap((n) => n.widgets ?? []);
    all.filter((w) => w.name === "seed").forEach((w) => (w.value = value));
  }, Date.now() % 1e6);
  const before = await seen(page);
  await page.evaluate(() => {
    window.told = [];
    app.api.addEventListener("progress_text", (e) => window.told.push(e.detail));
    window.ended = new Promise((resolve) => {
      app.api.addEventListener("execution_success", () => resolve(""));
      app.api.addEventListener("execution_error", (e) => resolve(e.detail.exception_message));
    });
  });
  await page.click('[data-testid="queue-button"]');
  const failed = await page.evaluate(() => window.ended);
  await page.waitForTimeout(3000);
  await fit(page);
  await page.screenshot({ path: path.join(folder, `${mode}.png`) });
  const prompt = (await page.evaluate(() => app.graphToPrompt())).output;
  const saved = await page.evaluate(() => app.graph.serialize());
  const told = await page.evaluate(() => window.told);
  return { before, after: await seen(page), told, failed, errors, prompt, saved };
}

(async () => {
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), "motioncache-page-"));
  const browser = await chromium.launchPersistentContext(profile, {
    executablePath, args: FLAGS, viewport: SIZE,
  });
  try {
    const page = browser.pages()[0] ?? (await browser.newPage());
    const errors = [];
    page.on("pageerror", (e) => errors.push(String(e)));
    page.on("console", (m) => {
      // only what comes from the pack's own files
      if (m.location().url.includes("MotionCache")) errors.push(`${m.type()}: ${m.text()}`);
    });
    console.log(JSON.stringify(await run(page, errors)));
  } finally {
    await browser.close();
    fs.rmSync(profile, { recursive: true, force: true });
  }
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
