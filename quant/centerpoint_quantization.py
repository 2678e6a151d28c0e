"""INT8 on the command line: `python -m quant.centerpoint_quantization ptq|sensitivity|qat …`."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Sequence

from base.arguments import whole_number
from base.checks import add_accept
from base.command import EXIT_USAGE, add_log_level, run_command, run_main
from base.files import user_path
from base.ownership import owned_file
from base.torchrun import joined
from models.known_checks import KNOWN_CHECKS
from training.work_dir import owned_work_dir

__all__ = ["main"]

# Command -> the module with its `add_arguments` and `run`, and what it does.
_COMMANDS = {
    "ptq": ("quant.ptq_command", "quantize a trained model with some frames, without training"),
    "sensitivity": ("quant.sensitivity.command", "measure what each layer's quantization costs"),
    "qat": ("quant.hooks.qat_command", "fine-tune a trained model with its quantizers in place"),
}
# Those whose frames the processes of torchrun share; qat joins them by mmengine.
_SHARED = ("ptq",)


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser; of the commands only the one in `argv` gets its options, so that only its module is imported."""
    parser = argparse.ArgumentParser(
        prog="centerpoint_quantization",
        description="Quantize a CenterPoint to INT8.",
        epilog="Exit code: 0 done; 2 wrong input or configuration.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="{" + ",".join(_COMMANDS) + "}")
    asked = next((word for word in argv if not word.startswith("-")), None)
    for name, (module, summary) in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name == asked:
            if name == "qat":
                _add_training_arguments(command)
            importlib.import_module(module).add_arguments(command)
        add_accept(command, KNOWN_CHECKS)
        add_log_level(command)
    return parser


def _add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that the specification gives `qat`; the rest is its module's."""
    from quant.ptq_command import add_model_arguments

    add_model_arguments(parser)
    parser.add_argument("--epochs", type=whole_number(0, 1_000_000), default=10, help="default %(default)s")
    parser.add_argument("--lr", type=float, default=1e-4, help="largest learning rate; default %(default)s")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = _parser(argv).parse_args(argv)
    run = importlib.import_module(_COMMANDS[args.command][0]).run
    if args.command not in _SHARED:
        return run_command(lambda: _owning(args, _is_first(args), lambda: run(args)), args.log_level, args.accept)
    with joined() as processes:

        def work() -> int:
            return _owning(args, processes.is_first, lambda: run(args, processes))

        return run_command(lambda: processes.run(work, EXIT_USAGE), processes.log_level(args.log_level), args.accept)


def _owning(args: argparse.Namespace, is_first: bool, run: Callable[[], int]) -> int:
    """Runs a command while what it writes is its own; of several processes the first one writes."""
    with contextlib.ExitStack() as stack:
        if is_first:
            stack.enter_context(owned_file(user_path(args.output), "--output", args))
            if args.command == "qat":
                stack.enter_context(owned_work_dir(user_path(args.work_dir), resume=args.resume))
        return run()


def _is_first(args: argparse.Namespace) -> bool:
    return getattr(args, "launcher", "none") == "none" or os.environ.get("RANK", "0") == "0"


if __name__ == "__main__":
    run_main(main)
