// node tour.cjs <server> <folder for pictures> <classic|vue> <width>x<height> <chromium>
// What a newcomer does: opens every workflow of the pack from Templates, runs the first one, bypasses
// MotionCache, changes the preset, ends a run. Prints what was to be seen, as JSON.
const path = require("path");
const acts = require("./acts.cjs");
const { main, sized } = require("./browser.cjs");

const [url, folder, mode, size, executablePath] = process.argv.slice(2);
const PACK = "ComfyUI-MotionCache";
const TEXT = "$$node-text-preview";

async function templates(page) {
  await page.locator(".templates-tab-button").click();
  await page.getByText(PACK, { exact: true }).first().click();
  const listed = page.locator('[data-testid^="template-workflow-"]');
  await listed.first().waitFor();
  // the page lists some of them at first
  for (let before = 0; before < (before = await listed.count());) await page.waitForTimeout(500);
  const cards = await listed.all();
  const names = await Promise.all(cards.map((c) => c.getAttribute("data-testid")));
  return names.map((n) => n.replace("template-workflow-", ""));
}

async function choose(page, name) {
  await page.locator(`[data-testid="template-workflow-${name}"]`).click();
  await page.waitForFunction(() => !document.querySelector('[data-testid^="template-workflow-"]'));
  await settled(page);
}

// no node has moved or grown for a second, which those with a missing or late file do
async function settled(page) {
  let [boxes, since] = ["", Date.now()];
  while (Date.now() - since < 1000) {
    await page.waitForTimeout(200);
    const { scale, nodes, drawn } = await graph(page);
    const now = JSON.stringify([scale, nodes.map((n) => n.box), drawn]);
    if (now !== boxes) [boxes, since] = [now, Date.now()];
  }
}

const graph = (page) =>
  page.evaluate((text) => ({
    scale: app.canvas.ds.scale,
    blurred: app.canvas.low_quality,
    nodes: app.graph._nodes.map((n) => ({
      type: n.type,
      title: n.title,
      box: [...n.pos, ...n.size].map(Number),
      red: Boolean(n.has_errors),
      live: n.widgets?.find((w) => w.name === text)?.value ?? "",
    })),
    // those that are elements of the page
    drawn: [...document.querySelectorAll("[data-node-id]")].map((e) => {
      const { x, y, width, height } = e.getBoundingClientRect();
      return [x, y, width, height];
    }),
  }), TEXT);

const live = async (page) => (await graph(page)).nodes.find((n) => n.type === "MotionCachePatcher").live;

async function seed(page, value) {
  await page.evaluate((to) => {
    for (const n of app.graph._nodes.filter((n) => n.type === "KSampler")) {
      n.widgets.find((w) => w.name === "seed").value = to;
    }
  }, value);
}

async function preset(page, value) {
  await page.evaluate((to) => {
    const node = app.graph._nodes.find((n) => n.type === "MotionCachePatcher");
    const widget = node.widgets.find((w) => w.name === "preset");
    widget.value = to;
    widget.callback?.(to, app.canvas, node);
  }, value);
}

async function mute(page, mode) {
  await page.evaluate((to) => {
    app.graph._nodes.find((n) => n.type === "MotionCachePatcher").mode = to;
  }, mode);
}

// what Compare and the map show
const outputs = (page) =>
  page.evaluate(() => {
    const of = (type) => app.nodeOutputs?.[app.graph._nodes.find((n) => n.type === type)?.id];
    const [compare, map] = [of("MotionCacheCompare"), of("MotionCacheMotionMap")];
    return {
      said: compare?.text?.[0]?.split("\n")[0] ?? compare?.text?.split?.("\n")[0] ?? "",
      picture: compare?.images?.[0]?.filename ?? "",
      map: Boolean(map?.motioncache_map),
    };
  });

async function all(page) {
  const shot = (name) => page.screenshot({ path: path.join(folder, `${mode}_${size}_${name}.png`) });
  const began = Date.now();
  const out = { opened: {}, seconds: {} };
  const clock = (name) => (out.seconds[name] = (Date.now() - began) / 1000);
  await acts.open(page, url, mode);
  out.names = await templates(page);
  for (const [i, name] of [...out.names].reverse().entries()) {
    if (i) await templates(page);
    await choose(page, name);
    out.opened[name] = await graph(page);
    await shot(name.replace(/[^A-Za-z0-9]+/g, "_"));
  }
  clock("opened all");
  // the first one is open now
  out.before = await live(page);
  await seed(page, Date.now() % 1e6);
  out.failed = [await acts.run(page)];
  clock("run");
  out.first = { live: await live(page), ...(await outputs(page)) };
  out.after = await graph(page);
  await shot("run");

  await preset(page, "fast");
  out.changed = await live(page);
  out.failed.push(await acts.run(page));
  clock("another preset");
  out.fast = { live: await live(page), ...(await outputs(page)) };

  await mute(page, 4);
  // an empty place, after which the page looks for what has changed
  await page.mouse.click(900, 900);
  await page.waitForTimeout(1000);
  out.muted = await live(page);
  out.failed.push(await acts.run(page));
  clock("bypassed");
  out.bypassed = { live: await live(page), ...(await outputs(page)) };
  await shot("bypassed");

  await mute(page, 0);
  await seed(page, 1 + (Date.now() % 1e6));
  await page.evaluate(() => {
    window.steps = 0;
    app.api.addEventListener("progress", () => window.steps++);
  });
  await page.click('[data-testid="queue-button"]');
  await page.waitForFunction(() => window.steps > 2, null, { timeout: 120000 });
  out.started = await live(page);
  await page.evaluate(() => app.api.interrupt(null));
  await page.waitForTimeout(3000);
  out.cancelled = await live(page);
  clock("cancelled");
  await shot("cancelled");

  // another workflow is opened while this one runs
  await seed(page, 2 + (Date.now() % 1e6));
  await page.evaluate(() => {
    window.steps = 0;
    window.ended = new Promise((r) => app.api.addEventListener("execution_success", r, { once: true }));
  });
  await page.click('[data-testid="queue-button"]');
  await page.waitForFunction(() => window.steps > 0, null, { timeout: 120000 });
  await templates(page);
  await choose(page, "Wan 2.1 text to video");
  await page.evaluate(() => window.ended);
  await page.waitForTimeout(1000);
  out.elsewhere = (await graph(page)).nodes;
  out.landed = await page.evaluate(() => Object.keys(app.nodeOutputs ?? {}));
  clock("another workflow");
  await shot("another_workflow");
  // back to the one that ran
  await page.locator(".workflow-tab", { hasText: "Demo 1" }).click();
  await page.waitForFunction(() => app.extensionManager.workflow.activeWorkflow.path.includes("Demo 1"));
  await settled(page);
  out.back = await outputs(page);
  return out;
}

main(executablePath, sized(size), all);
