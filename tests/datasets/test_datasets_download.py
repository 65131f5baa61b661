"""Downloads from a publisher on this machine that does what publishers do, and worse."""

import hashlib
import io
import shutil
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import pytest

from cptk import datasets
from cptk.datasets import download
from cptk.datasets.download import Source, Unavailable, fetch
from cptk.datasets.specs import SPECS
from cptk.datasets.unpack import unpack

CONTENT = b"".join(b"%06d\n" % number for number in range(200_000))
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(files: dict[str, bytes], link: str | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo("inside")
            info.type, info.linkname = tarfile.SYMTYPE, link
            archive.addfile(info)
    return buffer.getvalue()


def cut_at(publisher, content, *cuts):
    """A reply that hangs up after so many bytes, once for each of `cuts`."""
    left = list(cuts)
    return lambda handler: publisher.send(handler, content, cut=left.pop(0) if left else None)


def test_file_is_fetched_checked_and_named(publisher, tmp_path):
    publisher.files["a.txt"] = CONTENT
    source = Source(publisher.url("a.txt?download=1"), SHA256)
    fetch(source, tmp_path / "set")
    fetch(source, tmp_path / "set")
    assert (tmp_path / "set/a.txt").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["a.txt"]
    assert publisher.asked == [("a.txt", None)]


def test_cut_short_is_resumed_by_range(publisher, tmp_path):
    publisher.files["a.txt"] = cut_at(publisher, CONTENT, 300_000, 400_000)
    fetch(Source(publisher.url("a.txt"), SHA256), tmp_path)
    assert (tmp_path / "a.txt").read_bytes() == CONTENT
    assert publisher.asked == [
        ("a.txt", None),
        ("a.txt", "bytes=300000-"),
        ("a.txt", "bytes=700000-"),
    ]


def test_a_later_call_goes_on_from_the_part(publisher, tmp_path):
    (tmp_path / "a.txt.part").write_bytes(CONTENT[:500_000])
    publisher.files["a.txt"] = CONTENT
    fetch(Source(publisher.url("a.txt"), SHA256), tmp_path)
    assert (tmp_path / "a.txt").read_bytes() == CONTENT
    assert publisher.asked == [("a.txt", "bytes=500000-")]


def test_a_complete_part_only_needs_its_name(publisher, tmp_path):
    (tmp_path / "a.txt.part").write_bytes(CONTENT)
    publisher.files["a.txt"] = CONTENT
    fetch(Source(publisher.url("a.txt"), SHA256), tmp_path)
    assert (tmp_path / "a.txt").read_bytes() == CONTENT


def test_server_without_ranges_starts_again(publisher, tmp_path):
    publisher.ranges = False
    publisher.files["a.txt"] = cut_at(publisher, CONTENT, 300_000)
    fetch(Source(publisher.url("a.txt"), SHA256), tmp_path)
    assert (tmp_path / "a.txt").read_bytes() == CONTENT


def test_a_spoilt_part_is_dropped_once(publisher, tmp_path):
    (tmp_path / "a.txt.part").write_bytes(b"x" * 500_000)
    publisher.files["a.txt"] = CONTENT
    fetch(Source(publisher.url("a.txt"), SHA256), tmp_path)
    assert (tmp_path / "a.txt").read_bytes() == CONTENT
    assert publisher.asked == [("a.txt", "bytes=500000-"), ("a.txt", None)]


def test_wrong_hash_is_an_error_and_leaves_nothing(publisher, tmp_path):
    publisher.files["a.txt"] = b"something else"
    with pytest.raises(
        ValueError, match=r"a\.txt.*Received SHA-256 [0-9a-f]{64}, expected " + SHA256
    ):
        fetch(Source(publisher.url("a.txt"), SHA256), tmp_path)
    assert not (tmp_path / "a.txt").exists()
    assert not (tmp_path / "a.txt.part").exists()


def test_always_cut_short_is_given_up(publisher, tmp_path):
    publisher.files["a.txt"] = lambda handler: publisher.send(handler, CONTENT, cut=1000)
    with pytest.raises(Unavailable, match="broken off after 4,000 of 1,400,000 bytes, 4 times"):
        fetch(Source(publisher.url("a.txt"), SHA256), tmp_path)
    assert (tmp_path / "a.txt.part").stat().st_size == 4000


def test_mirror_is_asked_after_404(publisher, tmp_path):
    publisher.files["b/a.txt"] = CONTENT
    fetch(Source(publisher.url("a.txt"), SHA256, mirrors=(publisher.url("b/a.txt"),)), tmp_path)
    assert (tmp_path / "a.txt").read_bytes() == CONTENT
    with pytest.raises(Unavailable, match="HTTP 404"):
        fetch(Source(publisher.url("none.txt"), SHA256), tmp_path)


def test_busy_server_is_asked_again(publisher, tmp_path):
    busy = [503, 429]

    def reply(handler):
        if busy:
            handler.send_error(busy.pop())
        else:
            publisher.send(handler, CONTENT)

    publisher.files["a.txt"] = reply
    fetch(Source(publisher.url("a.txt"), SHA256), tmp_path)
    assert len(publisher.asked) == 3


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_html_page_in_place_of_the_file(publisher, tmp_path, kind):
    def reply(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", kind)
        handler.end_headers()
        handler.wfile.write(b"\n<!DOCTYPE html><html>Please log in</html>")

    publisher.files["a.zip"] = reply
    with pytest.raises(Unavailable, match="HTML page in place of the file"):
        fetch(Source(publisher.url("a.zip"), SHA256), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_slow_server_times_out_and_is_resumed(publisher, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    slow = [True]

    def reply(handler):
        if slow and slow.pop():
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(CONTENT)))
            handler.end_headers()
            handler.wfile.write(CONTENT[: 1 << 18])
            handler.wfile.flush()
            time.sleep(0.6)
        else:
            publisher.send(handler, CONTENT)

    publisher.files["a.txt"] = reply
    fetch(Source(publisher.url("a.txt"), SHA256), tmp_path)
    assert (tmp_path / "a.txt").read_bytes() == CONTENT
    assert publisher.asked[1] == ("a.txt", f"bytes={1 << 18}-")


def test_host_that_does_not_answer_is_not_asked_again_at_once(tmp_path, monkeypatch):
    def silent(*_, **__):
        raise download.urllib.error.URLError(TimeoutError("timed out"))

    monkeypatch.setattr(download.urllib.request, "urlopen", silent)
    for reason in ("timed out", "a moment ago"):
        with pytest.raises(Unavailable, match=reason):
            fetch(Source("http://silent.invalid/a.txt", SHA256), tmp_path)


def test_unknown_hash_is_trusted_once_and_kept(publisher, tmp_path):
    publisher.files["a.txt"] = CONTENT
    source = Source(publisher.url("a.txt"))
    with pytest.warns(UserWarning, match=f"taken on trust.*{SHA256}"):
        fetch(source, tmp_path)
    assert (tmp_path / "a.txt.sha256").read_text() == f"{SHA256}  a.txt\n"
    (tmp_path / "a.txt").unlink()
    fetch(source, tmp_path)  # the same again: no warning
    (tmp_path / "a.txt").unlink()
    publisher.files["a.txt"] = b"changed"
    with pytest.raises(ValueError, match=r"expected .*from its first download"):
        fetch(source, tmp_path)
    (tmp_path / "a.txt").write_bytes(b"tampered with")
    with pytest.raises(ValueError, match=r"expected .*from its first download"):
        download.verify(tmp_path / "a.txt")


@pytest.mark.filterwarnings("ignore:Nobody is known")
def test_part_of_an_older_file_is_not_mixed_with_a_newer(publisher, tmp_path):
    publisher.files["a.txt"] = lambda handler: publisher.send(handler, b"old" * 1000, cut=600)
    with pytest.raises(Unavailable):
        fetch(Source(publisher.url("a.txt")), tmp_path)
    publisher.files["a.txt"], publisher.etag = b"new" * 1000, '"2"'
    fetch(Source(publisher.url("a.txt")), tmp_path)
    assert (tmp_path / "a.txt").read_bytes() == b"new" * 1000
    publisher.etag = ""  # nothing to tell versions apart by: from the start
    (tmp_path / "b.txt.part").write_bytes(b"old")
    publisher.files["b.txt"] = b"new" * 1000
    fetch(Source(publisher.url("b.txt")), tmp_path)
    assert (tmp_path / "b.txt").read_bytes() == b"new" * 1000


@pytest.mark.parametrize("members", [(), ("*a.txt",)])
def test_several_at_once(publisher, tmp_path, members):
    content = zipped({"x/a.txt": CONTENT}) if members else CONTENT

    def slowly(handler):
        time.sleep(0.01 * (len(publisher.asked) % 3))
        publisher.send(
            handler, content, cut=len(content) // 2 if len(publisher.asked) < 4 else None
        )

    publisher.files["a.bin"] = slowly
    source = Source(publisher.url("a.bin"), hashlib.sha256(content).hexdigest(), members=members)
    errors = []

    def work():
        try:
            fetch(source, tmp_path)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    found = tmp_path / ("a.unpacked/x/a.txt" if members else "a.bin")
    assert found.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:/evil.txt"]
)
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_no_path_leaves_the_folder(tmp_path, name, pack):
    archive = tmp_path / "a.bin"
    archive.write_bytes(pack({"good.txt": b"good", name: b"evil"}))
    with pytest.raises(ValueError, match="leaves its folder: refused"):
        unpack(archive, tmp_path / "in/out", ("*.txt",))
    assert not list(tmp_path.rglob("*evil*"))
    assert not (tmp_path / "in").exists() or not list((tmp_path / "in").iterdir())


def test_links_are_refused(tmp_path):
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(tarred({"good.txt": b"good"}, link="/etc/passwd"))
    with pytest.raises(ValueError, match="'inside', a link or device: refused"):
        unpack(archive, tmp_path / "out", ("*.txt",))
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(info, "/etc/passwd")
    with pytest.raises(ValueError, match="holds the link 'link': refused"):
        unpack(archive, tmp_path / "out", ("*",))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_broken_or_empty_archive(tmp_path, pack):
    archive = tmp_path / "a.bin"
    whole = pack({"a.txt": CONTENT, "b.txt": b""})
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be unpacked"):
        unpack(archive, tmp_path / "out", ("*.txt",))
    archive.write_bytes(whole)
    with pytest.raises(ValueError, match=r"holds no file that matches \*\.csv"):
        unpack(archive, tmp_path / "out", ("*.csv",))
    unpack(archive, tmp_path / "out", ("*B.TXT",))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.txt"]


def spec_at(monkeypatch, publisher, name, *, sha256=None):
    """Points a set's sources at the publisher on this machine."""
    import dataclasses

    spec = SPECS[name]
    sources = tuple(
        dataclasses.replace(source, url=publisher.url(source.filename), mirrors=(), sha256=sha256)
        for source in spec.sources
    )
    monkeypatch.setitem(SPECS, name, dataclasses.replace(spec, sources=sources))
    return sources


def test_load_fetches_an_archive_and_then_needs_no_network(publisher, monkeypatch, places):
    content = zipped(
        {
            "trees/train.txt": b"(3 (2 It) (4 (2 's) (4 good)))\n(2 (2 So) (2 so))\n",
            "trees/dev.txt": b"(1 (2 -LRB-) (1 Bad))\n",
            "trees/test.txt": b"(0 (2 An) (0 AC\\/DC))\n",
        }
    )
    publisher.files["trainDevTestTrees_PTB.zip"] = content
    spec_at(monkeypatch, publisher, "sst2", sha256=hashlib.sha256(content).hexdigest())
    assert datasets.available_splits("sst2") == []
    record = datasets.load("sst2", "train")
    assert (record.texts, record.labels) == (["it 's good"], [1])
    publisher.files.clear()
    assert datasets.load("sst2").texts == ["an ac\\/dc"]
    assert datasets.load("sst2", "dev").texts == ["-lrb- bad"]
    assert datasets.available_splits("sst2") == ["train", "validation", "test"]
    assert len(publisher.asked) == 1


def test_load_fetches_only_what_a_split_needs(publisher, monkeypatch):
    publisher.files["TREC_10.label"] = "NUM:dist How far is caf\xe9 ?\n".encode("latin-1")
    digest = hashlib.sha256(publisher.files["TREC_10.label"]).hexdigest()
    spec_at(monkeypatch, publisher, "trec", sha256=digest)
    record = datasets.load("trec", "test")
    assert (record.texts, record.labels) == (["How far is café ?"], [5])
    assert [path for path, _ in publisher.asked] == ["TREC_10.label"]


def test_not_there_and_not_to_be_had(publisher, monkeypatch, tmp_path, places):
    (url,) = (source.url for source in spec_at(monkeypatch, publisher, "sick"))
    monkeypatch.setenv("CPTK_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError) as caught:
        datasets.load("sick")
    message = str(caught.value)
    for part in (
        "SICK_test_annotated.txt",
        "SICK.txt",
        url,
        "CPTK_DATA_DIR",
        "CPTK_CACHE_DIR",
        str(tmp_path / "SICK"),
        str(places),
        "HTTP 404",
    ):
        assert part in message, part
    publisher.close()
    shutil.rmtree(places, ignore_errors=True)
    with pytest.raises(FileNotFoundError, match="refused"):
        datasets.load("sick")
    with pytest.raises(FileNotFoundError, match="download=False"):
        datasets.load("sick", download=False)
    publisher.close = lambda: None


def test_every_source_has_a_hash_or_is_known_to_have_none():
    unknown = {name for name, spec in SPECS.items() if any(s.sha256 is None for s in spec.sources)}
    assert unknown == {"cr", "mpqa", "subj", "cosqa", "sts12", "sts13", "sts14", "sts15", "sts16"}
    for spec in SPECS.values():
        for source in spec.sources:
            assert source.sha256 is None or len(bytes.fromhex(source.sha256)) == 32
            assert Path(source.filename).name == source.filename != ""
