"""An object store on loopback, whose requests fail, lose their response, or let others go first.

It is a bucket of S3 with the requests that Icechunk sends. The name of the bucket is the name of
the client: all buckets hold the same objects, and each client has faults of its own. Icechunk talks
to it through its real client for S3, which repeats failed requests.
"""

from __future__ import annotations

import hashlib
import socket
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import pytest


@dataclass(frozen=True, slots=True)
class Stored:
    """An object: content, metadata, and the time at which it was written."""

    content: bytes
    metadata: tuple[tuple[str, str], ...] = ()
    written: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.content, usedforsecurity=False).hexdigest()}"'


@dataclass(slots=True)
class Client:
    """One client of the store: its requests so far, and what happens to a later one."""

    requests: int = 0
    dies_at: int | None = None
    """Number of the request from which on the store does not serve the client."""
    response_only: bool = False
    """Whether that request is still carried out, and only its response is lost."""
    loses: set[int] = field(default_factory=set)
    """Numbers of requests that are carried out, and whose response is lost once."""
    pauses: dict[int, Callable[[], object]] = field(default_factory=dict)
    """What others do before a request, by the number of the request."""

    @property
    def is_dead(self) -> bool:
        return self.dies_at is not None and self.requests >= self.dies_at


class ObjectStore:
    """Objects by key, and the server. Use it in a ``with`` block."""

    def __init__(self) -> None:
        self.objects: dict[str, Stored] = {}
        self.clients: dict[str, Client] = {}
        self.methods: Counter[str] = Counter()
        self.lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"store": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def set_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let URLs ``s3://CLIENT/PREFIX`` refer to this store."""
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.server_port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            monkeypatch.setenv(name, value)

    def client(self, name: str) -> Client:
        """Return a client. Its bucket exists from now on."""
        return self.clients.setdefault(name, Client())

    def under(self, prefix: str) -> list[str]:
        with self.lock:
            return sorted(key for key in self.objects if key.startswith(prefix))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    store: ObjectStore

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print nothing."""

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        url = urlsplit(self.path)
        name, _, key = unquote(url.path).lstrip("/").partition("/")
        client, number = self._count(name)
        if pause := client.pauses.pop(number, None):
            pause()
        if client.dies_at is not None and number >= client.dies_at:
            if number == client.dies_at and client.response_only:
                self._answer(key, parse_qs(url.query, keep_blank_values=True), body)
            # Refused, not disconnected: Icechunk would try again for minutes.
            self._send(403, b"<Error><Code>AccessDenied</Code></Error>")
            return
        answer = self._answer(key, parse_qs(url.query, keep_blank_values=True), body)
        if number in client.loses:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._send(*answer)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle

    def _count(self, name: str) -> tuple[Client, int]:
        with self.store.lock:
            client = self.store.client(name)
            client.requests += 1
            self.store.methods[self.command] += 1
            return client, client.requests

    def _answer(
        self, key: str, query: dict[str, list[str]], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        with self.store.lock:
            if self.command == "PUT":
                return self._put(key, body)
            if self.command == "POST" and "delete" in query:
                return self._delete(body)
            if self.command == "DELETE":
                self.store.objects.pop(key, None)
                return 204, b"", {}
            if "list-type" in query:
                return self._list(query["prefix"][0], query.get("delimiter", [""])[0])
            return self._get(key)

    def _put(self, key: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        known = self.store.objects.get(key)
        expected = self.headers.get("if-match")  # Icechunk omits the quotes
        if (expected and (known is None or known.etag.strip('"') != expected.strip('"'))) or (
            self.headers.get("if-none-match") == "*" and known is not None
        ):
            return 412, b"<Error><Code>PreconditionFailed</Code></Error>", {}
        if source := self.headers.get("x-amz-copy-source"):
            copied = self.store.objects[unquote(source).lstrip("/").partition("/")[2]]
            new = Stored(copied.content, copied.metadata)
            self.store.objects[key] = new
            text = f"<CopyObjectResult><ETag>{escape(new.etag)}</ETag></CopyObjectResult>"
            return 200, text.encode(), {}
        if "aws-chunked" in self.headers.get("content-encoding", ""):
            body = _without_chunks(body)
        metadata = tuple(
            (name, value)
            for name, value in self.headers.items()
            if name.lower().startswith("x-amz-meta-")
        )
        new = self.store.objects[key] = Stored(body, metadata)
        return 200, b"", {"ETag": new.etag}

    def _delete(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        gone = [e.text or "" for e in ElementTree.fromstring(body).iter() if e.tag.endswith("Key")]
        for key in gone:
            self.store.objects.pop(key, None)
        deleted = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in gone)
        return 200, f"<DeleteResult>{deleted}</DeleteResult>".encode(), {}

    def _list(self, prefix: str, delimiter: str) -> tuple[int, bytes, dict[str, str]]:
        found, common = [], dict[str, None]()
        for key in self.store.under(prefix):
            folder, slash, _ = key.removeprefix(prefix).partition(delimiter or "\0")
            if slash:
                common[prefix + folder + slash] = None
                continue
            new = self.store.objects[key]
            written = new.written.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            found.append(
                f"<Contents><Key>{escape(key)}</Key><LastModified>{written}</LastModified>"
                f"<ETag>{escape(new.etag)}</ETag><Size>{len(new.content)}</Size></Contents>"
            )
        folders = "".join(
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in common
        )
        text = f"<IsTruncated>false</IsTruncated>{''.join(found)}{folders}"
        return 200, f"<ListBucketResult>{text}</ListBucketResult>".encode(), {}

    def _get(self, key: str) -> tuple[int, bytes, dict[str, str]]:
        if key not in self.store.objects:
            return 404, b"<Error><Code>NoSuchKey</Code></Error>", {}
        found = self.store.objects[key]
        headers = {
            "ETag": found.etag,
            "Last-Modified": found.written.strftime("%a, %d %b %Y %H:%M:%S GMT"),
            **dict(found.metadata),
        }
        size = len(found.content)
        given = self.headers.get("range")
        if given is None:
            return 200, found.content, headers
        first, _, last = given.removeprefix("bytes=").partition("-")
        start = int(first) if first else size - int(last)
        stop = min(int(last) + 1, size) if first and last else size
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return 206, found.content[start:stop], headers

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response_only(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _without_chunks(body: bytes) -> bytes:
    """Return the content of a body in the encoding aws-chunked."""
    content = b""
    while body:
        head, _, rest = body.partition(b"\r\n")
        size = int(head.partition(b";")[0], 16)
        if not size:
            break
        content, body = content + rest[:size], rest[size + 2 :]
    return content
