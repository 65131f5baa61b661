"""Packages and archives as text, and those that lie, lead out, explode or end early."""

import io
import subprocess
import tarfile
import zipfile
from collections import Counter

import pyarrow as pa
import pytest

from cptk.mining import Document, read_archive

TEXT = "x = 1\n"


def tar(path, files, mode="w"):
    """A tar file of names and bytes, or of TarInfos for members without content."""
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            if isinstance(data, bytes):
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
            else:
                info.type, info.linkname = data
                archive.addfile(info)
    return path


def deb(path, data, packed="xz"):
    """A Debian package, as ar(5) and deb(5) have it."""
    control = io.BytesIO()
    fields = b"Package: tool\nVersion: 1.0-2\nDescription: x\n"
    with tarfile.open(fileobj=control, mode="w:gz") as archive:
        info = tarfile.TarInfo("./control")
        info.size = len(fields)
        archive.addfile(info, io.BytesIO(fields))
    plain = path.with_suffix(".tar")
    tar(plain, data, "w" if packed == "zst" else f"w:{packed}")
    content = plain.read_bytes()
    if packed == "zst":
        content = pa.compress(content, "zstd", asbytes=True)
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, part in {
            "debian-binary": b"2.0\n",
            "control.tar.gz": control.getvalue(),
            f"data.tar.{packed}": content,
        }.items():
            file.write(f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(part):<10}`\n".encode())
            file.write(part + b"\n" * (len(part) % 2))
    return path


COPYRIGHT = b"Files: debian/*\nLicense: GPL-2+\n\nFiles: *\nLicense: Expat\n Permission ...\n"


@pytest.mark.parametrize("packed", ["gz", "xz", "zst"])
def test_a_debian_package(tmp_path, packed):
    path = deb(
        tmp_path / "tool.deb",
        {
            "./usr/lib/python3/dist-packages/tool/a.py": TEXT.encode(),
            "./usr/lib/python3/dist-packages/tool/tests/b.py": b"y = 1\n",
            "./usr/share/doc/tool/copyright": COPYRIGHT,
        },
        packed,
    )
    path_in = "usr/lib/python3/dist-packages/tool/a.py"
    assert list(read_archive(path, [".py"])) == [Document(path_in, TEXT, "tool-1.0-2", "MIT")]


def test_dpkg_reads_what_these_tests_pack(tmp_path):
    path = deb(tmp_path / "tool.deb", {"./a.py": TEXT.encode()})
    try:
        listed = subprocess.run(["dpkg-deb", "-c", path], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("dpkg-deb is not installed")
    assert listed.stdout.split()[-1] == "./a.py"


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_an_sdist_and_a_tarball_of_npm(tmp_path, mode):
    fields = b"Metadata-Version: 2.1\nName: tool\nVersion: 1.0\nLicense: Apache Software License\n"
    files = {"tool-1.0/a.py": TEXT.encode(), "tool-1.0/PKG-INFO": fields}
    path = tar(tmp_path / "tool-1.0.tar", files, mode)
    assert list(read_archive(path, [".py"])) == [
        Document("tool-1.0/a.py", TEXT, "tool-1.0", "Apache-2.0")
    ]
    said = b'{"name": "@me/tool", "version": "2.0", "license": "ISC"}'
    files = {"package/a.js": b"let x;\n", "package/package.json": said}
    path = tar(tmp_path / "tool.tgz", files, mode)
    (found,) = read_archive(path, [".js"])
    assert found[2:4] == ("@me/tool-2.0", "ISC")


def test_the_text_of_a_licence_where_nothing_is_declared(tmp_path):
    words = b"Permission is hereby granted, free of charge, to any person ... without restriction"
    path = tar(tmp_path / "code-3.tar.xz", {"c/a.c": b"int x;\n", "c/COPYING": words}, "w:xz")
    (found,) = read_archive(path, [".c"])
    assert found == Document("c/a.c", "int x;\n", "code-3", "MIT")


def test_what_leads_out_is_a_link_or_lies_is_counted(tmp_path):
    files = {
        "a.py": TEXT.encode(),
        "../up.py": b"x\n",
        "/root.py": b"x\n",
        "C:\\w.py": b"x\n",
        "link.py": (tarfile.SYMTYPE, "/etc/passwd"),
        "pipe.py": (tarfile.FIFOTYPE, ""),
        "big.py": b"x\n" * 600,
    }
    counts = Counter()
    found = read_archive(tar(tmp_path / "a.tar", files), [".py"], largest=1000, counts=counts)
    assert [each.path for each in found] == ["a.py"]
    assert counts == {"files": 1, "outside": 3, "link": 2, "too large": 1}


def test_a_member_of_a_zip_is_larger_than_its_header_says(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.py", TEXT)
        archive.writestr("bomb.py", b"x\n" * 5_000_000)
        archive.writestr("../up.py", TEXT)
        link = zipfile.ZipInfo("link.py")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "a.py")
    size = (10_000_000).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(size, (20).to_bytes(4, "little")))
    counts = Counter()
    assert [each.path for each in read_archive(path, counts=counts)] == ["a.py"]
    assert counts["files"] == counts["outside"] == counts["link"] == 1
    assert counts["not readable"] + counts["too large"] == 1


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("cptk.mining.archives.FREE", 1 << 16)
    path = tmp_path / "bomb.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=9) as archive:
        info = tarfile.TarInfo("zeros.py")
        info.size = 5 << 20
        archive.addfile(info, io.BytesIO(bytes(info.size)))
    with pytest.raises(ValueError, match="unpacks to more than 200 times its size"):
        list(read_archive(path))


def test_a_header_that_asks_for_gigabytes(tmp_path):
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 8 << 30
    path = tmp_path / "a.tar"
    path.write_bytes(info.tobuf() + bytes(10240))
    with pytest.raises(ValueError, match="is damaged or cut short"):
        list(read_archive(path))


@pytest.mark.parametrize("kind", ["w:gz", "w:xz", "w", "zip", "deb"])
def test_an_archive_cut_short(tmp_path, kind):
    path = tmp_path / "a"
    noise = {f"{i}.py": f"x = {i**99}\n".encode() * 9 for i in range(99)}
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in noise.items():
                archive.writestr(name, data)
    elif kind == "deb":
        deb(path, noise)
    else:
        tar(path, noise, kind)
    assert len(list(read_archive(path))) == 99
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="is damaged or cut short"):
        list(read_archive(path))


def test_bad_input(tmp_path):
    with pytest.raises(FileNotFoundError, match="no archive"):
        read_archive(tmp_path / "nowhere.zip")
    with pytest.raises(ValueError, match="should be a file"):
        read_archive(tmp_path)
    (tmp_path / "a.zip").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="should be a zip or tar file"):
        list(read_archive(tmp_path / "a.zip"))
    path = tar(tmp_path / "a.tar", {"a.py": b"x\n"})
    with pytest.raises(ValueError, match=r"no file that ends in \.rb"):
        list(read_archive(path, [".rb"]))
