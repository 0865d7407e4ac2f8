import { app } from "../../../scripts/app.js";
import { PAGE } from "./chinese/page.js";
import { REASONS } from "./chinese/reasons.js";
import { REPORT } from "./chinese/report.js";

// What is shown on nodes, in the page's language. The server speaks English and tells what its sentences were
// made of, see motioncache_core/common/phrases.py.

export const chinese = () =>
  String(app.extensionManager?.setting?.get("Comfy.Locale") ?? "").startsWith("zh");

const CHINESE = { ...PAGE, ...REPORT, ...REASONS };
const known = (words) => (chinese() ? (CHINESE[words] ?? words) : words);
// a place with the way its number is written, which the server has done
const filled = (words, parts) => known(words).replace(/\{(\w+)[^}]*\}/g, (_, name) => parts[name]);

// words of the page's own, with what belongs in their places
export const say = (words, ...parts) => filled(words, parts);

// what the server says: words, a template with its facts, or a separator with what it joins
export function put(said) {
  if (!Array.isArray(said)) return known(String(said));
  const [words, parts] = said;
  if (Array.isArray(parts)) return parts.map(put).join(known(words));
  return filled(words, Object.fromEntries(Object.entries(parts).map(([name, part]) => [name, put(part)])));
}

// the server's text, which has the breaks that English needs, or the same in Chinese
export const translated = (text, said) => (chinese() && said !== undefined ? put(said) : text);
