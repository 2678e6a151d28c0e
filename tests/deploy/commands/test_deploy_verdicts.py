"""What the deploy command finds of a run: comparisons, gates, decodes, skipped steps, and the code it ends with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from base.files import sha256_file
from deploy.export import main
from tests.deploy.commands.in_process import Deploy, config_file, results_of

if TYPE_CHECKING:
    from tests.deploy.commands.conftest import Deployment


def test_failed_comparison_is_exit_code_1_and_named(deploy: Deploy, tmp_path: Path) -> None:
    config = config_file(tmp_path, "verification = dict(tolerance=dict(rot=1e-12))\n")
    code, out, _ = deploy(f"--deploy-config={config}")
    assert code == 1
    assert "rot: largest difference" in out
    assert "FAILED" in out.splitlines()[-1]
    steps = {step["name"]: step["status"] for step in results_of(tmp_path)["steps"]}
    assert steps["verify onnx against pytorch"] == "FAILED"
    assert steps["evaluate onnx"] == "PASSED", "a failed comparison does not end the run"


SCENARIO = """
verification = dict(scenarios=dict(none=[dict(ref_backend="pytorch", test_backend="onnx")]))
"""


def test_debug_divergence_names_the_layer_of_a_spoilt_file(deploy: Deploy, tmp_path: Path) -> None:
    import onnx

    assert deploy("--mode=onnx")[0] == 0
    path = tmp_path / "out" / "onnx" / "pts_backbone_neck_head.onnx"
    model = onnx.load(path)
    name = "/pts_backbone/blocks.1/blocks.1.0/Conv.weight"
    (tensor,) = [item for item in model.graph.initializer if item.name == name]
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[[0, 2]] = values[[2, 0]]
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
    onnx.save(model, path)
    code, out, _ = deploy("--mode=none", "--debug-divergence", f"--deploy-config={config_file(tmp_path, SCENARIO)}")
    assert code == 1
    assert "first differs at node '/pts_backbone/blocks.1/blocks.1.0/Conv'" in out
    assert f"weight '{name}': channels 0 and 2 of axis 0 are exchanged" in out
    (verification,) = results_of(tmp_path)["verifications"]
    (divergence,) = verification["divergences"]
    assert divergence["outputs"] == ["heatmap", "reg", "height", "dim", "rot", "vel"]
    assert divergence["tensors_compared"] < 25


def test_accuracy_gate(deploy: Deploy, tmp_path: Path) -> None:
    config = config_file(tmp_path)
    config.write_text(config.read_text().replace("dict(backends", "dict(min_map=0.99, max_map_drop=0.001, backends"))
    code, out, _ = deploy(f"--deploy-config={config}")
    assert code == 1
    assert "is below evaluation.min_map = 0.99" in out
    assert "evaluation.max_map_drop is 0.001" not in out, "ONNX is as accurate as PyTorch"


def test_gates_by_class_and_range(deploy: Deploy, tmp_path: Path) -> None:
    config = config_file(tmp_path)
    gates = "gates=dict(max_drop=0.0, max_drop_per_class=dict(car=0.02), max_drop_per_range=0.02, judge='worst_bound')"
    config.write_text(config.read_text().replace("dict(backends", f"dict({gates}, backends"))
    code, out, _ = deploy(f"--deploy-config={config}")
    results = results_of(tmp_path)
    keys = [gate["key"] for gate in results["gates"]]
    where = "evaluation.gates.max_drop"
    assert keys == [where, f"{where}_per_class.car", f"{where}_per_range"]
    # ONNX equals PyTorch on these frames; only the class that has no detection and no object could not be judged.
    assert {gate["status"] for gate in results["gates"]} == {"PASSED"}
    assert code == 0
    assert f"{where}_per_class.car" in out
    (comparison,) = results["comparisons"]
    assert (comparison["label_a"], comparison["label_b"]) == ("pytorch fp32 (cpu)", "onnx fp32 (cpu)")
    assert comparison["num_resamples"] == 1000


def test_a_gate_on_an_unknown_class_is_refused(deploy: Deploy, tmp_path: Path) -> None:
    config = config_file(tmp_path)
    gates = "gates=dict(max_drop_per_class=dict(cart=0.02))"
    config.write_text(config.read_text().replace("dict(backends", f"dict({gates}, backends"))
    code, _, err = deploy(f"--deploy-config={config}")
    assert code == 2
    assert "'evaluation.gates.max_drop_per_class.cart' names no class of model" in err
    assert "Did you mean 'car'?" in err
    config.write_text(config.read_text().replace("max_drop_per_class=dict(cart", "max_drop_per_range=dict(near"))
    code, _, err = deploy(f"--deploy-config={config}")
    assert code == 2
    assert "'evaluation.gates.max_drop_per_range.near' names no range of model" in err


def test_artifacts_of_another_checkpoint_are_not_taken(deploy: Deploy, deployment: Deployment, tmp_path: Path) -> None:
    import torch

    assert deploy()[0] == 0
    other = tmp_path / "other.pth"
    checkpoint = torch.load(deployment.checkpoint, weights_only=True)
    checkpoint["meta"] = {"seed": 6}
    torch.save(checkpoint, other)
    code, _, err = deploy("--mode=none", f"--checkpoint={other}")
    assert code == 2
    assert f"was exported from other weights (sha256 {sha256_file(deployment.checkpoint)})" in err
    assert deploy("--mode=none")[0] == 0
    code, _, err = deploy("--mode=none", "--rot-y-axis-reference")
    assert code == 2
    assert "rotation convention 'x_axis_counterclockwise', which is not the model of this run" in err


def test_rotation_convention_keeps_the_boxes(deploy: Deploy, tmp_path: Path) -> None:
    assert deploy("--rot-y-axis-reference")[0] == 0
    pytorch, onnx = results_of(tmp_path)["evaluations"]
    assert pytorch["backend"] == "pytorch"
    # PyTorch is scored unconverted; headings and distances of the same boxes differ in their last digits.
    assert numbers(onnx["metrics"]["ranges"]) == pytest.approx(numbers(pytorch["metrics"]["ranges"]), abs=1e-5)


def test_what_the_vehicle_sees_is_in_results_and_report(deploy: Deploy, tmp_path: Path) -> None:
    code, out, _ = deploy("--decode=both")
    assert code == 0
    results = results_of(tmp_path)
    assert [item["label"] for item in results["vehicle"]] == ["pytorch fp32 (cpu)", "onnx fp32 (cpu)"]
    assert [len(item["steps"]) for item in results["vehicle"]] == [4, 4]
    assert results["run"]["decode"] == "both"
    for name in results["candidates"].values():
        assert len((tmp_path / "out" / name).read_text().splitlines()) == 3
    assert "in the vehicle" in out
    assert "What the vehicle sees" in (tmp_path / "out" / "report.html").read_text()


def test_the_node_s_decode_alone(deploy: Deploy, tmp_path: Path) -> None:
    assert deploy("--decode=autoware")[0] == 0
    results = results_of(tmp_path)
    assert [item["decode"] for item in results["evaluations"]] == ["autoware", "autoware"]
    assert results["evaluations"][0]["metrics"] == results["vehicle"][0]["metrics"]


def test_a_bundle_that_is_none_or_not_used(deploy: Deploy, tmp_path: Path) -> None:
    code, _, err = deploy("--bundle=nowhere", "--decode=both")
    assert code == 2
    assert "evaluation.autoware.bundle" in err
    assert "nowhere' is no bundle that Autoware's lidar_centerpoint can use" in err
    code, _, err = deploy("--bundle=nowhere")
    assert code == 2
    assert "'evaluation.decode' is 'training', which does not use it" in err


def numbers(value: Any) -> list[float]:
    """Every number inside, in order; NaN where there is none."""
    if isinstance(value, dict):
        return [number for key in sorted(value) for number in numbers(value[key])]
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [] if value is None or isinstance(value, str) else [float(value)]


def test_two_runs_in_one_folder(deploy: Deploy, tmp_path: Path) -> None:
    from deploy.work_dir import owned_work_dir

    with owned_work_dir(tmp_path / "out"):
        code, _, err = deploy()
    assert code == 2
    assert "Another run is using" in err


def only_tensorrt(folder: Path) -> Path:
    """A config that asks for nothing but an evaluation with engines, which were never built."""
    backends = "pytorch=dict(enabled=False), onnx=dict(enabled=False)"
    return config_file(folder, f"evaluation = dict(backends=dict({backends}))\n")


def test_a_run_of_skipped_steps_alone_does_not_pass(deploy: Deploy, tmp_path: Path) -> None:
    code, out, _ = deploy(f"--deploy-config={only_tensorrt(tmp_path)}", "--mode=none")
    assert code == 1
    assert "mode 'none' makes no engines, and no current ones are in" in out
    assert out.splitlines()[-1].startswith("FAILED (2 passed, 1 skipped; nothing that was asked for could be done)")


def test_strict_makes_a_skipped_step_a_failure(deploy: Deploy, tmp_path: Path) -> None:
    config = only_tensorrt(tmp_path)
    assert deploy(f"--deploy-config={config}")[0] == 0
    code, out, _ = deploy(f"--deploy-config={config}", "--strict")
    assert code == 1
    assert "--strict allows no skipped step" in out.splitlines()[-1]


def test_fp16_is_verified_as_fp16_also_when_only_evaluated(deploy: Deploy, tmp_path: Path) -> None:
    scenarios = "verification = dict(scenarios=dict(none=[dict(ref_backend='pytorch', test_backend='onnx')]))\n"
    config = config_file(tmp_path, scenarios)
    assert deploy(f"--deploy-config={config}", "--precision=fp16")[0] == 0
    exported = results_of(tmp_path)
    code, out, _ = deploy(f"--deploy-config={config}", "--mode=none")
    assert code == 0, out
    evaluated = results_of(tmp_path)
    for results in (exported, evaluated):
        assert results["run"]["precision"] == "fp16"
        assert results["verifications"][0]["precision"] == "fp16"
    assert evaluated["verifications"][0]["outputs"] == exported["verifications"][0]["outputs"]


def test_dataset_of_the_build_is_found_from_anywhere(
    deploy: Deploy, deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deploy.config.paths import repository_root

    monkeypatch.setenv("CENTERPOINT_DEMO_DATA", os.path.relpath(deployment.data_root, repository_root()))
    code, _, err = deploy("--data-root=elsewhere")
    assert code == 2, "a dataset that is named comes first"
    assert "elsewhere' does not exist" in err
    config = config_file(tmp_path)
    arguments = {
        "--deploy-config": config,
        "--model-config": deployment.model_config,
        "--checkpoint": deployment.checkpoint,
        "--num-samples": "1",
        "--num-verify-samples": "1",
        "--work-dir": "out",
        "--mode": "onnx",
        "--log-level": "ERROR",
    }
    assert main([f"{key}={value}" for key, value in arguments.items()]) == 0
    dataset = Path(results_of(tmp_path)["run"]["dataset"])
    assert dataset.samefile(deployment.data_root)
