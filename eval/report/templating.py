"""The report's templates: every text that goes into the page is escaped by jinja2, whoever wrote it."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.lazy import require

if TYPE_CHECKING:
    from jinja2 import Environment
    from jinja2.lexer import Token
    from markupsafe import Markup

__all__ = ["part", "render", "trusted"]

_FOLDER = Path(__file__).parent / "templates"
# Next to a tag a line break is layout; between words it stands for a space. A space that matters stands within a line.
_AT_TAG = re.compile(r"(?<=>)\s*\n\s*|\s*\n\s*(?=<)")
_LINE_BREAK = re.compile(r"\s*\n\s*")


def render(template: str, /, **values: Any) -> Markup:
    """A template of `eval/report/templates` with its values; `str` values are escaped, a missing one is an error."""
    return trusted(_environment().get_template(template).render(values))


def part(template: str, macro: str) -> Callable[..., Markup]:
    """A macro of a template, to call with its arguments."""
    found: Callable[..., Markup] = getattr(_environment().get_template(template).module, macro)
    return found


def trusted(markup: str) -> Markup:
    """HTML that is placed as it is: what a template has made, or a `Figure` that was looked through."""
    from markupsafe import Markup

    return Markup(markup)


@functools.cache
def _environment() -> Environment:
    jinja2 = require("jinja2", "to write the report")
    environment: Environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        extensions=[_layout()],
    )
    environment.filters["fmt"] = format
    return environment


def _layout() -> type:
    """An extension that takes the line breaks of templates for layout, so that they may be indented as one likes."""
    from jinja2.ext import Extension
    from jinja2.lexer import TOKEN_DATA, TOKEN_VARIABLE_BEGIN, TOKEN_VARIABLE_END, Token, TokenStream

    class Layout(Extension):
        def filter_stream(self, stream: TokenStream) -> Iterator[Token]:
            tokens = list(stream)
            for before, token, after in zip([None, *tokens], tokens, [*tokens[1:], None], strict=False):
                if token.type != TOKEN_DATA:
                    yield token
                    continue
                text = _AT_TAG.sub("", token.value)
                # Beside `{% … %}` and `{# … #}` it is layout too; beside `{{ … }}` it is a space.
                if before is None or before.type != TOKEN_VARIABLE_END:
                    text = re.sub(r"^\s*\n\s*", "", text)
                if after is None or after.type != TOKEN_VARIABLE_BEGIN:
                    text = re.sub(r"\s*\n\s*$", "", text)
                yield Token(token.lineno, TOKEN_DATA, _LINE_BREAK.sub(" ", text))

    return Layout
