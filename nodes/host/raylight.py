"""Models of raylight, which live in processes of their own, one for each GPU.

No MODEL goes through raylight's nodes, only a handle of its processes: each has a model that its
own samplers use, and takes functions that change it. The node's wrappers are put on there, and the
trace is fetched from the first process.
"""

from __future__ import annotations

import pickle
import sys
from collections import deque
from pathlib import Path
from typing import Any

from ...motioncache_core import RunSettings, Trace, TraceHandle
from . import rank_worker
from .attach import attach, detach, off
from .passes import KEY
from .sampling_run import PatchConfig

# raylight's own name for a node's sockets
ACTORS = "RAY_ACTORS"

_PACK = __name__.rpartition(".nodes.")[0]
_FOLDER = str(Path(__file__).resolve().parents[2])


class RanksHandle:
    """The trace of models in other processes: fetched when it is looked at."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker

    @property
    def runs(self) -> deque[Trace]:
        """The last runs of the first process."""
        ray = _ray()
        asked = self._worker.model_function_runner_get_values.remote(*_order("told"))
        found: deque[Trace] = pickle.loads(ray.get(asked))
        return found

    @property
    def latest(self) -> Trace | None:
        """The newest finished run."""
        return TraceHandle(self.runs).latest


def attach_to_ranks(actors: dict[str, Any], chosen: RunSettings) -> RanksHandle | TraceHandle:
    """The models of all of raylight's processes cache from now on; what was chosen for them before
    is forgotten.

    Args:
        actors: as raylight's sockets hand them on.

    Raises:
        ConflictError: another cache is on the models already.
    """
    ray = _ray()
    workers = actors["workers"]
    _by_value(ray)
    order = _order("put_on", chosen)
    ray.get([worker.model_function_runner.remote(*order) for worker in workers])
    if chosen.preset == "off":
        return TraceHandle(deque((off(chosen),)))
    return RanksHandle(workers[0])


def put_on(model: Any, chosen: RunSettings) -> Any:
    """In a worker: the model with the wrappers, in the place of those of an earlier call."""
    # no page listens to a worker
    attached = attach(detach(model), chosen, TraceHandle())
    return detach(attached) if chosen.preset == "off" else attached


def told(model: Any) -> bytes:
    """In a worker: the traces of its model, pickled."""
    config: PatchConfig | None = model.model_options.get("transformer_options", {}).get(KEY)
    return pickle.dumps(deque() if config is None else config.handle.runs)


def _order(work: str, *arguments: Any) -> tuple[Any, ...]:
    """What a worker is asked to call, and with what."""
    return rank_worker.in_worker, _PACK, _FOLDER, work, pickle.dumps(arguments)


def _ray() -> Any:
    # loaded by whoever made the processes; the pack has no need of it otherwise
    return sys.modules["ray"]


def _by_value(ray: Any) -> None:
    # the module has no name that a worker could import it by
    ray.cloudpickle.register_pickle_by_value(sys.modules[rank_worker.__name__])
