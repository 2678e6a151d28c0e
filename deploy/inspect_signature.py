"""Whether somebody signed a file, asked of the machine's openssl: `deploy.inspect FOLDER --verify --key release.pub`.

The signature is what `openssl dgst -sha256 -sign` writes, or the same in base64, as cosign's bundles hold it.
"""

from __future__ import annotations

import base64
import binascii
import shutil
import subprocess
import tempfile
from pathlib import Path

from base.errors import ConfigError

__all__ = ["SIGNATURE", "is_signed"]

SIGNATURE = "provenance.sig"
_LARGEST_SIGNATURE = 1 << 16  # bytes; of an RSA key of 16,384 bits in base64 it is 2,732


def is_signed(file: Path, signature: Path, key: Path) -> bool:
    """Whether `signature` is one of exactly these bytes of `file` by the owner of `key`.

    Args:
        file: What was signed.
        signature: Of its SHA-256, in DER or in base64.
        key: Public key in PEM: RSA or on an elliptic curve, whose signatures are of a digest.

    Raises:
        ConfigError: there is no openssl, no signature, or no such key.
    """
    openssl = shutil.which("openssl")
    if openssl is None:
        raise ConfigError("--key needs the program openssl, which is not on PATH. Install it, or leave --key out.")
    for path, what in ((signature, "The signature"), (key, "The public key")):
        if not path.is_file():
            raise ConfigError(f"{what} '{path}' does not exist. Name them with --signature and --key.")
    shown = subprocess.run(
        [openssl, "pkey", "-pubin", "-in", key, "-noout", "-text_pub"], capture_output=True, text=True, check=False
    )
    if shown.returncode:
        raise ConfigError(f"'{key}' holds no public key in PEM; of a private one `openssl pkey -pubout` makes it.")
    if shown.stdout.startswith(("ED25519", "ED448")):
        raise ConfigError(f"'{key}' is of Ed25519 or Ed448, which sign no digest. Sign with RSA or an elliptic curve.")
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, "signature")
        plain.write_bytes(_plain(signature))
        verified = subprocess.run(
            [openssl, "dgst", "-sha256", "-verify", key, "-signature", plain, file], capture_output=True, check=False
        )
    return verified.returncode == 0


def _plain(signature: Path) -> bytes:
    if signature.stat().st_size > _LARGEST_SIGNATURE:
        raise ConfigError(f"'{signature}' has {signature.stat().st_size} bytes, which no signature has.")
    data = signature.read_bytes()
    try:
        return base64.b64decode(b"".join(data.split()), validate=True)
    except binascii.Error:
        return data
