"""One kind in all namespaces, or in those of a list: one reflector each, read as one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from rlhf_operator.runtime.client import Client
from rlhf_operator.runtime.kinds import Key, Kind, Object
from rlhf_operator.runtime.metrics import Metrics
from rlhf_operator.runtime.reflector import Reflector
from rlhf_operator.runtime.store import OWNER, Change, Indexer, Keep, trim


class Cache:
    """What reflectors of one kind know.

    Args:
        namespaces: None: all of the cluster.
    """

    def __init__(
        self,
        client: Client,
        kind: Kind,
        namespaces: Sequence[str] | None,
        *,
        label_selector: str = "",
        on_change: Callable[[Change], None],
        keep: Keep = trim,
        indexers: Mapping[str, Indexer] | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.kind = kind
        self._reflectors = {
            namespace: Reflector(
                client,
                kind,
                namespace,
                label_selector=label_selector,
                on_change=on_change,
                keep=keep,
                indexers=indexers,
                metrics=metrics,
            )
            for namespace in (namespaces if namespaces is not None else [None])
        }

    @property
    def namespaces(self) -> Iterable[str | None]:
        """Each has a reflector, to be run by itself; None: all of the cluster, by one."""
        return self._reflectors.keys()

    def of(self, namespace: str | None) -> Reflector:
        """The reflector of one of `namespaces`."""
        return self._reflectors[namespace]

    @property
    def problems(self) -> list[str]:
        """Why it is not up to date, as far as it knows."""
        return [
            f"{reflector.name}: {reflector.problem}"
            for reflector in self._reflectors.values()
            if reflector.problem is not None
        ]

    def get(self, key: Key) -> Object | None:
        """An object as last seen; never to be changed by who gets it."""
        reflector = self._reflectors.get(key.namespace, self._reflectors.get(None))
        return None if reflector is None else reflector.get(key)

    def values(self) -> Iterator[Object]:
        """All objects as last seen."""
        return itertools.chain.from_iterable(reflector.values() for reflector in self._reflectors.values())

    def by(self, index: str, value: str) -> list[Object]:
        """The objects that an index has under a value."""
        return [obj for reflector in self._reflectors.values() for obj in reflector.by(index, value)]

    def owned(self, uid: str) -> list[Object]:
        """The objects that the owner of a UID controls."""
        return self.by(OWNER, uid)

    def __len__(self) -> int:
        return sum(len(reflector) for reflector in self._reflectors.values())
