"""What is in an exported model, `python -m deploy.inspect <onnx|engine|folder> [--gpu h100] [--diff OTHER]`,
and what can be made of a model, `python -m deploy.inspect <config.py|checkpoint.pth> [--model-config C]`."""

from __future__ import annotations

import argparse
import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from base.arguments import whole_number
from base.command import EXIT_FAILED, EXIT_PASSED, add_log_level, run_command, run_main
from base.errors import ConfigError, UserError
from base.files import user_path, write_json
from base.messages import plain_lines, shown
from base.ownership import owned_file
from base.tables import text_table
from deploy.config.paths import input_path
from deploy.inspect_diff import Difference, diff_engines, diff_graphs
from deploy.inspect_engine import EngineFacts, inspect_engine
from deploy.inspect_graph import DEFAULT_PILLARS, GPUS, GraphFacts, TensorFacts, inspect_graph
from deploy.inspect_model import CHECKPOINTS, CONFIGS, inspect_model, model_text
from deploy.inspect_provenance import PROVENANCE, statement_file, verdict_text, verify_provenance
from deploy.inspect_signature import SIGNATURE, is_signed

__all__ = ["diff_files", "inspect_files", "main"]

_SUFFIXES = (".onnx", ".engine")
_WIDTH = 118
Facts = GraphFacts | EngineFacts


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="inspect",
        description="Show what ONNX files and engines hold: tensors, precision, parameters, work and roofline of every "
        "layer. Of a model config or a checkpoint, what can be made of it, tried without a GPU, and why not.",
        epilog="Exit code: 0 shown, and with --diff alike, with --verify as stated; 1 not so, or with --strict "
        "something was skipped or cannot be made; 2 wrong input.",
    )
    parser.add_argument(
        "path", help="an ONNX file, an engine, or a folder with either, such as a bundle; a model config, a checkpoint"
    )
    parser.add_argument("--model-config", metavar="PY", help="of the model whose checkpoint is looked at")
    parser.add_argument("--diff", metavar="OTHER", help="compare with another file or folder; list what differs")
    parser.add_argument(
        "--verify", action="store_true", help=f"hold files against a {PROVENANCE} (or the folder of one)"
    )
    parser.add_argument("--root", metavar="DIR", help="with --verify: the folder that holds the artifacts' folders")
    parser.add_argument("--key", metavar="PEM", help="with --verify: whose signature of the statement has to be there")
    parser.add_argument(
        "--signature", metavar="FILE", help=f"with --key: the signature; default: {SIGNATURE} beside the statement"
    )
    parser.add_argument("--gpu", default="h100", metavar="NAME", help=f"rooflines of {', '.join(sorted(GPUS))}")
    parser.add_argument(
        "--pillars",
        type=whole_number(0, 10**9),
        default=DEFAULT_PILLARS,
        metavar="N",
        help="size of a dynamic first axis (%(default)s)",
    )
    parser.add_argument(
        "--shape", action="append", default=[], metavar="INPUT=1x32xHxW", help="shape of an input with dynamic axes"
    )
    parser.add_argument("--json", metavar="FILE", help="write the same as JSON")
    parser.add_argument("--strict", action="store_true", help="an engine that cannot be opened here fails the command")
    add_log_level(parser, "WARNING")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    args = _parser().parse_args(argv)
    return run_command(lambda: _inspect(args), args.log_level)


