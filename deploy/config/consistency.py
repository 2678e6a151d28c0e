"""Options of a deploy configuration that contradict each other, whatever the model and the machine."""

from __future__ import annotations

from collections.abc import Iterator

from base.checks import require_known
from base.errors import ConfigError
from base.files import user_path
from deploy.config.names import BACKENDS, CPU_BACKENDS, GPU_BACKENDS
from deploy.config.schema import DeployConfig, Scenario
from export.opsets import INT8_OPSET
from models.known_checks import KNOWN_CHECKS

__all__ = ["check_consistency", "parse_device"]


def parse_device(name: str, names: dict[str, str], where: str, source: str) -> str:
    """`cpu`, `cuda:N` or `auto` for a device name, through the table of names.

    Raises:
        ConfigError: it is none of these.
    """
    device = names.get(name, name)
    if device == "cuda":
        device = "cuda:0"
    kind, _, index = device.partition(":")
    if device in ("cpu", "auto") or (kind == "cuda" and index.isdecimal() and len(index) < 4):
        return device
    raise ConfigError(
        f"{source}: '{where}' is {name!r}, which is no device. Allowed: 'cpu', 'cuda', 'cuda:N', 'auto', or a name of "
        f"'devices' ({', '.join(sorted(names)) or 'none'})."
    )


def check_consistency(config: DeployConfig, source: str) -> None:
    """Refuses contradictions; a request is never reinterpreted.

    Raises:
        ConfigError: what contradicts what, and which one to change.
    """
    checks = (_mode, _samples, _statistics, _gates, _box_limits, _precision, _profiles)
    for problem in (problem for check in checks for problem in check(config)):
        raise ConfigError(f"{source}: {problem}")
    _check_devices(config, source)
    require_known(config.accepted_checks, KNOWN_CHECKS, f"{source}: 'accepted_checks'")


def _mode(config: DeployConfig) -> Iterator[str]:
    export, backends = config.export, config.evaluation.backends
    if export.mode == "trt" and export.onnx_path is None:
        yield (
            "'export.mode' is 'trt', which builds engines from existing ONNX files, but 'export.onnx_path' is not set. "
            "Set it to the folder that holds pts_voxel_encoder.onnx and pts_backbone_neck_head.onnx, or use mode "
            "'both'."
        )
    makes_onnx, makes_engines = export.mode in ("onnx", "both"), export.mode in ("trt", "both")
    for key, given, folder, made in (
        ("export.onnx_path", export.onnx_path, "onnx", makes_onnx),
        ("evaluation.backends.onnx.model_dir", backends.onnx.model_dir, "onnx", makes_onnx),
        ("evaluation.backends.tensorrt.engine_dir", backends.tensorrt.engine_dir, "tensorrt", makes_engines),
    ):
        if made and given is not None and user_path(given) != user_path(export.work_dir) / folder:
            yield (
                f"'{key}' is {given!r}, but mode {export.mode!r} writes new files to '{export.work_dir}/{folder}' and "
                f"goes on with those. Remove '{key}', or choose a mode that reads existing files."
            )


def _samples(config: DeployConfig) -> Iterator[str]:
    evaluation = config.evaluation
    if evaluation.num_samples == 0:
        yield (
            "'evaluation.num_samples' is 0, and a metric over no frame is none. Use -1 for all frames, a positive "
            "number, or 'evaluation.enabled = False'."
        )
    if evaluation.max_map_drop is not None and not evaluation.backends.pytorch.enabled:
        yield (
            "'evaluation.max_map_drop' compares with PyTorch, but 'evaluation.backends.pytorch.enabled' is False. "
            "Enable it, or remove the limit."
        )


def _statistics(config: DeployConfig) -> Iterator[str]:
    from eval.intervals import min_resamples

    statistics = config.evaluation.statistics
    if not statistics.confidence < 1.0:
        yield (
            f"'evaluation.statistics.confidence' is {statistics.confidence:g}; no interval is that certain. Give a "
            "share below 1, such as 0.95."
        )
        return
    needed = min_resamples(statistics.confidence)
    if 0 < statistics.num_resamples < needed:
        yield (
            f"'evaluation.statistics.num_resamples' is {statistics.num_resamples}; intervals of confidence "
            f"{statistics.confidence:g} need at least {needed}, better 1000. 0 computes none."
        )


def _gates(config: DeployConfig) -> Iterator[str]:
    evaluation, gates = config.evaluation, config.evaluation.gates
    names = ("max_drop", "max_drop_per_class", "max_drop_per_range")
    given = next((name for name in names if getattr(gates, name) is not None), None)
    if given is None:
        return
    if not evaluation.enabled or not getattr(evaluation.backends, gates.reference).enabled:
        off = "evaluation.enabled" if not evaluation.enabled else f"evaluation.backends.{gates.reference}.enabled"
        yield (
            f"'evaluation.gates.{given}' compares with {gates.reference}, but '{off}' is False. Enable it, or set "
            "'evaluation.gates.reference' to another backend."
        )
    if gates.judge != "difference" and evaluation.statistics.num_resamples == 0:
        yield (
            f"'evaluation.gates.judge' is {gates.judge!r}, an end of an interval, but "
            "'evaluation.statistics.num_resamples' is 0. Set it to 1000, or judge the 'difference'."
        )


