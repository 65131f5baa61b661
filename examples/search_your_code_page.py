"""The search of `search_your_code.py` over HTTP: a page without scripts, and JSON."""

import contextlib
import html
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

from search_your_code_parts import CodeIndex, Found

MOST = 100
"""Functions in an answer."""
LONGEST = 2000
"""Letters of a question."""
STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
form { display: flex; gap: .5rem; }
input { flex: 1; font: inherit; padding: .4rem .6rem; }
button { font: inherit; padding: .4rem 1rem; }
article { margin: 1.5rem 0; }
h2 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
h2 span, p { color: #777; font-weight: normal; }
pre { background: #8881; border-left: 3px solid #88f; padding: .6rem .8rem; margin: .3rem 0;
      overflow-x: auto; font-size: .85rem; line-height: 1.4; }
"""


def serve(server: ThreadingHTTPServer) -> None:
    """Answer until the program is interrupted."""
    print(f"http://127.0.0.1:{server.server_port}/  (Ctrl-C ends)", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
    server.server_close()


def make_server(code: CodeIndex, folder: Path, port: int) -> ThreadingHTTPServer:
    """A server on this machine alone; `port` 0 takes a free one. `OSError` where it is taken."""
    alone = threading.Lock()  # one question is embedded at a time

    class Handler(BaseHTTPRequestHandler):
        """`/?q=…` is the page, `/search?q=…&k=…` the same as JSON."""

        def do_GET(self) -> None:
            try:
                url = urlsplit(self.path)
            except ValueError as error:  # "http://[/"
                return self._json(400, {"error": f"This is no address: {error}."})
            try:
                self._reply(url)
            except ConnectionError:
                pass  # who asked has gone
            except Exception as error:
                self._json(500, {"error": f"The search failed: {error}"})

        def _reply(self, url: SplitResult) -> None:
            # A page of somebody else's whose name leads to this machine must not read the code.
            host = self.headers.get("Host", "").rsplit(":", 1)[0]
            if host not in ("127.0.0.1", "localhost"):
                return self._json(403, {"error": f"This server is 127.0.0.1, not {host!r}."})
            given = parse_qs(url.query)
            question = given.get("q", [""])[0].strip()
            if url.path == "/":
                try:
                    found, seconds = self._answer(question, 10) if question else ([], 0.0)
                    return self._send(200, page(folder.resolve().name, question, found, seconds))
                except ValueError as error:
                    return self._send(400, page(folder.resolve().name, question, [], 0, str(error)))
            if url.path == "/search":
                try:
                    k = int(given.get("k", ["10"])[0])
                    if not 1 <= k <= MOST:
                        raise ValueError(f"`k` should be 1 to {MOST}. Received: {k}.")
                    if not question:
                        raise ValueError("`q` should hold the question: /search?q=open+a+file&k=5.")
                    found, seconds = self._answer(question, k)
                except ValueError as error:
                    return self._json(400, {"error": str(error)})
                results = [each._asdict() for each in found]
                answer = {"query": question, "seconds": round(seconds, 4), "results": results}
                return self._json(200, answer)
            return self._json(404, {"error": "There are / and /search alone."})

        def _answer(self, question: str, k: int) -> tuple[list[Found], float]:
            if len(question) > LONGEST:
                raise ValueError(f"A question has {LONGEST:,} letters at most.")
            start = time.perf_counter()
            with alone:
                found = code.search(question, k)
            return found, time.perf_counter() - start

        def _json(self, status: int, content: dict[str, Any]) -> None:
            self._send(status, json.dumps(content), "application/json")

        def _send(self, status: int, text: str, kind: str = "text/html") -> None:
            body = text.encode(errors="replace")
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header(
                "Content-Security-Policy",
                "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'",
            )
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nobody is told what is asked."""

    try:
        return ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        raise OSError(f"Port {port} cannot be used ({error.strerror}). Name another.") from None


def page(name: str, question: str, found: list[Found], seconds: float, error: str = "") -> str:
    """The whole page, everything in it escaped."""
    safe = html.escape
    articles = "".join(
        f"<article><h2>{safe(each.path)}:{each.line} <b>{safe(each.name)}</b> "
        f"<span>{safe(each.language)}, {each.score:.2f}</span></h2>"
        f"<div>{safe(each.says)}</div><pre>{safe(each.snippet)}</pre></article>"
        for each in found
    )
    said = f"{len(found)} functions in {seconds:.3f} s" if question and not error else safe(error)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{safe(name)}: code search'
        f"</title><style>{STYLE}</style></head><body><h1>{safe(name)}</h1>"
        f'<form action="/"><input name="q" value="{safe(question)}" maxlength="{LONGEST}" '
        f'autofocus placeholder="how is a file opened?" aria-label="Question">'
        f"<button>Search</button></form>"
        f"<p>{said}</p>{articles}</body></html>"
    )
