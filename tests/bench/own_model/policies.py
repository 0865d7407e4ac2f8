"""What is compared on a user's model, as changes of the workflow."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from motioncache_pack.motioncache_core import PRESETS, MotionCacheSettings
from motioncache_pack.motioncache_core.common.field_checks import declared
from own_model.graph import PATCHER, Found
from own_model.workflow import Graph, Infos, WorkflowError, ancestors, consumers, outputs

NONE, AGAIN, OWN = "none", "none, again", "workflow"
OURS = "balanced"
# ours with tokens: what the policies below differ from
TOKENS = "motion"
# the uncached runs are there without it
COMPARED = tuple(name for name in PRESETS if name != "off")
# the published rivals: what was reused is reused as it was, and the distance alone says when. Five
# evaluations to warm up, no limit to waiting, and the threshold of their slower setting. The last
# evaluation is computed, as FlowCache does and TeaCache without its warm-up of five.
_PUBLISHED: dict[str, Any] = {
    "warmup_steps": 5,
    "reuse_threshold": 0.1,
    "compute_budget": 0.0,
    "max_stale_steps": 0,
    "motion_source": "predicted_x0",
    "forecast": 0.0,
    "kv_forecast": 0.0,
    "correction": 0.0,
}
# settings by policy that no preset is: what differs from TOKENS
CHANGED: dict[str, dict[str, Any]] = {
    # whole evaluations with TOKENS' forecast and budget: stands for Spectrum (arXiv 2603.01623)
    # and TaylorSeer (arXiv 2503.06923), which forecast too
    "step": {"policy": "step"},
    "chunk": {"policy": "chunk"},
    # as many tokens in every evaluation as TOKENS, but random ones
    "random": {"policy": "random"},
    # TeaCache (arXiv 2411.19108)
    "teacache": {"policy": "step", **_PUBLISHED},
    # FlowCache (arXiv 2602.10825): TeaCache's rule for every chunk; an ordinary clip is one chunk
    "flowcache": {"policy": "chunk", **_PUBLISHED},
}
PEERS = ("EasyCache", "LazyCache")
DEFAULT = (*COMPARED, "step", "teacache", "random", *PEERS)
ALLOWED = (*COMPARED, *CHANGED, *PEERS, OWN)
# policies without partial evaluations
WHOLE = (
    *(name for name, preset in PRESETS.items() if not preset.traits.per_token),
    *(name for name, changes in CHANGED.items() if changes["policy"] in ("step", "chunk")),
)
BUDGET, THRESHOLD = "compute_budget", "reuse_threshold"
# what the settings node takes
MOST = declared(MotionCacheSettings)[THRESHOLD].limits[1]
BUDGETS = (0.25, 0.3, 0.4, 0.5, 0.65)
THRESHOLDS = (0.03, 0.05, 0.08, 0.12, 0.2, 0.35, 0.6)
PEER_THRESHOLDS = (0.02, 0.05, 0.1, 0.2, 0.4)
SETTINGS_NODE, REPORT_NODE = "MotionCacheSettings", "MotionCacheReport"
FRAMES_NODE, TEXT_NODE = "PreviewImage", "PreviewAny"
ADDED = (FRAMES_NODE, TEXT_NODE, REPORT_NODE, SETTINGS_NODE)
# an input that no node knows: the server takes it for a change and samples anew
NONCE = "motioncache_run"
FRAMES = "motioncache frames"


@dataclass(frozen=True)
class Job:
    """One way to sample a clip.

    Attributes:
        value: of the setting that the policy is swept over, in place of its own.
    """

    policy: str
    value: float | None = None

    @property
    def label(self) -> str:
        return self.policy if self.value is None else f"{self.policy} at {self.value:g}"


def swept_over(policy: str) -> str | None:
    """The setting that says how often a policy computes; None for what has no sweep: "quality" and
    "fast" are OURS at other budgets, "paper" does what the settings node has no widgets for, and
    the workflow's own settings are the server's."""
    if policy in PEERS:
        return THRESHOLD
    if policy not in (OURS, TOKENS, *CHANGED):
        return None
    return BUDGET if settings(Job(policy)).compute_budget > 0 else THRESHOLD


def jobs(
    policies: Sequence[str],
    budgets: Sequence[float],
    thresholds: Sequence[float],
    peers: Sequence[float],
) -> list[Job]:
    """The uncached runs, and each policy at its own value and at these.

    Args:
        budgets: of ours.
        thresholds: of the published rivals.
        peers: thresholds of ComfyUI's own nodes.
    """
    found = [Job(NONE), Job(AGAIN)]
    for policy in policies:
        found.append(Job(policy))
        name = swept_over(policy)
        if policy in PEERS:
            found += [Job(policy, value) for value in peers]
        elif name is not None:
            own = getattr(settings(Job(policy)), name)
            values = budgets if name == BUDGET else thresholds
            found += [Job(policy, value) for value in values if value != own]
    return list(dict.fromkeys(found))


def check_nodes(policies: Sequence[str], infos: Infos) -> None:
    """Whether the server has what is added.

    Raises:
        WorkflowError: it has not.
    """
    missing = sorted({*ADDED, *(p for p in policies if p in PEERS)} - infos.keys())
    peers = [name for name in missing if name in PEERS]
    if peers:
        raise WorkflowError(
            f"the server has no {' and no '.join(peers)}. Update ComfyUI, or name other --policies"
        )
    if missing:
        raise WorkflowError(
            f"the server does not know the nodes {', '.join(missing)}. Update ComfyUI and this pack"
        )


def edited(graph: Graph, found: Found, job: Job, infos: Infos) -> Graph:
    """The workflow as the job wants it, cut down to what makes and shows frames and reports.

    Raises:
        WorkflowError: the server's settings node is another version's.
    """
    graph = copy.deepcopy(graph)
    ends = [FRAMES]
    for patcher, samplers in found.samplers.items():
        source = graph[patcher]["inputs"].get("model")
        if job.policy in (NONE, AGAIN):
            _reconnect(graph, patcher, source)
            continue
        if job.policy in PEERS:
            key = f"motioncache {job.policy} {patcher}"
            inputs = {**_defaults(infos[job.policy]), "model": source}
            if job.value is not None:
                inputs[THRESHOLD] = job.value
            graph[key] = {"class_type": job.policy, "inputs": inputs}
            _reconnect(graph, patcher, [key, 0])
            continue
        if job.policy != OWN:
            _set(graph, patcher, job, infos)
        report, text = f"motioncache report {patcher}", text_key(patcher)
        slot = outputs(graph, infos, samplers[-1]).index("LATENT")
        shown = {"trace": [patcher, 1], "samples": [samplers[-1], slot]}
        graph[report] = {"class_type": REPORT_NODE, "inputs": shown}
        graph[text] = {"class_type": TEXT_NODE, "inputs": {"source": [report, 2]}}
        ends.append(text)
    graph[FRAMES] = {"class_type": FRAMES_NODE, "inputs": {"images": list(found.frames)}}
    kept = ancestors(graph, ends)
    return {key: node for key, node in graph.items() if key in kept}


def text_key(patcher: str) -> str:
    """The node that shows a patcher's report as JSON."""
    return f"motioncache json {patcher}"


