"""How an open vault is written: one batch at a time, and so that what is served is on the disk."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from avault.daemon.reporter import Reporter
from avault.errors import AvaultError, complain
from avault.vault.records import Vault
from avault.vault.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable


class Writer:
    """Writes an open vault. `task` does it while changes wait in the `queue`."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.queue: list[tuple[Callable[[Vault], None], asyncio.Future[AvaultError | None]]] = []
        self.task: asyncio.Task[None] | None = None

    async def change(self, store: Store, function: Callable[[Vault], None]) -> None:
        """Have a change written, with those that wait meanwhile; raises what refused it."""
        done: asyncio.Future[AvaultError | None] = asyncio.get_running_loop().create_future()
        self.queue.append((function, done))
        self.task = self.task or asyncio.get_running_loop().create_task(self.write_queue(store))
        if refused := await done:
            raise refused

    async def write_queue(self, store: Store) -> None:
        """Write all changes that wait, until none does."""
        while self.queue:
            batch, self.queue = self.queue, []
            results: list[AvaultError | None]
            store.writing = True
            try:
                results = await asyncio.to_thread(store.write, [function for function, _ in batch])
            except Exception as error:
                results = [complain(error)] * len(batch)
            finally:
                store.writing = False
            for (_, done), result in zip(batch, results, strict=True):
                if not done.done():
                    done.set_result(result)
            self.reporter.report()
            if not all(results):
                self.reporter.wrote()
        self.task = None

    async def finish(self) -> None:
        """Wait until nothing is being written."""
        while self.task:
            await self.task

    async def save(self, store: Store, is_last: bool = False) -> bool:
        """See to it that what is served is on the disk, and say whether it is.

        In avault.enc, or in unsaved.enc while that cannot be used.
        """
        if self.task:
            return False
        warnings = self.reporter.warnings
        before = store.trouble, store.unsaved.digest, warnings.get("unsaved")
        if is_last:
            store.notice()  # a file that covers what was written is merged while it can be
        else:
            store.refresh()
        try:
            if not store.is_safe():
                await asyncio.to_thread(store.keep)
            warnings.pop("unsaved", None)
        except AvaultError as error:
            warnings["unsaved"] = f"what is served is nowhere on the disk: {error.message}"
        if (store.trouble, store.unsaved.digest, warnings.get("unsaved")) != before:
            self.reporter.report()
        store.kept_guards.keep(store.vault)
        return store.is_safe()

    async def put_back(self, store: Store) -> bool:
        """Write what is served over an avault.enc that cannot be used; whether it was needed.

        Raises AvaultError.
        """
        store.writing = True
        try:
            return await asyncio.to_thread(store.put_back)
        finally:
            store.writing = False
            self.reporter.report()
            self.reporter.wrote()
