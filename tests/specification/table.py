"""Every block of the specification's page: what it is here, where it differs, and how the tests run it small.

docs/specification.md is made of this table: `python -m tests.specification.table` rewrites it, a test holds both
together.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.specification.page import read_blocks

__all__ = ["DOCUMENT", "ENTRIES", "HERE", "LAYOUT", "SMALL", "Entry", "mapped", "rendered"]

DOCUMENT = Path(__file__).parents[2] / "docs" / "specification.md"

# The page's names -> ours. Longer ones first: they are replaced in this order, in every block.
HERE = (
    ("python projects/CenterPoint/deploy/main.py", "python -m deploy.main"),
    ("python tools/detection3d/centerpoint_quantization.py", "python -m quant.centerpoint_quantization"),
    ("python tools/train.py", "python -m training.train"),
    ("projects/CenterPoint/deploy/configs/", "configs/deploy/"),
    ("projects/CenterPoint/configs/t4dataset/Centerpoint/", "configs/model/"),
    ("projects.CenterPoint.quantization", "quant"),
)

# The page's model config; the tests put the tiny model's in its place.
MODEL_CONFIG = "configs/model/second_secfpn_4xb16_121m_base_amp.py"
# What the tests make smaller than the page, in every block that they run.
SMALL = (
    ("configs/deploy/", "deploy/"),  # the page's own deploy configs, put together of its blocks
    ("best_checkpoint.pth", "best.pth"),
    ("--calibrate-batches 100", "--calibrate-batches 2"),
    ("--epochs 10", "--epochs 1"),
    ("max_epochs=10", "max_epochs=1"),
    ("calibration_batches=100", "calibration_batches=2"),
    ("num_batches=100", "num_batches=2"),
)

# Files of the page's trees -> ours, from the repository's root.
LAYOUT = {
    "projects/CenterPoint/deploy/main.py": "deploy/main.py",
    "projects/CenterPoint/deploy/configs/deploy_config.py": "configs/deploy/deploy_config.py",
    "projects/CenterPoint/deploy/component_extractor.py": "export/components.py",
    "projects/CenterPoint/deploy/data_loader.py": "datasets/frames.py",
    "projects/CenterPoint/deploy/evaluator.py": "eval/evaluator.py",
    "projects/CenterPoint/deploy/utils.py": "deploy/cli.py",
    "projects/CenterPoint/deploy/README.md": "docs/README.md",
    "projects/CenterPoint/quantization/sensitivity.py": "quant/sensitivity/analysis.py",
}


@dataclass(frozen=True)
class Entry:
    """One block.

    Attributes:
        key: See `page.Block`.
        kind: "command" and "python" run; "config" is read by the schema; "layout" is held against files; "usage"
            against a command's help; "install" against the environment.
        here: What takes its place.
        differs: Where it differs from the page, and why; empty where only names differ.
        small: Further replacements of the tests.
        preamble: Lines that a config needs above the block.
        alone: Further ones, where the block is the whole config.
    """

    key: str
    kind: str
    here: str
    differs: str = ""
    small: tuple[tuple[str, str], ...] = ()
    preamble: str = ""
    alone: str = ""


_DEPLOY = "`python -m deploy.main configs/deploy/deploy_config.py configs/model/….py`"
_QUANTIZE = "`python -m quant.centerpoint_quantization"
_SCHEMA = "key of the deploy config ([configuration.md](configuration.md))"

ENTRIES = (
    Entry("1. Prepare Data", "layout", "the same; or generated: `python -m datasets.synthetic --out data/t4dataset`"),
    Entry("2. Export and Evaluate", "command", _DEPLOY),
    Entry(
        "3. Export Modes",
        "config",
        "`export.mode` and `export.onnx_path`, or `--mode` and `--onnx-path` of `python -m deploy.export`",
    ),
    Entry("Checkpoint Path", "config", _SCHEMA),
    Entry("Export Settings", "config", _SCHEMA),
    Entry(
        "ONNX Settings",
        "config",
        _SCHEMA,
        "The default `opset_version` is 17. `multi_file=False` and `export_params=False` are refused with the reason.",
    ),
    Entry(
        "Evaluation Settings",
        "config",
        _SCHEMA,
        "The default `num_samples` is 30: one frame says nothing about accuracy. Devices are `auto` by default. A "
        "`model_dir` or `engine_dir` other than the run's own is for modes that read existing files.",
        (
            ('pytorch=dict(enabled=True, device="cuda:0")', 'pytorch=dict(enabled=True, device="auto")'),
            ('device="cuda:0", model_dir="..."', 'device="auto", model_dir=None'),
            ('engine_dir="..."', "engine_dir=None"),
        ),
        alone='export = dict(mode="none")\n',
    ),
    Entry(
        "TensorRT Settings",
        "config",
        _SCHEMA,
        "Shapes follow from the model config where they are left out. Encoder shapes of an Autoware bundle are static.",
        (("1000, 32", "10, 32"), ("20000", "200"), ("64000", "400"), ("760", "32")),
    ),
    Entry(
        "Verification Settings",
        "config",
        _SCHEMA,
        "Without `tolerance` the limits are those of each output and precision, and boxes are compared too. 0.1 for "
        "every output is wide for FP32 and narrow for INT8, where one step of one code moves a logit by more; leave it "
        "out there. `[...]` is the page's abbreviation.",
        (("[...]", "[]"),),
        'devices = dict(cpu="cpu", cuda="cuda:0")\n',
    ),
    Entry("Architecture", "layout", "the same two components and files"),
    Entry("Output Structure", "layout", "the same, with manifest, results and report beside it"),
    Entry(
        "Command Line Options",
        "usage",
        f"{_DEPLOY} with these options",
        "More options: `--help`. `--strict` makes a skipped step fail.",
    ),
    Entry(
        "File Structure",
        "layout",
        "[design/architecture.md](design/architecture.md)",
        "One package for each thing instead of one folder. What `utils.py` would hold lies where it is used.",
    ),
    Entry(
        "Installation",
        "install",
        "`pip install -r requirements_lock.txt`",
        "The lock has pytorch-quantization 2.1.3, the last version with code; `engine='modelopt'` takes its maintained "
        "successor, to the same numbers.",
    ),
    Entry("Method 1: Using CLI Tool", "command", f"{_QUANTIZE} ptq …`", "Calibrates on the training split."),
    Entry(
        "Method 2: Using Python API",
        "python",
        "`from quant import quantize_ptq`",
        "Calibrates on the validation split, whose accuracy then says less about unseen frames. "
        "`cfg.train_dataloader` would bring augmentation; "
        "`quant.calibration.calibration_batches(cfg, model=model)` does neither.",
        (('device="cuda:0"', 'device="cpu"'),),
    ),
    Entry(
        "Sensitivity Analysis",
        "command",
        f"{_QUANTIZE} sensitivity …`",
        "mAP alone ranks noise on few frames: the table has intervals and the signal-to-noise ratio of each head, too.",
    ),
    Entry(
        "Sensitivity Analysis #2",
        "command",
        f"{_QUANTIZE} ptq … --skip-layers …`",
        "`pts_voxel_encoder` stays in floating point anyway, unless `quant_model(include=…)` names it.",
        (
            ("--config ...", f"--config {MODEL_CONFIG}"),
            ("--checkpoint ...", "--checkpoint work_dirs/centerpoint/best.pth"),
            ("--output ...", "--output work_dirs/skipped.pth --calibrate-batches 2"),
        ),
    ),
    Entry(
        "Step 1: Add QAT Hook to Config",
        "config",
        "the same, in a config of your own with `_base_` and `load_from`",
        "`load_from` names the trained weights, which the page leaves out. In a file of its own, or `optim_wrapper` "
        "and `train_cfg` would lose the rest of the recipe. `freeze_bn=True` freezes BatchNorm and fuses it at the "
        "end; `bn='fold'` fuses it first. The rate of the optimizer is the largest: the schedule of a training from "
        "scratch would climb past it.",
    ),
    Entry(
        "Step 2: Run Training",
        "command",
        "`python -m training.train qat.py --work-dir …`, or mmdet3d's own tools/train.py",
        "The config is that of step 1.",
        (
            (MODEL_CONFIG, "qat.py"),
            ("work_dirs/centerpoint_qat", "work_dirs/centerpoint_qat --device cpu"),
        ),
    ),
    Entry(
        "Step 2: Run Training #2",
        "command",
        f"{_QUANTIZE} qat …`",
        "The rate climbs to `--lr` and falls along a cosine.",
    ),
    Entry(
        "Deployment with Quantized Model",
        "command",
        "`python -m deploy.main configs/deploy/deploy_config_int8.py configs/model/….py`",
        "`checkpoint_path` may be a float checkpoint, which is calibrated, or a quantized one of any form above. A "
        "quantized one under a float deploy config is an error that says so.",
    ),
    Entry(
        "Deployment with Quantized Model #2",
        "config",
        _SCHEMA,
        "`onnx_config.opset_version` must be 19 or 20, for scales in FP16. `precision_policy='int8'` builds a strongly "
        "typed engine of Q/DQ nodes: TensorRT's builder flag of that name is gone.",
        preamble="onnx_config = dict(opset_version=19)\n",
    ),
    Entry(
        "Quantization Module Structure",
        "layout",
        "`quant/`, the same files",
        "`sensitivity.py` is a package. This model has no addition; `quant_concat.py` does for the neck what "
        "`quant_add.py` does for skip connections.",
    ),
    Entry("Core Functions", "python", "`from quant import …`, the same names"),
    Entry(
        "Example: Custom PTQ Pipeline",
        "python",
        "the same",
        "A layer that is switched off is saved and deployed as a float one. The layer of step 4 is off since step 2.",
    ),
    Entry(
        "Calibration Issues",
        "python",
        "the same",
        "The cache is JSON, whatever it is called, and belongs to its model: another one's is refused. An engine of "
        "Q/DQ nodes needs none, its scales are in the ONNX file.",
    ),
)


def mapped(text: str, *tables: tuple[tuple[str, str], ...]) -> str:
    """`text` with every pair of the tables replaced, in order."""
    for table in tables:
        for page, here in table:
            text = text.replace(page, here)
    return text


def rendered() -> str:
    """The page docs/specification.md."""
    lines = [
        "# The specification, block by block",
        "",
        "What this project was asked for is one page of commands, configs and Python",
        "([the page](../tests/data/specification/page.txt)). Each of its blocks runs here, with these names:",
        "",
        "| there | here |",
        "|---|---|",
        *(f"| `{page}` | `{here}` |" for page, here in HERE),
        "",
        "`tests/specification` takes the blocks out of the page and runs them on a tiny model; a block without a line",
        "below fails it. Where something differs, the reason stands beside it.",
        "",
        "| block | here | differs |",
        "|---|---|---|",
    ]
    by_key = {entry.key: entry for entry in ENTRIES}
    lines += [f"| {b.key} (line {b.line}) | {by_key[b.key].here} | {by_key[b.key].differs} |" for b in read_blocks()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(rendered(), encoding="utf-8")
