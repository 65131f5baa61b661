"""Archives, repositories, records and prose as documents; and what is left out of them."""

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import tarfile
import zipfile
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cptk.mining import (
    Document,
    archives,
    read,
    read_archive,
    read_folder,
    read_git,
    read_records,
)

MIT = "Permission is hereby granted, free of charge, to any person … without restriction, …"
CODE = "def add(a, b):\n    return a + b\n"


def tar_of(files, mode="w:gz", links=()):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return buffer.getvalue()


def deb_of(control, data):
    """A Debian package: `ar` of three members."""
    found = b"!<arch>\n"
    members = {b"debian-binary": b"2.0\n", b"control.tar.gz": control, b"data.tar.xz": data}
    for name, content in members.items():
        found += name.ljust(16) + b"0".ljust(12) + b"0".ljust(6) * 2 + b"100644".ljust(8)
        found += (
            str(len(content)).encode().ljust(10) + b"`\n" + content + b"\n" * (len(content) % 2)
        )
    return found


# === Archives ===


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz", "w"])
def test_a_source_distribution(tmp_path, mode):
    metadata = b"Name: tool\nVersion: 1.0\nClassifier: License :: OSI Approved :: MIT License\n"
    files = {"tool-1.0/tool/add.py": CODE.encode(), "tool-1.0/PKG-INFO": metadata}
    place = tmp_path / "tool-1.0.tar"
    place.write_bytes(tar_of(files, mode))
    (found,) = read_archive(place, [".py"])
    assert found == Document("tool-1.0/tool/add.py", CODE, "tool-1.0", "MIT")


def test_an_npm_package(tmp_path):
    about = json.dumps({"name": "tool", "version": "2.1.0", "license": "ISC"}).encode()
    files = {"package/package.json": about, "package/index.js": b"export const a = 1;\n"}
    (tmp_path / "tool-2.1.0.tgz").write_bytes(tar_of(files))
    (found,) = read_archive(tmp_path / "tool-2.1.0.tgz", [".js"])
    assert (found.path, found.source, found.license) == ("package/index.js", "tool-2.1.0", "ISC")


def test_a_debian_package(tmp_path):
    terms = b"Format: x\n\nFiles: *\nCopyright: A\nLicense: Expat\n"
    data = {
        "./usr/lib/python3/dist-packages/tool/add.py": CODE.encode(),
        "./usr/share/doc/python3-tool/copyright": terms,
    }
    control = tar_of({"./control": b"Package: python3-tool\nVersion: 1.0-1\n"})
    place = tmp_path / "python3-tool_1.0-1_all.deb"
    place.write_bytes(deb_of(control, tar_of(data, "w:xz")))
    (found,) = read_archive(place, [".py"])
    assert found.text == CODE
    assert (found.source, found.license) == ("python3-tool-1.0-1", "MIT")


def test_what_may_not_come_out_of_an_archive(tmp_path):
    counts = Counter()
    files = {
        "../outside.py": b"1\n", "/root.py": b"1\n", "a/good.py": b"x = 1\n", "b.py": b"\0\1",
        "c.py": b"\xff\xfe\n", "d.py": b"x" * 2000, "tests/e.py": b"y = 1\n", "f.py": b" \n",
    }  # fmt: skip
    (tmp_path / "a.tar.gz").write_bytes(tar_of(files, links=[("link.py", "/etc/passwd")]))
    found = list(read_archive(tmp_path / "a.tar.gz", [".py"], largest=1000, counts=counts))
    assert [each.path for each in found] == ["a/good.py"]
    assert counts == {
        "files": 1, "outside": 2, "binary": 1, "wrong encoding": 1, "too large": 1, "link": 1,
        "empty": 1,
    }  # fmt: skip


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "FREE", 1 << 20)
    place = tmp_path / "bomb.zip"
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(9):
            archive.writestr(f"{number}.txt", b"\n" * 1_000_000)
    with pytest.raises(ValueError, match="as bombs do"):
        list(read_archive(place, largest=10_000_000))
    place.write_bytes(gzip.compress(tar_of({"a.txt": b"\n" * 9_000_000}, "w")))
    with pytest.raises(ValueError, match="as bombs do"):
        list(read_archive(place))


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w"])
def test_an_archive_that_is_cut_short(tmp_path, mode):
    data = tar_of({f"{i}.py": os.urandom(99).hex().encode() for i in range(99)}, mode)
    place = tmp_path / "a.tar"
    place.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ValueError, match=r"damaged or cut short .* Download it again"):
        list(read_archive(place))


