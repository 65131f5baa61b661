"""Downloads from a publisher on this machine that does what publishers do, and worse."""

import bz2
import email.message
import gzip
import hashlib
import io
import itertools
import lzma
import os
import shutil
import tarfile
import threading
import time
import types
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


# A length that is not stated, and answers that are none.


def unstated(content, *, chunked=False, cut=False):
    """A reply that does not say how long the file is; with `cut`, it breaks off half-way."""

    def reply(handler):
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        if chunked:
            handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        half = len(content) // 2
        for part in (content[:half], content[half:])[: 1 if cut else 2]:
            if chunked and part:
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            else:
                handler.wfile.write(part)
        if chunked and not cut:
            handler.wfile.write(b"0\r\n\r\n")
        handler.close_connection = True

    return reply


@pytest.mark.filterwarnings("ignore:Nobody is known")
@pytest.mark.parametrize("cut", [False, True])
def test_a_file_of_unknown_length_and_hash_is_not_taken(publisher, tmp_path, cut):
    publisher.files["a.txt"] = unstated(CONTENT, cut=cut)
    with pytest.raises(Unavailable, match="does not say how long the file is"):
        fetch(Source(publisher.url("a.txt")), tmp_path)
    assert list(tmp_path.iterdir()) == []
    publisher.files["a.txt"] = CONTENT
    fetch(Source(publisher.url("a.txt")), tmp_path)
    assert (tmp_path / "a.txt").read_bytes() == CONTENT


@pytest.mark.filterwarnings("ignore:Nobody is known")
@pytest.mark.parametrize("sha256", [None, SHA256])
def test_chunks_say_where_the_file_ends(publisher, tmp_path, sha256):
    publisher.files["a.txt"] = unstated(CONTENT, chunked=True, cut=True)
    with pytest.raises(Unavailable, match="4 times"):
        fetch(Source(publisher.url("a.txt"), sha256), tmp_path)
    assert not (tmp_path / "a.txt").exists()
    assert not (tmp_path / "a.txt.sha256").exists()
    publisher.files["a.txt"] = unstated(CONTENT, chunked=True)
    fetch(Source(publisher.url("a.txt"), sha256), tmp_path)
    assert (tmp_path / "a.txt").read_bytes() == CONTENT


def test_cut_short_at_an_unknown_length_is_asked_for_again(publisher, tmp_path):
    replies = [unstated(CONTENT, cut=True), unstated(CONTENT, cut=True), unstated(CONTENT)]
    publisher.files["a.txt"] = lambda handler: replies.pop(0)(handler)
    fetch(Source(publisher.url("a.txt"), SHA256), tmp_path)
    assert (tmp_path / "a.txt").read_bytes() == CONTENT


@pytest.mark.parametrize("sha256", [None, hashlib.sha256(b"").hexdigest()])
@pytest.mark.parametrize("empty", [b"", unstated(b"", chunked=True)])
def test_an_empty_answer_is_no_file(publisher, tmp_path, sha256, empty):
    publisher.files["a.txt"] = empty
    with pytest.raises(Unavailable, match="answered with an empty file, 4 times"):
        fetch(Source(publisher.url("a.txt"), sha256), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_endless_answer_is_given_up(publisher, tmp_path, monkeypatch):
    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"x" * 65536)
        except OSError:
            handler.close_connection = True

    monkeypatch.setattr(download, "LARGEST_UNDECLARED", 1 << 20)
    publisher.files["a.txt"] = endless
    with pytest.raises(Unavailable, match="sent more than 1 MiB without saying how much"):
        fetch(Source(publisher.url("a.txt"), SHA256), tmp_path)
    assert list(tmp_path.glob("*.part")) == []


