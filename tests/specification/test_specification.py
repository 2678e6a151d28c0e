"""Every block of the specification's page, run as written."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.base.warm_python import warm_python
from tests.specification.page import PAGE, Block, read_blocks
from tests.specification.table import DOCUMENT, ENTRIES, HERE, LAYOUT, MODEL_CONFIG, SMALL, Entry, mapped, rendered

if TYPE_CHECKING:
    from tests.specification.conftest import Project

REPOSITORY = Path(__file__).parents[2]
BLOCKS = {block.key: block for block in read_blocks()}
TABLE = {entry.key: entry for entry in ENTRIES}
SCHEMA = [key for key in TABLE if TABLE[key].here.startswith("key of the deploy config")]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
]


def text_of(key: str, project: Project | SimplePaths) -> str:
    """A block as it is run: our names, the smallest counts, the tiny model."""
    entry = TABLE[key]
    small = mapped(BLOCKS[key].text, HERE, entry.small, SMALL)
    return entry.preamble + small.replace(MODEL_CONFIG, str(project.model_config))


@pytest.fixture(scope="session")
def shell(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """`shell(text)`: types a shell block in the project's folder; fails with its output where it fails."""
    with warm_python(tmp_path_factory.mktemp("bin")) as python:
        yield partial(typed, project, python)


