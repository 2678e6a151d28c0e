"""A deployment that is stopped at a random moment: what it leaves, and what the next command makes of that.

Whether a folder's artifacts belong together is found out here once more, from the bytes of the files alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.faults import samples
from tests.faults.spawner import MARK, Process, Spawner

__all__ = ["MODULES", "Deployment", "Tally", "belong_together", "kill_bundles", "kill_deployments", "processes_of"]

MODULES = ("datasets.t4", "deploy.export")
# What a stopped run leaves does not depend on what is measured with whole artifacts; most of a tiny run is that.
_DEPLOY_CONFIG = (
    "evaluation = dict(decode='training', statistics=dict(num_resamples=0), backends=dict(pytorch=dict(enabled=False)))"
)
COMPONENTS = ("pts_voxel_encoder", "pts_backbone_neck_head")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_GRACE_S = 10.0


def sha256(path: Path) -> str:
    """Of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def belong_together(work: Path, checkpoint: Path) -> bool:
    """Whether the ONNX files of a work folder are whole and come from this checkpoint, and its engines from them.

    A folder without any engine is one of an export alone.
    """
    import onnx

    graphs = {name: work / "onnx" / f"{name}.onnx" for name in COMPONENTS}
    if not all(path.is_file() for path in graphs.values()):
        return False
    for path in graphs.values():
        notes = {item.key: item.value for item in onnx.load(str(path)).metadata_props}
        if notes["centerpoint.weights"] != f"sha256 {sha256(checkpoint)}":
            return False
    engines = {name: work / "tensorrt" / f"{name}.engine" for name in COMPONENTS}
    if not any(path.exists() for path in engines.values()):
        return True
    for name, engine in engines.items():
        manifest = engine.with_name(engine.name + ".json")
        if not (engine.is_file() and manifest.is_file()):
            return False
        said = json.loads(manifest.read_text())
        if said["outputs"]["engine"]["sha256"] != sha256(engine):
            return False
        if said["inputs"]["onnx"]["sha256"] != sha256(graphs[name]):
            return False
    return True


def files_below(folder: Path) -> set[str]:
    """Names of all files, and of folders that hold none."""
    if not folder.is_dir():
        return set()
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() or not any(path.iterdir())}


