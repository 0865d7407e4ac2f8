import { app } from "../../../scripts/app.js";
import { chinese, translated } from "./words.js";

// The texts of the report and of the comparison, on their nodes. A page that does not load this file still has the
// nodes' text outputs and pictures.
const NAME = "report";
const SAID = "motioncache_said";
// what the page leaves free around an element
const MARGIN = 10;
// the lines of a report that are to be read without scrolling, and the comparison's, which its picture has in English
const NODES = {
  MotionCacheReport: { least: 240, most: undefined, size: [460, 360], shown: () => true },
  MotionCacheCompare: { least: 84, most: 84, size: [0, 0], shown: chinese },
};

function addText(node, { least, most }) {
  const area = document.createElement("textarea");
  area.readOnly = true;
  area.className = "motioncache-text";
  // Vue nodes give an element the height that it asks for
  area.style.cssText =
    `min-height:${least}px;${most ? `max-height:${most}px;` : ""}` +
    "width:100%;height:100%;box-sizing:border-box;resize:none;border:0;border-radius:4px;padding:6px;" +
    "font:12px monospace;white-space:pre-wrap;color:var(--input-text,#ddd);background:var(--comfy-input-bg,#222)";
  // the wheel scrolls the text, not the canvas
  area.addEventListener("wheel", (event) => area.scrollHeight > area.clientHeight && event.stopPropagation());
  const widget = node.addDOMWidget(NAME, "MOTIONCACHE_TEXT", area, {
    // beside a picture the page would leave a few lines of it
    getMinHeight: () => least,
    getValue: () => area.value,
    setValue: (value) => (area.value = value ?? ""),
    hideOnZoom: false,
    serialize: false,
  });
  if (most) {
    // one that is laid out by its contents would take height from the picture
    widget.computeLayoutSize = undefined;
    widget.computeSize = (width) => [width, most + 2 * MARGIN];
  }
  // neither in the saved workflow nor in the prompt: the server knows no such input
  widget.serialize = false;
}

function showText(node, output) {
  const widget = node.widgets?.find((w) => w.name === NAME);
  if (!widget || !output?.text) return;
  widget.value = translated(output.text.join("\n"), output[SAID]?.[0]);
}

app.registerExtension({
  name: "MotionCache.Report",
  beforeRegisterNodeDef(nodeType, nodeData) {
    const wanted = NODES[nodeData.name];
    if (!wanted) return;
    const { onNodeCreated, onExecuted } = nodeType.prototype;
    nodeType.prototype.onNodeCreated = function (...args) {
      const result = onNodeCreated?.apply(this, args);
      if (wanted.shown()) addText(this, wanted);
      // so that its lines can be read as soon as it is there
      this.setSize(this.size.map((n, i) => Math.max(n, wanted.size[i])));
      return result;
    };
    nodeType.prototype.onExecuted = function (output, ...more) {
      const result = onExecuted?.call(this, output, ...more);
      showText(this, output);
      return result;
    };
  },
  // a graph that is opened again in the same session has its outputs, but nothing is executed
  loadedGraphNode(node) {
    if (NODES[node.comfyClass]) showText(node, app.nodeOutputs?.[node.id]);
  },
});
