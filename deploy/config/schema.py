"""Every key of a deploy configuration, with its type, default, allowed values and meaning.

This module is the single source: the loader validates against it, `docs/configuration.md` is generated from it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from base.arguments import DEFAULT_POINTS, MAX_POINTS
from base.parsing import Count, Items, NonEmptyStr, PositiveInt, Share, Text
from deploy.config.names import Backend, Builder, Decode, Mode, PrecisionPolicy
from deploy.config.quantization import QuantizationConfig
from deploy.config.settings import STRICT, Section, setting
from deploy.config.verification import BoxLimitsConfig, Scenario, ScenariosConfig, VerificationConfig
from export.opsets import DEFAULT_OPSET, INT8_OPSET, MAX_OPSET

__all__ = [
    "AutowareConfig",
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

Shape = Annotated[Items[PositiveInt], Field(min_length=1, max_length=8)]


@dataclass(frozen=True, config=STRICT)
class DevicesConfig(Section):
    """Names for devices; wherever a device is asked for, a name of this table may stand."""

    cpu: Text = setting("cpu", "What the device name `cpu` stands for.")
    cuda: Text = setting("cuda:0", "What the device name `cuda` stands for; `cuda:1` is the second GPU.")


@dataclass(frozen=True, config=STRICT)
class ExportConfig(Section):
    """What is made, and where it goes."""

    mode: Mode = setting(
        "both",
        "`onnx`: checkpoint to ONNX. `trt`: existing ONNX (`export.onnx_path`) to engines. `both`: checkpoint to ONNX "
        "to engines. `none`: export nothing, verify and evaluate what exists.",
    )
    work_dir: NonEmptyStr = setting(
        "work_dirs/centerpoint_deployment", "Folder of everything a run writes, relative to where the command is typed."
    )
    onnx_path: NonEmptyStr | None = setting(
        None, "Folder with both ONNX files. Required in mode `trt`; refused in modes that export ONNX themselves."
    )
    rot_y_axis_reference: bool = setting(
        False,
        "Fold the conversion to clockwise-from-y yaw and (width, length, height) into the last layers of `rot` and "
        "`dim`, as Autoware's node expects.",
    )


@dataclass(frozen=True, config=STRICT)
class RuntimeIOConfig(Section):
    """The frames used to verify and evaluate."""

    data_root: NonEmptyStr | None = setting(
        None,
        "T4 dataset folder. Unset: $CENTERPOINT_DEMO_DATA (set by `bazel run //deploy:export`), else the model "
        "config's own. Where that is the `data/t4dataset` of a shipped one and does not exist, frames are generated.",
    )
    info_file: NonEmptyStr | None = setting(
        None, "Info file relative to `data_root`, in place of the one the model config tests on."
    )
    max_points: Annotated[int, Field(ge=1, le=MAX_POINTS)] = setting(
        DEFAULT_POINTS,
        "Most points of a cloud (`--max-points`): frames whose files can hold more are refused before any work, and a "
        "GPU makes room for as many.",
    )


@dataclass(frozen=True, config=STRICT)
class OnnxConfig(Section):
    """The ONNX export."""

    opset_version: Literal[13, 14, 15, 16, 17, 18, 19, 20] = setting(
        DEFAULT_OPSET, f"ONNX operator set; INT8 needs {INT8_OPSET} or {MAX_OPSET}."
    )
    do_constant_folding: bool = setting(True, "Fold constant expressions while tracing.")
    save_file: Text = setting(
        "centerpoint.onnx", "Read for compatibility. CenterPoint is exported as one file per component, named after it."
    )
    export_params: Literal[True] = setting(
        True, "Weights are part of the file: one without weights cannot be run, verified or built into an engine."
    )
    keep_initializers_as_inputs: bool = setting(
        False, "List the weights among the graph inputs too, for consumers of ONNX IR below 4."
    )
    simplify: bool = setting(False, "Run onnx-simplifier on each file; a failure of the simplifier is an error.")
    multi_file: Literal[True] = setting(
        True, "One file per component: the scatter between voxel encoder and backbone stays outside ONNX."
    )


@dataclass(frozen=True, config=STRICT)
class CommonBackendConfig(Section):
    """The engine build."""

    precision_policy: PrecisionPolicy = setting(
        "auto",
        "`auto`, `strongly_typed`: FP32 ONNX files; engines compute in exactly the types the files carry. `fp32_tf32`: "
        "FP32, with TF32 tensor cores allowed. `fp16`: FP16 inside with FP32 inputs and outputs. `int8`: a quantized "
        "model.",
    )
    max_workspace_size: Annotated[int, Field(ge=1 << 20, le=1 << 40)] = setting(
        2 << 30, "Bytes of GPU memory the builder's tactics may use."
    )
    builder: Builder = setting(
        "auto",
        "Engine builder. `tensorrt_rtx` needs no GPU to build; `tensorrt` is the data-centre and Jetson library. "
        "`auto`: `tensorrt` where it and a GPU are present, else `tensorrt_rtx`.",
    )


@dataclass(frozen=True, config=STRICT)
class ShapeRange(Section):
    """Shapes of one engine input in the optimization profile."""

    min_shape: Shape = setting(..., "Smallest shape the engine accepts.")
    opt_shape: Shape = setting(..., "Shape the engine is tuned for.")
    max_shape: Shape = setting(..., "Largest shape the engine accepts.")


@dataclass(frozen=True, config=STRICT)
class ModelInputs(Section):
    """One entry of `model_inputs`."""

    input_shapes: dict[NonEmptyStr, ShapeRange] = setting(
        dict, "Input name -> shapes; an input left out gets the shapes the model config implies."
    )


@dataclass(frozen=True, config=STRICT)
class BackendConfig(Section):
    """Engines: precision, memory, shapes."""

    common_config: CommonBackendConfig = setting(CommonBackendConfig, "Precision, workspace and builder.")
    model_inputs: Items[ModelInputs] = setting(
        tuple, "Optimization profile of each engine input. Empty: derived from the model config."
    )


@dataclass(frozen=True, config=STRICT)
class PyTorchBackendConfig(Section):
    """The reference."""

    enabled: bool = setting(True, "Evaluate this backend.")
    device: Text = setting("auto", "`cpu`, `cuda`, `cuda:N`, or `auto`: a GPU where there is one, else the CPU.")


@dataclass(frozen=True, config=STRICT)
class OnnxBackendConfig(Section):
    """ONNX Runtime."""

    enabled: bool = setting(True, "Evaluate this backend.")
    device: Text = setting(
        "auto", "`cpu`, `cuda`, `cuda:N`, or `auto`: a GPU where ONNX Runtime can use one, else the CPU."
    )
    model_dir: NonEmptyStr | None = setting(None, "Folder with the ONNX files. Unset: those of this run's `work_dir`.")


@dataclass(frozen=True, config=STRICT)
class OpenVinoBackendConfig(Section):
    """The exported ONNX files through OpenVINO."""

    enabled: bool = setting(False, "Evaluate this backend, and verify it against ONNX Runtime.")
    device: Text = setting("cpu", "`cpu`.")


@dataclass(frozen=True, config=STRICT)
class TensorRTBackendConfig(Section):
    """TensorRT engines."""

    enabled: bool = setting(True, "Evaluate this backend.")
    device: Text = setting("cuda", "`cuda` or `cuda:N`.")
    engine_dir: NonEmptyStr | None = setting(None, "Folder with the engines. Unset: those of this run's `work_dir`.")


@dataclass(frozen=True, config=STRICT)
class CudaBackendConfig(Section):
    """This project's own engine for Hopper GPUs, on the exported ONNX files."""

    enabled: bool = setting(False, "Evaluate this backend, and verify it against ONNX Runtime.")
    device: Text = setting("cuda", "`cuda` or `cuda:N`.")


