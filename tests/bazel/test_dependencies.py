"""What depends on what, as Bazel answers it: artifacts on nothing that changes often, layers on lower ones alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ANSWERS = Path(__file__).parent  # the BUILD file here asks; the answers lie beside this one
REPOSITORY = Path(__file__).resolve().parents[2]  # where files lie that a target does not name

# What makes an artifact -> packages whose change must not make it again.
OFTEN_CHANGED = {"eval", "runtime", "datasets", "training", "quant", "autoware", "deploy"}
MAKERS = {
    "onnx_and_engines": OFTEN_CHANGED,
    # A quantized model is read: of quant/ what such a model is.
    "int8_onnx": OFTEN_CHANGED - {"quant"},
    # Frames run through the model: of all that, what reads frames and counts their pillars.
    "calibrations": {"eval", "training", "autoware", "deploy"},
}
# Layer -> layers it may depend on.
BELOW = {
    "base": set(),
    "models": {"base"},
    "datasets": {"base", "models"},
    "runtime": {"base", "models"},
    "eval": {"base", "models", "runtime"},
    "training": {"base", "models", "datasets", "runtime"},
    "quant": {"base", "models", "datasets", "runtime", "eval", "training"},
    "export": {"base", "models"},
    "autoware": {"base", "models", "datasets", "runtime", "eval", "export"},
    "deploy": {"base", "models", "datasets", "runtime", "eval", "training", "quant", "export", "autoware"},
}


# Imported inside a function that this maker never calls: exporting a quantized checkpoint, and making one.
ELSEWHERE = {"onnx_and_engines": {"export.quantized_model"}, "int8_onnx": {"quant.ptq"}}


def imported_modules(path: Path) -> set[str]:
    """Dotted names of what a file imports when it runs, `from package import module` included."""
    found: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in set(ast.walk(tree)) - typing_only:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
    return found


def packages(answer: str) -> dict[str, list[str]]:
    """Top-level package -> Python files that Bazel named in this answer."""
    found: dict[str, list[str]] = {}
    path = ANSWERS / answer
    if not path.is_file():
        pytest.skip(f"{answer} is Bazel's answer to a query; run ./bazelw test //tests/bazel")
    for label in path.read_text(encoding="utf-8").splitlines():
        if label.startswith("//") and label.endswith(".py"):
            found.setdefault(label[2:].replace(":", "/").split("/")[0], []).append(label)
    assert found, f"Bazel named no file in {answer}"
    return found


@pytest.mark.parametrize("maker", MAKERS)
def test_artifacts_depend_on_nothing_that_changes_more_often(maker: str) -> None:
    found = packages(f"files_of_{maker}")
    assert {name: files[:3] for name, files in found.items() if name in MAKERS[maker]} == {}
    assert {"base", "models", "export"} <= set(found)


def test_of_quant_an_exported_model_needs_what_it_is_and_not_how_it_was_made() -> None:
    core = packages("files_of_int8_onnx")["quant"]
    assert [label for label in core if label.split(":")[1].startswith(("ptq", "calibration/", "sensitivity/"))] == []


@pytest.mark.parametrize("maker", MAKERS)
def test_artifacts_have_all_that_they_import(maker: str) -> None:
    labels = [label for labels in packages(f"files_of_{maker}").values() for label in labels]
    paths = {label[2:].replace(":", "/") for label in labels}
    missing = {
        f"{path}: {name}"
        for path in paths
        for name in imported_modules(Path(path)) - ELSEWHERE.get(maker, set())
        if name.split(".")[0] in BELOW
        for file in (f"{name.replace('.', '/')}.py", f"{name.replace('.', '/')}/__init__.py")
        if (REPOSITORY / file).is_file() and file not in paths
    }
    assert missing == set()


@pytest.mark.parametrize("layer", BELOW)
def test_layers_depend_on_lower_ones_alone(layer: str) -> None:
    found = packages(f"files_of_layer_{layer}")
    assert set(found) - {"third_party", "configs", layer} <= BELOW[layer]
    assert len(found[layer]) > 3 or layer == "training"
