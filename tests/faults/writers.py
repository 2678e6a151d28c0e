"""Every command that writes what its command line names, with a command line on the samples."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.faults import samples, samples_datasets

__all__ = ["WRITERS", "Writer", "inputs"]

_MODEL, _CHECKPOINT = f"--model-config={samples.MODEL_CONFIG}", "--checkpoint={0}/checkpoint.pth"
_ONE_FRAME = ("--num-samples=1", "--num-verify-samples=1")
_CONFIG, _DATA, _ONNX = f"--config={samples.MODEL_CONFIG}", "--data-root={0}/data", "--onnx-dir={0}/work/onnx"

_ONE_SCENE = ("--train-scenes=0", "--val-scenes=1", "--split=val", "--frames-per-scene=1", "--workers=1")
_SEARCH = (f"--config={samples.DEMO_CONFIG}", "--profile={0}/profile.json", "--budget=0.01", "--output={out}")


@dataclass(frozen=True)
class Writer:
    """A command.

    Attributes:
        module: What `python -m` runs.
        out: What it writes, relative to the folder of the samples.
        arguments: Its command line; `{0}` is that folder, `{out}` what it writes.
        slow: It takes seconds: it is not run more often than it must be.
    """

    module: str
    out: str
    arguments: tuple[str, ...]
    slow: bool = False

    @property
    def name(self) -> str:
        """Of a test."""
        return f"{self.module} {self.arguments[0]}" if self.arguments[0].isalpha() else self.module

    def command_line(self, folder: Path) -> list[str]:
        """The arguments for samples in `folder`."""
        return [argument.format(folder, out=folder / self.out) for argument in self.arguments]


def _quant(command: str, suffix: str, *more: str) -> Writer:
    shared = (_CONFIG, _CHECKPOINT, _DATA, "--output={out}")
    return Writer("quant.centerpoint_quantization", f"out/written{suffix}", (command, *shared, *more))


WRITERS: tuple[Writer, ...] = (
    Writer("deploy.export", "out", ("--mode=both", _MODEL, _CHECKPOINT, _DATA, "--work-dir={out}", *_ONE_FRAME)),
    Writer("deploy.evaluate", "out", ("--backend=onnx", "--rot-y-axis-reference", _ONNX, _MODEL, _DATA, "--out={out}")),
    Writer("deploy.predict", "out", ("--points", "{0}/scan5.bin", _MODEL, _CHECKPOINT, "--out={out}")),
    Writer("deploy.detect", "out", (_ONNX, _MODEL, _DATA, "--split=val", "--out={out}")),
    Writer("deploy.autoware_bundle", "out", (_MODEL, _CHECKPOINT, "--out={out}")),
    Writer("export.tools.export_onnx", "out", (_MODEL, _CHECKPOINT, "--out={out}")),
    Writer("export.tools.build_engines", "out", (_ONNX, "--out={out}")),
    Writer(
        "export.tools.calibrate", "out", (_MODEL, _CHECKPOINT, _DATA, "--split=val", "--num-batches=1", "--out={out}")
    ),
    Writer("datasets.create_t4_infos", "out", ("--root={0}/db", "--out={out}")),
    Writer("datasets.synthetic.preview", "out", ("--data={0}/data", "--out={out}", "--pictures=1")),
    Writer("eval.score", "out/written.json", ("--frames={0}/frames.json", "--out={out}")),
    Writer(
        "eval.compare",
        "out/written.json",
        ("{0}/work/results.json", "{0}/work/results.json", "--out={out}", "--resamples=0"),
    ),
    Writer("deploy.inspect", "out/written.json", ("{0}/work/onnx", "--json={out}")),
    Writer("datasets.synthetic.__main__", "out", ("--out={out}", *_ONE_SCENE), slow=True),
    Writer("quant.search", "out/written.json", _SEARCH),
    _quant("ptq", ".pth", "--calibrate-batches=1", "--split=val"),
    _quant("sensitivity", ".csv", "--calibrate-batches=1", "--split=val", "--num-resamples=0"),
)


def inputs(folder: Path) -> None:
    """What the commands read."""
    samples.deployment(folder)
    samples_datasets.scans(folder)
    samples_datasets.t4_tables(folder)
    samples.score_frames(folder)
    samples.sensitivity(folder)
    shutil.copy(folder / "data" / "centerpoint_infos_val.pkl", folder / "data" / "centerpoint_infos_train.pkl")
