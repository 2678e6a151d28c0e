"""Every key of a deploy configuration, with its type, default, allowed values and meaning.

This module is the single source: the loader validates against it, `docs/configuration.md` is generated from it.
"""

# `setting` returns a dataclass field, exactly as `field` does.
# ruff: noqa: RUF009

from __future__ import annotations

from dataclasses import dataclass

from deploy.config.decoding import DECODES, AutowareConfig
from deploy.config.quantization import QuantizationConfig
from deploy.config.settings import setting

__all__ = [
    "BackendConfig",
    "BackendsConfig",
    "BoxLimitsConfig",
    "CommonBackendConfig",
    "CudaBackendConfig",
    "DeployConfig",
    "DevicesConfig",
    "EvaluationConfig",
    "ExportConfig",
    "GatesConfig",
    "MetricsConfig",
    "ModelInputs",
    "OnnxBackendConfig",
    "OnnxConfig",
    "PyTorchBackendConfig",
    "RuntimeIOConfig",
    "Scenario",
    "ScenariosConfig",
    "ShapeRange",
    "StatisticsConfig",
    "TensorRTBackendConfig",
    "VerificationConfig",
]

MODES = ("onnx", "trt", "both", "none")
PRECISION_POLICIES = ("auto", "fp16", "fp32_tf32", "strongly_typed", "int8")
BACKENDS = ("pytorch", "onnx", "tensorrt", "cuda")
# Those that run on a GPU alone.
GPU_BACKENDS = ("tensorrt", "cuda")
BUILDERS = ("auto", "tensorrt_rtx", "tensorrt")


@dataclass(frozen=True)
class DevicesConfig:
    """Names for devices; wherever a device is asked for, a name of this table may stand."""

    cpu: str = setting("cpu", "What the device name `cpu` stands for.")
    cuda: str = setting("cuda:0", "What the device name `cuda` stands for; `cuda:1` is the second GPU.")


@dataclass(frozen=True)
class ExportConfig:
    """What is made, and where it goes."""

    mode: str = setting(
        "both",
        "`onnx`: checkpoint to ONNX. `trt`: existing ONNX (`export.onnx_path`) to engines. `both`: checkpoint to ONNX "
        "to "
        "engines. `none`: export nothing, verify and evaluate what exists.",
        choices=MODES,
    )
    work_dir: str = setting(
        "work_dirs/centerpoint_deployment", "Folder of everything a run writes, relative to where the command is typed."
    )
    onnx_path: str | None = setting(
        None, "Folder with both ONNX files. Required in mode `trt`; refused in modes that export ONNX themselves."
    )
    rot_y_axis_reference: bool = setting(
        False,
        "Fold the conversion to clockwise-from-y yaw and (width, length, height) into the last layers of `rot` and "
        "`dim`, as "
        "Autoware's node expects.",
    )


@dataclass(frozen=True)
class RuntimeIOConfig:
    """The frames used to verify and evaluate."""

    data_root: str | None = setting(
        None,
        "T4 dataset folder. Unset: $CENTERPOINT_DEMO_DATA (set by `bazel run //deploy:export`), else the model "
        "config's own. Where that is the `data/t4dataset` of a shipped one and does not exist, frames are generated.",
    )
    info_file: str | None = setting(
        None, "Info file relative to `data_root`, in place of the one the model config tests on."
    )


@dataclass(frozen=True)
class OnnxConfig:
    """The ONNX export."""

    opset_version: int = setting(17, "ONNX operator set; INT8 needs 19 or 20.", choices=tuple(range(13, 21)))
    do_constant_folding: bool = setting(True, "Fold constant expressions while tracing.")
    save_file: str = setting(
        "centerpoint.onnx",
        "Read for compatibility. CenterPoint is exported as one file per component, named after it.",
    )
    export_params: bool = setting(
        True,
        "Weights are part of the file.",
        choices=(True,),
        hints={False: "an ONNX file without weights cannot be run, verified or built into an engine"},
    )
    keep_initializers_as_inputs: bool = setting(
        False, "List the weights among the graph inputs too, for consumers of ONNX IR below 4."
    )
    simplify: bool = setting(False, "Run onnx-simplifier on each file; a failure of the simplifier is an error.")
    multi_file: bool = setting(
        True,
        "One file per component.",
        choices=(True,),
        hints={
            False: "the scatter between voxel encoder and backbone stays outside ONNX, so there are always two files"
        },
    )


