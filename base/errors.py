"""Errors a user can meet, sorted by what the command line does with them.

`UserError` and its kinds end a command with exit code 2: the input or the configuration is wrong and the message says
what, with which value, in which file, and what to do. `BackendUnavailable` is no failure where a command has other
steps: the step is reported SKIPPED with the error's text as its reason. Where nothing is left to do it ends the command
like a wrong input. `label` is the word in parentheses after "error" (base/command.py).
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BackendUnavailable",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "EngineBuildError",
    "ExportError",
    "MissingDependencyError",
    "UserError",
]


class UserError(Exception):
    """Wrong input or configuration; the command exits with 2 and prints the message without a traceback."""

    label: ClassVar[str] = "input"


class ConfigError(UserError):
    """A deploy or model configuration that cannot be honoured."""

    label = "configuration"


class DataError(UserError):
    """A dataset, point cloud or info file that is missing, broken, truncated or unsafe."""


class CheckpointError(UserError):
    """A checkpoint that is missing, unsafe, or belongs to another architecture."""


class ExportError(UserError):
    """A component that could not be exported to a valid ONNX file."""


class EngineBuildError(UserError):
    """An ONNX file from which the builder could not make an engine."""


class MissingDependencyError(UserError):
    """A package that the requested work needs is not installed; the message says how to get it."""

    label = "installation"


class BackendUnavailable(Exception):  # noqa: N818 - a state of the machine, not an error of the user
    """A backend or builder cannot run on this machine; its text is the reason shown beside SKIPPED."""

    label: ClassVar[str] = "machine"
