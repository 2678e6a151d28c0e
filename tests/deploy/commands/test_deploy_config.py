"""The deploy configuration: what is accepted, and the words with which everything else is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from base.errors import ConfigError
from deploy.config import load_deploy_config, parse_deploy_config
from deploy.config.model_checks import check_against_model, configured_profiles
from deploy.config.paths import input_path, repository_root
from deploy.config.reference import PAGE, embed_reference
from deploy.config.schema import DeployConfig, Scenario, ShapeRange
from models.spec import ModelSpec

REPOSITORY = Path(__file__).parents[3]
SHIPPED = REPOSITORY / "configs" / "deploy" / "deploy_config.py"

# The example that the project's specification prints, section by section.
SPECIFIED = """
checkpoint_path = "work_dirs/centerpoint/best_checkpoint.pth"
devices = dict(cpu="cpu", cuda="cuda:0")
export = dict(mode="both", work_dir="work_dirs/centerpoint_deployment", onnx_path=None)
onnx_config = dict(
    opset_version=16,
    do_constant_folding=True,
    save_file="centerpoint.onnx",
    export_params=True,
    keep_initializers_as_inputs=False,
    simplify=False,
    multi_file=True,
)
evaluation = dict(
    enabled=True,
    num_samples=1,
    verbose=True,
    backends=dict(
        pytorch=dict(enabled=True, device="cuda:0"),
        onnx=dict(enabled=True, device="cuda:0", model_dir="work_dirs/centerpoint_deployment/onnx"),
        tensorrt=dict(enabled=True, device="cuda:0", engine_dir="work_dirs/centerpoint_deployment/tensorrt"),
    ),
)
backend_config = dict(
    common_config=dict(precision_policy="auto", max_workspace_size=2 << 30),
    model_inputs=[
        dict(
            input_shapes=dict(
                input_features=dict(min_shape=[1000, 32, 11], opt_shape=[20000, 32, 11], max_shape=[64000, 32, 11]),
                spatial_features=dict(
                    min_shape=[1, 32, 760, 760], opt_shape=[1, 32, 760, 760], max_shape=[1, 32, 760, 760]
                ),
            )
        )
    ],
)
verification = dict(
    enabled=True,
    tolerance=1e-1,
    num_verify_samples=1,
    devices=devices,
    scenarios=dict(
        both=[
            dict(ref_backend="pytorch", ref_device="cpu", test_backend="onnx", test_device="cpu"),
            dict(ref_backend="onnx", ref_device="cuda", test_backend="tensorrt", test_device="cuda"),
        ],
        onnx=[dict(ref_backend="pytorch", ref_device="cpu", test_backend="onnx", test_device="cpu")],
        trt=[dict(ref_backend="onnx", ref_device="cuda", test_backend="tensorrt", test_device="cuda")],
        none=[],
    ),
)
quantization = dict(
    enabled=False,
    mode="ptq",
    calibration=dict(num_batches=100, method="histogram", amax_method="mse"),
    fusion=dict(fuse_bn=True),
    sensitive_layers=[],
)
"""


def parse(raw: dict[str, Any], overrides: dict[str, Any] | None = None) -> DeployConfig:
    config: DeployConfig = parse_deploy_config(raw, "my.py", overrides)
    return config


def refused(raw: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(raw)
    assert str(caught.value).startswith("my.py: "), "every message names the file"
    return str(caught.value)


def test_specified_example_is_read_as_written(tmp_path: Path) -> None:
    file = tmp_path / "deploy_config.py"
    file.write_text(SPECIFIED)
    config = load_deploy_config(file)
    assert config.onnx_config.opset_version == 16
    assert config.evaluation.num_samples == 1
    assert config.verification.tolerance == 0.1
    assert config.verification.scenarios.both[1] == Scenario("onnx", "tensorrt", "cuda", "cuda")
    assert config.backend_config.common_config.max_workspace_size == 2 * 1024**3
    shapes = config.backend_config.model_inputs[0].input_shapes
    assert shapes["input_features"] == ShapeRange((1000, 32, 11), (20000, 32, 11), (64000, 32, 11))


def test_shipped_configs_load_and_fp16_differs_in_precision_and_folder_alone() -> None:
    fp32, fp16 = load_deploy_config(SHIPPED), load_deploy_config(SHIPPED.with_name("deploy_config_fp16.py"))
    assert fp32.export.mode == "both"
    assert fp32.evaluation.num_samples == DeployConfig().evaluation.num_samples
    assert fp32.backend_config.common_config.precision_policy == "auto"
    assert fp16.backend_config.common_config.precision_policy == "fp16"
    common = dataclasses.replace(fp16.backend_config.common_config, precision_policy="auto")
    same = dataclasses.replace(
        fp16, export=fp32.export, backend_config=dataclasses.replace(fp16.backend_config, common_config=common)
    )
    assert same == fp32


def test_empty_config_takes_every_default() -> None:
    assert parse({}) == DeployConfig()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"chekpoint_path": "x"}, "unknown key 'chekpoint_path'. Did you mean 'checkpoint_path'?"),
        ({"export": {"mod": "x"}}, "unknown key 'export.mod'. Did you mean 'export.mode'?"),
        (
            {"evaluation": {"backends": {"onx": {}}}},
            "unknown key 'evaluation.backends.onx'. Did you mean 'evaluation.backends.onnx'?",
        ),
        ({"verification": {"tolerence": 1}}, "Did you mean 'verification.tolerance'?"),
        (
            {"verification": {"scenarios": {"onnx": [{"ref_backnd": "onnx"}]}}},
            "'verification.scenarios.onnx[0].ref_backend'",
        ),
    ],
)
def test_unknown_key_names_the_nearest(raw: dict[str, Any], message: str) -> None:
    text = refused(raw)
    assert message in text
    assert "Known keys of" in text


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            {"export": {"mode": "bth"}},
            "'export.mode' is 'bth'. Did you mean 'both'? Allowed: 'onnx', 'trt', 'both', 'none'.",
        ),
        ({"export": "both"}, "'export' must be a dictionary, got str 'both'"),
        ({"evaluation": {"num_samples": 1.5}}, "'evaluation.num_samples' must be a whole number, got float 1.5"),
        ({"evaluation": {"num_samples": True}}, "'evaluation.num_samples' must be a whole number, got bool True"),
        ({"evaluation": {"num_samples": -2}}, "'evaluation.num_samples' is -2. At least -1."),
        ({"evaluation": {"num_samples": 0}}, "a metric over no frame is none"),
        ({"evaluation": {"enabled": 1}}, "'evaluation.enabled' must be True or False, got int 1"),
        ({"verification": {"tolerance": float("nan")}}, "'verification.tolerance' is nan. At least 0."),
        ({"verification": {"tolerance": {"rot": -1.0}}}, "'verification.tolerance.rot' is -1.0. At least 0."),
        ({"verification": {"scenarios": {"both": [{}]}}}, "'verification.scenarios.both[0].ref_backend' is missing"),
        ({"onnx_config": {"opset_version": 9}}, "'onnx_config.opset_version' is 9. Allowed: 13, 14"),
        ({"onnx_config": {"multi_file": False}}, "the scatter between voxel encoder and backbone stays outside"),
        ({"onnx_config": {"export_params": False}}, "without weights cannot be run"),
        ({"backend_config": {"common_config": {"precision_policy": "fp8"}}}, "Allowed: 'auto', 'fp16', 'fp32_tf32'"),
        ({"backend_config": {"common_config": {"max_workspace_size": 0}}}, "At least 1.04858e+06."),
        ({"model_io": {}}, "'model_io' is not used: input and output names come from the model config"),
        ({"runtime_io": {"sample_idx": 1}}, "'runtime_io.sample_idx' is not used"),
    ],
)
def test_wrong_value_is_shown_beside_what_is_allowed(raw: dict[str, Any], message: str) -> None:
    assert message in refused(raw)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"export": {"mode": "trt"}}, "'export.mode' is 'trt', which builds engines from existing ONNX files"),
        (
            {"export": {"mode": "onnx", "onnx_path": "elsewhere"}},
            "'export.onnx_path' is 'elsewhere', but mode 'onnx' writes",
        ),
        ({"evaluation": {"backends": {"onnx": {"model_dir": "old"}}}}, "'evaluation.backends.onnx.model_dir' is 'old'"),
        (
            {"evaluation": {"backends": {"tensorrt": {"engine_dir": "old"}}}},
            "Remove 'evaluation.backends.tensorrt.engine_dir'",
        ),
        ({"evaluation": {"backends": {"tensorrt": {"device": "cpu"}}}}, "engines run on a GPU"),
        ({"evaluation": {"backends": {"onnx": {"device": "gpu"}}}}, "is 'gpu', which is no device"),
        ({"devices": {"cuda": "cuda:x"}}, "'devices.cuda' is 'cuda:x', which is no device"),
        (
            {"verification": {"scenarios": {"onnx": [{"ref_backend": "onnx", "test_backend": "onnx"}]}}},
            "'verification.scenarios.onnx[0]' compares onnx on cpu with itself",
        ),
        (
            {"verification": {"scenarios": {"trt": [{"ref_backend": "onnx", "test_backend": "tensorrt"}]}}},
            "'verification.scenarios.trt[0].test_device' is 'cpu'; engines run on a GPU",
        ),
        (
            {"evaluation": {"max_map_drop": 0.1, "backends": {"pytorch": {"enabled": False}}}},
            "'evaluation.max_map_drop' compares with PyTorch",
        ),
        (
            {"evaluation": {"gates": {"max_drop": 0.1}, "backends": {"pytorch": {"enabled": False}}}},
            "'evaluation.gates.max_drop' compares with pytorch, but 'evaluation.backends.pytorch.enabled' is False",
        ),
        (
            {"evaluation": {"gates": {"max_drop_per_class": 0.1}, "enabled": False}},
            "'evaluation.gates.max_drop_per_class' compares with pytorch, but 'evaluation.enabled' is False",
        ),
        (
            {"evaluation": {"gates": {"max_drop": 0.1, "judge": "worst_bound"}, "statistics": {"num_resamples": 0}}},
            "'evaluation.gates.judge' is 'worst_bound', an end of an interval, but",
        ),
        (
            {"evaluation": {"statistics": {"num_resamples": 20}}},
            "'evaluation.statistics.num_resamples' is 20; intervals of confidence 0.95 need at least 40",
        ),
        ({"evaluation": {"statistics": {"confidence": 1.0}}}, "'evaluation.statistics.confidence' is 1; no interval"),
        (
            {"verification": {"boxes": {"min_matched_share": 99.0}}},
            "'verification.boxes.min_matched_share' is 99; a share is at most 1",
        ),
        (
            {"verification": {"boxes": {"max_center_m": 0.5, "search_radius_m": 0.1}}},
            "'verification.boxes.search_radius_m' is 0.1, less than 'max_center_m'",
        ),
        ({"quantization": {"enabled": True}}, "'quantization.enabled' is True, but"),
        ({"backend_config": {"common_config": {"precision_policy": "int8"}}}, "'quantization.enabled' is False"),
        ({"backend_config": {}, "tensorrt_config": {}}, "two spellings of the same settings"),
        (
            {"accepted_checks": ["sweep-time"]},
            "'accepted_checks' names no check: 'sweep-time'. Did you mean 'sweep-times'",
        ),
        ({"accepted_checks": ["sweep-count"]}, "'accepted_checks' names check 'sweep-count', which is only a warning"),
    ],
)
def test_contradiction_is_refused(raw: dict[str, Any], message: str) -> None:
    assert message in refused(raw)


def profile(name: str, low: object, opt: list[int], high: list[int]) -> dict[str, Any]:
    shapes = {name: {"min_shape": low, "opt_shape": opt, "max_shape": high}}
    return {"backend_config": {"model_inputs": [{"input_shapes": shapes}]}}


def test_profile_must_be_ordered_and_of_one_rank() -> None:
    text = refused(profile("input_features", [100, 32, 11], [50, 32, 11], [200, 32, 11]))
    assert "axis 0: needs 1 <= min <= opt <= max, got min 100, opt 50, max 200" in text
    assert "differ in rank" in refused(profile("input_features", [1, 32], [1, 32, 11], [1, 32, 11]))
    two: dict[str, Any] = {"backend_config": {"model_inputs": [{}, {}]}}
    assert "has 2 entries" in refused(two)


@pytest.fixture(scope="module")
def spec(tiny_config_path: Path) -> ModelSpec:
    from models.config import load_model_config
    from models.spec import ModelSpec

    return ModelSpec.from_config(load_model_config(tiny_config_path))


def test_profile_that_fits_the_model_is_taken(spec: ModelSpec) -> None:
    shape = ([1, 32, 11], [20, 32, 11], [48, 32, 11])
    config = parse(profile("input_features", *shape))
    check_against_model(config, spec, "my.py")
    assert configured_profiles(config, spec, "my.py") == {"input_features": ShapeRange(*map(tuple, shape))}
    assert configured_profiles(parse({}), spec, "my.py") == {}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            profile("spatial_features", *[[1, 32, 760, 760]] * 3),
            "has [1, 32, 32, 32]: axis 2 (grid cells along y) must be 32",
        ),
        (
            profile("input_features", [1, 32, 10], [2, 32, 10], [48, 32, 10]),
            "has ['voxels', 32, 11]: axis 2 (features per point) must be 11",
        ),
        (profile("input_features", [1, 32, 11], [2, 32, 11], [40, 32, 11]), "makes up to 48 (max_voxels)"),
        (profile("spatial_features", [1], [1], [1]), "has 4 axes"),
        (profile("input_feature", [1], [1], [1]), "Did you mean 'input_features'?"),
        ({"verification": {"tolerance": {"heatmaps": 0.1}}}, "Did you mean 'heatmap'?"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(spec: ModelSpec, raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_against_model(parse(raw), spec, "my.py")


def test_newer_spelling_gives_the_same_config() -> None:
    shapes = {"min_shape": [1, 32, 11], "opt_shape": [2, 32, 11], "max_shape": [48, 32, 11]}
    newer = {
        "tensorrt_config": {"precision_policy": "fp16"},
        "components": {
            "pts_voxel_encoder": {
                "onnx_file": "pts_voxel_encoder.onnx",
                "engine_file": "pts_voxel_encoder.engine",
                "tensorrt_profile": {"input_features": shapes},
            }
        },
    }
    older = {
        "backend_config": {
            "common_config": {"precision_policy": "fp16"},
            "model_inputs": [{"input_shapes": {"input_features": shapes}}],
        }
    }
    assert parse(newer) == parse(older)
    renamed = {"components": {"pts_voxel_encoder": {"onnx_file": "encoder.onnx"}}}
    assert "files are named after their component: 'pts_voxel_encoder.onnx'" in refused(renamed)
    assert "'components.a.io' is not used" in refused({"components": {"a": {"io": {}}}})


def test_overrides_take_the_place_of_the_file_and_are_validated() -> None:
    config = parse({"export": {"mode": "none"}}, {"export.mode": "onnx", "checkpoint_path": "w.pth"})
    assert (config.export.mode, config.checkpoint_path) == ("onnx", "w.pth")
    with pytest.raises(ConfigError, match=re.escape("'evaluation.num_samples' is -5")):
        parse({}, {"evaluation.num_samples": -5})


def test_helpers_with_an_underscore_are_the_files_own(tmp_path: Path) -> None:
    file = tmp_path / "config.py"
    file.write_text("_dir = 'a/b'\nexport = dict(work_dir=_dir)\n")
    assert load_deploy_config(file).export.work_dir == "a/b"


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_deploy_config(tmp_path / "missing.py")
    broken = tmp_path / "broken.py"
    broken.write_text("export = dict(mode=undefined_name)\n")
    with pytest.raises(ConfigError, match=r"broken\.py' could not be read: NameError"):
        load_deploy_config(broken)


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".yml"])
def test_files_without_code_say_the_same(tmp_path: Path, suffix: str) -> None:
    python = tmp_path / "deploy_config.py"
    python.write_text(SPECIFIED)
    values: dict[str, Any] = {}
    exec(SPECIFIED, values)
    del values["__builtins__"]
    plain = tmp_path / f"deploy_config{suffix}"
    text = json.dumps(values) if suffix == ".json" else yaml.safe_dump(json.loads(json.dumps(values)))
    plain.write_text(text)
    assert load_deploy_config(plain) == load_deploy_config(python)
    assert load_deploy_config(plain, {"export.mode": "none"}).export.mode == "none"


def test_the_pages_example_without_code_is_one(tmp_path: Path) -> None:
    page = (REPOSITORY / PAGE).read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "my_deployment.yaml").write_text(example)
    config = load_deploy_config(tmp_path / "my_deployment.yaml")
    assert (config.evaluation.min_map, config.export.mode) == (0.55, "both")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"{", "is not valid JSON"),
        ("a.json", b"[]", "'the top level' must be a dictionary, got list []"),
        ("a.json", b'{"evaluation": {"min_map": 5}}', "'evaluation.min_map' is 5. At least 0. At most 1."),
        ("a.json", b'{"seed": 1' + b"0" * 5000 + b"}", "is not valid JSON"),
        ("a.json", b'{"seed": 1, "seed": 2}', "key 'seed' stands twice"),
        ("a.json", b"[" * 9000, "nested"),
        ("a.yaml", b"seed: 2024-01-01", "'seed' must be a whole number, got str '2024-01-01'"),
        ("a.yaml", b"a: &a [1]\nb: *a", "anchors and aliases are not read"),
        ("a.yaml", b"!!python/object/apply:os.system ['true']", "is not read"),
        ("a.yml", b"export: {mode: both, mod: onnx}", "Did you mean 'export.mode'?"),
        ("a.yml", b"seed: \xff", "UTF-8"),
        ("a.toml", b"seed = 1", "its name does not end in .py"),
        ("a.py", b"raise SystemExit(0)", "could not be read: SystemExit: 0"),
        ("a.py", b"seed = 1\nimport os\nx = [\n", "SyntaxError: '[' was never closed"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_deploy_config(tmp_path / name)
    assert message in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"evaluation": {"min_map": 5}}, "'evaluation.min_map' is 5. At least 0. At most 1."),
        (
            {"evaluation": {"gates": {"max_drop_per_class": {"car": 2.0}}}},
            "'evaluation.gates.max_drop_per_class.car' is 2",
        ),
        ({"backend_config": {"common_config": {"max_workspace_size": 2**60}}}, f"is {2**60}. At least 1.04858e+06."),
        ({"seed": 2**32}, "'seed' is 4294967296. At least 0. At most 4294967295."),
        ({"evaluation": {"num_samples": 10**30}}, "'evaluation.num_samples' is 1000000000000000000000000000000. At"),
        ({"evaluation": {"warmup_frames": 10**5000}}, "'evaluation.warmup_frames' is an integer of"),
        ({"verification": {"tolerance": float("inf")}}, "'verification.tolerance' is inf. At least 0."),
        (
            {"verification": {"tolerance": "small"}},
            "'verification.tolerance' must be a number or a table or None, got str",
        ),
        ({"export": {"work_dir": "a\0b"}}, "must not hold a NUL character"),
        ({"export": {"work_dir": ""}}, "'export.work_dir' is ''."),
        ({"quantization": {"sensitive_layers": {"a"}}}, "'quantization.sensitive_layers' must be a list"),
        ({"devices": {"cuda": "cuda:99999999999999999999"}}, "which is no device"),
        ({1: 2}, "unknown key '[1]'"),
        (
            {"tensorrt_config": {"builder": "tensort_rtx"}},
            "'tensorrt_config.builder' is 'tensort_rtx'. Did you mean 'tensorrt_rtx'?",
        ),
        (
            {"components": {"a": {"tensorrt_profile": {"x": {"min_shape": [1]}}}}},
            "'components.a.tensorrt_profile.x.opt_shape' is missing",
        ),
        (profile("input_features", [0], [1], [1]), "input_features.min_shape[0]' is 0. At least 1."),
        (profile("input_features", [], [1], [1]), "input_features.min_shape' is []."),
        (profile("input_features", [1] * 9, [1], [1]), "input_features.min_shape' is [1, 1, 1, 1, … 9 in all]."),
        (profile("input_features", 5, [1], [1]), "input_features.min_shape' must be a list, got int 5"),
    ],
)
def test_a_value_out_of_range_is_shown_with_its_range(raw: dict[str, Any], message: str) -> None:
    assert message in refused(raw)


def test_all_that_is_wrong_is_said_at_once() -> None:
    lines = refused({"sed": 1, "seed": -1, "export": {"mode": "bth", "work_dir": 3}}).splitlines()
    assert len(lines) == 4
    assert all(line.startswith("my.py: ") for line in lines)
    many = refused({f"key{number}": 0 for number in range(40)})
    assert "… and 35 more" in many


def test_nothing_but_refusals_comes_of_wrong_values() -> None:
    """Every key of the specified example with every kind of wrong value."""
    values: dict[str, Any] = {}
    exec(SPECIFIED, values)
    del values["__builtins__"]
    loop: list[Any] = []
    loop.append(loop)
    wrong = [None, True, -1, 2**70, 0.5, float("nan"), "", "\0", "x", [], {}, {"a": {}}, loop, object(), b"x", {1, 2}]
    places: list[tuple[Any, ...]] = []

    def walk(node: Any, keys: tuple[Any, ...]) -> None:
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((*keys, key))
            walk(node[key], (*keys, key))

    walk(values, ())
    refusals = 0
    for keys in places:
        for value in wrong:
            raw = copy.deepcopy(values)
            node: Any = raw
            for key in keys[:-1]:
                node = node[key]
            node[keys[-1]] = value
            try:
                parse(raw)
            except ConfigError:
                refusals += 1
    assert len(places) * len(wrong) / 2 < refusals < len(places) * len(wrong)


def test_relative_paths_start_where_the_command_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    assert input_path("pyproject.toml") == repository_root() / "pyproject.toml", "shipped files are found from anywhere"
    (tmp_path / "pyproject.toml").write_text("mine")
    assert input_path("pyproject.toml") == tmp_path / "pyproject.toml", "the user's own file comes first"
    assert input_path("nowhere.txt") == tmp_path / "nowhere.txt"


def test_documentation_lists_exactly_the_schema() -> None:
    page = (REPOSITORY / PAGE).read_text(encoding="utf-8")
    assert embed_reference(page) == page, "run: python -m deploy.config.reference"
