"""Runs every command on a small disk, with room and without: `python -m tests.faults.full_disk DISK ANSWER`."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from pathlib import Path

from tests.faults.kills import MODULES
from tests.faults.spawner import Process, Spawner
from tests.faults.writers import WRITERS, Writer, inputs

# What says how a run went is taken away before new files come; so is its log.
_RECORDS = ("results.json", "report.html", "manifest.json", "deployment.log")
_PATIENCE_S = 60.0


class Trial:
    """One command on the small disk.

    Args:
        writer: The command.
        spawner: Starts it.
        disk: The small disk.
        roomy: The folder of its inputs.
    """

    def __init__(self, writer: Writer, spawner: Spawner, disk: Path, roomy: Path) -> None:
        self._writer, self._spawner, self._disk, self._roomy = writer, spawner, disk, roomy
        self._filler = disk / "filler"

    def run(self) -> str:
        """With room; without, over what it has written; without, in a new place; filled meanwhile. What was wrong."""
        wrong = "" if self._writer.slow else self._over_old()
        self._fill()
        wrong = wrong or self._in_a_new_place(self._start())
        self._empty()
        if not wrong and self._writer.module == "deploy.export":
            wrong = self._filled_meanwhile()
            self._empty()
        return wrong

    def _start(self) -> Process:
        # Everything is read from the roomy disk; only what is written lies on the small one.
        out = self._disk / self._writer.out
        line = [argument.format(self._roomy, out=out) for argument in self._writer.arguments]
        return self._spawner.start(self._writer.module, line, self._roomy, self._roomy / "log")

    def _over_old(self) -> str:
        first = self._start()
        if first.wait() != 0:
            return f"with room: {first.output()[-1000:]}"
        before = self._contents()
        self._fill()
        process = self._start()
        code, after = process.wait(), self._contents()
        self._empty()
        if new := set(after) - set(before):
            return f"left behind: {sorted(new)}"
        if code == 0:  # what an earlier run's records took is room enough
            return "" if set(after) == set(before) else f"done, without {sorted(set(before) - set(after))}"
        lost = {name for name in before if after.get(name) != before[name] and Path(name).name not in _RECORDS}
        return self._refused(process) or (f"lost: {sorted(lost)}" if lost else "")

    def _in_a_new_place(self, process: Process) -> str:
        process.wait()
        left = sorted(self._contents())
        # A log, and the record of the steps that were done, are worth having.
        left = [name for name in left if Path(name).name not in _RECORDS]
        return self._refused(process) or (f"left behind: {left}" if left else "")

    def _filled_meanwhile(self) -> str:
        """The disk is full from the moment that the first file is there."""
        process, end = self._start(), time.monotonic() + _PATIENCE_S
        while not any((self._disk / "out").glob("onnx/pts*")) and time.monotonic() < end:
            time.sleep(0.001)
        self._fill()
        process.wait()
        left = [name for name in self._contents() if Path(name).name.startswith(".")]
        return self._refused(process) or (f"left behind: {left}" if left else "")

    def _refused(self, process: Process) -> str:
        code, text = process.wait(), process.output()
        if code != 2 or "Traceback" in text:
            return f"exit code {code}: {text[-1500:]}"
        said = "No space left on device" in text or " MiB free; this run needs " in text
        return "" if said and str(self._disk) in text else f"the message is {text[-600:]!r}"

    def _fill(self) -> None:
        with self._filler.open("ab", buffering=0) as stream:
            for block in (1 << 20, 1 << 12, 1):
                try:
                    while stream.write(b"\1" * block) == block:
                        pass
                except OSError:
                    continue

    def _empty(self) -> None:
        self._filler.unlink()
        shutil.rmtree(self._disk / "out", ignore_errors=True)
        for path in self._disk.iterdir():
            path.unlink()

    def _contents(self) -> dict[str, str]:
        return {
            str(path.relative_to(self._disk)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self._disk.rglob("*"))
            if path.is_file() and path != self._filler and not path.name.endswith(".centerpoint.made")
        }


def main(disk: Path, answer: Path) -> None:
    """Tries every command; writes what was wrong, by command."""
    roomy = answer.parent / "inputs"
    roomy.mkdir()
    inputs(roomy)
    with Spawner(MODULES, {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}) as spawner:
        answer.write_text(json.dumps({writer.name: Trial(writer, spawner, disk, roomy).run() for writer in WRITERS}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
