"""Installs a hash-locked requirements file once per lock into the user's cache; prints folder and facts as JSON.

    python3.11 third_party/python/install_env.py --lock requirements_lock.txt --cache ~/.cache/centerpoint-bazel/python

The folder's name is made of the lock's and the interpreter's hash, so that clones share it and a new lock gets a new
one. The work goes to a temporary folder that is renamed at the end: a killed run leaves nothing that looks finished.
Wheels are checked against the lock's hashes; pip takes them from wherever the machine's own pip configuration says.
The folder holds an interpreter of its own and no trace of where it was made (relocatable.py): actions take it as input.
Needs the standard library, pip and ldd alone.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from importlib.metadata import distributions
from pathlib import Path

from relocatable import copy_interpreter, paths_of, seal

REVISION = "2"  # raise it when the layout of an environment changes
TORCH_INDEX = {"cpu": "https://download.pytorch.org/whl/cpu", "cuda": "https://download.pytorch.org/whl/cu130"}


def say(text: str) -> None:
    """One line of progress; Bazel shows standard error as it comes."""
    sys.stderr.write(f"python environment: {text}\n")
    sys.stderr.flush()


def check_cache(folder: Path) -> None:
    """Ends where somebody else owns or may write the folder, or where its path does not fit every tool.

    The same rules as third_party/bazel/cache.sh: what lies in the cache is run.
    """
    odd = re.sub(r"[A-Za-z0-9 _./,+@=~-]|[^\x00-\x7f]", "", str(folder))
    if odd or not folder.is_absolute():
        sys.exit(
            f"python environment: the cache's path {str(folder)!r} "
            + (f"holds characters that not every tool takes ({odd!r})" if odd else "is not absolute")
            + "; name another with --cache (bazelw: XDG_CACHE_HOME=/a/folder/of/yours)"
        )
    if not folder.exists():
        return
    status = folder.stat()
    if status.st_uid != os.getuid():
        sys.exit(
            f"python environment: {folder} belongs to user {status.st_uid}, not to {os.getuid()}, and what lies in it "
            "is run; remove it, or name another with --cache (bazelw: XDG_CACHE_HOME=/a/folder/of/yours)"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        sys.exit(
            f"python environment: others may write to {folder} (mode {stat.S_IMODE(status.st_mode):o}), and what lies "
            f"in it is run; where you trust what is in it: chmod -R go-w '{folder}'; else remove it"
        )


def locked_versions(locks: list[Path]) -> dict[str, str]:
    """Version by normalized name of each distribution that the locks pin for this interpreter's platform."""
    pins = (
        re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)", line)
        for lock in locks
        for line in lock.read_text().splitlines()
    )
    return {normalized(pin[1]): pin[2] for pin in pins if pin}


def normalized(name: str) -> str:
    """PEP 503's spelling of a distribution's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def check_versions(site: Path, locks: list[Path]) -> None:
    """Ends where an installed version is not the locked one: what the folder's name says is what is in it."""
    installed = {normalized(found.metadata["Name"]): found.version for found in distributions(path=[str(site)])}
    wrong = [
        f"{name} is {installed.get(name, 'missing')}, the lock says {version}"
        for name, version in sorted(locked_versions(locks).items())
        if installed.get(name) != version
    ]
    if wrong:
        sys.exit("python environment: not what the lock names was installed: " + "; ".join(wrong))


def locks_digest(locks: list[Path]) -> str:
    """SHA-256 of the locks' bytes, one after the other."""
    return hashlib.sha256(b"".join(lock.read_bytes() for lock in locks)).hexdigest()


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
    os.umask(0o022)  # nobody else writes what will be run, whatever the user's umask
    unfinished = target.with_name(target.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    start = time.monotonic()
    count = sum(" --hash" not in line and "==" in line for lock in locks for line in lock.read_text().splitlines())
    say(f"installing {count} locked packages into {target} (once per lock, some minutes, 2 GB)")
    interpreter = copy_interpreter(unfinished)
    site, scripts = paths_of(interpreter)
    pip_install(interpreter, locks, variant)
    check_versions(site, locks)
    say("making it independent of its place, compiling byte code")
    seal(unfinished, interpreter, site, scripts)
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
    cache: Path = options.cache.expanduser().absolute()
    target = cache / environment_key(options.lock)
    check_cache(cache)
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_cache(target)
    if not target.is_dir():
        with (cache / f"{target.name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("waiting for another installation of the same environment")
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.is_dir():
                install(target, options.lock, options.variant)
    facts = {"folder": str(target), "lock": locks_digest(options.lock), "python": sys.version}
    sys.stdout.write(json.dumps(facts, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
