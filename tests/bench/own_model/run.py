"""The quality table for your own model: what each way of reusing costs its videos, and saves.

    python tests/bench/own_model/run.py --workflow my_api.json --prompts prompts.txt --seeds 3 \\
        --out out/my_model

Run it with the Python that runs ComfyUI, from this pack's folder, while ComfyUI runs and has
nothing else to do. Nothing needs to be installed.

1. In ComfyUI, build a workflow that makes a video with MotionCache: one MotionCache node for each
   model, a sampler, a VAE decoder. Its preset does not matter. Any model will do, with any
   sampler, text or image to video, one expert or two; motion, paper and what differs from motion
   need one whose tokens can be told apart (Wan), and are balanced on others.
2. Write {prompt} where the text of the prompt is, and save with Workflow > Export (API).
3. Write your prompts into a file, one a line. Six clips (prompts times seeds) or more give
   intervals.

    python tests/bench/own_model/run.py --workflow my_api.json --prompts prompts.txt --plan

says what would be run. Every clip is sampled without a cache, twice, and with each of --policies:

    quality, balanced, fast, motion, paper
                                     MotionCache's presets
    step, chunk                      motion, but by whole evaluations, or by chunks of frames;
                                     with its forecast and budget: stands for rivals that
                                     forecast (Spectrum, TaylorSeer)
    random                           as many tokens as motion, but random ones
    teacache                         whole evaluations as TeaCache reuses them: no forecast, and a
                                     threshold of the change of the model's answer says when
    flowcache                        the same for each chunk of frames, as FlowCache does; differs
                                     from teacache in chunk by chunk sampling only
    EasyCache, LazyCache             ComfyUI's own nodes with their own values
    workflow                         MotionCache as it is set in the workflow

teacache and flowcache are this pack's own code with those methods' rule and usual values. The
MotionCache Diffusion Forcing sampler refuses step and teacache; name chunk and flowcache there.

--sweep also runs them at other values, for tables at equal compute and equal speed-up: balanced,
motion, step, chunk and random at --budgets (compute_budget, the share of the run that is computed),
teacache and flowcache at --thresholds, ComfyUI's nodes at --peer-thresholds. quality and fast are
balanced at other budgets, and have no sweep of their own; nor have paper and workflow.

    python tests/bench/own_model/run.py --workflow my_api.json --prompts prompts.txt --seeds 3 \\
        --policies balanced step teacache random EasyCache --sweep --out out/my_model

Use 13 steps or more: below, the warm-up of motion shrinks with the steps, and that of what differs
from it does not.

Every run that has ended is kept: stop it with Ctrl-C, and start it again to go on. The folder gets
table.md, real_model.json, and of every clip a contact sheet and a strip of one frame, which can be
shown to others. Frames come by way of ComfyUI's temp folder, which it empties when it starts.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import save
from own_model import strip
from own_model.graph import PLACEHOLDER, Found, find
from own_model.policies import (
    ALLOWED,
    BUDGETS,
    DEFAULT,
    MOST,
    NONE,
    PEER_THRESHOLDS,
    THRESHOLDS,
    Job,
    check_nodes,
    jobs,
    swept_over,
)
from own_model.runs import Clip, Plan, Sweep, fingerprint, shown
from own_model.sheet import Row, draw
from own_model.table import figures, markdown, of_clips
from own_model.workflow import Graph, ServerError, WorkflowError, name_of, read


def budget(text: str) -> float:
    """An option's share of the tokens."""
    return _within(text, 1, "share of the tokens", "0.4 computes 40 %")


def threshold(text: str) -> float:
    """An option's accumulated change."""
    return _within(text, MOST, "threshold", "0.1 is usual")


def _within(text: str, most: float, what: str, example: str) -> float:
    if 0 < float(text) <= most:
        return float(text)
    raise argparse.ArgumentTypeError(
        f"{text} is no {what}; give values above 0, up to {most:g}: {example}"
    )


