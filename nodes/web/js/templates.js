import { app } from "../../../scripts/app.js";

// The server lists templates as its file system does. Ours: those that need no download, then by name.
const DEMO = "Demo ";
const FIRST = `${DEMO}1 without and with MotionCache`;
const place = (name) => (name.startsWith(DEMO) ? `0${name}` : `1${name}`);

app.registerExtension({
  name: "MotionCache.Templates",
  init() {
    const { getWorkflowTemplates } = app.api;
    app.api.getWorkflowTemplates = async function (...args) {
      const found = await getWorkflowTemplates.apply(this, args);
      for (const names of Object.values(found ?? {})) {
        if (Array.isArray(names) && names.includes(FIRST)) {
          names.sort((a, b) => (place(a) < place(b) ? -1 : 1));
        }
      }
      return found;
    };
  },
});
