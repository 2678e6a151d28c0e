"""Options of a deploy configuration that contradict each other, whatever the model and the machine."""

from __future__ import annotations

from base.errors import ConfigError
from base.files import user_path
from deploy.config.schema import GPU_BACKENDS, DeployConfig, Scenario

__all__ = ["check_consistency", "parse_device"]

_INT8_OPSET = 19


def parse_device(name: str, names: dict[str, str], where: str, source: str) -> str:
    """`cpu`, `cuda:N` or `auto` for a device name, through the table of names.

    Raises:
        ConfigError: it is none of these.
    """
    device = names.get(name, name)
    if device == "cuda":
        device = "cuda:0"
    kind, _, index = device.partition(":")
    if device in ("cpu", "auto") or (kind == "cuda" and index.isdecimal()):
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
    _check_mode(config, source)
    _check_samples(config, source)
    _check_gates(config, source)
    _check_box_limits(config, source)
    _check_precision(config, source)
    _check_devices(config, source)
    _check_profiles(config, source)


def _check_mode(config: DeployConfig, source: str) -> None:
    export = config.export
    if export.mode == "trt" and export.onnx_path is None:
        raise ConfigError(
            f"{source}: 'export.mode' is 'trt', which builds engines from existing ONNX files, but 'export.onnx_path' "
            f"is not "
            "set. Set it to the folder that holds pts_voxel_encoder.onnx and pts_backbone_neck_head.onnx, or use mode "
            "'both'."
        )
    backends = config.evaluation.backends
    makes_onnx, makes_engines = export.mode in ("onnx", "both"), export.mode in ("trt", "both")
    for key, given, folder, made in (
        ("export.onnx_path", export.onnx_path, "onnx", makes_onnx),
        ("evaluation.backends.onnx.model_dir", backends.onnx.model_dir, "onnx", makes_onnx),
        ("evaluation.backends.tensorrt.engine_dir", backends.tensorrt.engine_dir, "tensorrt", makes_engines),
    ):
        if made and given is not None and user_path(given) != user_path(export.work_dir) / folder:
            raise ConfigError(
                f"{source}: '{key}' is {given!r}, but mode {export.mode!r} writes new files to "
                f"'{export.work_dir}/{folder}' and "
                f"goes on with those. Remove '{key}', or choose a mode that reads existing files."
            )


def _check_samples(config: DeployConfig, source: str) -> None:
    if config.evaluation.num_samples == 0:
        raise ConfigError(
            f"{source}: 'evaluation.num_samples' is 0, and a metric over no frame is none. Use -1 for all frames, a "
            f"positive "
            "number, or 'evaluation.enabled = False'."
        )
    evaluation = config.evaluation
    if evaluation.max_map_drop is not None and not evaluation.backends.pytorch.enabled:
        raise ConfigError(
            f"{source}: 'evaluation.max_map_drop' compares with PyTorch, but 'evaluation.backends.pytorch.enabled' is "
            f"False."
        )


def _check_gates(config: DeployConfig, source: str) -> None:
    from eval.intervals import min_resamples

    evaluation = config.evaluation
    gates, statistics = evaluation.gates, evaluation.statistics
    if not statistics.confidence < 1.0:
        raise ConfigError(
            f"{source}: 'evaluation.statistics.confidence' is {statistics.confidence:g}; no interval is that certain. "
            f"Give a share below 1, such as 0.95."
        )
    needed = min_resamples(statistics.confidence)
    if 0 < statistics.num_resamples < needed:
        raise ConfigError(
            f"{source}: 'evaluation.statistics.num_resamples' is {statistics.num_resamples}; intervals of confidence "
            f"{statistics.confidence:g} need at least {needed}, better 1000. 0 computes none."
        )
    limits = {
        "max_drop": gates.max_drop,
        "max_drop_per_class": gates.max_drop_per_class,
        "max_drop_per_range": gates.max_drop_per_range,
    }
    given = [name for name, limit in limits.items() if limit is not None]
    if not given:
        return
    if not evaluation.enabled or not getattr(evaluation.backends, gates.reference).enabled:
        off = "evaluation.enabled" if not evaluation.enabled else f"evaluation.backends.{gates.reference}.enabled"
        raise ConfigError(
            f"{source}: 'evaluation.gates.{given[0]}' compares with {gates.reference}, but '{off}' is False. Enable "
            f"it, or set 'evaluation.gates.reference' to another backend."
        )
    if gates.judge != "difference" and statistics.num_resamples == 0:
        raise ConfigError(
            f"{source}: 'evaluation.gates.judge' is {gates.judge!r}, an end of an interval, but "
            f"'evaluation.statistics.num_resamples' is 0. Set it to 1000, or judge the 'difference'."
        )