def typed(project: Project, python: Path, text: str) -> str:
    """What a shell block says."""
    path = os.pathsep.join([str(REPOSITORY), *(entry for entry in sys.path if entry)])
    environment = {
        **os.environ,
        "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "120",
    }
    for name in ("BUILD_WORKING_DIRECTORY", "CENTERPOINT_DEMO_DATA", "CENTERPOINT_DEMO_TRAIN_DATA"):
        environment.pop(name, None)
    done = subprocess.run(
        ["bash", "-euc", text], cwd=project.root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(autouse=True)
def _typed_in_the_project(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root)
    monkeypatch.delenv("BUILD_WORKING_DIRECTORY", raising=False)
    torch.set_num_threads(1)


# ---- the table ------------------------------------------------------------------------------------------------------


def test_every_block_of_the_page_is_in_the_table() -> None:
    assert list(BLOCKS) == list(TABLE)
    assert len(BLOCKS) == len(read_blocks()) == PAGE.read_text().count("```") // 2


def test_the_document_is_the_tables() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == rendered(), "run: python -m tests.specification.table"


def test_every_replacement_replaces_something() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for there, _ in HERE:
        assert there in page, there
    for entry in ENTRIES:
        text = mapped(BLOCKS[entry.key].text, HERE)
        for there, _ in entry.small:
            assert there in text, (entry.key, there)


# ---- layouts --------------------------------------------------------------------------------------------------------


def leaves(block: Block) -> list[str]:
    """Paths of the files in a tree drawn with box characters; folders end with a slash."""
    stack: list[str] = []
    found = []
    for line in block.text.splitlines():
        name = re.sub(r"^[│├└─ ]+", "", line.split("#")[0]).strip()
        depth = (len(line) - len(re.sub(r"^[│├└─ ]+", "", line))) // 4
        stack[depth:] = [name]
        if not name.endswith("/"):
            found.append("".join(stack))
    return found


def test_the_dataset_lies_as_drawn(project: Project) -> None:
    drawn = leaves(BLOCKS["1. Prepare Data"])
    assert drawn == [
        "data/t4dataset/centerpoint_infos_train.pkl",
        "data/t4dataset/centerpoint_infos_val.pkl",
        "data/t4dataset/lidar/*.bin",
    ]
    assert all(any(project.root.glob(path)) for path in drawn)


@pytest.mark.parametrize("key", ["File Structure", "Quantization Module Structure"])
def test_every_file_that_is_drawn_has_its_place_here(key: str) -> None:
    drawn = leaves(BLOCKS[key])
    assert len(drawn) > 5
    for path in drawn:
        here = LAYOUT.get(path, mapped(path, (("projects/CenterPoint/quantization/", "quant/"),)))
        assert (REPOSITORY / here).is_file(), f"{path} -> {here}"


def test_the_components_are_those_drawn(project: Project, deployed: Path) -> None:
    from models.config import load_model_config
    from models.spec import ModelSpec

    drawn = re.findall(r"[├└]── (\w+) +→ (\w+\.onnx) / (\.\w+)", BLOCKS["Architecture"].text)
    spec = ModelSpec.from_config(load_model_config(project.model_config))
    assert [name for name, _, _ in drawn] == [component.name for component in spec.components]
    for name, onnx, engine in drawn:
        assert (deployed / "onnx" / onnx).is_file()
        assert (deployed / "tensorrt" / f"{name}{engine}").is_file()


def test_the_output_lies_as_drawn(project: Project, deployed: Path) -> None:
    drawn = leaves(BLOCKS["Output Structure"])
    assert len(drawn) == 4
    assert all((project.root / path).is_file() for path in drawn)
    assert {"manifest.json", "results.json", "report.html"} <= {path.name for path in deployed.iterdir()}


# ---- the deploy config ----------------------------------------------------------------------------------------------


def executed(text: str) -> dict[str, Any]:
    """The names that a config's text defines."""
    values: dict[str, Any] = {}
    exec(compile(text, "<block>", "exec"), values)
    return {name: value for name, value in values.items() if not name.startswith("__")}


def assert_arrived(given: Any, loaded: Any, where: str) -> int:
    """That every value of a config is the loaded one's; returns how many there were."""
    if isinstance(given, Mapping):
        named = loaded if isinstance(loaded, Mapping) else {item: getattr(loaded, item) for item in names_of(loaded)}
        return sum(assert_arrived(value, named[name], f"{where}.{name}") for name, value in given.items())
    if isinstance(given, list):
        assert len(given) == len(loaded), where
        return sum(
            assert_arrived(a, b, f"{where}[{i}]") for i, (a, b) in enumerate(zip(given, loaded, strict=True))
        ) + (not given)
    assert given == loaded, f"{where}: {given!r} became {loaded!r}"
    return 1


def names_of(section: Any) -> list[str]:
    if is_dataclass(section):
        return [item.name for item in fields(section)]
    return list(type(section).model_fields)


@pytest.mark.parametrize("key", SCHEMA)
def test_the_values_of_a_config_arrive(key: str, tmp_path: Path) -> None:
    from deploy.config import load_deploy_config

    block = TABLE[key].preamble + BLOCKS[key].text.replace("[...]", "[]")
    path = tmp_path / "deploy_config.py"
    path.write_text(TABLE[key].alone + block)
    loaded = load_deploy_config(path)
    given = executed(block)
    arrived = sum(assert_arrived(value, getattr(loaded, name), name) for name, value in given.items())
    assigned = re.sub(r"#.*", "", block).count("=") - block.count("dict(") - block.count("=devices")
    assert arrived >= assigned > 0


def test_the_export_modes(tmp_path: Path) -> None:
    """Comments on the page: what to set in deploy_config.py."""
    from deploy.config import load_deploy_config

    settings = [re.findall(r'export\.(\w+) = "([^"]+)"', line) for line in BLOCKS["3. Export Modes"].text.splitlines()]
    modes = [dict(found) for found in settings if found]
    assert [mode["mode"] for mode in modes] == ["onnx", "trt", "both", "none"]
    for mode in modes:
        path = tmp_path / "deploy_config.py"
        path.write_text(f"export = {mode!r}\n")
        loaded = load_deploy_config(path).export
        assert {name: getattr(loaded, name) for name in mode} == mode


def test_every_export_mode_runs(project: Project, deployed: Path) -> None:
    """On the artifacts of the whole run, which `trt` and `none` need."""
    from deploy.main import main

    onnx, engines = deployed / "onnx", deployed / "tensorrt"
    for mode, more in (
        ("onnx", ""),
        ("trt", f"export['onnx_path'] = {str(onnx)!r}\n"),
        (
            "none",
            f"evaluation['backends']['onnx']['model_dir'] = {str(onnx)!r}\n"
            f"evaluation['backends']['tensorrt']['engine_dir'] = {str(engines)!r}\n",
        ),
    ):
        config = project.root / "deploy" / f"{mode}.py"
        whole = (project.root / "deploy" / "deploy_config.py").read_text()
        config.write_text(f"{whole}export.update(mode={mode!r}, work_dir='work_dirs/{mode}')\n{more}")
        assert main([str(config), str(project.model_config), "--log-level", "ERROR"]) == 0, mode
        steps = json.loads((project.root / "work_dirs" / mode / "results.json").read_text())["steps"]
        names = {step["name"] for step in steps if step["status"] == "PASSED"}
        assert ("export ONNX" in names, "build engines" in names) == (mode == "onnx", mode == "trt")


def test_the_command_line_options() -> None:
    from deploy.main import _parser

    text = BLOCKS["Command Line Options"].text
    options = _parser().format_help()
    (choices,) = re.findall(r"--log-level (\{[^}]+\})", text)
    assert choices in options
    assert "--rot-y-axis-reference" in text
    given = ["deploy_config.py", "model_config.py", "--rot-y-axis-reference", "--log-level", "CRITICAL"]
    parsed = _parser().parse_args(given)
    assert (parsed.rot_y_axis_reference, parsed.log_level) == (True, "CRITICAL")
    assert re.findall(r"<(\w+)\.py>", text) == ["deploy_config", "model_config"]
    assert (parsed.deploy_config, parsed.model_config) == tuple(given[:2])


# ---- deployment -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def deploy_configs(project: Project) -> Path:
    """The page's deploy configs, put together of its blocks as it says they are."""
    folder = project.root / "deploy"
    folder.mkdir()
    parts = [text_of(key, project) for key in SCHEMA if "Quantized" not in key]
    (folder / "deploy_config.py").write_text("\n".join(parts))
    int8 = text_of("Deployment with Quantized Model #2", project)
    own = 'checkpoint_path = "work_dirs/centerpoint_ptq.pth"\nexport = dict(work_dir="work_dirs/int8")\n'
    (folder / "deploy_config_int8.py").write_text(f'_base_ = ["deploy_config.py"]\n{own}{int8}')
    return folder


@pytest.fixture(scope="session")
def deployed(project: Project, shell: Callable[[str], str], deploy_configs: Path) -> Path:
    """Work folder of "Export and Evaluate"."""
    shell(text_of("2. Export and Evaluate", project))
    return project.root / "work_dirs" / "centerpoint_deployment"


def steps_of(work_dir: Path) -> dict[str, str]:
    return {step["name"]: step["status"] for step in json.loads((work_dir / "results.json").read_text())["steps"]}


def test_export_and_evaluate(deployed: Path) -> None:
    steps = steps_of(deployed)
    for name in ("export ONNX", "build engines", "verify onnx against pytorch", "evaluate pytorch", "evaluate onnx"):
        assert steps[name] == "PASSED"
    assert set(steps.values()) <= {"PASSED", "SKIPPED"}
    # The page's own opset, tolerance and shapes.
    settings = json.loads((deployed / "manifest.json").read_text())["settings"]
    assert '"opset_version": 16' in json.dumps(settings)


def test_a_quantized_model_deploys(
    project: Project, shell: Callable[[str], str], deploy_configs: Path, ptq: Path
) -> None:
    shell(text_of("Deployment with Quantized Model", project))
    steps = steps_of(project.root / "work_dirs" / "int8")
    assert steps["export ONNX"] == steps["build engines"] == steps["verify onnx against pytorch"] == "PASSED"
    results = json.loads((project.root / "work_dirs" / "int8" / "results.json").read_text())
    assert {item["precision"] for item in results["evaluations"] if item["backend"] == "onnx"} == {"int8"}


# ---- quantization on the command line -------------------------------------------------------------------------------


def float_layers(project: Project, checkpoint: Path) -> set[str]:
    """Layers with weights that a quantized checkpoint leaves in floating point; it is loaded on the way."""
    from models.build import build_model
    from models.config import load_model_config
    from quant import load_ptq_model

    structure = load_ptq_model(build_model(load_model_config(project.model_config)), checkpoint)
    assert any(layer.quantized for layer in structure.layers)
    return {layer.path for layer in structure.layers if not layer.quantized}


@pytest.fixture(scope="session")
def ptq(project: Project, shell: Callable[[str], str]) -> Path:
    """What "Method 1: Using CLI Tool" writes."""
    shell(text_of("Method 1: Using CLI Tool", project))
    return project.root / "work_dirs" / "centerpoint_ptq.pth"


def test_ptq_on_the_command_line(project: Project, ptq: Path) -> None:
    assert "pts_backbone.blocks.0.0" not in float_layers(project, ptq)


@pytest.fixture(scope="session")
def sensitivity(project: Project, shell: Callable[[str], str]) -> Path:
    """What "Sensitivity Analysis" writes."""
    shell(text_of("Sensitivity Analysis", project))
    return project.root / "sensitivity_report.csv"


def test_the_sensitivity_table_goes_into_skip_layers(
    project: Project, shell: Callable[[str], str], sensitivity: Path
) -> None:
    with sensitivity.open(newline="") as file:
        ranked = [row["layer"] for row in csv.DictReader(file)]
    assert len(ranked) > 10
    block = text_of("Sensitivity Analysis #2", project)
    (page,) = re.findall(r"--skip-layers (.+?) \\", block)
    shell(block)
    named = float_layers(project, project.root / "work_dirs" / "skipped.pth")
    assert {"pts_backbone.blocks.0.0", "pts_voxel_encoder.pfn_layers.0.linear"} <= named
    assert page == "pts_backbone.blocks.0.0 pts_voxel_encoder.pfn_layers.0"
    shell(block.replace(page, " ".join(ranked[:2])))
    assert set(ranked[:2]) <= float_layers(project, project.root / "work_dirs" / "skipped.pth")


def test_qat_by_the_hook(project: Project, shell: Callable[[str], str]) -> None:
    """Step 1's config through step 2's command."""
    from mmengine.config import Config

    config = project.root / "qat.py"
    block = text_of("Step 1: Add QAT Hook to Config", project)
    config.write_text(
        f'_base_ = [{str(project.model_config)!r}]\nload_from = "work_dirs/centerpoint/best.pth"\n{block}'
    )
    given = executed(block)
    loaded = Config.fromfile(config)
    assert loaded.custom_hooks == given["custom_hooks"]
    assert loaded.optim_wrapper.optimizer.lr == given["optim_wrapper"]["optimizer"]["lr"] == 1e-4
    assert loaded.optim_wrapper.type == "OptimWrapper"
    assert loaded.train_cfg.max_epochs == given["train_cfg"]["max_epochs"]
    assert loaded.train_cfg.by_epoch is True
    shell(text_of("Step 2: Run Training", project))
    assert "pts_backbone.blocks.0.0" not in float_layers(project, project.root / "work_dirs/centerpoint_qat/qat.pth")


def test_qat_on_the_command_line(project: Project, shell: Callable[[str], str]) -> None:
    shell(text_of("Step 2: Run Training #2", project))
    float_layers(project, project.root / "work_dirs" / "centerpoint_qat.pth")


def test_installation() -> None:
    """The page's line is no command: its package is part of the lock, as what runs here."""
    assert BLOCKS["Installation"].text.startswith("pip install pytorch-quantization")
    version = importlib.metadata.version("pytorch-quantization")
    assert f"\npytorch-quantization=={version} \\" in (REPOSITORY / "requirements_lock.txt").read_text()


# ---- Python ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def python_api(project: Project) -> dict[str, Any]:
    """The names that "Method 2: Using Python API" leaves behind, and `path`, the file that it saved."""
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.root)
        text = text_of("Method 2: Using Python API", project).replace("centerpoint_ptq.pth", "python_ptq.pth")
        exec(compile(text, "<Method 2>", "exec"), names)
    return {**names, "path": project.root / "work_dirs" / "python_ptq.pth"}