@dataclass(frozen=True)
class CommonBackendConfig:
    """The engine build."""

    precision_policy: str = setting(
        "auto",
        "`auto`, `strongly_typed`: FP32 ONNX files; engines compute in exactly the types the files carry. `fp32_tf32`: "
        "FP32, with TF32 tensor cores allowed. `fp16`: FP16 inside with FP32 inputs and outputs. `int8`: a quantized "
        "model.",
        choices=PRECISION_POLICIES,
    )
    max_workspace_size: int = setting(2 << 30, "Bytes of GPU memory the builder's tactics may use.", minimum=1 << 20)
    builder: str = setting(
        "auto",
        "Engine builder. `tensorrt_rtx` needs no GPU to build; `tensorrt` is the data-centre and Jetson library. "
        "`auto`: "
        "`tensorrt` where it and a GPU are present, else `tensorrt_rtx`.",
        choices=BUILDERS,
    )


@dataclass(frozen=True)
class ShapeRange:
    """Shapes of one engine input in the optimization profile."""

    min_shape: tuple[int, ...] = setting(..., "Smallest shape the engine accepts.")
    opt_shape: tuple[int, ...] = setting(..., "Shape the engine is tuned for.")
    max_shape: tuple[int, ...] = setting(..., "Largest shape the engine accepts.")


@dataclass(frozen=True)
class ModelInputs:
    """One entry of `model_inputs`."""

    input_shapes: dict[str, ShapeRange] = setting(
        dict, "Input name -> shapes; an input left out gets the shapes the model config implies."
    )


@dataclass(frozen=True)
class BackendConfig:
    """Engines: precision, memory, shapes."""

    common_config: CommonBackendConfig = setting(CommonBackendConfig, "Precision, workspace and builder.")
    model_inputs: tuple[ModelInputs, ...] = setting(
        tuple, "Optimization profile of each engine input. Empty: derived from the model config."
    )


@dataclass(frozen=True)
class PyTorchBackendConfig:
    """The reference."""

    enabled: bool = setting(True, "Evaluate this backend.")
    device: str = setting("auto", "`cpu`, `cuda`, `cuda:N`, or `auto`: a GPU where there is one, else the CPU.")


@dataclass(frozen=True)
class OnnxBackendConfig:
    """ONNX Runtime."""

    enabled: bool = setting(True, "Evaluate this backend.")
    device: str = setting(
        "auto", "`cpu`, `cuda`, `cuda:N`, or `auto`: a GPU where ONNX Runtime can use one, else the CPU."
    )
    model_dir: str | None = setting(None, "Folder with the ONNX files. Unset: those of this run's `work_dir`.")


@dataclass(frozen=True)
class TensorRTBackendConfig:
    """TensorRT engines."""

    enabled: bool = setting(True, "Evaluate this backend.")
    device: str = setting("cuda", "`cuda` or `cuda:N`.")
    engine_dir: str | None = setting(None, "Folder with the engines. Unset: those of this run's `work_dir`.")


@dataclass(frozen=True)
class CudaBackendConfig:
    """This project's own engine for Hopper GPUs, on the exported ONNX files."""

    enabled: bool = setting(False, "Evaluate this backend, and verify it against ONNX Runtime.")
    device: str = setting("cuda", "`cuda` or `cuda:N`.")


@dataclass(frozen=True)
class BackendsConfig:
    """Backends to evaluate."""

    pytorch: PyTorchBackendConfig = setting(PyTorchBackendConfig, "PyTorch, FP32: the reference.")
    onnx: OnnxBackendConfig = setting(OnnxBackendConfig, "ONNX Runtime on the exported files.")
    tensorrt: TensorRTBackendConfig = setting(
        TensorRTBackendConfig, "The built engines; SKIPPED, with the reason, where no GPU can run them."
    )
    cuda: CudaBackendConfig = setting(
        CudaBackendConfig, "The exported files on fused kernels of our own (H100, H200); SKIPPED elsewhere."
    )


