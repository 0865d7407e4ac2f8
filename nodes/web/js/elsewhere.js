import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

// The server tells of nodes by their ids, and another workflow that was opened meanwhile has nodes of the same
// ids. So it is kept in mind which workflow a prompt came from, and ours are not shown on another one: the page
// itself asks only for the id. It keeps outputs for the workflow they belong to, and shows them there.
const OURS = ["motioncache_said", "motioncache_map", "motioncache_no_map"];
// no node can have this id
const NOWHERE = ":";
const MANY = 50;

const from = new Map();
// a workflow that is on its way in, and the one that the page still calls the active one meanwhile
let coming = null;
const active = () => app.extensionManager?.workflow?.activeWorkflow ?? null;
const open = () => (coming && coming.before === active() ? coming.workflow : active());

export function isElsewhere(promptId) {
  const workflow = from.get(promptId);
  // by its key, which changes with its name
  return Boolean(workflow) && workflow.key !== open()?.key;
}

// Listeners are called in the order in which they were added. The page adds the one that looks for the node to be
// shown after it has loaded extensions, and before it calls their init.
api.addEventListener("executed", ({ detail }) => {
  const ours = OURS.some((key) => detail.output?.[key]);
  if (ours && isElsewhere(detail.prompt_id)) detail.display_node = NOWHERE;
});

app.registerExtension({
  name: "MotionCache.Elsewhere",
  init() {
    const { queuePrompt } = api;
    api.queuePrompt = async function (...args) {
      const workflow = open();
      const answer = await queuePrompt.apply(this, args);
      if (workflow && answer?.prompt_id) from.set(answer.prompt_id, workflow);
      if (from.size > MANY) from.delete(from.keys().next().value);
      return answer;
    };
    const { loadGraphData } = app;
    app.loadGraphData = async function (...args) {
      // a name where the workflow is a new one
      const workflow = typeof args[3] === "object" ? args[3] : null;
      const mine = (coming = { before: active(), workflow });
      try {
        return await loadGraphData.apply(this, args);
      } finally {
        if (coming === mine) coming = null;
      }
    };
  },
});
