"""How many documents and bytes pass each stage, why others do not, and some of both to read.

A record of a stage is plain data, in a task's report or in the build's:
  {"stage", "documents", "text_bytes", "seconds",
   "dropped": {reason: {"documents", "text_bytes"}}, "examples": {reason or "kept": [...]}}
A stage that drops lines has "lines": {"in", "dropped"}, too, one that counts {name: number} in
"counts".
Records of many tasks add up to one of the same shape, whatever the order.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from puna.data.document import DAMAGED, Document, Dropped

KEPT = "kept"
UNKNOWN = "unknown"  # a language
EXAMPLES = 3  # of each reason in a stage
EXCERPT_CHARACTERS = 400
PLACES = 20  # of damaged items

Record = dict[str, Any]


class Funnel:
    """Counts one stage of a task. Examples are those whose id has the smallest hash with `seed`."""

    def __init__(self, stage: str, seed: int) -> None:
        self.stage = stage
        self.documents = self.text_bytes = 0
        self.seconds = 0.0
        self.dropped: dict[str, dict[str, int]] = {}
        self.places: list[dict[str, str]] = []
        self.counts: Counter[str] = Counter()
        self._examples: dict[str, list[Record]] = {}
        self._start = zlib.crc32(str(seed).encode())

    def keep(self, document: Document, text_bytes: int) -> None:
        """Count a document that goes on."""
        self.documents += 1
        self.text_bytes += text_bytes
        self._maybe_show(KEPT, document.id, document.text, url=document.url)

    def drop(self, item: Dropped, before: Document | None = None) -> None:
        """Count one that does not; `before` is the document it was, where it was one."""
        _add(self.dropped, item.reason, 1, item.text_bytes)
        text, url = (before.text, before.url) if before else ("", "")
        self._maybe_show(item.reason, item.id, item.excerpt or text, item.detail, url)
        if item.reason == DAMAGED and len(self.places) < PLACES:
            self.places.append({"id": _whole(item.id), "detail": _whole(item.detail)})

    def record(self) -> Record:
        """The counts as plain data."""
        found = {
            "stage": self.stage,
            "documents": self.documents,
            "text_bytes": self.text_bytes,
            "seconds": round(self.seconds, 4),
            "dropped": self.dropped,
            "examples": self._examples,
        }
        if self.places:
            found["damaged"] = self.places
        return found | ({"counts": dict(sorted(self.counts.items()))} if self.counts else {})

    def _maybe_show(
        self, reason: str, name: str, text: str, detail: str = "", url: str = ""
    ) -> None:
        shown = self._examples.setdefault(reason, [])
        name = _whole(name)
        key = zlib.crc32(name.encode(), self._start)
        if len(shown) == EXAMPLES and key >= shown[-1]["key"]:
            return
        example = {"key": key, "id": name, "text": _whole(text[:EXCERPT_CHARACTERS])}
        shown.append({**example, "detail": _whole(detail[:200]), "url": _whole(url)})
        _shorten(shown)


class Groups:
    """Documents and bytes by language and by licence."""

    def __init__(self) -> None:
        self.languages: dict[str, dict[str, int]] = {}
        self.licences: dict[str, dict[str, int]] = {}

    def add(self, document: Document, text_bytes: int) -> None:
        """Count one document that is kept."""
        _add(self.languages, document.language or UNKNOWN, 1, text_bytes)
        _add(self.licences, document.licence, 1, text_bytes)

    def record(self) -> Record:
        """The counts as plain data."""
        return {"languages": self.languages, "licences": self.licences}


def add_stages(records: Iterable[Record]) -> list[Record]:
    """One record for each stage that the records have, in the order of their first coming."""
    total: dict[str, Record] = {}
    for record in records:
        into = total.setdefault(record["stage"], Funnel(record["stage"], 0).record())
        for name in ("documents", "text_bytes", "seconds"):
            into[name] = round(into[name] + record[name], 4)
        add_groups(into["dropped"], record["dropped"])
        for reason, examples in record["examples"].items():
            shown = into["examples"].setdefault(reason, [])
            shown.extend(examples)
            _shorten(shown)
        for kind in ("lines", "counts"):
            for name, count in record.get(kind, {}).items():
                counts = into.setdefault(kind, {})
                counts[name] = counts.get(name, 0) + count
        if places := record.get("damaged"):
            into["damaged"] = [*into.get("damaged", []), *places][:PLACES]
    return list(total.values())


def add_groups(into: dict[str, dict[str, int]], groups: Mapping[str, Mapping[str, int]]) -> None:
    """Add documents and bytes of each group to those already counted."""
    for name, facts in groups.items():
        _add(into, name, facts["documents"], facts["text_bytes"])


def _add(groups: dict[str, dict[str, int]], name: str, documents: int, text_bytes: int) -> None:
    entry = groups.setdefault(name, {"documents": 0, "text_bytes": 0})
    entry["documents"] += documents
    entry["text_bytes"] += text_bytes


def _whole(text: str) -> str:
    """A text as UTF-8 can express it: names in archives hold halves of characters."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _shorten(examples: list[Record]) -> None:
    examples.sort(key=lambda one: (one["key"], one["id"]))
    del examples[EXAMPLES:]