def marked(graph: Graph, found: Found, nonce: str) -> Graph:
    """The same with a mark on its samplers, without which a server would show the result that it
    still has of equal inputs instead of sampling."""
    graph = copy.deepcopy(graph)
    for key in found.timed:
        graph[key]["inputs"][NONCE] = nonce
    return graph


def key_of(graph: Graph, job: Job) -> str:
    """Names the run: two with the same key have the same graph. The two uncached runs of a clip
    have equal graphs and keys of their own."""
    told = json.dumps([graph, job.policy == AGAIN], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:24]


def _reconnect(graph: Graph, patcher: str, source: Any) -> None:
    """Take a patcher out: what had its model gets another one, what had its trace goes."""
    traced = []
    for key, name, slot in list(consumers(graph, patcher)):
        if slot == 0:
            graph[key]["inputs"][name] = source
        else:
            traced.append(key)
    del graph[patcher]
    while traced:
        key = traced.pop()
        if key in graph:
            traced += [after for after, _, _ in consumers(graph, key)]
            del graph[key]


def _set(graph: Graph, patcher: str, job: Job, infos: Infos) -> None:
    inputs = graph[patcher]["inputs"]
    inputs.pop("settings", None)
    wanted = settings(job)
    # a run that a preset is too is made once
    preset = next((name for name, given in PRESETS.items() if given == wanted), None)
    if preset is not None:
        inputs["preset"] = preset
        return
    key = f"motioncache settings {patcher}"
    graph[key] = {"class_type": SETTINGS_NODE, "inputs": _widgets(wanted, infos)}
    inputs["settings"] = [key, 0]


def settings(job: Job) -> MotionCacheSettings:
    """The settings of a job of ours or of a published rival.

    Raises:
        ValueError: the job has a value, and its policy no sweep.
    """
    chosen = PRESETS.get(job.policy) or replace(PRESETS[TOKENS], **CHANGED[job.policy])
    if job.value is None:
        return chosen
    name = swept_over(job.policy)
    if name is None:
        raise ValueError(f"{job.policy} has no sweep")
    return replace(chosen, **{name: job.value})


def _widgets(wanted: MotionCacheSettings, infos: Infos) -> dict[str, Any]:
    names = infos[SETTINGS_NODE]["input"].get("required", {})
    values = wanted.as_dict()
    foreign = sorted(set(names) - values.keys())
    if foreign:
        raise WorkflowError(
            f"the server's {SETTINGS_NODE} asks for {', '.join(foreign)}, which this script does "
            "not know: they are of different versions. Run the script from the folder that the "
            f"server has under custom_nodes, and restart the server after an update ({PATCHER})"
        )
    return {name: values[name] for name in names}


def _defaults(info: dict[str, Any]) -> dict[str, Any]:
    """A node's own values."""
    given = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    return {
        name: spec[1]["default"]
        for name, spec in given.items()
        if len(spec) > 1 and "default" in spec[1]
    }
