"""`deploy.inspect --verify` on statements written by hand about files whose digests sha256sum gives."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.inspect import main

Change = Callable[[Path], object]


def _release(root: Path) -> Path:
    """Two artifacts and a statement beside them."""
    files = {"a_onnx-1.0/net.onnx": "net", "a_onnx-1.0/manifest.json": "{}", "a_engines-1.0/net.engine": "engine"}
    subjects = []
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
        digest = subprocess.check_output(["sha256sum", root / name], text=True).split()[0]
        subjects.append({"name": name, "digest": {"sha256": digest}})
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subjects,
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {"buildDefinition": {}},
    }
    file = root / "a_provenance-1.0/provenance.json"
    file.parent.mkdir()
    file.write_text(json.dumps(statement))
    return file


def _edit(statement: Path, **changed: Any) -> None:
    statement.write_text(json.dumps(json.loads(statement.read_text()) | changed))


@pytest.mark.parametrize("named", ["file", "folder"])
def test_files_as_stated_pass(named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = _release(tmp_path)
    assert main([str(file if named == "file" else file.parent), "--verify"]) == 0
    assert capsys.readouterr().out == "3 of 3 files are as stated\n"


@pytest.mark.parametrize(
    ("change", "verdict", "name"),
    [
        (lambda root: (root / "a_onnx-1.0/net.onnx").write_text("Net"), "changed", "a_onnx-1.0/net.onnx"),
        (lambda root: (root / "a_onnx-1.0/net.onnx").unlink(), "missing", "a_onnx-1.0/net.onnx"),
        (lambda root: (root / "a_onnx-1.0/more.onnx").touch(), "not stated", "a_onnx-1.0/more.onnx"),
    ],
)
def test_files_not_as_stated_fail(
    change: Change, verdict: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _release(tmp_path)
    change(tmp_path)
    assert main([str(file), "--verify", f"--json={tmp_path / 'out.json'}"]) == 1
    found = json.loads((tmp_path / "out.json").read_text())["files"]
    assert {key: value for key, value in found.items() if value != "as stated"} == {name: verdict}
    assert name in capsys.readouterr().out


def test_one_artifact_in_another_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = _release(tmp_path / "made")
    (tmp_path / "vehicle").mkdir()
    (tmp_path / "made/a_engines-1.0").rename(tmp_path / "vehicle/a_engines-1.0")
    assert main([str(file), "--verify", f"--root={tmp_path / 'vehicle'}"]) == 0
    assert capsys.readouterr().out == "1 of 1 files are as stated\n"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"subject": []}, "subject"),
        ({"_type": "https://in-toto.io/Statement/v0.1"}, "_type"),
        ({"subject": [{"name": "../a/b", "digest": {"sha256": "0" * 64}}]}, "../a/b"),
        ({"subject": [{"name": "a/b", "digest": {"sha256": "0" * 63}}]}, "sha256"),
        ({"subject": [{"name": "a/b", "digest": {"sha256": "0" * 64}}] * 2}, "twice"),
        ({"subject": [{"name": "elsewhere/b", "digest": {"sha256": "0" * 64}}]}, "--root"),
    ],
)
def test_what_is_no_statement_of_these_files(
    changed: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _release(tmp_path)
    _edit(file, **changed)
    assert main([str(file), "--verify"]) == 2
    assert message in capsys.readouterr().err


def test_options_that_contradict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = _release(tmp_path)
    assert main([str(file), f"--root={tmp_path}"]) == 2
    assert main([str(file), "--verify", "--diff=other"]) == 2
    assert main([str(tmp_path / "a_onnx-1.0"), "--verify"]) == 2
    assert "provenance.json" in capsys.readouterr().err


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def _signed(root: Path, kind: str) -> Path:
    """A release that openssl signed; returns the statement. Keys: root/key.pem, root/key.pub."""
    algorithm = {"rsa": ("RSA", "rsa_keygen_bits:2048"), "ec": ("EC", "ec_paramgen_curve:P-256")}[kind]
    file = _release(root)
    _openssl("genpkey", "-algorithm", algorithm[0], "-pkeyopt", algorithm[1], "-out", root / "key.pem")
    _openssl("pkey", "-in", root / "key.pem", "-pubout", "-out", root / "key.pub")
    _openssl("dgst", "-sha256", "-sign", root / "key.pem", "-out", file.with_name("provenance.sig"), file)
    return file


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")


@needs_openssl
@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_what_openssl_signed_is_checked_with_its_key(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _signed(tmp_path, kind)
    command = [str(file.parent), "--verify", f"--key={tmp_path / 'key.pub'}"]
    assert main(command) == 0
    assert capsys.readouterr().out == f"signed by '{tmp_path / 'key.pub'}'\n3 of 3 files are as stated\n"
    (tmp_path / "a_onnx-1.0/net.onnx").write_text("Net")
    assert main(command) == 1  # signed, and another file lies here
    assert "changed" in capsys.readouterr().out


@needs_openssl
def test_a_statement_that_was_changed_is_not_the_signed_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever forges a file writes its digest into the statement, too: without a key nothing is seen."""
    file = _signed(tmp_path, "ec")
    (tmp_path / "a_onnx-1.0/net.onnx").write_text("forged")
    digest = subprocess.check_output(["sha256sum", tmp_path / "a_onnx-1.0/net.onnx"], text=True).split()[0]
    subjects = json.loads(file.read_text())["subject"]
    subjects[0]["digest"]["sha256"] = digest
    _edit(file, subject=subjects)
    assert main([str(file), "--verify"]) == 0
    capsys.readouterr()
    assert main([str(file), "--verify", f"--key={tmp_path / 'key.pub'}", f"--json={tmp_path / 'out.json'}"]) == 1
    assert "no signature" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["signed"] is False