@dataclass(frozen=True)
class MetricsConfig:
    """Who computes the metrics."""

    engine: str = setting(
        "native",
        "`native`: this project's own, vectorised. `perception_eval`: the installed autoware_perception_evaluation; an "
        "error where it is not importable.",
        choices=("native", "perception_eval"),
    )


@dataclass(frozen=True)
class StatisticsConfig:
    """Intervals of the differences between backends: a paired bootstrap over frames."""

    num_resamples: int = setting(
        1000, "Draws of the frames; 0 computes no intervals. 95 % intervals need at least 40.", minimum=0
    )
    confidence: float = setting(0.95, "Confidence of the intervals, below 1.", minimum=0.5)
    group_by: str = setting(
        "frame",
        "What is drawn: single frames, or whole scenes, whose frames resemble each other.",
        choices=("frame", "scene"),
    )


@dataclass(frozen=True)
class GatesConfig:
    """Accuracy gates: a backend that loses more AP against the reference fails the run (exit code 1)."""

    reference: str = setting("pytorch", "Backend that the others are compared with.", choices=BACKENDS)
    max_drop: float | None = setting(None, "Largest drop of mAP over the whole range.", minimum=0.0)
    max_drop_per_class: float | dict[str, float] | None = setting(
        None, "Largest drop of a class's AP: a number for every class, or a table class -> number.", minimum=0.0
    )
    max_drop_per_range: float | dict[str, float] | None = setting(
        None,
        "Largest drop of mAP in a distance range: a number for every range, or a table range -> number (`0-50 m`).",
        minimum=0.0,
    )
    judge: str = setting(
        "difference",
        "What of a drop is held against its limit. `difference`: the measured one. `worst_bound`: the largest in its "
        "interval, so that a pass shows that the limit is kept. `best_bound`: the smallest, so that a failure shows "
        "that it is broken.",
        choices=("difference", "worst_bound", "best_bound"),
    )


@dataclass(frozen=True)
class EvaluationConfig:
    """Detection metrics and latency."""

    enabled: bool = setting(True, "Evaluate the enabled backends.")
    num_samples: int = setting(30, "Frames to evaluate; -1 is all of them.", minimum=-1)
    verbose: bool = setting(True, "Log every class and every stage, not the summary alone.")
    warmup_frames: int = setting(2, "First frames, which are scored but whose latency does not count.", minimum=0)
    min_map: float | None = setting(
        None, "Accuracy gate: a backend whose mAP is below this fails the run (exit code 1).", minimum=0.0
    )
    max_map_drop: float | None = setting(
        None,
        "Accuracy gate: a backend whose mAP is more than this below PyTorch's fails the run (exit code 1).",
        minimum=0.0,
    )
    gates: GatesConfig = setting(GatesConfig, "Accuracy gates by class and range, with or without intervals.")
    decode: str = setting(
        "training",
        "What makes boxes of the network's outputs. `training`: the training framework (mmdet3d). `autoware`: "
        "Autoware's node; gates and comparisons are then about what the vehicle sees. `both`: `training`, and beside "
        "it in results and report what the vehicle sees (`--decode`).",
        choices=DECODES,
    )
    autoware: AutowareConfig = setting(AutowareConfig, "Autoware's decode.")
    metrics: MetricsConfig = setting(MetricsConfig, "Who computes the metrics.")
    statistics: StatisticsConfig = setting(StatisticsConfig, "Intervals of the differences between backends.")
    backends: BackendsConfig = setting(BackendsConfig, "Which backends, and where.")


@dataclass(frozen=True)
class Scenario:
    """One comparison: a backend under test against its reference."""

    ref_backend: str = setting(..., "Reference.", choices=BACKENDS)
    test_backend: str = setting(..., "Backend under test.", choices=BACKENDS)
    ref_device: str = setting("cpu", "Device of the reference.")
    test_device: str = setting("cpu", "Device of the backend under test.")


