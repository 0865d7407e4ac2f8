// A browser of its own for one script: what the script saw is printed as JSON, with the pack's own complaints.
const fs = require("fs");
const os = require("os");
const path = require("path");
const { chromium } = require("playwright-core");

const FLAGS = ["--no-sandbox", "--disable-gpu", "--no-proxy-server", "--disable-dev-shm-usage"];

// those of the pack's own files; the page looks for a translated help page first
function complaints(page) {
  const errors = [];
  page.on("pageerror", (e) => errors.push(String(e)));
  page.on("console", (m) => {
    const from = m.location().url;
    if (from.includes("MotionCache") && !from.includes("/docs/")) errors.push(`${m.type()}: ${m.text()}`);
  });
  return errors;
}

async function inBrowser(executablePath, viewport, look) {
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), "motioncache-page-"));
  const browser = await chromium.launchPersistentContext(profile, { executablePath, args: FLAGS, viewport });
  try {
    const page = browser.pages()[0] ?? (await browser.newPage());
    const errors = complaints(page);
    console.log(JSON.stringify({ errors, ...(await look(page)) }));
  } finally {
    await browser.close();
    fs.rmSync(profile, { recursive: true, force: true });
  }
}

// the size of a page, "1600x950"
const sized = (words) => {
  const [width, height] = words.split("x").map(Number);
  return { width, height };
};

function main(executablePath, viewport, look) {
  inBrowser(executablePath, viewport, look).catch((error) => {
    console.error(error);
    process.exit(1);
  });
}

module.exports = { main, sized };
