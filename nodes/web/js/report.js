import { app } from "../../../scripts/app.js";

const NODE = "MotionCacheReport";
const NAME = "report";

// The report's text is shown on its node. A page that does not load this file still has the
// node's text output and its picture.
function addText(node) {
  const spec = ["STRING", { multiline: true }];
  const { widget } = app.widgets.STRING(node, NAME, spec, app);
  // Vue nodes read the option, classic ones the element
  widget.options.read_only = true;
  // beside the picture the page would leave a few lines of it
  widget.options.getMinHeight = () => 190;
  const area = widget.element;
  if (area) {
    area.readOnly = true;
    area.style.fontFamily = "monospace";
    area.style.whiteSpace = "pre-wrap";
  }
  // neither in the saved workflow nor in the prompt: the server knows no such input
  widget.serialize = false;
  widget.options.serialize = false;
}

function showText(node, lines) {
  const widget = node.widgets?.find((w) => w.name === NAME);
  if (widget && lines) widget.value = lines.join("\n");
}

app.registerExtension({
  name: "MotionCache.Report",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (nodeData.name !== NODE) return;
    const { onNodeCreated, onExecuted } = nodeType.prototype;
    nodeType.prototype.onNodeCreated = function (...args) {
      const result = onNodeCreated?.apply(this, args);
      addText(this);
      // so that its lines can be read as soon as it is there
      this.setSize([Math.max(this.size[0], 460), Math.max(this.size[1], 360)]);
      return result;
    };
    nodeType.prototype.onExecuted = function (output, ...more) {
      const result = onExecuted?.call(this, output, ...more);
      showText(this, output?.text);
      return result;
    };
  },
  // a graph that is opened again in the same session has its outputs, but nothing is executed
  loadedGraphNode(node) {
    if (node.comfyClass === NODE) showText(node, app.nodeOutputs?.[node.id]?.text);
  },
});
