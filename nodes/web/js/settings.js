import { app } from "../../../scripts/app.js";
import { refreshAll } from "./patcher.js";

// Greys the settings that do nothing, as the others are.
const NODE = "MotionCacheSettings";
// as in motioncache_core/sampling/setting_effects.py
const NEEDS = {
  "hindsight": "answers",
  "motion_sensitivity": "tokens",
  "motion_source": "tokens",
  "update_share": "tokens",
  "max_stale_steps": "blocks",
  "correction": "tokens",
  "kv_forecast": "blocks",
  "cfg_mask": "blocks",
  "uniform_updates": "blocks",
  "agreement": "threshold",
  "min_update_ratio": "threshold"
};
const DECIDE = ["policy", "compute_budget", "update_share", "reuse_threshold"];

function grey(node) {
  const widgets = Object.fromEntries((node.widgets ?? []).map((w) => [w.name, w]));
  const { value: policy } = widgets.policy;
  const perToken = policy === "motion" || policy === "random";
  const byThreshold = widgets.compute_budget.value === 0 && widgets.update_share.value === 0;
  const met = {
    answers: policy === "answer",
    blocks: policy !== "answer",
    tokens: perToken,
    threshold: perToken && byThreshold,
  };
  for (const [name, need] of Object.entries(NEEDS)) widgets[name].disabled = !met[need];
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
      grey(this);
      return result;
    };
  },
  loadedGraphNode(node) {
    if (node.comfyClass === NODE) grey(node);
  },
});
