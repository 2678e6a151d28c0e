"""Processes that torchrun started, usually one a GPU: who they are, how they meet, and how one's failure ends all.

A process that fails says so in torchrun's key-value store. The others look there between two pieces of work and while
they wait for each other, so that none works on for nothing or waits for ever. A process that is killed is torchrun's
business: it ends the others.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from base.errors import BackendUnavailable, ConfigError, UserError
from base.lazy import require

__all__ = ["ALONE", "PeerFailed", "Processes", "joined"]

T = TypeVar("T")

_FAILED, _SAID = "failed", "said"
_LOOK_EVERY_S = 0.1
_POLL_S = 0.02
_LAST_WORD_S = 10.0
# Waiting is done in the store, where it ends when another process fails; a collective begins when all are there.
_COLLECTIVE_TIMEOUT = datetime.timedelta(hours=12)


class PeerFailed(Exception):  # noqa: N818 - not this process's error; the one that failed says why
    """Another process failed: there is nothing left to do."""


class Processes:
    """The processes of one command, as one of them sees them.

    Attributes:
        rank: Number of this one, 0 … size - 1.
        size: How many there are.
        local_rank: Its number among those of this machine, which is the number of its GPU.
        failed: Whether this process or another one failed.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, store: Any = None) -> None:
        """Args:
        store: torch.distributed's key-value store of these processes; None for a single process.
        """
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self.failed = False
        self._store = store
        self._meetings = 0
        self._looked = 0.0
        self._first_to_fail = False

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and says what came out."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """A device of the command line to that of this process: `cuda` is one GPU a process.

        Raises:
            ConfigError: one GPU is named, and several processes would share it.
        """
        if self.size == 1 or name == "cpu":
            return name
        if name != "cuda":
            raise ConfigError(
                f"The device is '{name}', but torchrun started {self.size} processes. Give 'cuda', which is one GPU a "
                "process, or 'cpu'."
            )
        return f"cuda:{self.local_rank}"

    def log_level(self, level: str) -> str:
        """The level for this process: what is no warning is said by the first alone."""
        return "WARNING" if level in ("DEBUG", "INFO") and not self.is_first else level

    def check(self) -> None:
        """Looks whether another process failed, ten times a second at most.

        Raises:
            PeerFailed: one did.
        """
        now = time.monotonic()
        if self._store is None or now - self._looked < _LOOK_EVERY_S:
            return
        self._looked = now
        if self._store.check([_FAILED]):
            raise PeerFailed

    def gather(self, value: T) -> list[T] | None:
        """The value of every process, by rank, in the first one; None in the others. Values are pickled.

        Raises:
            PeerFailed: one of them failed on its way here.
        """
        if self._store is None:
            return [value]
        self._meet()
        found: list[Any] | None = [None] * self.size if self.is_first else None
        require("torch.distributed", "to gather results").gather_object(value, found, dst=0)
        return found

    def exchange(self, value: T) -> list[T]:
        """As `gather`, in every process."""
        if self._store is None:
            return [value]
        self._meet()
        found: list[Any] = [None] * self.size
        require("torch.distributed", "to exchange results").all_gather_object(found, value)
        return found

    def run(self, command: Callable[[], int], stopped: int) -> int:
        """Runs a command, which the processes share, and tells the others when it fails here.

        Args:
            command: Returns its exit code.
            stopped: Exit code where another process failed; that one says why.

        Raises:
            UserError, BackendUnavailable: of this process, where it is the first to fail; the message names it.
        """
        try:
            return command()
        except PeerFailed:
            self.failed = True
            return stopped
        except BaseException as error:
            self.failed = True
            if self._store is None:
                raise
            self._first_to_fail = self._store.add(_FAILED, 1) == 1
            if not isinstance(error, (UserError, BackendUnavailable)):
                raise
            if not self._first_to_fail:
                return stopped
            raise type(error)(f"process {self.rank} of {self.size}: {error}") from error

    def _meet(self) -> None:
        self._meetings += 1
        key = f"meeting {self._meetings}"
        self._store.add(key, 1)
        while self._store.add(key, 0) < self.size:
            self.check()
            time.sleep(_POLL_S)

    def _leave(self) -> None:
        """After a failure: torchrun ends all when the first is gone, which must not be before the error was said."""
        if self._store is None or not self.failed:
            return
        with contextlib.suppress(RuntimeError):  # the store's server may be gone
            if self._first_to_fail:
                self._store.add(_SAID, 1)
            else:
                self._store.wait([_SAID], datetime.timedelta(seconds=_LAST_WORD_S))


ALONE = Processes()
"""One process, which nobody has to be told of."""


@contextlib.contextmanager
def joined() -> Iterator[Processes]:
    """Joins the processes of torchrun; `ALONE` without torchrun, or where it started one process.

    Report an error to the user within: while this block is left, the others are ended.

        with joined() as processes:
            return run_command(lambda: processes.run(command, EXIT_USAGE), level)
    """
    size = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if size == 1:
        yield ALONE
        return
    if os.environ.get("LOCAL_WORLD_SIZE") == str(size):
        # All on one machine, which may not know itself by its name.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    distributed = require("torch.distributed", "to share work with the processes of torchrun")
    store, rank, size = next(distributed.rendezvous("env://"))
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=_COLLECTIVE_TIMEOUT)
    processes = Processes(
        rank, size, int(os.environ["LOCAL_RANK"]), distributed.PrefixStore("centerpoint processes", store)
    )
    try:
        yield processes
    finally:
        processes._leave()
        distributed.destroy_process_group()
