"""Fetching a file once: resumed, checked, unpacked inside its folder, renamed into place."""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import os
import secrets
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings
from pathlib import Path

from cptk.datasets.progress import ProgressBar
from cptk.datasets.unpack import unpack

ATTEMPTS = 4  # of one address, each going on where the last one broke off
WAIT = 1.0  # seconds before the second attempt; doubled before each further one
TIMEOUT = 20.0  # seconds without a byte
BLOCK = 1 << 18
HEADERS = {"User-Agent": "cptk-datasets", "Accept-Encoding": "identity"}

_silent: dict[str, float] = {}  # host -> until when it is not asked again: it let a call time out


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
        """Last part of the address, without its query."""
        return urllib.parse.unquote(Path(urllib.parse.urlsplit(self.url).path).name)


def fetch(source: Source, folder: Path) -> None:
    """Puts `source` into `folder`: the file, or what an archive holds in a folder of its own.

    Nothing is done if it is there. Bytes go to `<file>.part`, which a later call goes on with (HTTP
    Range, guarded by the server's ETag or date), and the file takes its name by a rename only after
    the check. Two processes may fetch the same file at the same time without a lock: each writes
    the same bytes at the same place of `<file>.part`, and the renames replace like by like.

    Args:
        source: What to fetch.
        folder: Where to; made if missing.

    Raises:
        Unavailable: if no address gave the file.
        ValueError: if the bytes are not those that the hash promises, or an archive holds a path
            that leaves its folder.
    """
    target = folder / source.filename
    unpacked = folder / (source.filename.split(".")[0] + ".unpacked")
    if (unpacked if source.members else target).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    _download(source, target, unpacked)
    if source.members and not unpacked.exists():
        try:
            unpack(target, unpacked, source.members)
        except FileNotFoundError:  # another process has unpacked it and removed it
            if not unpacked.exists():
                raise
        finally:
            target.unlink(missing_ok=True)


def verify(path: Path, note: Path | None = None) -> None:
    """Holds a cached file to the SHA-256 that its first download left beside it, if it did."""
    note = note or _note(path)
    if note.exists():
        _check(path, note.read_text("ascii").split()[0], f"its first download ({note})")


def _download(source: Source, target: Path, unpacked: Path) -> None:
    """Brings the file to its place, whoever brings it: another process may be faster."""
    part = target.with_name(target.name + ".part")
    answers, wrong = [], None
    for url in (source.url, *source.mirrors):
        for _ in range(3):
            resumed = part.exists()
            try:
                _get(url, part, known=source.sha256 is not None or _note(target).exists())
                _accept(source, part, target)
                return
            except (Unavailable, ValueError, FileNotFoundError, FileExistsError) as error:
                if target.exists() or unpacked.exists():
                    return
                if isinstance(error, Unavailable):
                    answers.append(f"{url}: {error}" if source.mirrors else str(error))
                    break
                if isinstance(error, ValueError):
                    wrong = error
                    if not resumed:  # else what was there may be to blame: once more from nothing
                        break
    raise wrong or Unavailable("; ".join(answers) or "the file was taken away while it came")


def _accept(source: Source, part: Path, target: Path) -> None:
    """Checks `<file>.part` and gives it its name, if it is still the file that was checked."""
    note, checked = _note(target), part.stat()
    try:
        if source.sha256:
            _check(part, source.sha256, "cptk's table of publishers' files")
        elif note.exists():
            verify(part, note)
        else:
            _write_note(source, part, target)
    except ValueError:
        part.unlink(missing_ok=True)
        raise
    claimed = _beside(part)
    os.replace(part, claimed)
    found = claimed.stat()
    if not os.path.samestat(checked, found) or checked.st_size != found.st_size:
        os.replace(claimed, part)
        raise FileNotFoundError(f"{part} is another process's by now")
    os.replace(claimed, target)
    _tag(part).unlink(missing_ok=True)


def _write_note(source: Source, part: Path, target: Path) -> None:
    note, whole = _note(target), _beside(part)
    digest = _sha256(part)
    whole.write_text(f"{digest}  {target.name}\n", "ascii")
    try:
        os.link(whole, note)  # whole or not at all, and never over another process's
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


def _get(url: str, part: Path, *, known: bool) -> None:
    """Brings `part` to its full length from one address."""
    host = urllib.parse.urlsplit(url).netloc
    if time.monotonic() < _silent.get(host, 0.0):
        raise Unavailable("the host gave no answer a moment ago")
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(WAIT * 2 ** (attempt - 1))
        try:
            _transfer(url, part, known=known)
            return
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # nothing is left to send
                return
            reason = f"HTTP {error.code} {error.reason}"
            if error.code not in (408, 429) and error.code < 500:
                raise Unavailable(reason) from None
        except urllib.error.URLError as error:
            reason = str(error.reason)
            if not isinstance(error.reason, ConnectionError) or isinstance(
                error.reason, ConnectionRefusedError
            ):  # no such host, no route, no answer: an offline machine should hear of it at once
                if isinstance(error.reason, TimeoutError):
                    _silent[host] = time.monotonic() + 600.0
                raise Unavailable(reason) from None
        except (_Retry, TimeoutError, ConnectionError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
    raise Unavailable(f"{reason}, {ATTEMPTS} times")


def _transfer(url: str, part: Path, *, known: bool) -> None:
    tag = _tag(part)
    start = part.stat().st_size if part.exists() else 0
    headers = dict(HEADERS)
    if start and (known or tag.exists()):
        headers["Range"] = f"bytes={start}-"
        if tag.exists():
            headers["If-Range"] = tag.read_text("utf-8")
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        if response.status != 206:
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else None
        block = response.read(BLOCK)
        if start == 0 and _is_html(block, response.headers.get_content_type()):
            raise Unavailable("answered with an HTML page in place of the file")
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if validator and not validator.startswith("W/"):
            tag.write_text(validator, "utf-8")
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
                block = response.read(BLOCK)
            done = file.tell()
            if total is not None and done < total:
                raise _Retry(f"broken off after {done:,} of {total:,} bytes")
            file.truncate()


def _is_html(block: bytes, content_type: str) -> bool:
    head = block[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return content_type == "text/html" or head.startswith((b"<!doctype html", b"<html"))


def _check(path: Path, expected: str, promised_by: str) -> None:
    received = _sha256(path)
    if received != expected:
        raise ValueError(
            f"{path} is not the file that was expected. Received SHA-256 {received}, expected "
            f"{expected} (from {promised_by}). A download is removed: try again. If it stays so, "
            f"the publisher has changed the file, or something on the way has."
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _tag(part: Path) -> Path:
    return part.with_name(part.name + ".tag")