@dataclass(frozen=True, config=STRICT)
class BackendsConfig(Section):
    """Backends to evaluate."""

    pytorch: PyTorchBackendConfig = setting(PyTorchBackendConfig, "PyTorch, FP32: the reference.")
    onnx: OnnxBackendConfig = setting(OnnxBackendConfig, "ONNX Runtime on the exported files: their reference.")
    openvino: OpenVinoBackendConfig = setting(
        OpenVinoBackendConfig, "OpenVINO on the exported files: several times faster on a CPU, above all in INT8."
    )
    tensorrt: TensorRTBackendConfig = setting(
        TensorRTBackendConfig, "The built engines; SKIPPED, with the reason, where no GPU can run them."
    )
    cuda: CudaBackendConfig = setting(
        CudaBackendConfig, "The exported files on fused kernels of our own (H100, H200); SKIPPED elsewhere."
    )


@dataclass(frozen=True, config=STRICT)
class AutowareConfig(Section):
    """Autoware's decode, where `evaluation.decode` asks for it."""

    bundle: NonEmptyStr | None = setting(
        None,
        "Folder of a bundle whose score thresholds, distances and classes by area are used. Unset: the node's "
        "defaults, 0.35 for every class and distance.",
    )


@dataclass(frozen=True, config=STRICT)
class MetricsConfig(Section):
    """Who computes the metrics."""

    engine: Literal["native", "perception_eval"] = setting(
        "native",
        "`native`: this project's own, vectorised. `perception_eval`: the installed autoware_perception_evaluation; an "
        "error where it is not importable.",
    )
    nuscenes: bool = setting(
        False,
        "Also nuScenes' official score (NDS; detection configuration of 2019, ranges by class), for models whose "
        "classes are nuScenes' (`--nuscenes`).",
    )