_TORCH_ONNX = Scenario("pytorch", "onnx", "cpu", "cpu")
_ONNX_TENSORRT = Scenario("onnx", "tensorrt", "cpu", "cuda")


@dataclass(frozen=True)
class ScenariosConfig:
    """The comparisons of each mode."""

    both: tuple[Scenario, ...] = setting((_TORCH_ONNX, _ONNX_TENSORRT), "Comparisons in mode `both`.")
    onnx: tuple[Scenario, ...] = setting((_TORCH_ONNX,), "Comparisons in mode `onnx`.")
    trt: tuple[Scenario, ...] = setting((_ONNX_TENSORRT,), "Comparisons in mode `trt`.")
    none: tuple[Scenario, ...] = setting((), "Comparisons in mode `none`.")


@dataclass(frozen=True)
class BoxLimitsConfig:
    """When the boxes of two backends agree; unset values are the defaults of the precision."""

    min_score: float | None = setting(None, "Boxes below it on both sides are not judged.", minimum=0.0)
    max_center_m: float | None = setting(None, "Farthest that the centres of a matched pair lie apart.", minimum=0.0)
    search_radius_m: float | None = setting(
        None, "A box without a partner of its class within this distance is lost or gained.", minimum=0.0
    )
    min_matched_share: float | None = setting(
        None, "Least share of matched boxes among matched, moved, lost and gained; at most 1.", minimum=0.0
    )


@dataclass(frozen=True)
class VerificationConfig:
    """Backends against their reference, on real frames."""

    enabled: bool = setting(True, "Run the comparisons of the mode.")
    tolerance: float | dict[str, float] | None = setting(
        None,
        "Largest absolute difference allowed: a number for every output, or a table output -> number. Unset: the "
        "defaults "
        "per output and precision, whose reasons stand in `eval/`.",
        minimum=0.0,
    )
    relative_l2: float | dict[str, float] | None = setting(
        None,
        "Largest relative L2 difference allowed, in place of that default: a number for every output, or a table "
        "output -> number.",
        minimum=0.0,
    )
    boxes: BoxLimitsConfig = setting(BoxLimitsConfig, "When decoded boxes agree.")
    debug_divergence: bool = setting(
        False,
        "After a failed comparison, find by bisection the node at which each output begins to differ, and name its "
        "weights (`--debug-divergence`).",
    )
    num_verify_samples: int = setting(5, "Frames to compare.", minimum=1)
    devices: dict[str, str] = setting(dict, "Device names for the scenarios, over those of the top-level `devices`.")
    scenarios: ScenariosConfig = setting(ScenariosConfig, "Comparisons by export mode.")


@dataclass(frozen=True)
class DeployConfig:
    """A deploy configuration, complete and valid in itself.

    `deploy.config.model_checks` and `deploy.plan` hold it against the model and the machine before any work starts.
    """

    checkpoint_path: str | None = setting(None, "Trained weights (`.pth`): the one source of the model.")
    task_type: str = setting("detection3d", "Kind of model.", choices=("detection3d",))
    deploy_log_path: str | None = setting("deployment.log", "Log file, relative to `export.work_dir`; None for none.")
    seed: int = setting(0, "Seed of everything random.", minimum=0)
    devices: DevicesConfig = setting(DevicesConfig, "Names for devices.")
    export: ExportConfig = setting(ExportConfig, "What is made, and where it goes.")
    runtime_io: RuntimeIOConfig = setting(RuntimeIOConfig, "The frames.")
    onnx_config: OnnxConfig = setting(OnnxConfig, "The ONNX export.")
    backend_config: BackendConfig = setting(BackendConfig, "The engine build.")
    evaluation: EvaluationConfig = setting(EvaluationConfig, "Metrics and latency.")
    verification: VerificationConfig = setting(VerificationConfig, "Comparison of backends.")
    quantization: QuantizationConfig = setting(QuantizationConfig, "INT8.")
