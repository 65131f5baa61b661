"""Fetching a file once: resumed, checked, unpacked inside its folder, renamed into place."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import http.client
import os
import re
import secrets
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable
from email.message import Message
from pathlib import Path

from cptk.checks import shown
from cptk.datasets.hashes import compare, lacks_a_file, note_of, pinned, write_sums
from cptk.datasets.hashes import verify as verify
from cptk.datasets.progress import ProgressBar
from cptk.datasets.unpack import unpack
from cptk.files import check_free_space, sha256_of

ATTEMPTS = 4  # at one address; each goes on where the last one broke off
WAIT = 1.0  # seconds before the second attempt; doubled before each further one
TIMEOUT = 20.0  # seconds without a byte
BLOCK = 1 << 18
LARGEST = 8 << 30  # bytes of a file; the largest file in the table of sets has 1.1 GB
LARGEST_UNDECLARED = 256 << 20  # bytes of a file whose length the server does not state
HEADERS = {"User-Agent": "cptk-datasets", "Accept-Encoding": "identity"}

# Host that let a call time out -> the time until which it is not asked again.
_silent: dict[str, float] = {}


class Unavailable(Exception):
    """No address gave the file; the message says what each one answered."""


class _Retry(Exception):
    """Broken off or busy: worth another attempt at the same address."""


@dataclasses.dataclass(frozen=True)
class Source:
    """One file at its publisher's.

    Attributes:
        url: Address.
        sha256: SHA-256 of the file, or `None` where nobody is known to have published one: then
            the first download's is written beside the file and later downloads are held to it.
        mirrors: Further addresses of the same bytes, tried in turn.
        members: Patterns of the files to take out of an archive; empty for a plain file.
        splits: The splits that need it; empty for all.
    """

    url: str
    sha256: str | None = None
    mirrors: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()

    @property
    def filename(self) -> str:
        """Last part of the address, without its query; ValueError if it is no file's name."""
        name = urllib.parse.unquote(urllib.parse.urlsplit(self.url).path.rpartition("/")[2])
        if not name.strip(".") or len(name.encode()) > 200 or re.search(r"[/\\:\x00-\x1f]", name):
            raise ValueError(
                f"The address {shown(self.url)} ends in {shown(name)}, which is no name of a file: "
                "refused."
            )
        return name

    @property
    def unpacked(self) -> str:
        """Name of the folder that an archive is unpacked into."""
        return self.filename.split(".")[0] + ".unpacked"


def fetch(source: Source, folder: Path) -> None:
    """Puts `source` into `folder`: the file, or what an archive holds in a folder of its own.

    A file that is there is checked against its hash and not fetched again. A file that is missing
    is written to `<file>.part`, and gets its name by a rename once it has been checked. A later
    call resumes a `<file>.part` that broke off (HTTP Range, guarded by the server's ETag or date).
    Two processes may fetch the same file at the same time without a lock: both write the same bytes
    to the same places of `<file>.part`, and the second rename replaces a file by its like.

    Args:
        source: What to fetch.
        folder: Where to; made if missing.

    Raises:
        Unavailable: if no address gave the file.
        ValueError: if the bytes, also those that are there, are not what the hash promises, an
            archive cannot be unpacked or holds a path that leaves its folder, or something else
            stands at the place.
        OSError: if the disk has no room for it; nothing is written then.
    """
    target, unpacked = folder / source.filename, folder / source.unpacked
    if not source.members and target.is_file():
        verify(target, source.sha256)
        return
    if source.members and unpacked.is_dir() and not lacks_a_file(unpacked):
        for path in unpacked.rglob("*") if note_of(unpacked).is_file() else ():
            if path.is_file():
                verify(path)
        return
    for path in (target, unpacked):
        if path.exists() and path.is_dir() != (path == unpacked):
            kind = "folder" if path.is_dir() else "file"
            raise ValueError(f"{path} is a {kind}, and stands in the way of {source.url}: move it.")
    folder.mkdir(parents=True, exist_ok=True)
    _remove_old_temporaries(folder, source)
    if not source.members:
        _download(source, target, lambda: target.exists())
        return
    spoilt = unpacked.exists()
    try:
        digest = _download(
            source, target, lambda: target.exists() or (unpacked.exists() and not spoilt)
        )
        if spoilt:
            shutil.rmtree(unpacked)
        if not unpacked.exists():
            write_sums(unpacked, unpack(target, unpacked, source.members))
        if digest is not None and source.sha256 is None and not note_of(target).exists():
            with contextlib.suppress(FileExistsError):
                _pin(source, target, digest)
    except FileNotFoundError:  # another process has unpacked it and removed it
        if not unpacked.exists():
            raise
    finally:
        target.unlink(missing_ok=True)