def test_a_damaged_debian_package(tmp_path):
    control = tar_of({"./control": b"Package: a\nVersion: 1\n"})
    data = deb_of(control, tar_of({"./a.py": CODE.encode()}, "w:xz"))
    for cut in (60, 100, len(data) - 40):
        (tmp_path / "a.deb").write_bytes(data[:cut])
        with pytest.raises(ValueError, match="damaged or cut short"):
            list(read_archive(tmp_path / "a.deb"))


def test_what_is_no_archive(tmp_path):
    (tmp_path / "a.txt").write_text("Words.")
    with pytest.raises(ValueError, match="should be a zip or tar file or a Debian package"):
        list(read_archive(tmp_path / "a.txt"))
    with pytest.raises(FileNotFoundError, match="no archive"):
        read_archive(tmp_path / "none.whl")
    with pytest.raises(ValueError, match="should be a file"):
        read_archive(tmp_path)
    (tmp_path / "a.tar").write_bytes(tar_of({"a.txt": b"Words.\n"}))
    with pytest.raises(ValueError, match=r"holds no file that ends in \.py"):
        list(read_archive(tmp_path / "a.tar", [".py"]))
    with pytest.raises(TypeError, match="`endings` should be several strings"):
        read_archive(tmp_path / "a.tar", ".py")


# === Repositories ===


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "tool"
    folder.mkdir()
    for name, text in {"add.py": CODE, "LICENSE": MIT, "notes.md": "# Notes\n"}.items():
        (folder / name).write_text(text)
    (folder / "link.py").symlink_to("add.py")
    (folder / "näme.py").write_text("x = 1\n")
    me = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], [*me, "commit", "-q", "-m", "one"]):
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    (folder / "add.py").write_text("changed")
    (folder / "untracked.py").write_text("y = 1\n")
    return folder


def test_tracked_files_of_a_commit(repository):
    counts = Counter()
    found = list(read_git(repository, [".py"], counts=counts))
    assert [(each.path, each.text) for each in found] == [("add.py", CODE), ("näme.py", "x = 1\n")]
    assert {each.license for each in found} == {"MIT"}
    assert found[0].source.startswith("tool@")
    assert counts == {"files": 2, "link": 1}


def test_a_bare_repository(repository, tmp_path):
    bare = tmp_path / "tool.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(repository), str(bare)], check=True)
    assert list(read(bare, [".py"])) == list(read_git(repository, [".py"]))


def test_what_is_no_repository(repository, tmp_path):
    with pytest.raises(ValueError, match="no such revision"):
        read_git(repository, revision="elsewhere")
    with pytest.raises(ValueError, match="should name a commit"):
        read_git(repository, revision="--help")
    (tmp_path / "plain").mkdir()
    with pytest.raises(ValueError, match="should be a git repository"):
        read_git(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"holds no file that ends in \.go"):
        list(read_git(repository, [".go"]))


# === Records ===

PACK = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress,
        ".zst": lambda data: pa.compress(data, "zstd", asbytes=True)}  # fmt: skip


@pytest.mark.parametrize("ending", PACK)
def test_lines_of_json(tmp_path, ending):
    lines = [
        json.dumps({"text": "Größe\r\nand more", "title": "A"}).encode(),
        b"", b"{", b"[1]", b'{"text": 3}', b'{"text": "\xff"}', rb'{"text": "\ud800"}',
        rb'{"text": "\u0000"}', b'{"text": " "}', b'{"text": "' + b"x" * 5000 + b'"}',
        b'{"text": "last", "title": null}',
    ]  # fmt: skip
    place = tmp_path / f"a.jsonl{ending}"
    place.write_bytes(PACK[ending](b"\n".join(lines)))
    counts = Counter()
    found = list(read_records(place, title="title", largest=1000, counts=counts))
    assert [(each.text, each.title) for each in found] == [("Größe\nand more", "A"), ("last", "")]
    assert counts == {
        "records": 2, "not readable": 2, "no text": 1, "wrong encoding": 1, "lone surrogate": 1,
        "binary": 1, "empty": 1, "too large": 1,
    }  # fmt: skip


def test_tables(tmp_path):
    (tmp_path / "a.csv").write_text('text,from\n"one, and\ntwo",x\nthree\nfour,y\n')
    (tmp_path / "a.tsv").write_text("from\ttext\nx\tfive\n")
    pq.write_table(pa.table({"text": ["six", None], "n": [1, 2]}), tmp_path / "a.parquet")
    counts = Counter()
    texts = [
        each.text
        for name in ("a.csv", "a.tsv", "a.parquet")
        for each in read_records(tmp_path / name, counts=counts)
    ]
    assert texts == ["one, and\ntwo", "four", "five", "six"]
    assert counts == {"records": 4, "not readable": 1, "no text": 1}
    for name in ("a.csv", "a.tsv", "a.parquet"):
        with pytest.raises(ValueError, match=r"no column 'body'. Its columns: .*'text'"):
            list(read_records(tmp_path / name, text="body"))


