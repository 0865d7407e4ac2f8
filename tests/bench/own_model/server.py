"""A running ComfyUI server: give it a workflow, time its nodes, fetch its frames."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from own_model.workflow import Graph, Infos, ServerError, WorkflowError, name_of

# without an event for so long the history is asked whether the run has ended
SILENCE_SECONDS = 60.0
# how long an interrupted job has to end
INTERRUPT_SECONDS = 60.0


@dataclass
class Finished:
    """A run that has ended.

    Attributes:
        seconds: by node, how long it was at work, as far as it was asked for.
        total: from the first to the last event.
        outputs: what nodes show.
        error: what a node raised, on one line; None if none did.
        out_of_memory: whether that was for want of memory.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    total: float = 0.0
    outputs: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    out_of_memory: bool = False


class Server:
    """An asynchronous context manager.

    Args:
        url: where the page is, as in `http://127.0.0.1:8188`.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._client = uuid.uuid4().hex
        self._events: asyncio.Queue[tuple[float, dict[str, Any]] | None] = asyncio.Queue()

    async def __aenter__(self) -> Server:
        self._session = aiohttp.ClientSession()
        try:
            self._socket = await self._session.ws_connect(
                f"{self.url}/ws", params={"clientId": self._client}, max_msg_size=0
            )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            await self._session.close()
            raise ServerError(
                f"no ComfyUI answers at {self.url} ({error or type(error).__name__}). Start it, "
                "or say with --server where it is; its log prints the address"
            ) from error
        self._listener = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *raised: object) -> None:
        self._listener.cancel()
        await self._socket.close()
        await self._session.close()

    async def _listen(self) -> None:
        """Notes when each event came, whatever else is being done."""
        async for message in self._socket:
            if message.type == aiohttp.WSMsgType.TEXT:
                self._events.put_nowait((time.perf_counter(), json.loads(message.data)))
        self._events.put_nowait(None)

    async def infos(self) -> Infos:
        """Every node that the server knows."""
        found: Infos = await self._ask("/object_info")
        return found

    async def facts(self) -> dict[str, str]:
        """What a run's time depends on."""
        told = await self._ask("/system_stats")
        system = told.get("system", {})
        devices = told.get("devices") or [{}]
        return {
            "device": str(devices[0].get("name", "unknown")),
            "comfyui": str(system.get("comfyui_version", "unknown")),
            "torch": str(system.get("pytorch_version", "unknown")),
        }

    async def busy(self) -> int:
        """Jobs that run or wait."""
        queue = await self._ask("/queue")
        return len(queue["queue_running"]) + len(queue["queue_pending"])

    async def run(self, graph: Graph, timed: Collection[str] = ()) -> Finished:
        """A workflow, from its first to its last node. Cancelled, it takes the job off the server.

        Args:
            timed: nodes whose time is of interest.

        Raises:
            WorkflowError: the server does not take the workflow.
            ServerError: the server went away, or someone else stopped the job.
        """
        while not self._events.empty():
            self._events.get_nowait()
        key = str(uuid.uuid4())
        given = {"prompt": graph, "client_id": self._client, "prompt_id": key}
        posted = asyncio.ensure_future(self._ask("/prompt", given, refused=graph))
        try:
            await asyncio.shield(posted)
            finished = await self._follow(graph, key, timed)
        except asyncio.CancelledError:
            await asyncio.shield(self._stop(key, posted))
            raise
        if finished.error is None:
            entry = (await self._ask(f"/history/{key}")).get(key, {})
            finished.outputs = entry.get("outputs", {})
        return finished

    async def _follow(self, graph: Graph, key: str, timed: Collection[str]) -> Finished:
        finished = Finished()
        started: float | None = None
        since, node = 0.0, None
        while True:
            event = await self._next(key)
            if event is None:
                raise ServerError(
                    f"ComfyUI at {self.url} went away in the middle of a run. Look at its log, "
                    "start it, and start this again: finished runs are kept"
                )
            now, message = event
            kind, data = message.get("type"), message.get("data") or {}
            if data.get("prompt_id") != key:
                continue
            started = now if started is None else started
            if kind == "executing":
                if node in timed:
                    finished.seconds[node] = finished.seconds.get(node, 0.0) + now - since
                # nodes that a node expands into count as that node
                since, node = now, data.get("display_node") or data.get("node")
                if data.get("node") is None:
                    finished.total = now - started
                    return finished
            elif kind == "execution_interrupted":
                raise ServerError(
                    "the job was stopped in ComfyUI. Start this again to go on: finished runs are "
                    "kept"
                )
            elif kind == "execution_error":
                finished.error, finished.out_of_memory = _said(graph, data)

    async def _next(self, key: str) -> tuple[float, dict[str, Any]] | None:
        """The next event. Where none comes for long and the history has the run, its end."""
        while True:
            try:
                return await asyncio.wait_for(self._events.get(), SILENCE_SECONDS)
            except asyncio.TimeoutError:
                if key in await self._ask(f"/history/{key}"):
                    data = {"prompt_id": key, "node": None}
                    return time.perf_counter(), {"type": "executing", "data": data}

    async def _stop(self, key: str, posted: asyncio.Future[Any]) -> None:
        """Take a job off the queue, or interrupt it, and see it end."""
        # a job that is on its way would be taken up after all
        await asyncio.wait([posted])
        until = time.perf_counter() + INTERRUPT_SECONDS
        while time.perf_counter() < until:
            # more than once: a job that just starts forgets what it was told before
            await self._ask("/queue", {"delete": [key]})
            await self._ask("/interrupt", {"prompt_id": key})
            queue = await self._ask("/queue")
            if all(job[1] != key for job in (*queue["queue_running"], *queue["queue_pending"])):
                return
            await asyncio.sleep(0.5)

    async def frames(self, images: list[dict[str, str]]) -> list[bytes]:
        """Pictures that a node shows, as PNG files."""
        return [await self._read("/view", params=image) for image in images]

    async def _ask(self, path: str, data: Any = None, refused: Graph | None = None) -> Any:
        body = await self._read(path, data, refused)
        if not body:
            return None
        try:
            return json.loads(body)
        except ValueError as error:
            raise ServerError(
                f"{self.url}{path} answers with something that is no JSON. Is that ComfyUI? Say "
                "with --server where it is"
            ) from error

    async def _read(
        self, path: str, data: Any = None, refused: Graph | None = None, params: Any = None
    ) -> bytes:
        method = "GET" if data is None else "POST"
        try:
            async with self._session.request(
                method, self.url + path, json=data, params=params
            ) as answer:
                body = await answer.read()
                if answer.status == 400 and refused is not None:
                    raise WorkflowError(_refusal(refused, json.loads(body)))
                answer.raise_for_status()
                return body
        except (aiohttp.ClientError, OSError) as error:
            raise ServerError(
                f"{self.url}{path} does not answer as ComfyUI does ({error}). Look at its log; "
                "finished runs are kept"
            ) from error


def _said(graph: Graph, data: dict[str, Any]) -> tuple[str, bool]:
    """What a node raised, on one line, and whether that was for want of memory."""
    kind = str(data.get("exception_type")).rsplit(".", 1)[-1]
    words = str(data.get("exception_message")).strip()
    key = str(data.get("node_id"))
    node = name_of(graph, key) if key in graph else str(data.get("node_type"))
    first = words.splitlines()[0] if words else ""
    memory = "OutOfMemory" in kind or "out of memory" in words.lower()
    return f"{node}: {kind}: {first}", memory


def _refusal(graph: Graph, answer: dict[str, Any]) -> str:
    told = [
        f"{name_of(graph, key)}: {error['message']} ({error['details']})"
        for key, node in (answer.get("node_errors") or {}).items()
        for error in node["errors"]
        if key in graph
    ]
    if not told:
        error = answer.get("error") or {}
        told = [f"{error.get('message')} {error.get('details')}"]
    return (
        "the server does not take the workflow: "
        + "; ".join(told)
        + ". See that it runs in ComfyUI's page, then export it again"
    )
