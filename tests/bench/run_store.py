"""Finished runs of a bench in a file, a run a line, so that a bench that was stopped goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class Store:
    """Finished runs by key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, Record] = {}
        self.read()

    def read(self) -> None:
        """Take in what is in the file by now."""
        text = self.path.read_text("utf-8") if self.path.exists() else ""
        for line in text.splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                # a run that was stopped while it wrote
                continue
            self.records[record["key"]] = record
        if text and not text.endswith("\n"):
            append(self.path, "\n")

    def add(self, record: Record) -> None:
        """Keep a run, in place of an older one of its key."""
        append(self.path, json.dumps(record) + "\n")
        self.records[record["key"]] = record


def append(path: Path, text: str) -> None:
    """Write in one piece at the end, which keeps the lines of several processes apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)
