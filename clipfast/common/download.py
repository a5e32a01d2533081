"""Downloads that resume, are checked against their sha256, and appear under their name only when complete."""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from clipfast.common.download_progress import progress

CHUNK = 2**18
TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 4
PAUSE = 1.0  # seconds before the second attempt; doubled for each later one


def cache_folder() -> Path:
    """``~/.cache/clip``, as in OpenAI's package, so that each finds the other's downloads."""
    return Path("~/.cache/clip").expanduser()


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def download(url: str, sha256: str, folder: str | os.PathLike[str]) -> Path:
    """The file of ``url`` in ``folder``, fetched unless a file with this ``sha256`` is there already.

    The bytes go to ``<name>.part``, which a later call continues where this one was interrupted. Several processes may
    ask for one file: one of them downloads, the others wait for it (where the system has file locks). Raises
    RuntimeError, which says what to do, if the server cannot be reached or sends another file.
    """
    target = Path(folder) / urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])
    if target.exists() and not target.is_file():
        raise RuntimeError(f"{target} exists and is not a regular file; move it away, or choose another download folder")
    if target.is_file():
        if sha256_of(target) == sha256:
            return target
        warnings.warn(f"{target} exists, but its sha256 is not {sha256}; downloading it again", stacklevel=2)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with _alone(target.with_name(target.name + ".lock")):
        if not (target.is_file() and sha256_of(target) == sha256):  # another process may have been faster
            _fetch(url, sha256, part, target)
            _check(part, sha256, url)
            os.replace(part, target)
    return target


def _check(part: Path, sha256: str, url: str) -> None:
    if (found := sha256_of(part)) != sha256:
        part.unlink()
        raise RuntimeError(
            f"{url} was downloaded, but its sha256 is {found} instead of {sha256}; the file was removed. "
            "A proxy may have answered in the server's place: try again, or download it by other means"
        )


def _fetch(url: str, sha256: str, part: Path, target: Path) -> None:
    """Complete ``part``, resuming where a connection broke."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _receive(url, part)
        except urllib.error.HTTPError as error:
            if error.code < 500 or attempt == ATTEMPTS:  # a missing file does not come back
                raise _unreachable(url, sha256, target, f"HTTP {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:
            if attempt == ATTEMPTS:
                raise _unreachable(url, sha256, target, str(getattr(error, "reason", error)) or repr(error)) from error
        time.sleep(PAUSE * 2 ** (attempt - 1))


def _unreachable(url: str, sha256: str, target: Path, reason: str) -> RuntimeError:
    return RuntimeError(
        f"could not download {url}: {reason}. A later call resumes what has arrived. If this machine is offline, "
        f"fetch the file elsewhere and put it at {target} (sha256 {sha256}), or pass the path of a file you have"
    )


def _receive(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # there is no more to send: the part is complete, or of another file
            return
        raise
    with response:
        resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if response.status == 206 and not resumed:
            part.unlink(missing_ok=True)
            raise ConnectionError("the server sent another part of the file than the one requested")
        length = response.headers.get("Content-Length")
        start = have if resumed else 0
        total = None if length is None else start + int(length)
        with part.open("ab" if resumed else "wb") as file:
            _copy(response, file, part.stem, start, total)


def _copy(response: http.client.HTTPResponse, file: IO[bytes], name: str, start: int, total: int | None) -> None:
    done = start
    with progress(name, start, total) as advance:
        while chunk := response.read(CHUNK):
            file.write(chunk)
            done += len(chunk)
            advance(len(chunk))
    file.flush()
    os.fsync(file.fileno())
    if total is not None and done < total:  # read() does not complain about a connection that ends early
        raise ConnectionError(f"the connection ended after {done} of {total} bytes")


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold ``lock``, after waiting for other holders; the system releases it when its holder dies. No lock on Windows."""
    if find_spec("fcntl") is None:
        yield
        return
    with _held(lock):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _held(lock: Path) -> IO[str]:
    import fcntl

    while True:
        file = lock.open("a")
        fcntl.flock(file, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                return file
        file.close()  # its last holder has removed the file, and others may hold a new one
