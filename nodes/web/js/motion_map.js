import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { createScrubber } from "./scrubber.js";
import { chinese, put } from "./words.js";

const NODE = "MotionCacheMotionMap";
const NAME = "scrub";
const KEY = "motioncache_map";
// why there is none
const UNSEEN = "motioncache_no_map";
const HEIGHT = 280;
// the classic canvas shows a node's pictures in a widget of this name
const PREVIEW = "$$canvas-image-preview";

const url = ({ filename, subfolder, type }) =>
  api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);

// Maps of the last run outlive a reload of the page: what is kept is where their files are.
const place = (node) => `MotionCache.map.${node.graph?.rootGraph?.id ?? node.graph?.id}.${node.id}`;

function remember(node, data) {
  try {
    sessionStorage.setItem(place(node), JSON.stringify(data));
  } catch {
    // a full or forbidden store costs only the pictures after a reload
  }
}

// a template that is opened anew has the nodes of an earlier session too, but not its run: only a page
// that was loaded again, and not touched since, gets its maps back
let reloaded = performance.getEntriesByType("navigation")[0]?.type === "reload";
document.addEventListener("pointerdown", () => (reloaded = false), { capture: true, once: true });

function remembered(node) {
  if (!reloaded) return null;
  try {
    return JSON.parse(sessionStorage.getItem(place(node)));
  } catch {
    return null;
  }
}

function forget(node) {
  try {
    sessionStorage.removeItem(place(node));
  } catch {
    // see above
  }
}

// The scrubber has the sheet as one of its views, so the page's own preview of it makes room.
function hidePreview(node, hidden) {
  node.hideOutputImages = hidden;
  const preview = node.widgets?.find((w) => w.name === PREVIEW);
  if (!preview || Boolean(preview.hidden) === hidden) return;
  preview.hidden = hidden;
  // the page has made room for it already
  if (hidden) {
    node.setSize(node.motionCacheSize);
    grow(node);
  }
  node.setDirtyCanvas?.(true, true);
}

function addScrubber(node) {
  const scrubber = createScrubber(url);
  const widget = node.addDOMWidget(NAME, "MOTIONCACHE_SCRUB", scrubber.element, {
    getMinHeight: () => (scrubber.shown ? HEIGHT : 0),
    getMaxHeight: () => (scrubber.shown ? undefined : 0),
    getValue: () => "",
    setValue: () => {},
    // the page makes its preview while it draws
    onDraw: () => hidePreview(node, scrubber.shown),
    hideOnZoom: false,
    serialize: false,
  });
  // neither in the saved workflow nor in the prompt: the server knows no such input
  widget.serialize = false;
  node.motionCacheScrubber = scrubber;
  const { onRemoved } = node;
  node.onRemoved = function (...args) {
    scrubber.close();
    return onRemoved?.apply(this, args);
  };
}

function grow(node) {
  const [width, height] = node.computeSize();
  if (node.size[1] < height || node.size[0] < width) {
    node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)]);
  }
}

async function show(node, data, unseen) {
  const scrubber = node.motionCacheScrubber;
  node.motionCacheSize = [...node.size];
  hidePreview(node, Boolean(data));
  if (!scrubber || !data) {
    scrubber?.hide();
    // the picture that is there instead says it in English
    if (unseen && chinese()) scrubber?.tell(put(unseen));
    return grow(node);
  }
  try {
    await scrubber.show(data);
  } catch {
    // the files are gone: the server was started again
    forget(node);
    scrubber.hide();
    return hidePreview(node, false);
  }
  grow(node);
  node.setDirtyCanvas?.(true, true);
}

app.registerExtension({
  name: "MotionCache.MotionMap",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (nodeData.name !== NODE) return;
    const { onNodeCreated, onExecuted } = nodeType.prototype;
    nodeType.prototype.onNodeCreated = function (...args) {
      const result = onNodeCreated?.apply(this, args);
      addScrubber(this);
      return result;
    };
    nodeType.prototype.onExecuted = function (output, ...more) {
      const result = onExecuted?.call(this, output, ...more);
      const data = output?.[KEY]?.[0];
      if (data) remember(this, data);
      else forget(this);
      show(this, data, output?.[UNSEEN]?.[0]);
      return result;
    };
  },
  // a graph that is opened again has its outputs, or the page was loaded again and has not
  loadedGraphNode(node) {
    if (node.comfyClass !== NODE) return;
    const data = app.nodeOutputs?.[node.id]?.[KEY]?.[0] ?? remembered(node);
    if (data) show(node, data);
  },
});
