"""From what a file holds to typed values, once, at the border; what does not fit is an error that names file and place.

A format is described by `Record` classes and the number and text types below; `parse` turns plain values into them.
`base.documents` reads JSON and YAML files through it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, TypeVar, get_args, get_origin, overload

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    GetCoreSchemaHandler,
    TypeAdapter,
    ValidationError,
)

from base.errors import DataError, UserError
from base.messages import shown, shown_file, shown_place

__all__ = [
    "Count",
    "FiniteFloat",
    "FromList",
    "Int64",
    "Items",
    "NonEmptyStr",
    "NonNegativeFloat",
    "PositiveFloat",
    "PositiveInt",
    "Record",
    "RelativePath",
    "Rows",
    "Share",
    "Text",
    "Vector2",
    "Vector3",
    "misfit",
    "parse",
]

T = TypeVar("T")

_MAX_TEXT = 1 << 16
_MAX_PATH = 4096
_SHOWN_ERRORS = 3


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold a NUL character")
    return text


def _inside(path: str) -> str:
    if path.startswith("/"):
        raise ValueError("must be a relative path, inside its folder")
    if ".." in path.split("/"):
        raise ValueError("must not leave its folder by '..'")
    return path


Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
"""Any whole number that numpy's int64 holds."""
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
"""How many of something there are."""
PositiveInt = Annotated[int, Field(ge=1, le=2**31 - 1)]
"""How many of something there are, at least one."""
FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
"""A number, written with or without a decimal point."""
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""A part of a whole, 0 to 1."""
Text = Annotated[str, Field(max_length=_MAX_TEXT), AfterValidator(_without_nul)]
"""Text that may be empty; no NUL in it."""
NonEmptyStr = Annotated[str, Field(min_length=1, max_length=_MAX_TEXT), AfterValidator(_without_nul)]
"""A name, a token."""
RelativePath = Annotated[
    str, Field(min_length=1, max_length=_MAX_PATH), AfterValidator(_without_nul), AfterValidator(_inside)
]
"""A path below some folder: not absolute, without `..`. Links that leave the folder are for who opens it to refuse."""


class _FirstFault(FailFast):
    """Stops at the first item that does not fit; can be hashed, so that the type's adapter is kept."""

    def __hash__(self) -> int:
        return hash(self.fail_fast)


class FromList:
    """`Annotated[tuple[int, str], FromList()]`: a list of a document, or a tuple.

    A strict tuple of pydantic's takes no list; one that is not strict takes sets, whose order is chance.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> dict[str, Any]:
        # pydantic's schemas are dictionaries; these two are `is_instance_schema` and `chain_schema` of its core.
        listed = {"type": "is-instance", "cls": (list, tuple), "cls_repr": "list"}
        items = {**handler(source), "strict": False}
        # Of a long list only the first fault is told: each would take more memory than the item.
        items["fail_fast"] = len(get_args(source)) == 2 and get_args(source)[1] is Ellipsis
        return {"type": "chain", "steps": [listed, items]}


Items = Annotated[tuple[T, ...], FromList()]
"""`Items[FiniteFloat]`: a list of a document, as a tuple; only its first item that does not fit is told."""
Rows = Annotated[list[T], _FirstFault()]
"""`Rows[Row]`: a long list; only its first item that does not fit is told."""
Vector2 = Annotated[tuple[FiniteFloat, FiniteFloat], FromList()]
Vector3 = Annotated[tuple[FiniteFloat, FiniteFloat, FiniteFloat], FromList()]


class Record(BaseModel):
    """A dictionary with known keys.

    Nothing is coerced: true is no number, "3" is none, 2.0 is no whole number, NaN and infinities are no numbers unless
    a field allows them. An unknown key is an error; `class Row(Record, extra="ignore")` takes what was written for
    others too. Instances do not change.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


@overload
def parse(
    kind: type[T],
    value: object,
    *,
    file: str | os.PathLike[str],
    at: Sequence[str | int] = (),
    error: type[UserError] = DataError,
    remedy: str = "",
) -> T: ...
@overload
def parse(
    kind: Any,
    value: object,
    *,
    file: str | os.PathLike[str],
    at: Sequence[str | int] = (),
    error: type[UserError] = DataError,
    remedy: str = "",
) -> Any: ...
def parse(
    kind: Any,
    value: object,
    *,
    file: str | os.PathLike[str],
    at: Sequence[str | int] = (),
    error: type[UserError] = DataError,
    remedy: str = "",
) -> Any:
    """`value`, typed.

    Args:
        kind: A `Record`, or any type that pydantic's `TypeAdapter` takes: `list[Row]`, `dict[str, Count]`, a union.
        value: Plain values: dictionaries, lists, numbers, text.
        file: Where they come from, for messages.
        at: Place of `value` inside the file, where it is a part of it.
        error: Kind of the error raised.
        remedy: Sentence added to the message: what to do.

    Raises:
        UserError: of the kind `error`: `value` is no `kind`. One message names the file, the first places that do not
            fit, their values and what they must be.
    """
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as failure:
        from base.misfits import phrases

        problems = phrases(kind, value, failure, at)
        # The cause holds the whole input; the message says it all.
        raise error(_message(file, problems, remedy)) from None


def misfit(
    file: str | os.PathLike[str],
    at: Sequence[str | int],
    value: object,
    must: str,
    *,
    error: type[UserError] = DataError,
    remedy: str = "",
) -> UserError:
    """The error of `parse`, for what a type cannot say: `raise misfit(path, [3, "token"], token, "must be unique")`."""
    return error(_message(file, [f"{shown_place(at) or 'it'} is {shown(value)}, but {must}"], remedy))


def _message(file: str | os.PathLike[str], problems: Sequence[str], remedy: str) -> str:
    text = "; ".join(problems[:_SHOWN_ERRORS])
    if len(problems) > _SHOWN_ERRORS:
        text += f"; and {len(problems) - _SHOWN_ERRORS} more"
    return f"{shown_file(file)}: {text}." + (f" {remedy}" if remedy else "")


@lru_cache(maxsize=256)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    # Records bring their own configuration, and refuse another.
    bare = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if isinstance(bare, type) and issubclass(bare, BaseModel):
        return TypeAdapter(kind)
    return TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False))
