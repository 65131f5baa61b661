"""A publisher on this machine, and no other."""

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cptk.datasets import download

Reply = Callable[[http.server.BaseHTTPRequestHandler], None]


class Publisher:
    """Serves `files` by path; a callable serves itself. `asked` holds (path, Range) of requests."""

    def __init__(self) -> None:
        self.files: dict[str, bytes | Reply] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.ranges = True
        self.etag = '"1"'
        publisher = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                publisher.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{path}"

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        path = handler.path.lstrip("/").split("?")[0]
        self.asked.append((path, handler.headers.get("Range")))
        content = self.files.get(path)
        if content is None:
            handler.send_error(404)
        elif isinstance(content, bytes):
            self.send(handler, content)
        else:
            content(handler)

    def send(
        self,
        handler: http.server.BaseHTTPRequestHandler,
        content: bytes,
        *,
        cut: int | None = None,
    ) -> None:
        """Sends the bytes asked for; with `cut`, hangs up after so many of them."""
        asked, guard = handler.headers.get("Range"), handler.headers.get("If-Range")
        start = 0
        if asked and self.ranges and guard in (None, self.etag):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                handler.send_error(416)
                return
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(content) - start))
        if self.etag:
            handler.send_header("ETag", self.etag)
        handler.end_headers()
        handler.wfile.write(content[start : len(content) if cut is None else start + cut])
        handler.close_connection = True

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    served = Publisher()
    yield served
    served.close()


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, no data folder, no waiting."""
    monkeypatch.setenv("CPTK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("CPTK_DATA_DIR", raising=False)
    monkeypatch.setattr(download, "WAIT", 0.0)
    monkeypatch.setattr(download, "_silent", {})
    return tmp_path / "cache"
