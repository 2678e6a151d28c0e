"""The calibration cache: there and back, and everything that it refuses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from base.errors import DataError
from quant.calibration.calibrator import CalibrationManager
from quant.modules.quant_conv import QuantConv2d, QuantConvTranspose2d
from quant.quantizer import named_quantizers


class Small(nn.Module):
    """A convolution and a transposed one."""

    def __init__(self, seed: int = 0, channels: int = 4, engine: str = "pytorch_quantization") -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = QuantConv2d.from_float(nn.Conv2d(3, channels, 3), engine)
        self.second = QuantConvTranspose2d.from_float(nn.ConvTranspose2d(channels, 2, 2), engine)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, 2, H - 1, W - 1)."""
        result: torch.Tensor = self.second(self.first(x).relu())
        return result


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    manager = CalibrationManager(Small())
    generator = torch.Generator().manual_seed(1)
    manager.calibrate([torch.randn(1, 3, 16, 16, generator=generator) for _ in range(3)], workers=1, progress=False)
    path = tmp_path / "calibration.json"
    manager.save_calib_cache(path)
    return path


@pytest.mark.parametrize("engine", ["pytorch_quantization", "modelopt"])
def test_there_and_back(cache: Path, tmp_path: Path, engine: str) -> None:
    original = Small()
    manager = CalibrationManager(original)
    generator = torch.Generator().manual_seed(1)
    saved = manager.calibrate(
        [torch.randn(1, 3, 16, 16, generator=generator) for _ in range(3)], workers=1, progress=False
    )
    model = Small(engine=engine)
    loaded = CalibrationManager(model).load_calib_cache(cache)
    for name, q in named_quantizers(model).items():
        assert torch.equal(q.scale, named_quantizers(original)[name].scale)
    assert loaded.quantizers == saved.quantizers
    assert (loaded.amax_method, loaded.weight_method, loaded.num_frames) == ("mse", "mse", 3)
    assert loaded.tokens_sha256 == saved.tokens_sha256
    assert loaded.histograms == {}
    # What was loaded can be saved again, to the same bytes.
    again = CalibrationManager(model)
    again.load_calib_cache(cache)
    again.save_calib_cache(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == cache.read_bytes()


def edited(cache: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The cache after `change`, with a checksum that fits."""
    content = json.loads(cache.read_text())
    del content["sha256"]
    change(content)
    body = json.dumps(content, sort_keys=True, ensure_ascii=False)
    content["sha256"] = hashlib.sha256(body.encode()).hexdigest()
    cache.write_text(json.dumps(content))
    return cache


def refuse(cache: Path, match: str, model: nn.Module | None = None) -> None:
    model = Small() if model is None else model
    with pytest.raises(DataError, match=match) as caught:
        CalibrationManager(model).load_calib_cache(cache)
    assert "alibrat" in str(caught.value) or str(cache) in str(caught.value)
    assert not any(q.is_calibrated for q in named_quantizers(model).values())


def test_another_model(cache: Path) -> None:
    refuse(cache, "other weights of this architecture", Small(seed=5))
    refuse(cache, "belongs to another model.*layers of other shapes", Small(channels=6))
    fewer = Small()
    fewer.second = nn.ConvTranspose2d(4, 2, 2)  # type: ignore[assignment]
    refuse(cache, r"2 quantizers only in the cache, such as 'second\.input_quantizer'", fewer)


def test_files_that_are_no_cache(cache: Path, tmp_path: Path) -> None:
    text = cache.read_text()
    refuse(tmp_path / "absent.json", "does not exist")
    for length in (0, 10, len(text) // 2, len(text) - 3):
        cache.write_text(text[:length])
        refuse(cache, "is not valid JSON")
    for other in ("[1, 2]", '{"format": "something else"}'):
        cache.write_text(other)
        refuse(cache, "is no calibration cache")
    cache.write_bytes(b"\x80\x04\x95\x00pickle")
    refuse(cache, "is not valid JSON")
    cache.write_text(text.replace('"version": 1', '"version": 2'))
    refuse(cache, "version 2; this release reads 1")
    cache.write_text(text.replace('"count": 3', '"count": 4'))
    refuse(cache, "checksum does not fit")


@pytest.mark.parametrize("scale", [0.0, -0.5, 1e9, 0.1, True, "0.5", None])
def test_bad_scales(cache: Path, scale: object) -> None:
    edited(cache, lambda content: content["quantizers"][0].update(scale=[scale]))
    refuse(cache, r"'first\.input_quantizer' has the scale")


def test_wrong_number_of_scales(cache: Path) -> None:
    edited(cache, lambda content: content["quantizers"][1].update(scale=[0.5]))
    refuse(cache, r"'first\.weight_quantizer' has 1 scales, the model 4")


def test_missing_and_unknown_quantizers(cache: Path) -> None:
    edited(cache, lambda content: content["quantizers"][0].update(name="third.input_quantizer"))
    refuse(cache, r"lacks quantizers \['first\.input_quantizer'\] and holds unknown ones \['third\.input_quantizer'\]")


@pytest.mark.parametrize("key", ["quantizers", "frames", "model", "amax_method"])
def test_missing_keys(cache: Path, key: str) -> None:
    edited(cache, lambda content: content.pop(key))
    refuse(cache, f"broken calibration cache: KeyError\\('{key}'\\)")


def test_entries_of_another_form(cache: Path) -> None:
    edited(cache, lambda content: content["quantizers"][0].update(zero_point=3))
    refuse(cache, "broken calibration cache: TypeError.*zero_point")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": 0.5}, r"quantizers\[0\]\.scale is 0\.5, but must be"),
        ({"amax": ["a"]}, r"quantizers\[0\]\.amax\[0\] is 'a', but must be"),
        ({"kind": "gradient"}, r"quantizers\[0\]\.kind is 'gradient', but must be"),
        ({"axis": 1.5}, r"quantizers\[0\]\.axis is 1\.5, but must be"),
        ({"zero_share": 2}, r"quantizers\[0\]\.zero_share is 2, but must be"),
    ],
)
def test_entries_of_another_type(cache: Path, changes: dict[str, object], message: str) -> None:
    edited(cache, lambda content: content["quantizers"][0].update(changes))
    refuse(cache, message)