def _check_box_limits(config: DeployConfig, source: str) -> None:
    limits = config.verification.boxes
    share, center, radius = limits.min_matched_share, limits.max_center_m, limits.search_radius_m
    if share is not None and share > 1.0:
        raise ConfigError(f"{source}: 'verification.boxes.min_matched_share' is {share:g}; a share is at most 1.")
    if center is not None and radius is not None and radius < center:
        raise ConfigError(
            f"{source}: 'verification.boxes.search_radius_m' is {radius:g}, less than 'max_center_m', {center:g}: "
            f"pairs that agree would not be found. Raise it."
        )


def _check_precision(config: DeployConfig, source: str) -> None:
    policy = config.backend_config.common_config.precision_policy
    if config.quantization.enabled and policy not in ("int8", "strongly_typed"):
        raise ConfigError(
            f"{source}: 'quantization.enabled' is True, but 'backend_config.common_config.precision_policy' is "
            f"{policy!r}. "
            "Use 'int8', or switch quantization off."
        )
    if policy == "int8" and not config.quantization.enabled:
        raise ConfigError(
            f"{source}: 'backend_config.common_config.precision_policy' is 'int8', but 'quantization.enabled' is "
            f"False. INT8 is "
            "a property of a quantized model: enable quantization, or use 'fp16'."
        )
    opset = config.onnx_config.opset_version
    if config.quantization.enabled and opset < _INT8_OPSET and config.export.mode in ("onnx", "both"):
        raise ConfigError(
            f"{source}: 'onnx_config.opset_version' is {opset}, but INT8 beside FP16 needs {_INT8_OPSET} or 20, in "
            f"which scales may be FP16. Set it to {_INT8_OPSET}."
        )


def _device_names(config: DeployConfig) -> dict[str, str]:
    return {"cpu": config.devices.cpu, "cuda": config.devices.cuda}


def _check_devices(config: DeployConfig, source: str) -> None:
    names = _device_names(config)
    parse_device(config.devices.cpu, {}, "devices.cpu", source)
    parse_device(config.devices.cuda, {}, "devices.cuda", source)
    backends = config.evaluation.backends
    for key, device in (
        ("pytorch", backends.pytorch.device),
        ("onnx", backends.onnx.device),
        ("tensorrt", backends.tensorrt.device),
        ("cuda", backends.cuda.device),
    ):
        parsed = parse_device(device, names, f"evaluation.backends.{key}.device", source)
        if key in GPU_BACKENDS and parsed == "cpu":
            raise ConfigError(f"{source}: 'evaluation.backends.{key}.device' is {device!r}; engines run on a GPU.")
    names = names | config.verification.devices
    for mode in ("both", "onnx", "trt", "none"):
        scenarios: tuple[Scenario, ...] = getattr(config.verification.scenarios, mode)
        for number, scenario in enumerate(scenarios):
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


def _check_profiles(config: DeployConfig, source: str) -> None:
    if len(config.backend_config.model_inputs) > 1:
        raise ConfigError(
            f"{source}: 'backend_config.model_inputs' has {len(config.backend_config.model_inputs)} entries; one "
            f"entry with the "
            "shapes of every input is supported (one optimization profile per engine)."
        )
    for entry in config.backend_config.model_inputs:
        for name, shapes in entry.input_shapes.items():
            where = f"backend_config.model_inputs[0].input_shapes.{name}"
            low, opt, high = shapes.min_shape, shapes.opt_shape, shapes.max_shape
            if not len(low) == len(opt) == len(high):
                raise ConfigError(
                    f"{source}: '{where}': min_shape {list(low)}, opt_shape {list(opt)} and max_shape {list(high)} "
                    f"differ in rank."
                )
            for axis, (a, b, c) in enumerate(zip(low, opt, high, strict=True)):
                if not 1 <= a <= b <= c:
                    raise ConfigError(
                        f"{source}: '{where}' axis {axis}: needs 1 <= min <= opt <= max, got min {a}, opt {b}, max {c}."
                    )