def test_what_python_quantized_deploys(
    project: Project, deploy_configs: Path, python_api: dict[str, Any], ptq: Path
) -> None:
    """The three forms of a checkpoint: `torch.save` of a state dict, `save_ptq_model`, and a float one."""
    import onnx

    from deploy.main import main
    from quant import save_ptq_model

    full = save_ptq_model(python_api["quantized_model"], project.root / "work_dirs" / "full.pth")
    graphs = {}
    for name, checkpoint in (("bare", python_api["path"]), ("full", full), ("float", project.checkpoint)):
        config = deploy_configs / f"{name}.py"
        config.write_text(
            '_base_ = ["deploy_config_int8.py"]\n'
            f"checkpoint_path = {str(checkpoint)!r}\n"
            f'export = dict(mode="onnx", work_dir="work_dirs/{name}")\n'
        )
        assert main([str(config), str(project.model_config), "--log-level", "ERROR"]) == 0
        path = project.root / "work_dirs" / name / "onnx" / "pts_backbone_neck_head.onnx"
        graphs[name] = onnx.load(path).graph
    assert graphs["bare"].SerializeToString() == graphs["full"].SerializeToString()
    assert [node.op_type for node in graphs["float"].node] == [node.op_type for node in graphs["full"].node]
    # In floating point it is refused, with what to do.
    config.write_text(f'_base_ = ["deploy_config.py"]\ncheckpoint_path = {str(python_api["path"])!r}\n')
    assert main([str(config), str(project.model_config), "--log-level", "ERROR"]) == 2


