"""Compares everything that runs on a CUDA device with the CPU: `python -m runtime.cuda.selfcheck [--device N]`.

Needs a GPU, cuda-python with NVRTC and, for two of the rows, torch with CUDA; no model and no TensorRT. Prints one row
a check and exits with 1 if any failed. A check whose package is missing is SKIPPED.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from base.arguments import whole_number
from base.command import EXIT_FAILED, EXIT_PASSED, add_log_level, run_command, run_main
from base.errors import BackendUnavailable, MissingDependencyError
from base.lazy import require
from models.spec import INPUT_FEATURES, PILLAR_FEATURES, SPATIAL_FEATURES, HeadSpec, ModelSpec, TaskSpec
from runtime.cuda.chain import DeviceChain
from runtime.cuda.device import CudaDevice, CudaError
from runtime.cuda.scatter import ScatterKernel
from runtime.preprocess import decorate, voxelize
from runtime.scatter import scatter

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["main"]

_HEADS = {"heatmap": 5, "reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}


def _spec() -> ModelSpec:
    return ModelSpec(
        name="selfcheck",
        point_cloud_range=(-51.2, -51.2, -3.0, 51.2, 51.2, 5.0),
        voxel_size=(0.32, 0.32, 8.0),
        max_points_per_voxel=32,
        max_voxels=12000,
        point_columns=("x", "y", "z", "intensity", "time_lag"),
        voxel_center_dims=3,
        encoder_channels=32,
        out_size_factor=1,
        tasks=(
            TaskSpec(
                class_names=("car", "truck", "bus", "bicycle", "pedestrian"),
                heads=tuple(HeadSpec(name, channels) for name, channels in _HEADS.items()),
                nms_min_radius_m2=1.0,
            ),
        ),
        norm_bbox=True,
        score_threshold=0.1,
        max_detections_before_nms=500,
        post_center_range=(-60.0, -60.0, -10.0, 60.0, 60.0, 10.0),
        nms_type="circle",
        post_max_size=100,
    )


def _cloud(count: int = 60000) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    xyz = rng.normal(0.0, (25.0, 25.0, 2.0), (count, 3))
    return np.concatenate([xyz, rng.uniform(0, 1, (count, 2))], axis=1).astype(np.float32)


def _check_buffers(device: CudaDevice) -> str:
    stream = device.create_stream()
    sent = np.arange(1 << 20, dtype=np.float32)
    received = device.allocate_pinned(sent.shape, np.float32)
    address = device.allocate(sent.nbytes)
    device.upload(address, sent, stream)
    device.download(received, address, stream)
    device.synchronize(stream)
    _equal(sent, received)
    device.zero(address, sent.nbytes, stream)
    device.download(received, address, stream)
    device.synchronize(stream)
    _equal(np.zeros_like(sent), received)
    return "4 MiB there and back, cleared"


def _check_events(device: CudaDevice) -> str:
    stream, before, after = device.create_stream(), device.create_event(), device.create_event()
    address = device.allocate(1 << 28)
    device.record(before, stream)
    device.zero(address, 1 << 28, stream)
    device.record(after, stream)
    device.wait(after)
    elapsed = device.elapsed_ms(before, after)
    if elapsed <= 0:
        raise AssertionError(f"clearing 256 MiB took {elapsed} ms")
    return f"256 MiB cleared in {elapsed:.3f} ms"


def _check_scatter(device: CudaDevice) -> str:
    spec = _spec()
    coords = voxelize(_cloud(), spec).coords
    pillars = np.random.default_rng(1).normal(size=(len(coords), spec.encoder_channels)).astype(np.float32)
    stream, kernel = device.create_stream(), ScatterKernel(device, spec)
    expected = scatter(pillars, coords, spec)
    canvas = device.allocate(expected.nbytes)
    source, cells = device.allocate(pillars.nbytes), device.allocate(coords.nbytes)
    device.upload(source, pillars, stream)
    device.upload(cells, coords, stream)
    result = np.empty_like(expected)
    # The second frame has half the pillars: what the first one wrote must be gone.
    for count in (len(coords), len(coords) // 2):
        kernel.enqueue(source, cells, canvas, count, stream)
        device.download(result, canvas, stream)
        device.synchronize(stream)
        _equal(scatter(pillars[:count], coords[:count], spec), result)
    return f"{len(coords)} pillars, bit-equal, twice"


class _Copy:
    """A stand-in component: the device memory of its output holds what was put there."""

    row_capacity = 0

    def bind(self, addresses: Mapping[str, int], stream: int) -> None:
        self.addresses = dict(addresses)
        self.stream = stream

    def enqueue(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = dict(shapes)


def _check_chain(device: CudaDevice) -> str:
    spec = _spec()
    voxels = voxelize(_cloud(), spec)
    encoder, backbone = _Copy(), _Copy()
    chain = DeviceChain(device, None, spec, encoder, backbone)
    pillars = np.random.default_rng(2).normal(size=(len(voxels), 1, spec.encoder_channels)).astype(np.float32)
    device.upload(encoder.addresses[PILLAR_FEATURES], pillars, encoder.stream)
    features = decorate(voxels, spec)
    outputs, stages = chain.infer(features, voxels.coords)
    expected = scatter(pillars, voxels.coords, spec)
    for address, array in (
        (backbone.addresses[SPATIAL_FEATURES], expected),
        (encoder.addresses[INPUT_FEATURES], features),
    ):
        result = np.empty_like(array)
        device.download(result, address, encoder.stream)
        device.synchronize(encoder.stream)
        _equal(array, result)
    if list(outputs) != list(_HEADS):
        raise AssertionError(f"outputs are {list(outputs)}")
    return ", ".join(f"{stage} {value:.3f} ms" for stage, value in stages.items())


def _check_torch_preprocess(device: CudaDevice) -> str:
    torch = require("torch", "to compare torch's preprocessing")
    if not torch.cuda.is_available():
        raise BackendUnavailable(f"torch {torch.__version__} has no CUDA device")
    spec, cloud = _spec(), _cloud()
    on_cpu = voxelize(cloud, spec)
    on_gpu = voxelize(torch.from_numpy(cloud).to(f"cuda:{device.index}"), spec)
    for name in ("points", "num_points", "coords"):
        _equal(getattr(on_cpu, name), getattr(on_gpu, name).cpu().numpy())
    _equal(decorate(on_cpu, spec), decorate(on_gpu, spec).cpu().numpy())
    return f"{len(on_cpu)} pillars, features bit-equal, {on_cpu.counts.dropped_voxels} dropped"


def _check_torch_scatter(device: CudaDevice) -> str:
    torch = require("torch", "to compare torch's scatter")
    if not torch.cuda.is_available():
        raise BackendUnavailable(f"torch {torch.__version__} has no CUDA device")
    spec = _spec()
    coords = voxelize(_cloud(), spec).coords
    pillars = np.random.default_rng(3).normal(size=(len(coords), spec.encoder_channels)).astype(np.float32)
    place = f"cuda:{device.index}"
    result = scatter(torch.from_numpy(pillars).to(place), torch.from_numpy(coords).to(place), spec)
    _equal(scatter(pillars, coords, spec), result.cpu().numpy())
    return f"{len(coords)} pillars, bit-equal"


_CHECKS: dict[str, Callable[[CudaDevice], str]] = {
    "device buffers": _check_buffers,
    "events": _check_events,
    "scatter kernel": _check_scatter,
    "device chain": _check_chain,
    "torch preprocess": _check_torch_preprocess,
    "torch scatter": _check_torch_scatter,
}


def _equal(expected: NDArray[np.generic], found: NDArray[np.generic]) -> None:
    if expected.shape != found.shape or expected.dtype != found.dtype:
        raise AssertionError(f"{found.shape} {found.dtype} where {expected.shape} {expected.dtype} was expected")
    if not np.array_equal(expected, found):
        different = int(np.count_nonzero(expected != found))
        largest = float(np.abs(expected.astype(np.float64) - found.astype(np.float64)).max())
        raise AssertionError(f"{different} of {expected.size} values differ, by at most {largest:g}")


def main(arguments: list[str] | None = None) -> int:
    """Runs the checks; returns 0 if none failed, 1 otherwise, 2 without a device."""
    parser = argparse.ArgumentParser(prog="python -m runtime.cuda.selfcheck", description=__doc__)
    parser.add_argument("--device", type=whole_number(0, 1023), default=0, help="index of the CUDA device")
    add_log_level(parser)
    args = parser.parse_args(arguments)
    return run_command(lambda: _check_all(args), args.log_level)


def _check_all(args: argparse.Namespace) -> int:
    write = sys.stdout.write
    failed = 0
    device = CudaDevice.open(args.device)
    major, minor = device.compute_capability
    write(f"{device.name}, compute capability {major}.{minor}\n")
    for name, check in _CHECKS.items():
        try:
            verdict, detail = "PASS", check(device)
        except (BackendUnavailable, MissingDependencyError) as reason:
            verdict, detail = "SKIPPED", str(reason)
        except (AssertionError, CudaError) as problem:
            verdict, detail = "FAIL", str(problem)
            failed += 1
        write(f"{verdict:<8} {name:<18} {detail}\n")
    device.close()
    return EXIT_FAILED if failed else EXIT_PASSED


if __name__ == "__main__":
    run_main(main)
