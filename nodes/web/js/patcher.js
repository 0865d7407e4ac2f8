import { app } from "../../../scripts/app.js";
import { isElsewhere } from "./elsewhere.js";
import { put, say, translated } from "./words.js";

// On the MotionCache node: what to expect before a run, what became of it, and a preset that is greyed where settings overrule it.
const NODES = ["MotionCachePatcher", "MotionCacheRay"];
const SETTINGS = "MotionCacheSettings";
// the page makes a widget of this name for texts
const TEXT = "$$node-text-preview";
// as in nodes/host/live_text.py
const TOLD = "motioncache_text";
// so that a short line is not broken
const WIDTH = 290;
// as in motioncache_core/settings.py: of the steps, and of the tokens
const STEPS = { quality: 0.5, balanced: 0.4, fast: 0.3 };
const TOKENS = { motion: 0.4 };

const BYPASSED = 4;
const widgetOf = (node, name) => node.widgets?.find((w) => w.name === name);
const all = () => (app.graph?._nodes ?? []).filter((n) => NODES.includes(n.comfyClass));

function show(node, text) {
  const widget = widgetOf(node, TEXT);
  if (widget) widget.value = text;
  // the page looks for the id in the graph that is open
  else if (text && node.graph === app.canvas.graph) {
    app.api.dispatchCustomEvent("progress_text", { nodeId: String(node.id), text });
  }
  node.setDirtyCanvas?.(true, true);
}

function settingsOf(node) {
  const slot = node.inputs?.findIndex((i) => i.name === "settings") ?? -1;
  if (slot < 0 || node.inputs[slot].link == null) return undefined;
  // behind a reroute or in a subgraph there is none to read from
  return node.getInputNode?.(slot) ?? null;
}

// in the words of motioncache_core/report/node_text.py
function gain(what, share) {
  const computes = [`computes {share} of the ${what}`, { share: `${Math.round(100 * share)}\u00a0%` }];
  const faster = ["up to {faster:.1f}x faster in the sampler", { faster: (1 / share).toFixed(1) }];
  return put(["\n", [computes, faster]]);
}

function bySettings(node) {
  const value = (name) => widgetOf(node, name)?.value;
  const budget = value("compute_budget");
  if (node.comfyClass !== SETTINGS) return "";
  if (value("reuse_threshold") === 0) return say("the model is left as it is");
  const what = value("policy") === "answer" ? "steps" : "tokens";
  if (!budget) return say("reuses what changes little:\nhow much depends on the video");
  return gain(what, budget);
}

// what to expect of a run
function expected(node) {
  if (node.mode === BYPASSED) return say("bypassed: the model is left as it is");
  const settings = settingsOf(node);
  if (settings !== undefined) {
    const more = settings ? bySettings(settings) : "";
    return [say("settings are connected,\npreset is not used"), more].filter(Boolean).join("\n");
  }
  const preset = widgetOf(node, "preset")?.value;
  if (preset === "off") return say("the model is left as it is");
  if (STEPS[preset]) return gain("steps", STEPS[preset]);
  if (TOKENS[preset]) return gain("tokens", TOKENS[preset]);
  return say("reuses what changes little:\nhow much depends on the video");
}

export function refresh(node) {
  const preset = widgetOf(node, "preset");
  if (preset) preset.disabled = settingsOf(node) !== undefined;
  node.motionCacheRun = null;
  show(node, expected(node));
}

export const refreshAll = () => all().forEach(refresh);

// the page tells of a bypass only as of any change
function bypass() {
  for (const node of all()) {
    const bypassed = node.mode === BYPASSED;
    if (Boolean(node.motionCacheBypassed) === bypassed) continue;
    node.motionCacheBypassed = bypassed;
    refresh(node);
  }
}

// numbers of an earlier run do not stay while another one goes on, or after one that was ended
function begin() {
  for (const node of all()) {
    node.motionCacheBefore = node.motionCacheRun;
    refresh(node);
  }
}

// nothing was sampled anew, so what was said of the last run is still true
function end() {
  for (const node of all()) {
    if (node.motionCacheBefore && !node.motionCacheRun && node.mode !== BYPASSED) {
      node.motionCacheRun = node.motionCacheBefore;
      show(node, node.motionCacheRun);
    }
    node.motionCacheBefore = null;
  }
}

// by the executor's id: through subgraphs, from the outermost one in
function byId(id) {
  const path = String(id).split(":");
  const last = path.pop();
  const graph = path.reduce((g, i) => g?.getNodeById(i)?.subgraph, app.rootGraph ?? app.graph);
  return graph?.getNodeById(last);
}

function told({ detail }) {
  if (isElsewhere(detail.prompt_id)) return;
  const node = byId(detail.node);
  if (!NODES.includes(node?.comfyClass)) return;
  node.motionCacheRun = translated(detail.text, detail.said);
  show(node, node.motionCacheRun);
}

// where nodes are elements of the page, it runs the lines of a text together
function keepLines() {
  const style = document.createElement("style");
  const texts = NODES.map((name) => `[node-type="${name}"] .comfy-markdown-content p`);
  style.textContent = `${texts.join(",")} { white-space: pre-line }`;
  document.head.append(style);
}

app.registerExtension({
  name: "MotionCache.Patcher",
  setup() {
    keepLines();
    app.api.addEventListener("execution_start", begin);
    app.api.addEventListener("execution_success", end);
    for (const name of ["promptQueued", "execution_interrupted", "execution_error"]) {
      app.api.addEventListener(name, refreshAll);
    }
    app.api.addEventListener("graphChanged", bypass);
    app.api.addEventListener(TOLD, told);
  },
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!NODES.includes(nodeData.name)) return;
    const { onNodeCreated, onConnectionsChange } = nodeType.prototype;
    nodeType.prototype.onNodeCreated = function (...args) {
      const result = onNodeCreated?.apply(this, args);
      if (this.size[0] < WIDTH) this.setSize([WIDTH, this.size[1]]);
      const preset = widgetOf(this, "preset");
      const { callback } = preset;
      preset.callback = (...given) => {
        const answer = callback?.apply(preset, given);
        refresh(this);
        return answer;
      };
      // only now has it an id
      setTimeout(() => this.graph && refresh(this));
      return result;
    };
    nodeType.prototype.onConnectionsChange = function (...args) {
      const result = onConnectionsChange?.apply(this, args);
      setTimeout(() => this.graph && refresh(this));
      return result;
    };
  },
  loadedGraphNode(node) {
    if (NODES.includes(node.comfyClass)) setTimeout(() => refresh(node));
  },
});
