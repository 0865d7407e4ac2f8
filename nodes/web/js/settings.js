import { app } from "../../../scripts/app.js";
import { refreshAll } from "./patcher.js";
import { say } from "./words.js";

// Puts a caption over each group of settings, and greys those that do nothing, as the others are.
const NODE = "MotionCacheSettings";
// as in motioncache_core/sampling/setting_effects.py
const NEEDS = {
  "hindsight": "answers",
  "motion_sensitivity": "tokens",
  "motion_source": "tokens",
  "update_share": "tokens",
  "max_stale_steps": "blocks",
  "correction": "tokens",
  "kv_cache": "keys",
  "kv_forecast": "blocks",
  "cfg_mask": "blocks",
  "uniform_updates": "blocks",
  "agreement": "threshold",
  "min_update_ratio": "threshold"
};
// over the first setting of each group: its caption, and what the group needs, if anything
const GROUPS = {
  compute_budget: ["with any model", ""],
  motion_sensitivity: ["single tokens", "tokens"],
  reuse_threshold: ["published thresholds", "threshold"],
};
const CAPTION = "motioncache_caption";
const MAGI = ["MotionCacheLoadMagi", "MotionCacheMagiTiny"];
const DECIDE = ["policy", "compute_budget", "update_share", "reuse_threshold"];

function addCaptions(node) {
  for (const [first, [words, need]] of Object.entries(GROUPS)) {
    const below = node.widgets.find((w) => w.name === first);
    const caption = document.createElement("div");
    caption.textContent = say(words);
    caption.dataset.need = need;
    caption.className = CAPTION;
    caption.style.cssText =
      "padding:0 4px;font:11px/18px sans-serif;white-space:nowrap;" +
      "overflow:hidden;text-overflow:ellipsis;color:var(--input-text,#ddd)";
    const widget = node.addDOMWidget(`${CAPTION}_${first}`, "MOTIONCACHE_CAPTION", caption, {
      // the page's own would leave nothing of so low a row
      margin: 2,
      hideOnZoom: false,
      serialize: false,
      // shown and hidden with the group
      advanced: below.options?.advanced ?? below.advanced,
    });
    // one that is laid out by its contents would take the free height of the node
    widget.computeLayoutSize = undefined;
    widget.computeSize = (width) => [width, 18];
    widget.advanced = below.advanced;
    widget.serialize = false;
    node.widgets.splice(node.widgets.indexOf(widget), 1);
    node.widgets.splice(node.widgets.indexOf(below), 0, widget);
  }
  // the page saves values by the place of their widgets, and reads them without those that have none
  const { onSerialize } = node;
  node.onSerialize = function (saved, ...more) {
    saved.widgets_values = node.widgets.filter((w) => w.serialize !== false).map((w) => w.value);
    return onSerialize?.call(this, saved, ...more);
  };
}

// MAGI-1 does, whatever is reused
const keepsKeys = (node) => (node.graph?._nodes ?? []).some((n) => MAGI.includes(n.comfyClass));

function grey(node) {
  const widgets = Object.fromEntries((node.widgets ?? []).map((w) => [w.name, w]));
  const { value: policy } = widgets.policy;
  const perToken = policy === "motion" || policy === "random";
  const byThreshold = widgets.compute_budget.value === 0 && widgets.update_share.value === 0;
  const met = {
    answers: policy === "answer",
    blocks: policy !== "answer",
    keys: policy !== "answer" || keepsKeys(node),
    tokens: perToken,
    threshold: perToken && byThreshold,
  };
  for (const [name, need] of Object.entries(NEEDS)) widgets[name].disabled = !met[need];
  for (const { element } of node.widgets.filter((w) => w.name.startsWith(CAPTION))) {
    element.style.opacity = met[element.dataset.need] ?? true ? 0.9 : 0.4;
  }
  node.setDirtyCanvas?.(true, true);
}

app.registerExtension({
  name: "MotionCache.Settings",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (nodeData.name !== NODE) return;
    const { onNodeCreated } = nodeType.prototype;
    nodeType.prototype.onNodeCreated = function (...args) {
      const result = onNodeCreated?.apply(this, args);
      for (const widget of this.widgets.filter((w) => DECIDE.includes(w.name))) {
        const { callback } = widget;
        widget.callback = (...given) => {
          const answer = callback?.apply(widget, given);
          grey(this);
          refreshAll();
          return answer;
        };
      }
      addCaptions(this);
      grey(this);
      return result;
    };
  },
  loadedGraphNode(node) {
    if (node.comfyClass === NODE) grey(node);
  },
});
