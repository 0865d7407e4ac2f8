import { app } from "../../../scripts/app.js";

// What the pack's own parts of the page say. The server speaks English; in a Chinese page its short lines on a node are put into Chinese here.

export const chinese = () =>
  String(app.extensionManager?.setting?.get("Comfy.Locale") ?? "").startsWith("zh");

const WORDS = {
  "computes {0} of the steps": "计算 {0} 的步",
  "computes {0} of the tokens": "计算 {0} 的 token",
  "up to {0}x faster in the sampler": "采样最多快 {0} 倍",
  "reuses what changes little:\nhow much depends on the video": "复用变化小的部分；多少取决于视频",
  "the model is left as it is": "模型保持原样",
  "bypassed: the model is left as it is": "已绕过：模型保持原样",
  "settings are connected,\npreset is not used": "已连接设置节点，预设不起作用",
  "what the map shows": "运动图显示什么",
  "preview of the last run": "上次运行的预览",
  step: "步",
  evaluation: "求值",
  frame: "帧",
  "{0} of {1}": "{0} / {1}",
  "noise {0}": "噪声 {0}",
  computed: "已计算",
  "computed in part, {0}": "部分计算，{0}",
  foretold: "推算",
  "chunk {0}": "块 {0}",
  "token {0}, {1}: {2}": "token {0}, {1}：{2}",
  "{0} of {1} steps": "{1} 步中的 {0} 步",
  "{0} of {1} frames": "{1} 帧中的 {0} 帧",
  motion: "motion 运动",
  updates: "updates 更新",
  staleness: "staleness 陈旧",
  active: "active 计算",
  sheet: "sheet 总览",
  // what the colours are, see motioncache_core/report/motion_map.py
  "change of the model's answer": "模型回答的变化",
  "rate of change": "变化速度",
  "motion weight": "运动权重",
  "evaluations it was computed in": "计算过它的求值",
  "evaluations since it was computed": "自上次计算以来的求值",
  "computed in this evaluation": "本次求值中已计算",
};

// lines of the server, see motioncache_core/report/report_text.py
const LINES = [
  [/^step (\d+) of (\d+) · (.+) reused$/, "第 $1 步，共 $2 步 · 复用 $3"],
  [/^evaluation (\d+)(?: of (\d+))? · (.+) reused$/, "第 $1 次求值 · 复用 $3"],
  [/^step (\d+) · (.+) reused$/, "第 $1 步 · 复用 $2"],
  [/^(.+) reused · about (.+)x faster$/, "复用 $1 · 约快 $2 倍"],
  [/^(.+) reused$/, "复用 $1"],
  [/^(.+) s in the sampler, nothing reused$/, "采样 $1 秒，没有复用"],
  [/^computes (.+) of the steps$/, "计算 $1 的步"],
  [/^computes (.+) of the tokens$/, "计算 $1 的 token"],
  [/^up to (.+)x faster in the sampler$/, "采样最多快 $1 倍"],
  [/^reuses what changes little:( how)?$/, "复用变化小的部分："],
  [/^(how )?much depends on the video$/, "多少取决于视频"],
  [/^settings are connected,$/, "已连接设置节点，"],
  [/^preset is not used$/, "预设不起作用"],
  [/^keys and values (.+), on the model's device$/, "键和值 $1，在模型的设备上"],
  [/^keys and values (.+), in the host's memory$/, "键和值 $1，在主机内存里"],
];

// the words in the page's language, with what belongs in their places
export function say(words, ...parts) {
  const found = chinese() ? (WORDS[words] ?? words) : words;
  return found.replace(/\{(\d)\}/g, (_, i) => parts[i]);
}

export function translated(text) {
  if (!chinese()) return text;
  const line = (words) => {
    const known = LINES.find(([pattern]) => pattern.test(words));
    return known ? words.replace(...known) : words;
  };
  return text.split("\n").map(line).join("\n");
}
