// node drive.cjs <server> <workflow.json> <folder for pictures> <classic|vue> <chromium>
// Drops the workflow on a browser's canvas, presses Run, scrubs, runs again, loads the page anew and
// prints what was to be seen, as JSON.
const path = require("path");
const acts = require("./acts.cjs");
const { main } = require("./browser.cjs");

const [url, file, folder, mode, executablePath] = process.argv.slice(2);
const SIZE = { width: 1900, height: 1060 };

const MAP = "MotionCacheMotionMap";
const WORDS = [
  "motion cache", "heatmap", "what was reused", "teacache", "faster", "accelerate", "optimize", "skip steps",
  "wan speed", "first block cache", "video cache", "magi", "skyreels", "hunyuan", "ltx",
];

async function all(page) {
  const shot = (name) => page.screenshot({ path: path.join(folder, `${mode}_${name}.png`) });
  let prompts = 0;
  page.on("request", (r) => (prompts += r.method() === "POST" && r.url().endsWith("/prompt") ? 1 : 0));
  const out = {};
  await acts.open(page, url, mode);
  await acts.drop(page, file);
  // the server does not run again what it has run for another page
  await acts.set(page, "seed", Date.now() % 1e6);
  await acts.fit(page);
  out.before = await acts.seen(page);
  out.empty = await acts.scrubber(page);
  await page.evaluate(() => {
    window.told = [];
    window.previews = 0;
    app.api.addEventListener("motioncache_text", (e) => window.told.push(e.detail));
    app.api.addEventListener("b_preview", () => window.previews++);
  });
  const running = page.waitForFunction(() => window.told.length > 3, null, { timeout: 300000 });
  const halfway = running.then(() => shot("running"));
  out.failed = await acts.run(page);
  await halfway;
  Object.assign(out, await page.evaluate(() => ({ told: window.told, previews: window.previews })));
  await acts.fit(page);
  await shot("after");
  out.after = await acts.seen(page);
  out.prompt = (await page.evaluate(() => app.graphToPrompt())).output;
  out.saved = await page.evaluate(() => app.graph.serialize());

  await acts.zoom(page, MAP);
  const sent = prompts;
  out.scrubbed = await acts.scrub(page);
  out.prompts = [sent, prompts];
  await shot("scrubbed");

  await acts.set(page, "compute_budget", 0.7);
  out.failed ||= await acts.run(page);
  await page.locator(".motioncache-scrubber select").selectOption("motion");
  out.again = await acts.scrubber(page);
  await shot("again");

  out.reloaded = await acts.reload(page);
  await acts.zoom(page, MAP);
  await shot("reloaded");
  await acts.toTheEnd(page);
  await page.locator(".motioncache-scrubber select").selectOption("motion");
  out.kept = await acts.scrubber(page);
  out.help = await acts.help(page, MAP);
  await shot("help");
  out.found = {};
  for (const words of WORDS) out.found[words] = await acts.search(page, words);
  out.left = await acts.remove(page, MAP);

  await acts.open(page, url, mode, "zh");
  await acts.drop(page, file);
  await acts.set(page, "seed", Date.now() % 1e6);
  await acts.set(page, "steps", 10);
  out.failed ||= await acts.run(page);
  await acts.fit(page);
  await shot("chinese");
  out.chinese = await acts.seen(page);
  return out;
}

main(executablePath, SIZE, all);
