import { app } from "../../../scripts/app.js";

// The server tells of nodes by their ids, and another workflow that was opened meanwhile has nodes of the same
// ids. So it is kept in mind which workflow a prompt came from, and ours are not shown on another one: the page
// itself asks only for the id. It keeps outputs for the workflow they belong to, and shows them there.
const OURS = ["motioncache_said", "motioncache_map", "motioncache_no_map"];
// no node can have this id
const NOWHERE = ":";
const MANY = 50;

const from = new Map();
const open = () => app.extensionManager?.workflow?.activeWorkflow?.key ?? null;

export function isElsewhere(promptId) {
  const workflow = from.get(promptId);
  return Boolean(workflow) && workflow !== open();
}

app.registerExtension({
  name: "MotionCache.Elsewhere",
  init() {
    const { queuePrompt } = app.api;
    app.api.queuePrompt = async function (...args) {
      const workflow = open();
      const answer = await queuePrompt.apply(this, args);
      if (workflow && answer?.prompt_id) from.set(answer.prompt_id, workflow);
      if (from.size > MANY) from.delete(from.keys().next().value);
      return answer;
    };
    // before the page's own listeners, which look for the node that is to be shown
    const mark = ({ detail }) => {
      const ours = OURS.some((key) => detail.output?.[key]);
      if (ours && isElsewhere(detail.prompt_id)) detail.display_node = NOWHERE;
    };
    app.api.addEventListener("executed", mark, { capture: true });
  },
});