def test_the_core_functions_have_their_names() -> None:
    import quant

    names = executed(text_of("Core Functions", project=SimplePaths()))
    assert len(names) == 13
    assert all(getattr(quant, name) is value for name, value in names.items())


class SimplePaths:
    """Where a block names no file."""

    model_config = Path("unused.py")


@pytest.fixture(scope="session")
def custom_pipeline(project: Project, python_api: dict[str, Any]) -> dict[str, Any]:
    """The names that "Example: Custom PTQ Pipeline" leaves behind, on a model and a loader as Method 2 makes them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.root)
        names = {
            "model": python_api["init_model"](python_api["cfg"], str(project.checkpoint), device="cpu"),
            "dataloader": python_api["Runner"].build_dataloader(python_api["cfg"].val_dataloader),
        }
        exec(compile(text_of("Example: Custom PTQ Pipeline", project), "<Custom>", "exec"), names)
    return names


def test_the_custom_pipeline(
    project: Project, custom_pipeline: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    from quant import disable_quantization, print_quantizer_status

    model, calibrator = custom_pipeline["model"], custom_pipeline["calibrator"]
    assert calibrator.result.amax_method == "mse"
    assert calibrator.result.num_frames == 2
    # Another one than the page's, which was skipped before it is switched off, shows what the switch does.
    disable_quantization(model.pts_backbone.blocks[1][0]).apply()
    print_quantizer_status(model)
    status = capsys.readouterr().out
    assert re.search(r"pts_backbone\.blocks\.1\.0 +float", status)
    assert re.search(r"pts_backbone\.blocks\.2\.0 +INT8", status)
    torch.save({"state_dict": model.state_dict()}, "work_dirs/custom.pth")
    found = float_layers(project, project.root / "work_dirs" / "custom.pth")
    assert {"pts_backbone.blocks.0.0", "pts_backbone.blocks.1.0"} <= found
    assert "pts_backbone.blocks.2.0" not in found


def test_the_calibration_cache(project: Project, custom_pipeline: dict[str, Any]) -> None:
    from quant.quantizer import named_quantizers

    model = custom_pipeline["model"]
    scales = {name: quantizer.scale.clone() for name, quantizer in named_quantizers(model).items()}
    save, load = text_of("Calibration Issues", project).splitlines()
    exec(save, dict(custom_pipeline))
    for quantizer in named_quantizers(model).values():
        quantizer.load_state_dict({"scale": torch.full_like(quantizer.scale, torch.nan)})
    exec(load, dict(custom_pipeline))
    found = {name: quantizer.scale for name, quantizer in named_quantizers(model).items()}
    assert found.keys() == scales.keys()
    assert all(torch.equal(found[name], scale) for name, scale in scales.items())
    assert (project.root / "calib_cache.pth").is_file()


def test_every_kind_of_block_is_run_somewhere() -> None:
    """Each key of the table that runs is named by a test of this file."""
    source = Path(__file__).read_text(encoding="utf-8")
    for key, entry in TABLE.items():
        assert f'"{key}"' in source or key in SCHEMA, key
        assert isinstance(entry, Entry)
        assert entry.kind in ("command", "python", "config", "layout", "usage", "install")
