"""A kind's objects kept in memory as they are at the API server: listed once, then watched.

A watch that ends goes on from the last resourceVersion seen, bookmarks included. Only a server that has forgotten it
(410) has everything listed anew; what is in memory stays until the list is whole, and then what a missed event would
have told follows from the difference.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator, Mapping

from rlhf_operator.runtime.client import PAGE, Client
from rlhf_operator.runtime.errors import Gone, RequestFailed, Silent
from rlhf_operator.runtime.kinds import Key, Kind, Object, key_of, version_of
from rlhf_operator.runtime.metrics import Metrics
from rlhf_operator.runtime.pace import Backoff
from rlhf_operator.runtime.store import Change, Indexer, Keep, Store, trim

log = logging.getLogger(__name__)

WATCH_SECONDS = (240, 480)
"""A watch lasts so long, by chance: many do not come back together."""
SHORT = 1.0
"""A watch that ends in good order, but sooner, is a failure all the same: else it would be begun without pause."""
FIRST_PAUSE, MOST_PAUSE = 0.8, 30.0


class Reflector:
    """One kind in one namespace, or (None) in all.

    Args:
        on_change: called in order, after the store has changed; what it raises is logged, and others go on.
        keep: what of an object stays in memory.
        indexers: by name; the index by owner's UID (`store.OWNER`) is always there.
        pauses: (first, most) seconds after failures.
    """

    def __init__(
        self,
        client: Client,
        kind: Kind,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        on_change: Callable[[Change], None],
        keep: Keep = trim,
        indexers: Mapping[str, Indexer] | None = None,
        metrics: Metrics | None = None,
        page: int = PAGE,
        pauses: tuple[float, float] = (FIRST_PAUSE, MOST_PAUSE),
    ) -> None:
        self._client = client
        self._kind, self._namespace, self._selector = kind, namespace, label_selector
        self._on_change = on_change
        self._store = Store(keep, indexers)
        self._metrics = metrics or Metrics()
        self._page = page
        self._backoff = Backoff(*pauses)
        self._version = ""
        self._synced = asyncio.Event()
        self.name = kind.plural if namespace is None else f"{namespace}/{kind.plural}"
        self.problem: str | None = None
        """Why it is not up to date, as far as it knows."""

    @property
    def synced(self) -> bool:
        """Whether everything was listed once."""
        return self._synced.is_set()

    async def wait_synced(self) -> None:
        """Return when everything was listed once."""
        await self._synced.wait()

    def get(self, key: Key) -> Object | None:
        """An object as last seen; never to be changed by who gets it."""
        return self._store.get(key)

    def values(self) -> Iterator[Object]:
        """All objects as last seen."""
        return self._store.values()

    def by(self, index: str, value: str) -> list[Object]:
        """The objects that an index has under a value."""
        return self._store.by(index, value)

    def __len__(self) -> int:
        return len(self._store)

    async def run(self) -> None:
        """Keep up until cancelled."""
        self._metrics.begun(self.name)
        try:
            await self._keep_up()
        finally:
            self._metrics.ended(self.name)

    async def _keep_up(self) -> None:
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._watch()
            except Silent as error:  # the next one fails to begin if it was dead
                log.info("%s: %s; begun again", self.name, error)
            except RequestFailed as error:
                if isinstance(error, Gone):
                    self._version = ""
                pause = self._backoff.next()
                level = logging.DEBUG if self.problem == str(error) else logging.WARNING  # once: it may last for days
                log.log(level, "%s: %s; again in %.1f s", self.name, error, pause)
                self.problem = str(error)
                self._metrics.failed(self.name)
                await asyncio.sleep(pause)

    async def _list(self) -> None:
        listed_keys = set[Key]()
        version = await self._read_pages(listed_keys)
        for change in self._store.drop_others(listed_keys):
            self._tell(change)
        self._version = version
        self._metrics.listed(self.name, len(self._store))
        self._synced.set()

    async def _read_pages(self, listed_keys: set[Key]) -> str:
        version = ""
        pages = self._client.pages(self._kind, self._namespace, label_selector=self._selector, limit=self._page)
        async for page in pages:
            version = page.version
            for item in page.items:
                listed_keys.add(key_of(item))
                self._put(item, listed=True)
            page.items.clear()  # before the next one is read
        return version

    async def _watch(self) -> None:
        clock = asyncio.get_running_loop().time
        begun = clock()
        watch = self._client.watch(
            self._kind,
            self._namespace,
            resource_version=self._version,
            label_selector=self._selector,
            seconds=random.randint(*WATCH_SECONDS),
        )
        async with watch as events:
            if self.problem is not None:
                log.info("%s: watched again", self.name)
                self.problem = None
            self._metrics.watched(self.name)
            async for event in events:
                self._apply(event.type, event.object)
                self._version = version_of(event.object)
                self._backoff.reset()
        if clock() - begun < SHORT:
            raise RequestFailed(f"the watch ended after {clock() - begun:.2f} s")

    def _apply(self, type_: str, obj: Object) -> None:
        if type_ in ("ADDED", "MODIFIED"):
            self._put(obj)
        elif type_ == "DELETED":
            change = self._store.drop(key_of(obj))
            if change is not None:
                self._tell(change)
        elif type_ != "BOOKMARK":
            raise RequestFailed(f"found a watch event of type {type_}; expected one that is known")
        self._metrics.items(self.name, len(self._store))

    def _put(self, obj: Object, *, listed: bool = False) -> None:
        change = self._store.put(obj, listed=listed)
        if change is not None:
            self._tell(change)

    def _tell(self, change: Change) -> None:
        try:
            self._on_change(change)
        except Exception:  # a fault about one object ends no loop that serves others
            log.exception("%s: what %s became was not taken in", self.name, change.key)
