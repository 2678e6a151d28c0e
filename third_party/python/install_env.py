"""Installs a hash-locked requirements file once per lock into the user's cache; prints the environment's folder.

    python3.11 third_party/python/install_env.py --lock requirements_lock.txt --cache ~/.cache/centerpoint-bazel/python

The folder's name is made of the lock's and the interpreter's hash, so that clones share it and a new lock gets a new
one. The work goes to a temporary folder that is renamed at the end: a killed run leaves nothing that looks finished.
Wheels are checked against the lock's hashes; pip takes them from wherever the machine's own pip configuration says.
Needs the standard library, pip and venv alone.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

REVISION = "1"  # raise it when the layout of an environment changes
TORCH_INDEX = {"cpu": "https://download.pytorch.org/whl/cpu", "cuda": "https://download.pytorch.org/whl/cu130"}


def say(text: str) -> None:
    """One line of progress; Bazel shows standard error as it comes."""
    sys.stderr.write(f"python environment: {text}\n")
    sys.stderr.flush()


def environment_key(locks: list[Path]) -> str:
    """Name of the environment: the locks' bytes and the interpreter that the wheels are for."""
    digest = hashlib.sha256(f"{REVISION} {sys.version} {os.path.realpath(sys.executable)}".encode())
    for lock in locks:
        digest.update(lock.read_bytes())
    return digest.hexdigest()[:16]


def pip_install(python: Path, locks: list[Path], variant: str) -> None:
    """Installs the locks; torch's own index is asked only where the machine's configuration has no torch."""
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--require-hashes"]
    command += ["--no-compile", "--disable-pip-version-check", "--progress-bar=off", "--no-warn-script-location"]
    for lock in locks:
        command += ["--requirement", str(lock)]
    first = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False)
    if first.returncode == 0:
        return
    if "torch==" not in first.stderr:
        sys.exit(
            f"{first.stderr}\npython environment: pip failed; check the network and `pip config list`, then try again"
        )
    say(f"this machine's pip configuration has no such torch; adding {TORCH_INDEX[variant]}")
    second = subprocess.run([*command, "--extra-index-url", TORCH_INDEX[variant]], stdout=sys.stderr, check=False)
    if second.returncode != 0:
        sys.exit("python environment: pip failed (see above); check the network and `pip config list`, then try again")


def install(target: Path, locks: list[Path], variant: str) -> None:
    """Builds the environment beside `target`, compiles it once and renames it into place."""
    unfinished = target.with_name(target.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    start = time.monotonic()
    count = sum(" --hash" not in line and "==" in line for lock in locks for line in lock.read_text().splitlines())
    say(f"installing {count} locked packages into {target} (once per lock, some minutes, 2 GB)")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(unfinished)], check=True)
    pip_install(unfinished / "bin" / "python", locks, variant)
    say("compiling byte code")
    # A few packages ship files for other Python versions; that they do not compile matters to nobody.
    site = unfinished / "lib" / "python3.11" / "site-packages"
    compile_all = [sys.executable, "-m", "compileall", "-qq", "-j0", "--invalidation-mode=unchecked-hash"]
    subprocess.run([*compile_all, "-s", str(unfinished), "-p", str(target), str(site)], check=False)
    unfinished.rename(target)
    say(f"ready after {time.monotonic() - start:.0f} s")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Install the locked Python environment.")
    parser.add_argument("--lock", required=True, type=Path, action="append", help="requirements file with hashes")
    parser.add_argument("--cache", required=True, type=Path, help="folder of all environments")
    parser.add_argument("--variant", default="cpu", choices=tuple(TORCH_INDEX), help="which torch the lock names")
    options = parser.parse_args()
    if sys.implementation.name != "cpython" or sys.version_info[:2] != (3, 11):
        sys.exit(f"python environment: CPython 3.11 is needed, {sys.executable} is {sys.version.split()[0]}")
    cache: Path = options.cache.expanduser()
    target = cache / environment_key(options.lock)
    cache.mkdir(parents=True, exist_ok=True)
    if not target.is_dir():
        with (cache / f"{target.name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("waiting for another installation of the same environment")
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.is_dir():
                install(target, options.lock, options.variant)
    sys.stdout.write(f"{target}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