@needs_openssl
def test_another_key_and_a_signature_in_base64(tmp_path: Path) -> None:
    """As cosign's bundles hold it."""
    file = _signed(tmp_path, "ec")
    other = tmp_path / "other"
    _signed(other, "ec")
    assert main([str(file), "--verify", f"--key={other / 'key.pub'}"]) == 1
    text = tmp_path / "elsewhere.sig"
    _openssl("base64", "-A", "-in", file.with_name("provenance.sig"), "-out", text)
    assert main([str(file), "--verify", f"--key={tmp_path / 'key.pub'}", f"--signature={text}"]) == 0


@needs_openssl
@pytest.mark.skipif(shutil.which("cosign") is None, reason="no cosign")
def test_what_cosign_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = _release(tmp_path)
    monkeypatch.setenv("COSIGN_PASSWORD", "")
    monkeypatch.chdir(tmp_path)
    off = [f"--no-default-{part}" for part in ("rekor", "fulcio", "oidc", "tsa")]
    for command in (
        ["generate-key-pair"],
        ["signing-config", "create", *off, "--out", "offline.json"],
        [
            "sign-blob",
            "--yes",
            "--key",
            "cosign.key",
            "--signing-config",
            "offline.json",
            "--bundle",
            "made.bundle",
            file,
        ],
    ):
        subprocess.run(["cosign", *command], check=True, capture_output=True)
    bundle = json.loads((tmp_path / "made.bundle").read_text())
    (tmp_path / "made.sig").write_text(bundle["messageSignature"]["signature"])
    assert main([str(file), "--verify", "--key=cosign.pub", "--signature=made.sig"]) == 0


@needs_openssl
def test_what_is_no_key_and_no_signature(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = _signed(tmp_path, "ec")
    _openssl("genpkey", "-algorithm", "ED25519", "-out", tmp_path / "ed.pem")
    _openssl("pkey", "-in", tmp_path / "ed.pem", "-pubout", "-out", tmp_path / "ed.pub")
    for arguments, message in (
        ([f"--key={tmp_path / 'key.pem'}"], "no public key"),
        ([f"--key={tmp_path / 'ed.pub'}"], "Ed25519"),
        ([f"--key={tmp_path / 'nowhere.pub'}"], "nowhere.pub"),
        ([f"--key={tmp_path / 'key.pub'}", f"--signature={tmp_path / 'nowhere.sig'}"], "nowhere.sig"),
        ([f"--signature={tmp_path / 'key.pub'}"], "--signature needs --key"),
    ):
        assert main([str(file), "--verify", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert main([str(file), f"--key={tmp_path / 'key.pub'}"]) == 2
    assert "--key belongs to --verify" in capsys.readouterr().err
