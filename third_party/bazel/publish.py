"""publish.py DISK ADDRESS: puts what lies in a disk cache of Bazel's onto a cache server.

    python3 third_party/bazel/publish.py ~/.cache/centerpoint-bazel/disk http://cache.example:8081

Bazel sends what it executes, not what it takes from its own disk: a CI machine with a warm disk would leave an empty
server empty. Both hold the same: contents by their SHA-256, and results of actions by the SHA-256 of the action. HTTP
needs Python alone, gRPC (`grpc://HOST:PORT`) an environment with BuildGrid, whose messages are used.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib
import sys
import urllib.parse
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHUNK = 1 << 20
SMALL = 1 << 16  # contents up to here travel many in one message


def entries(disk: Path, kind: str) -> list[Path]:
    """Files `<kind>/<two digits>/<hash>`, sorted. A file in the making has another kind of name."""
    return sorted(file for file in (disk / kind).glob("??/*") if len(file.name) == 64)


def over_http(disk: Path, host: str) -> int:
    """Contents first, so that no result names what is not there yet; returns the number of files."""
    connection = http.client.HTTPConnection(host)
    count = 0
    for kind in ("cas", "ac"):
        for file in entries(disk, kind):
            with file.open("rb") as body:
                connection.request("PUT", f"/{kind}/{file.name}", body, {"Content-Length": str(file.stat().st_size)})
                answer = connection.getresponse()
                answer.read()
            if answer.status not in (200, 201, 204):
                raise SystemExit(f"publish.py: {host} answers {answer.status} to PUT /{kind}/{file.name}")
            count += 1
    return count


def over_grpc(disk: Path, host: str) -> int:
    """As `over_http`, by the Remote Execution API."""
    grpc = importlib.import_module("grpc")
    api = "buildgrid._protos.build.bazel.remote.execution.v2.remote_execution_pb2"
    messages, services = importlib.import_module(api), importlib.import_module(api + "_grpc")
    api = "buildgrid._protos.google.bytestream.bytestream_pb2"
    stream, streams = importlib.import_module(api), importlib.import_module(api + "_grpc")

    def digest(file: Path) -> Any:
        return messages.Digest(hash=file.name, size_bytes=file.stat().st_size)

    def pieces(file: Path) -> Iterator[Any]:
        name = f"uploads/{uuid.UUID(bytes=hashlib.sha256(file.name.encode()).digest()[:16])}/blobs/{file.name}/"
        name += str(file.stat().st_size)
        offset = 0
        with file.open("rb") as body:
            while data := body.read(CHUNK):
                done = offset + len(data) == file.stat().st_size
                yield stream.WriteRequest(resource_name=name, write_offset=offset, finish_write=done, data=data)
                offset += len(data)

    with grpc.insecure_channel(host) as channel:
        contents, writer = services.ContentAddressableStorageStub(channel), streams.ByteStreamStub(channel)
        results = services.ActionCacheStub(channel)
        every = entries(disk, "cas")
        small = [file for file in every if file.stat().st_size <= SMALL]
        for group in _groups(small, 16):
            batch = messages.BatchUpdateBlobsRequest()
            for file in group:
                batch.requests.add(digest=digest(file), data=file.read_bytes())
            for one in contents.BatchUpdateBlobs(batch).responses:
                if one.status.code:
                    raise SystemExit(f"publish.py: {host} does not take {one.digest.hash}: {one.status.message}")
        for file in every:
            if file.stat().st_size > SMALL:
                writer.Write(pieces(file))
        made = entries(disk, "ac")
        for file in made:
            action = disk / "cas" / file.name[:2] / file.name
            if action.is_file():  # the API names an action by its hash and its size
                result = messages.ActionResult.FromString(file.read_bytes())
                results.UpdateActionResult(
                    messages.UpdateActionResultRequest(action_digest=digest(action), action_result=result)
                )
    return len(every) + len(made)


def _groups(items: list[Path], size: int) -> Iterator[list[Path]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def main() -> int:
    """Command line."""
    disk, address = Path(sys.argv[1]), urllib.parse.urlsplit(sys.argv[2])
    ways = {"http": over_http, "grpc": over_grpc}
    if address.scheme not in ways:
        raise SystemExit(f"publish.py: {sys.argv[2]} is neither http:// nor grpc://")
    count = ways[address.scheme](disk, address.netloc)
    sys.stdout.write(f"published {count} files of {disk}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