def inspect_files(
    path: Path, gpu: str = "h100", pillars: int = DEFAULT_PILLARS, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> dict[Path, Facts]:
    """File -> what it holds, for a file or for every ONNX file and engine below a folder, sorted by path.

    Raises:
        UserError: nothing is there to look at, or a file is broken; see `inspect_graph` and `inspect_engine`.
    """
    given = dict(shapes or {})
    files = _files(path)
    facts: dict[Path, Facts] = {}
    for file in files:
        if file.suffix == ".engine":
            facts[file] = inspect_engine(file)
            continue
        # In a folder, a shape belongs to whichever graph has that input.
        own = given if len(files) == 1 else {k: v for k, v in given.items() if k in _input_names(file)}
        facts[file] = inspect_graph(file, gpu, pillars, own)
    return facts


def diff_files(first: Mapping[Path, Facts], second: Mapping[Path, Facts]) -> dict[str, tuple[Difference, ...]]:
    """File name -> differences. Two single files are compared whatever their names.

    Raises:
        ConfigError: there is nothing to compare: an ONNX file and an engine, or folders without a common file.
    """
    if len(first) == len(second) == 1:
        pairs = [(next(iter(first)), next(iter(second)))]
    else:
        names = {file.name: file for file in second}
        pairs = [(file, names[file.name]) for file in first if file.name in names]
    if not pairs:
        raise ConfigError(
            f"Nothing to compare: {sorted(file.name for file in first)} and {sorted(file.name for file in second)} "
            "have no name in common."
        )
    result: dict[str, tuple[Difference, ...]] = {}
    for one, other in pairs:
        a, b = first[one], second[other]
        if isinstance(a, GraphFacts) and isinstance(b, GraphFacts):
            result[one.name] = diff_graphs(a, b, one, other)
        elif isinstance(a, EngineFacts) and isinstance(b, EngineFacts):
            result[one.name] = diff_engines(a, b)
        else:
            raise ConfigError(f"'{one}' and '{other}' are of different kinds; compare ONNX with ONNX.")
    alone = {file.name for file in first} ^ {file.name for file in second}
    if len(pairs) > 1 or len(first) != len(second):
        for name in sorted(alone):
            here = any(file.name == name for file in first)
            result[name] = (Difference("file", "present", "yes" if here else "-", "-" if here else "yes"),)
    return result


def _inspect(args: argparse.Namespace) -> int:
    path = input_path(args.path)
    if args.verify:
        return _verify(path, args)
    for name in ("root", "key", "signature"):
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name} belongs to --verify.")
    if path.suffix in (*CONFIGS, *CHECKPOINTS):
        return _inspect_model(path, args)
    if args.model_config is not None:
        raise ConfigError(f"--model-config belongs to a checkpoint ({', '.join(CHECKPOINTS)}), not to '{path}'.")
    if args.pillars < 1:
        raise ConfigError(f"--pillars is {args.pillars}; it must be at least 1.")
    shapes = dict(_shape(text) for text in args.shape)
    facts = inspect_files(path, args.gpu, args.pillars, shapes)
    document: dict[str, Any] = {"files": {str(path): _plain(item) for path, item in facts.items()}}
    skipped = any(isinstance(item, EngineFacts) and item.status == "SKIPPED" for item in facts.values())
    code = EXIT_FAILED if args.strict and skipped else EXIT_PASSED
    if args.diff is None:
        texts = [graph_text(f) if isinstance(f, GraphFacts) else engine_text(f) for f in facts.values()]
    else:
        found = diff_files(facts, inspect_files(input_path(args.diff), args.gpu, args.pillars, shapes))
        document = {"differences": {name: [dataclasses.asdict(d) for d in items] for name, items in found.items()}}
        texts = [diff_text(name, items) for name, items in found.items()]
        code = EXIT_FAILED if any(found.values()) else code
        if skipped:
            texts.append(
                "Engines cannot be opened on this machine: their tensors and kernels were not compared (SKIPPED)."
            )
    _write(args, document)
    print(plain_lines("\n\n".join(texts)))  # noqa: T201 - what the command is for
    return code


def _verify(path: Path, args: argparse.Namespace) -> int:
    if args.diff is not None or args.model_config is not None:
        raise ConfigError("--verify goes with neither --diff nor --model-config.")
    if args.signature is not None and args.key is None:
        raise ConfigError("--signature needs --key: the public key of whoever signed.")
    if args.key is not None:
        # First of all: the files are held against what is said by the one who is trusted.
        statement = statement_file(path)
        signature = statement.with_name(SIGNATURE) if args.signature is None else input_path(args.signature)
        signed = is_signed(statement, signature, input_path(args.key))
        if not signed:
            _write(args, {"signed": False, "files": {}})
            print(plain_lines(f"'{signature}' is no signature of '{statement}' by '{args.key}'"))  # noqa: T201 - what the command is for
            return EXIT_FAILED
    verdicts = verify_provenance(path, None if args.root is None else input_path(args.root))
    document = {"files": {item.name: item.verdict for item in verdicts}}
    _write(args, document if args.key is None else {"signed": True, **document})
    text = verdict_text(verdicts)
    print(plain_lines(text if args.key is None else f"signed by '{args.key}'\n{text}"))  # noqa: T201 - what the command is for
    return EXIT_PASSED if all(item.verdict == "as stated" for item in verdicts) else EXIT_FAILED


def _inspect_model(path: Path, args: argparse.Namespace) -> int:
    if args.diff is not None:
        raise ConfigError("--diff compares exported files; models are not compared.")
    if not path.is_file():
        raise ConfigError(f"'{path}' does not exist. Give a model config or a checkpoint.")
    is_config = path.suffix in CONFIGS
    if is_config and args.model_config is not None:
        raise ConfigError(f"'{path}' is a model config itself; --model-config belongs to a checkpoint.")
    given = None if args.model_config is None else input_path(args.model_config)
    report = inspect_model(path if is_config else given, None if is_config else path)
    _write(args, {"files": {str(path): report.plain()}})
    print(plain_lines(model_text(report)))  # noqa: T201 - what the command is for
    return EXIT_FAILED if args.strict and not report.is_able else EXIT_PASSED


def _write(args: argparse.Namespace, document: Mapping[str, Any]) -> None:
    if args.json is None:
        return
    try:
        with owned_file(user_path(args.json), "--json", args) as path:
            write_json(path, document)
    except OSError as error:
        raise UserError(f"Cannot write '{args.json}': {error.strerror or error}.") from error


