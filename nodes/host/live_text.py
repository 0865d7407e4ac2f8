"""Text on a node while the sampler behind it runs."""

from __future__ import annotations

import logging
import sys
import time

from ...motioncache_core import Trace
from ...motioncache_core.common.phrases import as_data
from ...motioncache_core.report.node_text import progress

log = logging.getLogger(__name__)

# seconds from one text to the next
INTERVAL = 0.3
# what the page's part of the node listens to
EVENT = "motioncache_text"


class LiveText:
    """Says on a node how the run of its model goes; does nothing where no page can show it.

    Args:
        node_id: of the node; None shows nothing.
        measured: the workflow measures the gain, so that no estimate is told beside that.
    """

    def __init__(self, node_id: str | None, measured: bool = False) -> None:
        self._node_id, self._measured = node_id, measured
        self._shown = float("-inf")

    def on_call(self, trace: Trace) -> None:
        """Show the progress, unless that was done a moment ago."""
        now = time.monotonic()
        if self._node_id is not None and now - self._shown >= INTERVAL:
            self._shown = now
            self.show(progress(trace))

    def on_end(self, trace: Trace) -> None:
        """Show what became of a run."""
        self.show(progress(trace, self._measured))

    def show(self, words: str) -> None:
        """Send a text to the page that queued the run, or to all where none did.

        Not as ComfyUI's own kind of text, which a page shows on whatever node has the id: another
        one, where another workflow was opened meanwhile.
        """
        # where ComfyUI has no server this module is not loaded, and importing it would load one
        server = getattr(sys.modules.get("server"), "PromptServer", None)
        instance = getattr(server, "instance", None)
        send = getattr(instance, "send_sync", None)
        if send is None or self._node_id is None:
            return
        try:
            page = getattr(instance, "client_id", None)
            told = {"node": self._node_id, "text": words, "said": as_data(words)}
            # by which the page knows the workflow
            told["prompt_id"] = getattr(instance, "last_prompt_id", None)
            send(EVENT, told, page)
        except Exception as error:
            # a page that went away must not cost the run
            log.debug("MotionCache - no text was shown: %s", error)