def parser() -> argparse.ArgumentParser:
    """The options."""
    given = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    given.add_argument("--workflow", type=Path, required=True, help="an API format export")
    given.add_argument("--prompts", type=Path, help="a prompt a line, for {prompt}")
    given.add_argument("--seeds", type=int, default=3, help="clips of each prompt; 3")
    given.add_argument("--first-seed", type=int, default=0, help="the others follow it; 0")
    given.add_argument("--policies", nargs="+", default=list(DEFAULT), choices=ALLOWED,
                       metavar="POLICY", help=f"see above; {', '.join(DEFAULT)}")  # fmt: skip
    given.add_argument("--sweep", action="store_true", help="other values as well")
    for option, kind, values, whose in (
        ("--budgets", budget, BUDGETS, "balanced, motion, step, chunk and random"),
        ("--thresholds", threshold, THRESHOLDS, "teacache and flowcache"),
        ("--peer-thresholds", threshold, PEER_THRESHOLDS, "EasyCache and LazyCache"),
    ):
        given.add_argument(
            option, nargs="+", type=kind, default=values, metavar=kind.__name__[0].upper(),
            help=f"of the sweep, for {whose}; {' '.join(f'{v:g}' for v in values)}",
        )  # fmt: skip
    given.add_argument("--images", metavar="ID", help="the node whose frames are compared")
    given.add_argument("--server", default="http://127.0.0.1:8188", help="where ComfyUI is")
    given.add_argument("--out", type=Path, default=Path("out/real_model"))
    given.add_argument("--retry", action="store_true", help="make runs that failed again")
    given.add_argument("--plan", action="store_true", help="say what would be run, and end")
    return given


def prompts_of(path: Path | None, found: Found) -> list[str | None]:
    """The prompts of a file; a single None where the workflow's own text is used.

    Raises:
        WorkflowError: the file and the workflow do not go together.
    """
    if path is None:
        if found.prompts:
            raise WorkflowError(
                f"the workflow has {PLACEHOLDER} in it; give a file with a prompt a line: --prompts"
            )
        return [None]
    if not found.prompts:
        raise WorkflowError(
            f"no text of the nodes that make the frames has {PLACEHOLDER} in it. Write it where "
            "the prompt goes and export the workflow again, or leave --prompts out"
        )
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except OSError as error:
        raise WorkflowError(f"the prompts {path} cannot be read: {error}") from error
    prompts: list[str | None] = [line for line in dict.fromkeys(lines) if line]
    if not prompts:
        raise WorkflowError(f"{path} has no prompts; write one a line")
    return prompts


def planned(args: argparse.Namespace, graph: Graph, infos: dict[str, Any]) -> Plan:
    """All runs that the options ask for."""
    found = find(graph, infos, args.images)
    check_nodes(args.policies, infos)
    sweeps: tuple[Sequence[float], ...] = ((), (), ())
    if args.sweep:
        sweeps = (args.budgets, args.thresholds, args.peer_thresholds)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    clips = [Clip(prompt, seed) for prompt in prompts_of(args.prompts, found) for seed in seeds]
    return Plan(graph, found, infos, clips, jobs(args.policies, *sweeps))


def described(plan: Plan) -> str:
    """What was found in the workflow, for the user to check."""
    found, name = plan.found, partial(name_of, plan.graph)
    feeds = (
        f"{name(patcher)} feeds {', '.join(map(name, samplers))}"
        for patcher, samplers in found.samplers.items()
    )
    return "\n".join(
        (
            *feeds,
            f"frames are compared behind {name(found.frames[0])}",
            f"seeds: {', '.join(f'{input_} of {name(key)}' for key, input_ in found.seeds)}",
            f"policies: {'; '.join(job.label for job in plan.jobs)}",
            f"{len(plan.clips)} clips, {len(plan.clips) * len(plan.jobs)} runs",
        )
    )