def processes_of(session: int, mark: str) -> list[int]:
    """Processes of a session, and those that carry the mark of a run in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has ended meanwhile
            state, _, _, own = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            marked = mark and f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0")
            if state != "Z" and (int(own) == session or marked):
                found.append(int(entry.name))
    return found


@dataclass
class Tally:
    """What was seen.

    Attributes:
        counts: Kind -> how often: runs, signals, how far they came, and what must never happen ("wrong: …").
        wrong: The first cases of the latter, described.
    """

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def note(self, kind: str) -> None:
        """Counts it."""
        self.counts[kind] += 1

    def fault(self, kind: str, detail: str) -> None:
        """Counts what must not happen."""
        self.counts[f"wrong: {kind}"] += 1
        if len(self.wrong) < 40:
            self.wrong.append(f"{kind}: {detail}")


class Deployment:
    """The tiny deployment with two checkpoints, in whose one work folder runs follow each other.

    Args:
        folder: An empty folder.
        spawner: Starts commands.
    """

    def __init__(self, folder: Path, spawner: Spawner) -> None:
        import torch

        samples.checkpoints(folder)
        self.folder, self.spawner = folder, spawner
        self.work = folder / "work"
        self.checkpoints = [folder / "checkpoint.pth", folder / "other.pth"]
        content = torch.load(self.checkpoints[0], weights_only=True)
        content["state_dict"] = {
            key: value * 1.01 if value.is_floating_point() else value for key, value in content["state_dict"].items()
        }
        torch.save(content, self.checkpoints[1])
        self._config = folder / "deploy_config.py"
        self._config.write_text(f"{_DEPLOY_CONFIG}\n")
        spawner.warm("deploy.export", self.arguments("both", self.checkpoints[0], self.work))

    def start(self, mode: str, checkpoint: Path, mark: str = "") -> Process:
        """Starts `deploy.export` on the work folder."""
        arguments = self.arguments(mode, checkpoint, self.work)
        return self.spawner.start("deploy.export", arguments, self.folder, self.folder / f"{mode}.log", mark)

    def arguments(self, mode: str, checkpoint: Path, work: Path) -> list[str]:
        """Command line of `deploy.export`."""
        options = {"--mode": mode, "--model-config": samples.MODEL_CONFIG, "--checkpoint": checkpoint}
        options |= {"--data-root": self.folder / "data", "--work-dir": work, "--log-level": "INFO"}
        options |= {"--num-samples": 1, "--num-verify-samples": 1, "--deploy-config": self._config}
        return [f"{option}={value}" for option, value in options.items()]

    def complete(self, checkpoint: Path) -> set[str]:
        """A run to its end; returns the files that it leaves."""
        process = self.start("both", checkpoint)
        assert process.wait() == 0, process.output()
        assert belong_together(self.work, checkpoint)
        return files_below(self.work)


def kill_deployments(deployment: Deployment, count: int, tally: Tally, seed: int = 0) -> None:
    """Stops `count` runs of `--mode=both`: two of three over whole artifacts of the other checkpoint, one in no folder.

    Each time: the exit code and the message, processes that outlive the run, files that it leaves; whether
    `--mode=none` takes the folder for either checkpoint; whether the next run is as if nothing had been.
    """
    rng = Random(seed)
    complete = deployment.complete(deployment.checkpoints[0])
    start = time.monotonic()
    deployment.complete(deployment.checkpoints[1])
    duration_s = time.monotonic() - start
    deployment.complete(deployment.checkpoints[0])
    for index in range(count):
        old, new = deployment.checkpoints[index % 2], deployment.checkpoints[(index + 1) % 2]
        number = SIGNALS[index % len(SIGNALS)]
        mark = f"{os.getpid()}-{seed}-{index}"
        if index % 3 == 2:
            shutil.rmtree(deployment.work)
        before = _artifacts(deployment.work)
        process = deployment.start("both", new, mark)
        where = f"run {index}, {number.name}, {_wait(deployment.work, rng, duration_s)}"
        _stop(process, number, mark, where, tally)
        _check_leftovers(deployment, number, complete, where, tally)
        _check_folder(deployment, old, new, before, where, tally)
        left = deployment.start("both", new)
        if left.wait() != 0:
            tally.fault("the next run fails", f"{where}: {left.output()[-800:]}")
            shutil.rmtree(deployment.work)
            deployment.complete(new)
        elif files_below(deployment.work) != complete:
            tally.fault("leftovers after the next run", f"{where}: {files_below(deployment.work) ^ complete}")


def kill_bundles(deployment: Deployment, count: int, tally: Tally, seed: int = 0) -> None:
    """Stops `count` runs that replace a bundle by another: it is always one of the two."""
    rng = Random(seed)
    place = deployment.folder / "bundles"
    place.mkdir()
    shipped = place / "bundle"

    def start(checkpoint: Path, mark: str = "") -> Process:
        arguments = [f"--model-config={samples.MODEL_CONFIG}", f"--checkpoint={checkpoint}", f"--out={shipped}"]
        return deployment.spawner.start("deploy.autoware_bundle", arguments, place, deployment.folder / "log", mark)

    def finish(checkpoint: Path) -> dict[str, str]:
        process = start(checkpoint)
        assert process.wait() == 0, process.output()
        return {path.name: sha256(path) for path in shipped.iterdir()}

    whole = [finish(checkpoint) for checkpoint in deployment.checkpoints]
    assert whole[0] != whole[1]
    complete = files_below(place)
    began = time.monotonic()
    finish(deployment.checkpoints[0])
    duration_s = time.monotonic() - began
    for index in range(count):
        number, mark = SIGNALS[index % len(SIGNALS)], f"bundle-{os.getpid()}-{seed}-{index}"
        process = start(deployment.checkpoints[(index + 1) % 2], mark)
        delay_s = rng.uniform(0.2, 1.1) * duration_s
        time.sleep(delay_s)
        where = f"bundle {index}, {number.name}, after {delay_s:.3f} s"
        _stop(process, number, mark, where, tally)
        found = {path.name: sha256(path) for path in shipped.iterdir()} if shipped.is_dir() else {}
        if found not in whole:
            tally.fault("folder that is half there", f"{where}: {sorted(found)}")
        if number != signal.SIGKILL and files_below(place) != complete:
            tally.fault("leftovers after a signal", f"{where}: {files_below(place) ^ complete}")
        if finish(deployment.checkpoints[(index + 1) % 2]) not in whole or files_below(place) != complete:
            tally.fault("leftovers after the next run", f"{where}: {files_below(place) ^ complete}")


def _wait(work: Path, rng: Random, duration_s: float) -> str:
    """Until a random moment: half of the times soon after one of the changes of the folders of artifacts."""
    delay_s = rng.uniform(0.0, duration_s)
    if rng.random() < 0.5:
        time.sleep(delay_s)
        return f"after {delay_s:.3f} s"
    changes, seen = rng.randrange(1, 17), _state(work)
    end = time.monotonic() + duration_s
    count = 0
    while count < changes and time.monotonic() < end:
        if (now := _state(work)) != seen:
            seen, count = now, count + 1
    delay_s = rng.choice((0.0, rng.uniform(0.0, 0.01)))
    time.sleep(delay_s)
    return f"{1000 * delay_s:.1f} ms after change {count}"


def _state(work: Path) -> list[tuple[str, int, int]]:
    found = []
    for folder in (work, work / "onnx", work / "tensorrt"):
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    facts = entry.stat()
                    found.append((entry.path, facts.st_ino, facts.st_mtime_ns))
    return sorted(found)


def _stop(process: Process, number: signal.Signals, mark: str, where: str, tally: Tally) -> None:
    tally.note(f"signals: {number.name}")
    with contextlib.suppress(ProcessLookupError):  # done already
        if number == signal.SIGINT:  # a terminal sends it to the whole group
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid, number)
    code = process.wait()
    if code == 0:
        tally.note("runs that were done before the signal")
    elif number == signal.SIGKILL:
        tally.note("runs that were stopped")
        if code != -signal.SIGKILL:
            tally.fault("exit code", f"{where}: {code}")
    else:
        tally.note("runs that were stopped")
        # A signal in the moment before the command listens ends the process without a word, by the signal itself.
        began = bool(process.output())
        if code != 128 + number and (began or code != -number):
            tally.fault("exit code", f"{where}: {code}: {process.output()[-600:]}")
        elif began and f"stopped by {number.name}" not in process.output():
            tally.fault("no word of the signal", f"{where}: {code}: {process.output()[-600:]}")
    if "Traceback" in process.output():
        tally.fault("traceback", f"{where}: {process.output()[-1500:]}")
    end = time.monotonic() + _GRACE_S
    while (left := processes_of(process.pid, mark)) and time.monotonic() < end:
        time.sleep(0.02)
    if left:
        tally.fault("processes that outlive the run", f"{where}: {left}")
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _artifacts(work: Path) -> dict[str, str]:
    if not work.is_dir():
        return {}
    return {name: sha256(work / name) for name in sorted(files_below(work)) if name.startswith(("onnx/", "tensorrt/"))}


def _check_leftovers(
    deployment: Deployment, number: signal.Signals, complete: set[str], where: str, tally: Tally
) -> None:
    """After a signal that can be heard, nothing unfinished stays."""
    strange = {name for name in files_below(deployment.work) - complete if Path(name).name.startswith(".")}
    strange -= {name for name in strange if name.endswith(".centerpoint.unfinished")}  # says that files are a mixture
    if strange and number != signal.SIGKILL:
        tally.fault("leftovers after a signal", f"{where}: {sorted(strange)}")


def _check_folder(
    deployment: Deployment, old: Path, new: Path, before: dict[str, str], where: str, tally: Tally
) -> None:
    """`--mode=none` takes the folder for a checkpoint only if all in it belongs to that one."""
    untouched = _artifacts(deployment.work) == before
    for checkpoint in (old, new):
        # Where there is nothing, there is nothing to take for something else.
        whole = not _artifacts(deployment.work) or belong_together(deployment.work, checkpoint)
        process = deployment.start("none", checkpoint)
        code = process.wait()
        kind = "whole" if whole else "mixed or half"
        if code not in (0, 1, 2) or "Traceback" in process.output():
            tally.fault("the next command breaks", f"{where}: {code}: {process.output()[-1500:]}")
        elif code != 2 and not whole:
            tally.fault("mixed or half artifacts accepted", f"{where}: {sorted(_artifacts(deployment.work))}")
        elif code == 2 and whole and untouched and before:  # of nothing there is nothing to evaluate
            tally.fault("untouched artifacts refused", f"{where}: {process.output()[-600:]}")
        else:
            tally.note(f"folders: {kind}, {'refused' if code == 2 else 'accepted'}")
