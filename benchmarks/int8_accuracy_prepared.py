"""The variants of a run of `benchmarks.int8_accuracy`: their ONNX files in its folder, each written once."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from base.errors import DataError
from base.files import atomic_dir, read_json, user_path, write_json
from base.progress import progress
from benchmarks.int8_accuracy_scoring import Network, network_opener
from benchmarks.int8_accuracy_variants import Variants, file_name, is_choice_of_layers, variant_and_backend
from models.spec import BACKBONE_NECK_HEAD, ModelSpec

if TYPE_CHECKING:
    from torch import nn

    from quant.stored_frames import StoredFrames

__all__ = ["Prepared", "read_plan"]

_logger = logging.getLogger(__name__)

_LAYERS = "quantized_layers.json"


class Prepared:
    """The variants of a run, their ONNX files in its folder."""

    def __init__(self, args: argparse.Namespace, out: Path, cfg: Any, spec: ModelSpec, model: nn.Module) -> None:
        self._args = args
        self._out = out
        self._cfg = cfg
        self._spec = spec
        self._model = model
        self._variants: Variants | None = None

    def asked(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """Variant and backend of each name."""
        return [variant_and_backend(name, self._args.backend) for name in names]

    def of_each_layer(self, calibration: str) -> list[str]:
        """Names of a calibration's variants with each layer in FP16, and with each one alone in INT8."""
        path = self._out / _LAYERS
        if not path.exists():
            write_json(path, list(self._made().layers()))  # asking the network again costs its calibration
        layers = read_json(path)
        return [f"{calibration}:{kind}={layer}" for kind in ("float", "only") for layer in layers]

    def export_all(self, names: Sequence[str]) -> None:
        """Writes the files of variants; on a CPU those that differ in the choice of layers side by side."""
        from quant.calibration.processes import in_processes

        missing = [name for name in names if not (self._out / "models" / file_name(name)).exists()]
        # A process with a GPU's driver in it is not copied.
        alike = [name for name in missing if self._args.device == "cpu" and is_choice_of_layers(name)]
        for name in names:
            if name not in alike:
                self.export(name)
        if not alike:
            return
        self._made().calibrate(alike)
        workers = min(self._args.workers or len(os.sched_getaffinity(0)), len(alike))

        def work(share: Sequence[str]) -> Iterator[str]:
            import torch

            torch.set_num_threads(1)
            for name in share:
                self.export(name)
                yield name

        for _ in progress(in_processes(work, [alike[k::workers] for k in range(workers)]), "exporting", len(alike)):
            pass

    def export(self, name: str) -> None:
        """Writes the files of a variant, unless they are there."""
        folder = self._out / "models" / file_name(name)
        if not folder.exists():
            with atomic_dir(folder) as temporary:
                self._made().export(name, temporary)
            _logger.info("%s prepared", name)

    def opener(self, name: str) -> Callable[[], Network]:
        """What opens the network of a variant on its backend, with one thread.

        Raises:
            DataError: it was not prepared.
        """
        (component,) = (item for item in self._spec.components if item.name == BACKBONE_NECK_HEAD)
        ((variant, backend),) = self.asked([name])
        if backend == "pytorch":
            network = self._made().network(variant).eval()
            return lambda: _pytorch(network, [tensor.name for tensor in component.outputs])
        return network_opener(self._spec, self.folder(name), backend)

    def folder(self, name: str) -> Path:
        """Where a variant's ONNX files lie.

        Raises:
            DataError: it was not prepared.
        """
        ((variant, _),) = self.asked([name])
        folder = self._out / "models" / file_name(variant)
        if not folder.exists():
            raise DataError(f"'{folder}' is missing: variant '{variant}' was not prepared (--stages prepare).")
        return folder

    def _made(self) -> Variants:
        if self._variants is None:
            from models.build import build_model

            args = self._args
            plan = read_plan(user_path(args.plan)) if args.plan else ()
            self._variants = Variants(
                self._model,
                self._spec,
                self._calibration(),
                lambda: build_model(self._cfg),
                args.qat_checkpoint,
                plan,
                args.device,
            )
        return self._variants

    def _calibration(self) -> StoredFrames:
        """The run's calibration frames: those of an earlier start, or new ones."""
        from quant.calibration import calibration_batches
        from quant.stored_frames import StoredFrames

        path = self._out / f"calibration_{self._args.calibrate_batches}.pt"
        if not path.exists():
            root, wanted = self._args.calibration_data_root or self._args.data_root, self._args.calibrate_batches
            frames = calibration_batches(self._cfg, "train", root, wanted, model=self._model)
            StoredFrames.read(frames, wanted, self._args.workers).save(path)
        return StoredFrames.load(path)


def read_plan(path: Path) -> tuple[str, ...]:
    """The layers that a plan of `quant.search` leaves in FP16; of a list of layers, that list.

    Raises:
        DataError: it is no such file.
    """
    plan = read_json(path)
    chosen = plan.get("chosen", plan) if isinstance(plan, dict) else None
    layers = chosen.get("skip_layers") if isinstance(chosen, dict) else None
    if not isinstance(layers, list) or not all(isinstance(layer, str) for layer in layers):
        raise DataError(f"'{path}' has no list 'skip_layers', nor 'chosen' with one; give the plan of quant.search.")
    return tuple(layers)


def _pytorch(network: nn.Module, names: Sequence[str]) -> Network:
    import torch

    def run(canvas: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        with torch.inference_mode():
            return dict(zip(names, (head.numpy() for head in network(torch.from_numpy(canvas))), strict=True))

    return run