def forget(source: Source, folder: Path) -> None:
    """Removes what a download left that turned out unreadable, its hash too if that is ours."""
    if source.members:
        shutil.rmtree(folder / source.unpacked, ignore_errors=True)
        note_of(folder / source.unpacked).unlink(missing_ok=True)
    (folder / source.filename).unlink(missing_ok=True)
    note_of(folder / source.filename).unlink(missing_ok=True)


def _remove_old_temporaries(folder: Path, source: Source) -> None:
    """Removes what killed processes left of this source more than a day ago."""
    for name in (source.unpacked, source.filename, f"{source.filename}.part"):
        for path in folder.glob(f".{glob.escape(name)}-*-*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime < 86_400:
                    continue
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _download(source: Source, target: Path, there: Callable[[], bool]) -> str | None:
    """Brings the file to its place; its SHA-256, or `None` if another process was faster."""
    part = target.with_name(target.name + ".part")
    known = source.sha256 is not None or note_of(target).exists()
    answers, wrong = [], None
    for url in (source.url, *source.mirrors):
        for _ in range(3):
            resumed, declared = part.exists(), True
            try:
                declared = _get(url, part, known=known)
                return _accept(source, part, target)
            except (Unavailable, ValueError, FileNotFoundError, FileExistsError) as error:
                if there():
                    return None
                if isinstance(error, Unavailable):
                    answers.append(f"{url}: {error}" if source.mirrors else str(error))
                    break
                if isinstance(error, ValueError):
                    wrong = error
                    # A fresh download of full length that has another hash stays wrong. A resumed
                    # one may have had a wrong beginning, and one without a stated length may have
                    # been cut short: these are fetched once more.
                    if declared and not resumed:
                        break
    raise wrong or Unavailable("; ".join(answers) or "the file was taken away while it came")


def _accept(source: Source, part: Path, target: Path) -> str:
    """Checks `<file>.part` and gives it its name, if it is still the file that was checked."""
    checked, digest = part.stat(), sha256_of(part)
    try:
        if source.sha256 is not None:
            compare(part, digest, source.sha256, "cptk's table of publishers' files")
        elif note_of(target).exists():
            compare(part, digest, pinned(target), f"its first download ({note_of(target)})")
        elif not source.members:  # `fetch` writes an archive's hash after unpacking
            _pin(source, target, digest)
    except ValueError:
        part.unlink(missing_ok=True)
        _tag(part).unlink(missing_ok=True)
        raise
    claimed = _beside(part)
    os.replace(part, claimed)
    found = claimed.stat()
    if not os.path.samestat(checked, found) or checked.st_size != found.st_size:
        os.replace(claimed, part)
        raise FileNotFoundError(f"{part} is another process's by now")
    os.replace(claimed, target)
    _tag(part).unlink(missing_ok=True)
    return digest


def _pin(source: Source, target: Path, digest: str) -> None:
    """Writes the SHA-256 of a first download beside it, and says so."""
    note, whole = note_of(target), _beside(target)
    whole.write_text(f"{digest}  {target.name}\n", "ascii")
    try:
        os.link(whole, note)  # in one step, and never over the note of another process
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        os.replace(whole, note)
    finally:
        whole.unlink(missing_ok=True)
    warnings.warn(
        f"Nobody is known to have published a SHA-256 of {source.url}. This download's is taken on "
        f"trust, written to {note} and demanded of it from now on: {digest}.",
        stacklevel=2,
    )


def _get(url: str, part: Path, *, known: bool) -> bool:
    """Brings `part` to its full length from one address; whether the server stated a length."""
    host = urllib.parse.urlsplit(url).netloc
    if time.monotonic() < _silent.get(host, 0.0):
        raise Unavailable("the host gave no answer a moment ago")
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(WAIT * 2 ** (attempt - 1))
        try:
            return _transfer(url, part, known=known)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # nothing is left to send: `part` is whole, or of another file
                if known or _total(error.headers) == part.stat().st_size:
                    return True
                part.unlink(missing_ok=True)
            reason = f"HTTP {error.code} {error.reason}"
            if error.code not in (408, 416, 429) and error.code < 500:
                raise Unavailable(reason) from None
        except urllib.error.URLError as error:
            reason = str(error.reason)
            if not isinstance(error.reason, ConnectionError) or isinstance(
                error.reason, ConnectionRefusedError
            ):  # no such host, no route, no answer: no further attempt, so that offline is quick
                if isinstance(error.reason, TimeoutError):
                    _silent[host] = time.monotonic() + 600.0
                raise Unavailable(reason) from None
        except (_Retry, TimeoutError, ConnectionError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
    raise Unavailable(f"{reason}, {ATTEMPTS} times")


def _transfer(url: str, part: Path, *, known: bool) -> bool:
    tag = _tag(part)
    start = part.stat().st_size if part.exists() else 0
    headers = dict(HEADERS)
    if start and (known or tag.exists()):
        headers["Range"] = f"bytes={start}-"
        if tag.exists():
            headers["If-Range"] = tag.read_text("latin-1")
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        if response.status != 206:
            start = 0
        total = _stated_length(url, response, start, known=known)
        if total is not None:
            check_free_space(part.parent, total - start, url)
        block = response.read(BLOCK)
        if start == 0 and _is_html(block, response.headers.get_content_type()):
            raise Unavailable("answered with an HTML page in place of the file")
        if start == 0 and not block:
            raise _Retry("answered with an empty file")
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if validator and not validator.startswith("W/"):
            tag.write_text(validator, "latin-1", errors="replace")
        elif start == 0:
            tag.unlink(missing_ok=True)
        part.touch()
        with part.open("r+b") as file, ProgressBar(part.stem, start, total) as bar:
            if file.seek(0, os.SEEK_END) < start:
                raise _Retry("another process has taken the file")
            file.seek(start)
            while block:
                file.write(block)
                bar.update(len(block))
                if total is None and file.tell() > LARGEST_UNDECLARED:
                    part.unlink(missing_ok=True)
                    raise Unavailable(
                        f"sent more than {LARGEST_UNDECLARED >> 20} MiB without saying how much "
                        "is to come"
                    )
                block = response.read(BLOCK)
            done = file.tell()
            if total is not None and done < total:
                raise _Retry(f"broken off after {done:,} of {total:,} bytes")
            file.truncate()
    return total is not None


def _stated_length(
    url: str, response: http.client.HTTPResponse, start: int, *, known: bool
) -> int | None:
    """The file's whole length as the server states it, `None` if it does not.

    Without a hash the length is all that tells a whole file from one that was cut short, so that
    there must be one, or chunks, of which the last says that it is.
    """
    scheme = urllib.parse.urlsplit(response.url).scheme
    if scheme not in ("http", "https") or (
        not known and scheme == "http" and url.startswith("https:")
    ):
        raise Unavailable(f"leads to {shown(response.url)}, where anyone on the way may alter it")
    part = response.headers.get("Content-Range")
    if start and part and not part.startswith(f"bytes {start}-"):
        raise Unavailable(f"sent {shown(part)} when asked for what follows byte {start}")
    declared = response.headers.get("Content-Length") or ""
    total = _total(response.headers)
    if total is None and declared.isascii() and declared.isdigit():
        total = start + int(declared)
    if total is None and not known and not response.chunked:
        raise Unavailable(
            "does not say how long the file is, and nobody has published its SHA-256: it could not "
            "be told from one that was cut short"
        )
    if total is not None and total > LARGEST:
        raise Unavailable(f"offers {total:,} bytes, and at most {LARGEST:,} are taken")
    return total


def _total(headers: Message) -> int | None:
    """The whole length in a `Content-Range`."""
    found = re.fullmatch(r"bytes [0-9*-]+/([0-9]{1,18})", headers.get("Content-Range") or "")
    return int(found[1]) if found else None


def _is_html(block: bytes, content_type: str) -> bool:
    head = block[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return content_type == "text/html" or head.startswith((b"<!doctype html", b"<html"))


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")


def _tag(part: Path) -> Path:
    return part.with_name(part.name + ".tag")
