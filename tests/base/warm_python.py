"""A `python` for shell blocks: its processes are copies of one that has imported mmdet3d, most of a small command.

`python -m MODULE …` of a block runs the module as `__main__` in such a copy, in the block's folder, environment and
streams; the first call of each module, and every other way to call it, goes to the real interpreter.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import shlex
import signal
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.base.forked_torchrun import open_streams

__all__ = ["warm_python"]

# What the block calls: it hands its own descriptors over, and ends as the copy does.
_CLIENT = """
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(request)
    code = server.makefile("rb").read()
sys.exit(int(code))
"""


@contextmanager
def warm_python(folder: Path) -> Iterator[Path]:
    """Writes the executable `python` into a new folder; within the block it can be called.

    Args:
        folder: Empty; goes first in the PATH of the blocks.
    """
    address = f"\0warm-python-{os.getpid()}-{id(folder)}"  # without a place among files, whose names may be too long
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        server = multiprocessing.get_context("fork").Process(target=_serve, args=(listening,))
        server.start()
    client, python = folder / "client.py", folder / "python"
    client.write_text(_CLIENT.format(address=address), encoding="utf-8")
    real = f"exec {shlex.quote(sys.executable)} -W ignore"
    called = shlex.quote(str(folder / "called"))
    python.write_text(
        f'#!/bin/sh\nif [ "$1" != -m ] || [ ! -e {called}-"$2" ]; then : >{called}-"$2"; {real} "$@"; fi\n'
        f'{real} -I -S {shlex.quote(str(client))} "$@"\n',
        encoding="utf-8",
    )
    python.chmod(0o755)
    try:
        yield python
    finally:
        server.kill()
        server.join()


def _serve(listening: socket.socket) -> None:
    """Takes one request after the other; each is run by a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    test = os.getppid()
    listening.settimeout(1.0)
    while os.getppid() == test:  # which may have been killed
        try:
            connection, _ = listening.accept()
        except TimeoutError:
            continue
        with connection:
            size, descriptors, _, _ = socket.recv_fds(connection, 8, 3)
            with connection.makefile("rb") as stream:
                request = json.loads(stream.read(int.from_bytes(size, "big")))
            child = multiprocessing.get_context("fork").Process(target=_run, args=(*request, descriptors))
            child.start()
            for descriptor in descriptors:
                os.close(descriptor)
            child.join()
            assert child.exitcode is not None
            connection.sendall(str(child.exitcode if child.exitcode >= 0 else 128 - child.exitcode).encode())


def _run(arguments: list[str], cwd: str, environment: dict[str, str], descriptors: list[int]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    open_streams()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    warnings.simplefilter("ignore")
    sys.argv = arguments[1:]
    runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
