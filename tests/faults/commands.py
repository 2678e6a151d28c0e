"""Commands called in this process: how they end, without their output."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence

from tests.faults.trial import Refusal

__all__ = ["call"]

Main = Callable[[Sequence[str]], int]


def call(main: Main, *arguments: object, passing: tuple[int, ...] = (0,), refusing: tuple[int, ...] = (2,)) -> str:
    """Runs a command; returns what it printed.

    Args:
        main: Its entry point.
        arguments: Its command line.
        passing: Exit codes of a run that did what was asked, such as 1 for a comparison that finds something.
        refusing: Exit codes of a run that refuses its input.

    Raises:
        Refusal: it refused; the text is what it printed.
        RuntimeError: with any other code.
    """
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            code = main([str(argument) for argument in arguments])
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    if code in refusing:
        raise Refusal(output.getvalue())
    if code not in passing:
        raise RuntimeError(f"exit code {code}: {output.getvalue()[-500:]}")
    return output.getvalue()