def test_a_long_line_is_not_held(tmp_path):
    import tracemalloc

    place = tmp_path / "a.jsonl.gz"
    with gzip.open(place, "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(b"x" * 1_000_000)
        file.write(b'\n{"text": "good"}\n')
    tracemalloc.start()
    assert [each.text for each in read_records(place)] == ["good"]
    assert tracemalloc.get_traced_memory()[1] < 8_000_000
    tracemalloc.stop()


def test_records_that_cannot_be_read(tmp_path):
    (tmp_path / "a.txt").write_text("Words.")
    with pytest.raises(ValueError, match=r"should be a file that ends in \.jsonl"):
        read_records(tmp_path / "a.txt")
    with pytest.raises(FileNotFoundError):
        read_records(tmp_path / "none.csv")
    packed = gzip.compress(os.urandom(9000))
    (tmp_path / "a.csv.gz").write_bytes(packed[:5000])
    with pytest.raises(ValueError, match=r"damaged or cut short|no column"):
        list(read_records(tmp_path / "a.csv.gz"))
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="damaged or cut short"):
        list(read_records(tmp_path / "a.parquet"))


# === Prose ===


def test_prose_becomes_plain_text_with_headings(tmp_path):
    page = (
        "<html><head><title>The tool</title></head><body><nav><a href='/'>Home</a></nav><article>"
        "<h1>The tool</h1><p>It reads the files of a folder, one after another, and says of each "
        "how many words it holds and which of them are new.</p><h2>Use</h2><p>Call it by its name, "
        "and give it the folder that it should read, or several of them.</p></article></body>"
        "</html>"
    )
    files = {
        "a.html": page.encode(),
        "b.md": b"Tool\n====\n\nSee *the* [manual](x.md).\n",
        "c.rst": b"Tool\n====\n\nSee ``tool`` and :ref:`the manual <x>`.\n",
        "d.1.gz": gzip.compress(b".TH D 1\n.SH NAME\nd \\- read files\n"),
        "e.txt": b"Plain *words*.\n",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    found = {each.path: each for each in read_folder(tmp_path, plain=True)}
    assert found["a.html"].title == "The tool"
    assert "# Use" in found["a.html"].text
    assert "Home" not in found["a.html"].text
    assert found["b.md"].text == "# Tool\n\nSee the manual."
    assert found["c.rst"].text == "# Tool\n\nSee tool and the manual."
    assert found["d.1"].text == "# NAME\n\nd - read files"
    assert found["e.txt"].text == "Plain *words*.\n"
    written = {each.path: each.text for each in read_folder(tmp_path, [".md"])}
    assert written == {"b.md": files["b.md"].decode()}


# === One door ===


def test_what_lies_there_says_how_it_is_read(tmp_path):
    (tmp_path / "a.py").write_text(CODE)
    (tmp_path / "a.tar").write_bytes(tar_of({"a.py": CODE.encode()}, "w"))
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n')
    assert [each.text for each in read(tmp_path, [".py"])] == [CODE]
    assert [each.text for each in read(tmp_path / "a.tar", [".py"])] == [CODE]
    assert [each.text for each in read(tmp_path / "b.jsonl")] == ["one"]
    mail = "From a Mon Jan  1 00:00:00 2024\nMessage-ID: <1@a>\n\nWords of a message.\n"
    (tmp_path / "a.mbox").write_text(mail)
    assert [each.text.strip() for each in read(tmp_path / "a.mbox")] == ["Words of a message."]
    head = "WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: x\r\nContent-Length: 6\r\n\r\n"
    (tmp_path / "a.wet").write_text(f"{head}Words.\r\n\r\n", newline="")
    assert [each.text for each in read(tmp_path / "a.wet")] == ["Words."]
    with pytest.raises(FileNotFoundError, match="nothing at"):
        read(tmp_path / "none")


def test_records_without_the_column_and_quotes_that_never_end(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "one"}\n' * 3)
    with pytest.raises(ValueError, match=r"no column 'text'.*'body'"):
        list(read_records(tmp_path / "a.jsonl"))
    rows = ["first", '"never closed', *("x" * 50 for _ in range(2000)), "last"]
    (tmp_path / "a.csv").write_text("text\n" + "\n".join(rows) + "\n")
    counts = Counter()
    found = [each.text for each in read_records(tmp_path / "a.csv", largest=1000, counts=counts)]
    assert found[0] == "first"
    assert found[-1] == "last"
    assert counts["too large"] == 1
