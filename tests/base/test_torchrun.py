"""What a process of torchrun knows of itself and of the others; a dictionary plays the key-value store."""

from __future__ import annotations

from typing import Any

import pytest

from base.errors import ConfigError, DataError
from base.torchrun import ALONE, PeerFailed, Processes, joined


class Store(dict[str, int]):
    """The part of torch.distributed's store that is used, for one process."""

    def add(self, key: str, amount: int) -> int:
        self[key] = self.get(key, 0) + amount
        return self[key]

    def check(self, keys: list[str]) -> bool:
        return all(key in self for key in keys)


def broken() -> int:
    raise DataError("frame 7 is truncated")


def test_alone_without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    # Clusters set these for programs of other kinds, too.
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with joined() as processes:
        assert processes is ALONE
        processes.check()
        assert processes.gather(3) == processes.exchange(3) == [3]
        assert processes.device("cuda:1") == "cuda:1"
        assert processes.run(lambda: 5, 2) == 5
        with pytest.raises(DataError, match=r"^frame 7 is truncated"):
            Processes().run(broken, 2)


def test_a_gpu_for_each_process() -> None:
    processes = Processes(5, 8, 1, Store())
    assert processes.device("cuda") == "cuda:1"
    assert processes.device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="device is 'cuda:0', but torchrun started 8 processes"):
        processes.device("cuda:0")


def test_the_first_one_speaks() -> None:
    assert Processes(0, 2, 0, Store()).log_level("INFO") == "INFO"
    assert Processes(1, 2, 1, Store()).log_level("INFO") == "WARNING"
    assert Processes(1, 2, 1, Store()).log_level("ERROR") == "ERROR"


def test_one_failure_ends_all_with_its_message_alone() -> None:
    store: Any = Store()
    first, second, third = (Processes(rank, 3, rank, store) for rank in range(3))
    with pytest.raises(DataError, match="process 1 of 3: frame 7 is truncated"):
        second.run(broken, 2)
    assert third.run(broken, 2) == 2
    with pytest.raises(PeerFailed):
        first.check()
    # Waiting for the others ends as well, and is no error of this process.
    assert first.run(lambda: len(first.exchange(1)), 2) == 2
    assert first.failed
    assert second.failed
    assert third.failed


def test_an_error_of_the_program_keeps_its_traceback() -> None:
    store: Any = Store()
    with pytest.raises(ZeroDivisionError):
        Processes(0, 2, 0, store).run(lambda: 1 // 0, 2)
    with pytest.raises(PeerFailed):
        Processes(1, 2, 1, store).check()
