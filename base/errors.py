"""Errors a user can meet, sorted by what the command line does with them.

`UserError` and its kinds end a command with exit code 2: the input or the configuration is wrong and the message says
what, with which value, in which file, and what to do. `BackendUnavailable` is no failure: the step is reported SKIPPED
with the error's text as its reason.
"""

from __future__ import annotations

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


class ConfigError(UserError):
    """A deploy or model configuration that cannot be honoured."""


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


class BackendUnavailable(Exception):  # noqa: N818 - a state of the machine, not an error of the user
    """A backend or builder cannot run on this machine; its text is the reason shown beside SKIPPED."""
