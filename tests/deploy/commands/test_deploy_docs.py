"""The pages about the deploy command: their command lines are accepted, the messages they explain exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from deploy import evaluate, export, main, predict
from export.tools import build_engines, calibrate, export_onnx

REPOSITORY = Path(__file__).parents[3]
PAGES = ("quickstart.md", "configuration.md", "troubleshooting.md", "quantization.md", "evaluation.md")
PARSERS = {
    "deploy.evaluate": evaluate._parser,
    "deploy.export": export._parser,
    "deploy.main": main._parser,
    "deploy.predict": predict._parser,
    "export.tools.build_engines": build_engines._parser,
    "export.tools.calibrate": calibrate._parser,
    "export.tools.export_onnx": export_onnx._parser,
    "//deploy:export": export._parser,
    "//deploy:predict": predict._parser,
}


def page(name: str) -> str:
    return (REPOSITORY / "docs" / name).read_text(encoding="utf-8")


def commands() -> list[str]:
    pattern = re.compile(
        r"^ +((?:python -m deploy\.|torchrun .* -m deploy\.|\./bazelw run //deploy:).*)$", re.MULTILINE
    )
    return [line for name in PAGES for line in pattern.findall(re.sub(r" *\\\n *", " ", page(name)))]


@pytest.mark.parametrize("line", commands())
def test_command_lines_are_accepted(line: str) -> None:
    words = shlex.split(line, comments=True)
    program = next(word for word in words if word in PARSERS)
    options = [word for word in words[words.index(program) + 1 :] if word != "--"]
    PARSERS[program]().parse_args(options)


def test_there_are_commands_on_the_quick_start() -> None:
    assert len(commands()) >= 8


def test_explained_messages_are_the_programs_own() -> None:
    text = page("troubleshooting.md")
    messages = re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    messages += re.findall(r"^\| `([^`]+)` \|", page("quantization.md").split("## Messages")[1], re.MULTILINE)
    messages += ["makes up to", "contradicts", "no frame was compared", "NaN or infinite values"]
    folders = ("base", "models", "datasets", "runtime", "eval", "training", "quant", "export", "autoware", "deploy")
    sources = "\n".join(
        file.read_text(encoding="utf-8") for folder in folders for file in (REPOSITORY / folder).rglob("*.py")
    )
    # Joins literals that are written on several lines.
    joined = re.sub(r'"\s*\n\s*f?"', "", sources)
    assert [message for message in messages if message not in joined] == []
    assert all(message in text + page("quantization.md") for message in messages)


def test_links_lead_somewhere() -> None:
    for name in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page(name)):
            assert (REPOSITORY / "docs" / target).exists(), f"{name} links to {target}"