def graph_text(facts: GraphFacts) -> str:
    """Tables of one ONNX file."""
    counts = ", ".join(f"{number} {op}" for op, number in facts.operators.items())
    notes = [f"{key}: {value}" for key, value in facts.notes.items() if key != "spec"]
    lines = [
        f"{facts.file}  {_size(facts.size_bytes)}, {facts.precision}, opset {facts.opset}, "
        f"{facts.parameters:,} parameters, {facts.flop / 1e9:.2f} GFLOP, sha256 {facts.sha256[:16]}",
        *textwrap.wrap(f"nodes: {counts}", _WIDTH, subsequent_indent="  "),
        *(textwrap.wrap("; ".join(notes), _WIDTH, subsequent_indent="  ") if notes else []),
    ]
    rows: list[tuple[str, ...]] = [
        (
            layer.path,
            f"{layer.op} {'x'.join(map(str, layer.kernel))}".rstrip(),
            layer.precision,
            layer.output_precision,
            f"{layer.parameters:,}",
            f"{layer.flop / 1e9:.3f}",
            f"{layer.flop / facts.flop:.1%}" if facts.flop else "-",
            f"{layer.moved_bytes / 1e6:.2f}",
            f"{layer.roofline_s * 1e6:.2f}",
            layer.bound,
        )
        for layer in facts.layers
    ]
    header = ("layer", "operator", "computes", "writes", "parameters", "GFLOP", "share", "MB moved", "µs", "bound by")
    shares = ", ".join(f"{share:.1%} in {name}" for name, share in _shares(facts).items())
    total = (
        f"total: {shares or 'no layer with weights'} of the FLOP; roofline on {facts.device} "
        f"{facts.roofline_s * 1e3:.4f} ms, layer after layer"
    )
    return "\n".join([*lines, "", _tensor_table(facts.inputs, facts.outputs), "", text_table(header, rows), total])


def engine_text(facts: EngineFacts) -> str:
    """Tables of one engine."""
    lines = [f"{facts.file}  {_size(facts.size_bytes)}, sha256 {facts.sha256[:16]}"]
    if facts.settings:
        values = {"built from": f"{facts.source['file']} ({facts.source['sha256'][:16]})", **facts.settings}
        listed: list[tuple[str, ...]] = [(key, _value(value)) for key, value in values.items()]
        lines += ["", text_table(("manifest", "value"), listed)]
    else:
        lines.append("no manifest beside it: what it was built from, and how, is not known")
    if facts.status == "SKIPPED":
        text = f"tensors and layers SKIPPED: {facts.reason}"
        return "\n".join([*lines, "", *textwrap.wrap(text, _WIDTH, subsequent_indent="  ")])
    lines += ["", _tensor_table(facts.tensors, ())]
    rows: list[tuple[str, ...]] = [(layer.name[:80], layer.kind or "-", layer.outputs or "-") for layer in facts.layers]
    return "\n".join([*lines, "", text_table(("kernel", "kind", "writes"), rows)])


def diff_text(name: str, items: Sequence[Difference]) -> str:
    """Table of the differences of one pair."""
    if not items:
        return f"{name}: no difference"
    rows: list[tuple[str, ...]] = [(item.where, item.what, item.first, item.second) for item in items]
    return f"{name}: {len(items)} differences\n" + text_table(("where", "what", "first", "second"), rows)


def _tensor_table(inputs: Sequence[TensorFacts], outputs: Sequence[TensorFacts]) -> str:
    rows: list[tuple[str, ...]] = [
        (item.name, kind, item.dtype, " x ".join(map(str, item.shape)))
        for kind, items in (("input" if outputs else "input/output", inputs), ("output", outputs))
        for item in items
    ]
    return text_table(("tensor", "is", "type", "shape"), rows)


def _shares(facts: GraphFacts) -> dict[str, float]:
    work = {name: sum(i.flop for i in facts.layers if i.precision == name) for name in ("int8", "fp16", "fp32")}
    return {name: flop / facts.flop for name, flop in work.items() if flop}


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise ConfigError(f"'{path}' does not exist. Give an ONNX file, an engine, or a folder that holds some.")
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in _SUFFIXES and file.is_file())
        if not files:
            raise ConfigError(f"Folder '{path}' holds no {' and no '.join(_SUFFIXES)} file.")
        return files
    if path.suffix not in _SUFFIXES:
        raise ConfigError(f"'{path}' is neither {' nor '.join(_SUFFIXES)}; nothing else can be inspected.")
    return [path]


def _input_names(path: Path) -> set[str]:
    from base.onnx_files import read_onnx

    return {value.name for value in read_onnx(path).graph.input}


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, sizes = text.partition("=")
    parts = sizes.split("x")
    # Of at most nine digits: no axis is longer, and no number takes long to read.
    if not name or not all(part.isdecimal() and len(part) < 10 and int(part) > 0 for part in parts):
        raise ConfigError(f"--shape {shown(text)} is no shape; write it as spatial_features=1x32x760x760.")
    return name, tuple(int(part) for part in parts)


def _plain(facts: Facts) -> dict[str, Any]:
    kind = "onnx" if isinstance(facts, GraphFacts) else "engine"
    return {"kind": kind, **dataclasses.asdict(facts)}


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1_000_000 else f"{count / 1e3:.1f} kB"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(item)}" for key, item in value.items()) or "-"
    if isinstance(value, list):
        return "x".join(map(str, value)) or "-"
    return "default" if value is None else str(value)


if __name__ == "__main__":
    run_main(main)