@pytest.mark.parametrize(
    ("length", "error", "match"),
    [(1 << 50, Unavailable, "offers .* bytes, and at most"), (1 << 32, OSError, "MiB are free")],
)
def test_a_size_that_does_not_fit_is_refused_before_a_byte_comes(
    publisher, tmp_path, monkeypatch, length, error, match
):
    def reply(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(length))
        handler.end_headers()

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 8, 1 << 31))
    publisher.files["a.txt"] = reply
    with pytest.raises(error, match=match):
        fetch(Source(publisher.url("a.txt"), SHA256), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_part_than_was_asked_for(publisher, tmp_path):
    def reply(handler):
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes 0-9/{len(CONTENT)}")
        handler.send_header("Content-Length", "10")
        handler.end_headers()
        handler.wfile.write(CONTENT[:10])

    (tmp_path / "a.txt.part").write_bytes(CONTENT[:500])
    publisher.files["a.txt"] = reply
    with pytest.raises(Unavailable, match="when asked for what follows byte 500"):
        fetch(Source(publisher.url("a.txt"), SHA256), tmp_path)
    assert (tmp_path / "a.txt.part").read_bytes() == CONTENT[:500]


@pytest.mark.filterwarnings("ignore:Nobody is known")
def test_a_part_longer_than_the_file_is_not_pinned(publisher, tmp_path):
    (tmp_path / "a.txt.part").write_bytes(CONTENT + b"of an older file")
    (tmp_path / "a.txt.part.tag").write_text(publisher.etag)
    publisher.files["a.txt"] = CONTENT
    fetch(Source(publisher.url("a.txt")), tmp_path)
    assert (tmp_path / "a.txt").read_bytes() == CONTENT


def test_https_that_leads_to_http_needs_a_hash():
    response = types.SimpleNamespace(url="http://x/a", headers=email.message.Message())
    response.headers["Content-Length"] = "9"
    assert download._stated_length("https://x/a", response, 0, known=True) == 9
    with pytest.raises(Unavailable, match="where anyone on the way may alter it"):
        download._stated_length("https://x/a", response, 0, known=False)


@pytest.mark.parametrize(
    "name",
    ["x%2F..%2F..%2Fevil.txt", "..%2Fevil.txt", "%2E%2E", "..%5Cevil.txt", "", "a%00", "%0a"],
)
def test_no_address_names_a_file_outside(tmp_path, name):
    with pytest.raises(ValueError, match="no name of a file: refused"):
        fetch(Source(f"http://127.0.0.1:1/{name}", SHA256), tmp_path / "in" / "set")
    assert list(tmp_path.iterdir()) == []


def test_a_note_that_holds_no_hash(publisher, tmp_path):
    for content in (b"", b"\xff", b"abc"):
        (tmp_path / "a.txt").write_bytes(CONTENT)
        (tmp_path / "a.txt.sha256").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.txt\.sha256 should begin with a SHA-256"):
            download.verify(tmp_path / "a.txt")


@pytest.mark.filterwarnings("ignore:Nobody is known")
def test_an_archive_is_pinned_once_it_is_unpacked(publisher, tmp_path):
    whole = zipped({"a.txt": CONTENT})
    source = Source(publisher.url("a.zip"), members=("*.txt",))
    publisher.files["a.zip"] = whole[:-50]
    with pytest.raises(ValueError, match="cannot be unpacked"):
        fetch(source, tmp_path)
    assert list(tmp_path.iterdir()) == []
    publisher.files["a.zip"] = whole
    fetch(source, tmp_path)
    assert (tmp_path / "a.zip.sha256").read_text().startswith(hashlib.sha256(whole).hexdigest())


def test_a_file_taken_out_of_an_unpacked_folder_comes_back(publisher, tmp_path):
    publisher.files["a.zip"] = content = zipped({"x/a.txt": b"one", "b.txt": b"two"})
    source = Source(publisher.url("a.zip"), hashlib.sha256(content).hexdigest(), members=("*.txt",))
    fetch(source, tmp_path)
    (tmp_path / "a.unpacked/x/a.txt").unlink()
    content, publisher.files["a.zip"] = publisher.files["a.zip"], b"else"
    with pytest.raises(ValueError, match="is not the file that was expected"):
        fetch(source, tmp_path)
    assert (tmp_path / "a.unpacked/b.txt").read_bytes() == b"two"  # nothing is lost by a failure
    publisher.files["a.zip"] = content
    fetch(source, tmp_path)
    assert (tmp_path / "a.unpacked/x/a.txt").read_bytes() == b"one"
    assert len(publisher.asked) == 3


def test_what_a_killed_process_left_is_cleared_after_a_day(publisher, tmp_path):
    publisher.files["a.zip"] = content = zipped({"a.txt": b"one"})
    old, new = tmp_path / ".a.unpacked-1-00", tmp_path / ".a.unpacked-2-00"
    part, other = tmp_path / ".a.zip.part-1-00", tmp_path / ".b.zip-1-00"
    for folder in (old, new):
        folder.mkdir()
        (folder / "half.txt").write_bytes(b"on")
    for path in (part, other):
        path.write_bytes(b"PK")
    for path in (old, part, other):
        os.utime(path, (0, 0))
    fetch(Source(publisher.url("a.zip"), hashlib.sha256(content).hexdigest(), (), ("*",)), tmp_path)
    assert (tmp_path / "a.unpacked/a.txt").read_bytes() == b"one"
    assert sorted(path for path in tmp_path.iterdir() if path.name[0] == ".") == [new, other]


@pytest.mark.parametrize(("members", "place"), [((), "a.zip"), (("*",), "a.zip")])
def test_a_folder_in_the_way(publisher, tmp_path, members, place):
    (tmp_path / place).mkdir()
    with pytest.raises(ValueError, match=r"a\.zip is a folder, and stands in the way"):
        fetch(Source(publisher.url("a.zip"), SHA256, members=members), tmp_path)


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


def patched(content, at, value):
    """A zip file with other flags (`at` 0) or another method of packing (2) in both headers."""
    data = bytearray(content)
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = data.index(magic) + offset + at
        data[place : place + 2] = value.to_bytes(2, "little")
    return bytes(data)


def tar_of(*infos, compress=gzip.compress):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, kind, size in infos:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, size, "a.txt"
            archive.addfile(info, io.BytesIO(bytes(size)))
    return compress(buffer.getvalue())


def with_bad_crc(content):
    packed = bytearray(gzip.compress(content))
    packed[-8] ^= 1
    return bytes(packed)


def sparse(size):
    """A tar file of a few KB that unpacks to `size` zeros."""
    info = tarfile.TarInfo("a.txt")
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"%011o\0" % size
    header[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(header))[0]
    return bytes(header) + bytes(1024)


def with_a_damaged_header(content):
    data = bytearray(content)
    data[1024 + 148] ^= 1  # the checksum of the second member
    return bytes(data)


FILE = tarfile.REGTYPE


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (patched(zipped({"a.txt": b"a"}), 0, 1), "cannot be unpacked.*encrypted"),
        (patched(zipped({"a.txt": b"a"}), 2, 99), "cannot be unpacked.*compression"),
        (patched(zipped({"a.txt": b"a"}), 2, 12), "cannot be unpacked"),
        (zipped({"n" * 300 + ".txt": b"a"}), "name is too long"),
        (zipped({"n" * 5000 + "/a.txt": b"a"}), "name is too long"),
        (zipped({"a.txt": b"a", "a.txt/b.txt": b"b"}), "a file and a folder bear one name"),
        (zipped({"a.txt/b.txt": b"b", "a.txt": b"a"}), "a file and a folder bear one name"),
        (zipped({"a.txt": bytes(20_000_000)}), "would become more than"),
        (zipped({"b.bin": bytes(20_000_000), "a.txt": b"a"}), "would become more than"),
        (tar_of(("n" * 300 + ".txt", FILE, 1)), "name is too long"),
        (tar_of(("a.txt", FILE, 1), ("a.txt/b.txt", FILE, 1)), "a file and a folder bear one"),
        (tar_of(("a.txt", FILE, 20_000_000)), "would become more than"),
        (tar_of(("b.bin", FILE, 20_000_000), ("a.txt", FILE, 1)), "would become more than"),
        (tar_of(("a.txt", FILE, 20_000_000), compress=bz2.compress), "would become more than"),
        (tar_of(("a.txt", FILE, 20_000_000), compress=lzma.compress), "would become more than"),
        (tar_of(("n" * 2_000_000 + ".txt", FILE, 1)), "would become more than"),
        (tar_of(("a.txt", FILE, 1), ("b.txt", tarfile.LNKTYPE, 0)), "a link or device"),
        (tar_of(("b.txt", tarfile.CHRTYPE, 0)), "a link or device"),
        (tar_of(("b.txt", tarfile.FIFOTYPE, 0)), "a link or device"),
        (sparse(1 << 40), "a sparse file"),
        (tar_of(("a.txt", FILE, 9), compress=with_bad_crc), "cannot be unpacked.*CRC"),
        (tar_of(("a.txt", FILE, 9))[:-9], "cannot be unpacked"),
        (tar_of(("a.txt", FILE, 9), compress=bz2.compress)[:-9], "cannot be unpacked"),
        (tar_of(("a.txt", FILE, 9), compress=lzma.compress)[:-9], "cannot be unpacked"),
        (tar_of(("a.txt", FILE, 9), compress=bytes)[:1024], "cannot be unpacked"),
        (
            tar_of(("a.txt", FILE, 9), ("b.txt", FILE, 9), compress=with_a_damaged_header),
            "cannot be unpacked.*damaged header",
        ),
        (bz2.compress(b"x")[:-1] + b"y", "cannot be unpacked"),
        (b"", "cannot be unpacked"),
        (os.urandom(2000), "cannot be unpacked"),
    ],
    ids=itertools.count(),
)
def test_hostile_and_broken_archives(tmp_path, content, match):
    archive = tmp_path / "a.bin"
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=match) as caught:
        unpack(archive, tmp_path / "out", ("*.txt",))
    assert str(archive) in str(caught.value)
    assert len(str(caught.value)) < 500
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_device_in_a_zip(tmp_path):
    info = zipfile.ZipInfo("pipe.txt")
    info.external_attr = 0o010644 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(info, "x")
    with pytest.raises(ValueError, match=r"holds the device 'pipe\.txt': refused"):
        unpack(tmp_path / "a.zip", tmp_path / "out", ("*.txt",))


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_whole_tars(tmp_path, compress):
    (tmp_path / "a.bin").write_bytes(
        tar_of(
            ("d/", tarfile.DIRTYPE, 0), ("d/a.txt", FILE, 9), ("b.txt", FILE, 0), compress=compress
        )
    )
    sums = unpack(tmp_path / "a.bin", tmp_path / "out", ("*.txt",))
    assert sums == {
        "d/a.txt": hashlib.sha256(bytes(9)).hexdigest(),
        "b.txt": hashlib.sha256(b"").hexdigest(),
    }
    assert (tmp_path / "out/d/a.txt").read_bytes() == bytes(9)


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