def _box_limits(config: DeployConfig) -> Iterator[str]:
    limits = config.verification.boxes
    share, center, radius = limits.min_matched_share, limits.max_center_m, limits.search_radius_m
    if share is not None and share > 1.0:
        yield f"'verification.boxes.min_matched_share' is {share:g}; a share is at most 1."
    if center is not None and radius is not None and radius < center:
        yield (
            f"'verification.boxes.search_radius_m' is {radius:g}, less than 'max_center_m', {center:g}: pairs that "
            "agree would not be found. Raise it."
        )


def _precision(config: DeployConfig) -> Iterator[str]:
    policy, opset = config.backend_config.common_config.precision_policy, config.onnx_config.opset_version
    if config.quantization.enabled and policy not in ("int8", "strongly_typed"):
        yield (
            f"'quantization.enabled' is True, but 'backend_config.common_config.precision_policy' is {policy!r}. Use "
            "'int8', or switch quantization off."
        )
    if policy == "int8" and not config.quantization.enabled:
        yield (
            "'backend_config.common_config.precision_policy' is 'int8', but 'quantization.enabled' is False. INT8 is a "
            "property of a quantized model: enable quantization, or use 'fp16'."
        )
    if config.quantization.enabled and opset < INT8_OPSET and config.export.mode in ("onnx", "both"):
        yield (
            f"'onnx_config.opset_version' is {opset}, but INT8 beside FP16 needs {INT8_OPSET} or 20, in which scales "
            f"may be FP16. Set it to {INT8_OPSET}."
        )


def _profiles(config: DeployConfig) -> Iterator[str]:
    entries = config.backend_config.model_inputs
    if len(entries) > 1:
        yield (
            f"'backend_config.model_inputs' has {len(entries)} entries; one entry with the shapes of every input is "
            "supported (one optimization profile per engine)."
        )
    for name, shapes in (item for entry in entries for item in entry.input_shapes.items()):
        where = f"'backend_config.model_inputs[0].input_shapes.{name}'"
        low, opt, high = shapes.min_shape, shapes.opt_shape, shapes.max_shape
        if not len(low) == len(opt) == len(high):
            yield f"{where}: min_shape {list(low)}, opt_shape {list(opt)} and max_shape {list(high)} differ in rank."
            continue
        for axis, (a, b, c) in enumerate(zip(low, opt, high, strict=True)):
            if not 1 <= a <= b <= c:
                yield f"{where} axis {axis}: needs 1 <= min <= opt <= max, got min {a}, opt {b}, max {c}."


def _check_devices(config: DeployConfig, source: str) -> None:
    names = {"cpu": config.devices.cpu, "cuda": config.devices.cuda}
    for key, device in names.items():
        parse_device(device, {}, f"devices.{key}", source)
    for key in BACKENDS:
        device = getattr(config.evaluation.backends, key).device
        parsed = parse_device(device, names, f"evaluation.backends.{key}.device", source)
        if key in GPU_BACKENDS and parsed == "cpu":
            raise ConfigError(f"{source}: 'evaluation.backends.{key}.device' is {device!r}; engines run on a GPU.")
        if key in CPU_BACKENDS and parsed not in ("cpu", "auto"):
            raise ConfigError(f"{source}: 'evaluation.backends.{key}.device' is {device!r}; {key} runs on the CPU.")
    names |= config.verification.devices
    for mode in ("both", "onnx", "trt", "none"):
        for number, scenario in enumerate(getattr(config.verification.scenarios, mode)):
            _check_scenario(scenario, f"verification.scenarios.{mode}[{number}]", names, source)


def _check_scenario(scenario: Scenario, where: str, names: dict[str, str], source: str) -> None:
    reference = parse_device(scenario.ref_device, names, f"{where}.ref_device", source)
    test = parse_device(scenario.test_device, names, f"{where}.test_device", source)
    if (scenario.ref_backend, reference) == (scenario.test_backend, test):
        raise ConfigError(
            f"{source}: '{where}' compares {scenario.test_backend} on {test} with itself, which proves nothing."
        )
    for role, backend, device in (
        ("ref", scenario.ref_backend, reference),
        ("test", scenario.test_backend, test),
    ):
        if backend in GPU_BACKENDS and device == "cpu":
            raise ConfigError(f"{source}: '{where}.{role}_device' is {device!r}; engines run on a GPU.")
        if backend in CPU_BACKENDS and device not in ("cpu", "auto"):
            raise ConfigError(f"{source}: '{where}.{role}_device' is {device!r}; {backend} runs on the CPU.")
