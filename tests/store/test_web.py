"""A lake on a web server: read with Icechunk 2; an error that names the version with Icechunk 1."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import icechunk
import numpy as np
import pytest

import qmri_lake as ql
from qmri_lake.errors import LakeLockedError, NotALakeError
from tests.fixtures import array_lake

HAS_WEB = hasattr(icechunk, "http_storage")  # since Icechunk 2


class Quiet(SimpleHTTPRequestHandler):
    """A static file server that answers requests of ranges, as all servers on the web do."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content, wanted = path.read_bytes(), self.headers.get("Range", "")
        first, stop = 0, len(content)
        if wanted.startswith("bytes="):
            low, _, high = wanted.removeprefix("bytes=").partition("-")
            first = int(low) if low else stop - int(high)
            stop = min(int(high) + 1, stop) if low and high else stop
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{stop - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(stop - first))
        self.send_header("Last-Modified", self.date_time_string(path.stat().st_mtime))
        self.end_headers()
        self.wfile.write(content[first:stop])


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve the files of a folder on this machine; yield the URL."""
    handler = functools.partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_open_lake__reads_a_lake_on_a_web_server(tmp_path: Path) -> None:
    lake = array_lake(tmp_path / "oai.lake", 2)
    with serve(tmp_path) as url:
        if not HAS_WEB:
            with pytest.raises(NotALakeError, match=r"expected Icechunk 2 or later.*pip install"):
                ql.open_lake(f"{url}/oai.lake")
            return
        there = ql.open_lake(f"{url}/oai.lake")
        assert there.exams.equals(lake.exams)
        here = lake.load("msme")["image"].values
        np.testing.assert_array_equal(there.load("msme")["image"].values, here)
        with pytest.raises(LakeLockedError, match="for reading only"), there.writing():
            pass
        exported = ql.export(there, tmp_path / "out", format="nifti", variables="msme/image")
        assert (exported.written, exported.problems) == (2, ())


def test_create_lake__not_on_a_web_server() -> None:
    with pytest.raises(NotALakeError, match="a lake on a web server can only be read"):
        ql.create_lake("https://127.0.0.1/oai.lake")