def alter(path):
    """Another byte, and neither size nor times tell."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_an_altered_file_of_the_cache_is_not_read(publisher, monkeypatch, places):
    trees = zipped({"trees/dev.txt": b"(1 (2 -LRB-) (1 Bad))\n"})
    publisher.files["trainDevTestTrees_PTB.zip"] = trees
    spec_at(monkeypatch, publisher, "sst2", sha256=hashlib.sha256(trees).hexdigest())
    publisher.files["TREC_10.label"] = label = b"NUM:dist How far ?\n"
    spec_at(monkeypatch, publisher, "trec", sha256=hashlib.sha256(label).hexdigest())
    for name, split in (("sst2", "dev"), ("trec", "test")):
        record = datasets.load(name, split)
        assert datasets.load(name, split) == record
        (path,) = (p for p in places.rglob("*") if p.suffix in (".txt", ".label"))
        alter(path)
        (source,) = (s for s in SPECS[name].sources if not s.splits or split in s.splits)
        expected = f"{path.name} is not the file that was expected"
        with pytest.raises(ValueError, match=expected):
            datasets.load(name, split)
        with pytest.raises(ValueError, match=expected):
            fetch(source, places / "datasets" / name)
        path.unlink()
        assert datasets.load(name, split) == record  # fetched again
        shutil.rmtree(places)


def test_an_unreadable_file_of_no_known_hash_is_forgotten(publisher, monkeypatch, places):
    spec_at(monkeypatch, publisher, "cosqa")
    publisher.files["code_idx_map.txt"] = b'{"f": 0}'
    publisher.files["cosqa-retrieval-test-500.json"] = b"Too many requests"
    with (
        pytest.warns(UserWarning, match="taken on trust"),
        pytest.raises(ValueError, match="not JSON"),
    ):
        datasets.load("cosqa")
    publisher.files["cosqa-retrieval-test-500.json"] = (
        b'[{"idx": "q", "doc": "a", "retrieval_idx": 0, "label": 1}]'
    )
    with pytest.warns(UserWarning, match="taken on trust"):
        assert datasets.load("cosqa").queries == {"q": "a"}


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
            addresses = (source.url, *source.mirrors)
            assert source.sha256 or all(url.startswith("https://") for url in addresses)
