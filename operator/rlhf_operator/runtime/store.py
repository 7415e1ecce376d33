"""Objects of a kind in memory, found by key and by index."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from rlhf_operator.runtime.kinds import Key, Object, controller_uid, key_of, version_of

log = logging.getLogger(__name__)

Keep = Callable[[Object], Object]
"""Gives what of an object is kept: name, namespace, UID and resourceVersion at least."""
Indexer = Callable[[Object], Iterable[str]]
"""Gives the values under which an object is found."""

OWNER = "owner"
"""The index by the UID of the controlling owner."""
FAULT = "fault"
"""Key of an object that cannot be kept as others are: why. All else that is known of it is its metadata."""
_NOISE = "kubectl.kubernetes.io/last-applied-configuration"


@dataclass(frozen=True, slots=True)
class Change:
    """What became of an object; `old` is None: it is new; `new` is None: it is gone."""

    key: Key
    old: Object | None
    new: Object | None
    listed: bool = False
    """Found by a list, not told by a watch."""


def trim(obj: Object) -> Object:
    """All of an object but its bookkeeping, which is often most of it."""
    metadata = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
    annotations = metadata.get("annotations")
    if annotations and _NOISE in annotations:
        metadata["annotations"] = {key: value for key, value in annotations.items() if key != _NOISE}
    return {**obj, "metadata": metadata}


def by_owner(obj: Object) -> Iterable[str]:
    """The indexer of OWNER."""
    uid = controller_uid(obj)
    return () if uid is None else (uid,)


class Store:
    """Objects by key; pure but for being changed. Indexes are made from whole objects, before `keep`."""

    def __init__(self, keep: Keep = trim, indexers: Mapping[str, Indexer] | None = None) -> None:
        self._keep = keep
        self._indexers = {OWNER: by_owner, **(indexers or {})}
        self._objects: dict[Key, Object] = {}
        self._found_by: dict[Key, tuple[tuple[str, str], ...]] = {}
        self._index: dict[tuple[str, str], dict[Key, None]] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, key: Key) -> Object | None:
        """An object; never to be changed by who gets it."""
        return self._objects.get(key)

    def values(self) -> Iterator[Object]:
        """All objects."""
        return iter(self._objects.values())

    def by(self, index: str, value: str) -> list[Object]:
        """The objects that an index has under a value."""
        return [self._objects[key] for key in self._index.get((index, value), ())]

    def put(self, obj: Object, *, listed: bool = False) -> Change | None:
        """Keep an object; None: it was kept already, in this version."""
        key, old = key_of(obj), self._objects.get(key_of(obj))
        if old is not None and version_of(old) == version_of(obj) and _uid(old) == _uid(obj):
            return None
        self._unindex(key)
        try:
            entries = tuple((name, value) for name, find in self._indexers.items() for value in find(obj))
            new = self._keep(obj)
        except Exception as error:  # whoever made it must hurt nobody else: it alone is marked
            log.exception("%s cannot be kept", key)
            entries, new = (), _marked(obj, error)
        self._objects[key] = new
        if entries:
            self._found_by[key] = entries
        for entry in entries:
            self._index.setdefault(entry, {})[key] = None
        return Change(key, old, new, listed)

    def drop(self, key: Key, *, listed: bool = False) -> Change | None:
        """Forget an object; None: it was not kept."""
        old = self._objects.pop(key, None)
        self._unindex(key)
        return None if old is None else Change(key, old, None, listed)

    def drop_others(self, listed_keys: set[Key]) -> Iterator[Change]:
        """Forget what a whole list did not have."""
        for key in [key for key in self._objects if key not in listed_keys]:
            change = self.drop(key, listed=True)
            if change is not None:
                yield change

    def _unindex(self, key: Key) -> None:
        for entry in self._found_by.pop(key, ()):
            keys = self._index[entry]
            del keys[key]
            if not keys:
                del self._index[entry]


def _marked(obj: Object, error: Exception) -> Object:
    fields = ("name", "namespace", "uid", "resourceVersion")
    metadata = {name: value for name, value in obj["metadata"].items() if name in fields}
    return {"metadata": metadata, FAULT: f"{type(error).__name__}: {error}"}


def _uid(obj: Object) -> str:
    return str(obj["metadata"].get("uid") or "")
