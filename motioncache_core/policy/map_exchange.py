"""Motion of all branches, where each device sees only its own."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Hashable, Mapping
from weakref import WeakSet

import torch
from torch import Tensor

from ..common.token_layout import TokenLayout
from ..sampling.model_call import BranchKey

Maps = dict[BranchKey, Tensor]


class MapExchange:
    """Inter-frame differences that the devices of a run leave for each other.

    A device leaves its maps at the end of an evaluation, and takes the others' at the start of its
    next one. The host starts no evaluation before all devices are done with the last one, so they
    lie there by then and nobody waits. Decisions that are made from the same maps are the same.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.devices: WeakSet[DeviceMaps] = WeakSet()

    def device_maps(self) -> DeviceMaps:
        """For what decides on one device. Goes when it is dropped."""
        maps = DeviceMaps(self)
        with self.lock:
            self.devices.add(maps)
        return maps


class DeviceMaps:
    """One device's side of the exchange, for one clip."""

    def __init__(self, exchange: MapExchange) -> None:
        self._exchange = exchange
        self._seen: Counter[Hashable] = Counter()
        self._now: Hashable = None
        # a device may be one evaluation ahead of another, but not more
        self._left: deque[tuple[Hashable, Maps]] = deque(maxlen=2)

    def begin(self, layout: TokenLayout, sigmas: tuple[float, ...]) -> None:
        """An evaluation was decided. Noise level and clip name it on all devices alike, also where
        one of them was not called in another evaluation."""
        level = (layout, sigmas)
        self._seen[level] += 1
        self._now = (*level, self._seen[level])

    def publish(self, maps: Mapping[BranchKey, Tensor]) -> None:
        """The maps `(b, F, S)` of this device's branches after the current evaluation."""
        with self._exchange.lock:
            if self._left and self._left[-1][0] == self._now:
                self._left.pop()
            self._left.append((self._now, dict(maps)))

    def collect(self, own: Mapping[BranchKey, Tensor], device: torch.device) -> Maps:
        """The maps of all devices' branches after the last evaluation, in an order that is the
        same everywhere."""
        found: Maps = {}
        with self._exchange.lock:
            for other in self._exchange.devices:
                for moment, maps in other._left:
                    if other is not self and moment == self._now:
                        found.update(maps)
        shapes = {m.shape for m in own.values()}
        found = {k: m.to(device) for k, m in found.items() if m.shape in shapes}
        return dict(sorted({**found, **own}.items(), key=lambda entry: repr(entry[0])))
