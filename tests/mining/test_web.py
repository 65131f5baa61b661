"""Web archives and pages as documents: their main text."""

import gzip
from collections import Counter

import pytest

from cptk.mining.web import read_web

try:
    import trafilatura
except ImportError:  # it, or a library that it needs
    trafilatura = None

needs_trafilatura = pytest.mark.skipif(trafilatura is None, reason="trafilatura cannot be imported")
PAGE = """<html><head><title>How to bake</title></head><body><nav><a href="/">Home</a></nav><main>
<h1>Bread</h1><p>Flour, water, salt and yeast are what bread is made of, and time makes it good.</p>
<h2>The dough</h2><p>Mix the flour with the water, and wait for half an hour before salt goes in.
</p></main><footer>All rights reserved</footer></body></html>"""
HTML = ("text/html; charset=utf-8", "200 OK")


def warc_of(*records):
    """An archive as ISO 28500 has it, each record packed: (kind, url, type, status, bytes)."""
    found = b""
    for kind, url, content_type, status, data in records:
        if kind == "response":
            head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n"
            data = f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data
            content_type = "application/http; msgtype=response"
        head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\n"
        head += f"Content-Type: {content_type}\r\nContent-Length: {len(data)}\r\n\r\n"
        found += gzip.compress(head.encode() + data + b"\r\n\r\n")
    return found


def page(url, data=None, kind=HTML):
    return ("response", url, *kind, PAGE.encode() if data is None else data)


@needs_trafilatura
def test_the_main_text_of_pages_and_nothing_around_it(tmp_path):
    (tmp_path / "crawl.warc.gz").write_bytes(
        warc_of(
            page("http://a.example/bread"),
            page("http://a.example/gone", b"no", ("text/html", "404 Not Found")),
            page("http://a.example/image", b"\x89PNG", ("image/png", "200 OK")),
            page("http://a.example/zeros", b"<html>\0</html>"),
            page("http://a.example/large", b"<p>" + b"x" * 20_000),
            ("request", "http://a.example/bread", "", "", b"GET / HTTP/1.1\r\n\r\n"),
            page("http://a.example/last"),
        )
    )
    counts = Counter()
    first, last = read_web(tmp_path / "crawl.warc.gz", largest=10_000, counts=counts)
    assert counts == {"files": 2, "no page": 2, "binary": 1, "too large": 1}
    assert (first.path, first.source) == ("http://a.example/bread", "crawl.warc.gz")
    assert first.title == "How to bake"
    lines = [line for line in first.text.split("\n") if line]
    assert [line for line in lines if line.startswith("#")] == ["# Bread", "## The dough"]
    assert lines[1].startswith("Flour, water")
    assert "Home" not in first.text
    assert "rights" not in first.text
    assert last.path.endswith("/last")


@needs_trafilatura
def test_folders_and_single_pages(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "bread.html").write_text(PAGE)
    (tmp_path / "notes.txt").write_text("Not a page.\n")
    (found,) = read_web(tmp_path)
    assert (found.path, found.title) == ("a/bread.html", "How to bake")
    (alone,) = read_web(tmp_path / "a" / "bread.html")
    assert (alone.path, alone.text) == ("bread.html", found.text)


def test_texts_of_a_wet_stand_as_they_are(tmp_path):
    records = [
        ("conversion", f"http://a.example/{n}", "text/plain", "", f"Text {n}\n".encode())
        for n in "12"
    ]
    bad = ("conversion", "http://a.example/bad", "", "", b"\xff\xfe")
    data = warc_of(*records, bad)
    plain = gzip.decompress(data)
    for name, content in {
        "a.wet.gz": data,
        "a.wet": plain,
        "one.wet.gz": gzip.compress(plain),
    }.items():
        (tmp_path / name).write_bytes(content)
        counts = Counter()
        found = [(each.path, each.text) for each in read_web(tmp_path / name, counts=counts)]
        assert found == [("http://a.example/1", "Text 1\n"), ("http://a.example/2", "Text 2\n")]
        assert counts == {"files": 2, "wrong encoding": 1}


def test_bad_input(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing at"):
        read_web(tmp_path / "nowhere")
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(ValueError, match="begins with something else"):
        read_web(tmp_path / "a.txt")
    data = warc_of(("conversion", "http://a.example/1", "", "", bytes(range(1, 128)) * 200))
    for name, content in {"a.wet.gz": data[:-100], "a.wet": gzip.decompress(data)[:-900]}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="cut short"):
            list(read_web(tmp_path / name))
    (tmp_path / "none.warc").write_bytes(warc_of(("request", "http://a.example", "", "", b"GET /")))
    with pytest.raises(ValueError, match="holds no page"):
        list(read_web(tmp_path / "none.warc"))
