import { app } from "../../../scripts/app.js";

// The server lists templates as its file system does. Ours are to be tried in the order of their names.
const FIRST = "Demo 1 without and with MotionCache";

app.registerExtension({
  name: "MotionCache.Templates",
  init() {
    const { getWorkflowTemplates } = app.api;
    app.api.getWorkflowTemplates = async function (...args) {
      const found = await getWorkflowTemplates.apply(this, args);
      for (const names of Object.values(found ?? {})) {
        if (Array.isArray(names) && names.includes(FIRST)) names.sort();
      }
      return found;
    };
  },
});