@dataclass(frozen=True, config=STRICT)
class StatisticsConfig(Section):
    """Intervals of the differences between backends: a paired bootstrap over frames."""

    num_resamples: Annotated[int, Field(ge=0, le=1_000_000)] = setting(
        1000, "Draws of the frames; 0 computes no intervals. 95 % intervals need at least 40."
    )
    confidence: Annotated[float, Field(ge=0.5, le=1)] = setting(0.95, "Confidence of the intervals, below 1.")
    group_by: Literal["frame", "scene"] = setting(
        "frame", "What is drawn: single frames, or whole scenes, whose frames resemble each other."
    )


@dataclass(frozen=True, config=STRICT)
class GatesConfig(Section):
    """Gates: a backend that loses more AP against the reference, or more of its input, fails the run (exit code 1)."""

    reference: Backend = setting("pytorch", "Backend that the others are compared with.")
    max_drop: Share | None = setting(None, "Largest drop of mAP over the whole range.")
    max_drop_per_class: Share | dict[NonEmptyStr, Share] | None = setting(
        None, "Largest drop of a class's AP: a number for every class, or a table class -> number."
    )
    max_drop_per_range: Share | dict[NonEmptyStr, Share] | None = setting(
        None,
        "Largest drop of mAP in a distance range: a number for every range, or a table range -> number (`0-50 m`).",
    )
    max_dropped_pillars_share: Share | None = setting(
        0.1, "Largest share of all frames' pillars that may be left out because of the model's `max_voxels`."
    )
    max_empty_frames_share: Share | None = setting(
        0.5, "Largest share of the frames that may have no point in the model's range."
    )
    max_invalid_points_share: Share | None = setting(
        0.5, "Largest share of the points that may hold NaN or infinite values."
    )
    judge: Literal["difference", "worst_bound", "best_bound"] = setting(
        "difference",
        "What of a drop is held against its limit. `difference`: the measured one. `worst_bound`: the largest in its "
        "interval, so that a pass shows that the limit is kept. `best_bound`: the smallest, so that a failure shows "
        "that it is broken.",
    )


@dataclass(frozen=True, config=STRICT)
class EvaluationConfig(Section):
    """Detection metrics and latency."""

    enabled: bool = setting(True, "Evaluate the enabled backends.")
    num_samples: Annotated[int, Field(ge=-1, le=2**31 - 1)] = setting(30, "Frames to evaluate; -1 is all of them.")
    verbose: bool = setting(True, "Log every class and every stage, not the summary alone.")
    warmup_frames: Count = setting(2, "First frames, which are scored but whose latency does not count.")
    min_map: Share | None = setting(
        None, "Accuracy gate: a backend whose mAP is below this fails the run (exit code 1)."
    )
    max_map_drop: Share | None = setting(
        None, "Accuracy gate: a backend whose mAP is more than this below PyTorch's fails the run (exit code 1)."
    )
    gates: GatesConfig = setting(GatesConfig, "Accuracy gates by class and range, with or without intervals.")
    decode: Decode = setting(
        "training",
        "What makes boxes of the network's outputs. `training`: the training framework (mmdet3d). `autoware`: "
        "Autoware's node; gates and comparisons are then about what the vehicle sees. `both`: `training`, and beside "
        "it in results and report what the vehicle sees (`--decode`).",
    )
    autoware: AutowareConfig = setting(AutowareConfig, "Autoware's decode.")
    metrics: MetricsConfig = setting(MetricsConfig, "Who computes the metrics.")
    statistics: StatisticsConfig = setting(StatisticsConfig, "Intervals of the differences between backends.")
    backends: BackendsConfig = setting(BackendsConfig, "Which backends, and where.")


@dataclass(frozen=True, config=STRICT)
class DeployConfig(Section):
    """A deploy configuration, complete and valid in itself.

    `deploy.config.model_checks` and `deploy.plan` hold it against the model and the machine before any work starts.
    """

    checkpoint_path: NonEmptyStr | None = setting(None, "Trained weights (`.pth`): the one source of the model.")
    task_type: Literal["detection3d"] = setting("detection3d", "Kind of model.")
    deploy_log_path: NonEmptyStr | None = setting(
        "deployment.log", "Log file, relative to `export.work_dir`; None for none."
    )
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = setting(0, "Seed of everything random.")
    accepted_checks: Items[NonEmptyStr] = setting(
        tuple,
        "Checks whose errors are only recorded, for who knows better (`--accept`); [checks.md](checks.md) lists them.",
    )
    devices: DevicesConfig = setting(DevicesConfig, "Names for devices.")
    export: ExportConfig = setting(ExportConfig, "What is made, and where it goes.")
    runtime_io: RuntimeIOConfig = setting(RuntimeIOConfig, "The frames.")
    onnx_config: OnnxConfig = setting(OnnxConfig, "The ONNX export.")
    backend_config: BackendConfig = setting(BackendConfig, "The engine build.")
    evaluation: EvaluationConfig = setting(EvaluationConfig, "Metrics and latency.")
    verification: VerificationConfig = setting(VerificationConfig, "Comparison of backends.")
    quantization: QuantizationConfig = setting(QuantizationConfig, "INT8.")