def write(plan: Plan, sweep: Sweep, workflow: Path) -> str:
    """Result file and table of what is made by now; the table is returned."""
    found = figures(plan, sweep.store.records)
    result = {
        "bench": "real_model",
        "workflow": workflow.name,
        "facts": sweep.facts,
        "prompts": list(dict.fromkeys(clip.prompt for clip in plan.clips)),
        "seeds": sorted({clip.seed for clip in plan.clips}),
        **found,
    }
    text = markdown(f"MotionCache on {workflow.stem}", sweep.facts, plan, found)
    save(sweep.folder / "real_model.json", result)
    (sweep.folder / "table.md").write_text(text, "utf-8")
    return text


def sheet_of(plan: Plan, sweep: Sweep, clip: Clip) -> Path:
    """Where a clip's contact sheet is."""
    return sweep.folder / f"sheet_{list(plan.clips).index(clip):03}_seed_{clip.seed}.png"


def write_sheet(plan: Plan, sweep: Sweep, clip: Clip) -> None:
    """A clip's contact sheet and strip, if it has an uncached video."""
    records, place = sweep.store.records, sweep.frames_of(plan.key(clip, Job(NONE)))
    if not place.is_dir():
        return
    at, rows = list(plan.clips).index(clip), []
    for job, runs in of_clips(plan, records).items():
        record, key = runs[at], plan.key(clip, job)
        if record is None:
            said = str(records[key]["error"]) if key in records else "not made"
            rows.append(Row(job.label, [said], {}))
            continue
        lines = [f"{record['speedup']:.2f}x"]
        lines.append("identical" if record["identical"] else f"{record['psnr']:.1f} dB")
        if "compute_share" in record:
            lines.append(f"{record['compute_share']:.0%} of the tokens")
        files = {int(file.stem): file for file in sweep.frames_of(key).glob("*.png")}
        rows.append(Row(job.label, lines, files))
    count = len(list(place.glob("*.png")))
    reference = {index: place / f"{index:05}.png" for index in shown(count)}
    place = sheet_of(plan, sweep, clip)
    draw(clip.label, reference, rows).save(place)
    strip.draw(clip.label, reference, rows).save(place.with_name(f"strip{place.name[5:]}"))


async def run(args: argparse.Namespace) -> None:
    """Everything."""
    # needs a package that ComfyUI brings, which tests of the rest do without
    from own_model.server import Server

    graph = read(args.workflow)
    async with Server(args.server) as server:
        plan = planned(args, graph, await server.infos())
        print(described(plan))
        facts = {**await server.facts(), "pack": fingerprint()}
        sweep = Sweep(plan, args.out, facts, lambda line: print(line, flush=True))
        if args.retry:
            sweep.forget_errors()
        missing = len(sweep.missing())
        print(f"{missing} runs to make")
        if args.plan:
            return
        if missing and (busy := await server.busy()):
            raise WorkflowError(
                f"ComfyUI is at work on {busy} other jobs, which would spoil the times. Wait for "
                "them, or clear its queue"
            )
        args.out.mkdir(parents=True, exist_ok=True)

        def finished(clip: Clip) -> None:
            write(plan, sweep, args.workflow)
            write_sheet(plan, sweep, clip)

        await sweep.run(server, finished)
        for clip in plan.clips:
            if not sheet_of(plan, sweep, clip).exists():
                write_sheet(plan, sweep, clip)
        print(write(plan, sweep, args.workflow))


def main() -> None:
    given = parser()
    args = given.parse_args()
    if args.seeds < 1:
        given.error(f"--seeds is {args.seeds}; give 1 or more")
    if args.sweep and not any(swept_over(policy) for policy in args.policies):
        swept = ", ".join(policy for policy in ALLOWED if swept_over(policy))
        given.error(f"none of --policies has a --sweep; name some of {swept}, or leave it out")
    try:
        asyncio.run(run(args))
    except KeyboardInterrupt:
        sys.exit(f"stopped; finished runs are in {args.out}, start it again to go on")
    except (WorkflowError, ServerError) as error:
        sys.exit(f"real_model: {error}")


if __name__ == "__main__":
    main()
