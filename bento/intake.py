"""`POST /push`: fresh interactions over HTTP, written by the serving process itself.

One thread does it, whatever comes at once: requests queue for it and the loop goes on ranking meanwhile. Other processes
(further workers, `llm4msr push`) take turns with it by a file lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from bento.metrics import PUSHES_WAITING
from core import Settings, logger
from core.errors import Llm4msrError, SettingsError

if TYPE_CHECKING:
    from feature_repo.pusher import CurrentPusher, Pushed

LOG = logger("bento")
# Seconds that a push waits for another process's: less than a caller waits, and than a pod is given to end.
PATIENCE = 5.0


class Intake:
    """Takes fresh interactions for a serving process.

    Args:
        settings: of the project; `push` counts here.

    Raises:
        SettingsError: pushes are wanted of a process that cannot take them.
    """

    def __init__(self, settings: Settings) -> None:
        self.open = settings.push.http
        self._current: CurrentPusher | None = None
        if self.open:
            if find_spec("knowledge") is None:
                # The image is lean and mounts its artifacts read-only.
                raise SettingsError("push.http: a Bento takes no pushes; run `llm4msr push --follow` beside it")
            from feature_repo import CurrentPusher

            self._current = CurrentPusher(settings, PATIENCE)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="llm4msr-push")

    def start(self) -> None:
        """Read the log in the background, so that the first push need not."""
        if self.open:
            self._thread.submit(self._prepare)

    def stop(self) -> None:
        """Finish what has begun; what still queues is not done, and was not answered."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def take(self, records: Sequence[Any]) -> Pushed:
        """Push decoded JSON objects; faulty ones come back.

        Raises:
            MissingArtifactError: nothing was materialised yet.
            StorageError: the store does not answer; the rows are kept and go online with the next push.
        """
        PUSHES_WAITING.inc()
        begun = False

        def push() -> Pushed:
            nonlocal begun
            begun = True
            PUSHES_WAITING.dec()
            return self._push(records)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, push)
        finally:
            if not begun:
                PUSHES_WAITING.dec()

    def _push(self, records: Sequence[Any]) -> Pushed:
        assert self._current is not None, "the caller asks whether it is open"
        return self._current.get().push_records(records)

    def _prepare(self) -> None:
        assert self._current is not None
        try:
            self._current.get().prepare()
        except Llm4msrError as error:
            LOG.warning("push: %s", error)
