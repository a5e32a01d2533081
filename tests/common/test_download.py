"""Downloads from a server in this process that breaks connections off, ignores ranges, fails, or sends another file."""

from __future__ import annotations

import builtins
import hashlib
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from clipfast.common import download_progress
from clipfast.common.download import ATTEMPTS, download

CONTENT = bytes(range(256)) * 5000  # 1.28 MB: several chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """Each answer breaks off after the next of ``cuts`` bytes; before that, requests fail with the statuses ``failures``."""

    content: bytes = CONTENT
    ranges: bool = True
    says_length: bool = True
    cuts: list[int] = field(default_factory=list)
    failures: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    wrong_part: bool = False
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.asked.append(wanted or "all")
        if self.failures:
            return handler.send_error(self.failures.pop(0))
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.ranges else 0
        if start >= len(self.content):
            return handler.send_error(416)
        body = self.content[start:]
        handler.send_response(206 if wanted and self.ranges else 200)
        if wanted and self.ranges:
            handler.send_header("Content-Range", f"bytes {0 if self.wrong_part else start}-{len(self.content) - 1}/*")
        if self.says_length:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: self.cuts.pop(0)] if self.cuts else body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, *_) -> None:
            pass

    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("clipfast.common.download.PAUSE", 0.0)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.url = f"http://127.0.0.1:{http.server_port}/folder/model%20one.pt?x=1"
        yield state
        http.shutdown()
        thread.join()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    target = download(server.url, SHA256, tmp_path / "new" / "cache")
    assert target == tmp_path / "new" / "cache" / "model one.pt"
    assert target.read_bytes() == CONTENT
    assert names(target.parent) == ["model one.pt"]
    assert download(server.url, SHA256, target.parent) == target
    assert server.asked == ["all"]


@pytest.mark.parametrize("says_length", [True, False])
def test_a_broken_connection_is_resumed(server: Server, tmp_path: Path, says_length: bool) -> None:
    server.cuts = [300_000, 400_000]
    server.says_length = says_length
    if not says_length:  # then the end of the connection is the end of the file, and only the hash tells
        with pytest.raises(RuntimeError, match="its sha256 is"):
            download(server.url, SHA256, tmp_path)
        return
    assert download(server.url, SHA256, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["all", "bytes=300000-", "bytes=700000-"]


def test_a_later_call_resumes_what_an_earlier_one_left(server: Server, tmp_path: Path) -> None:
    server.cuts = [1000] * ATTEMPTS
    with pytest.raises(RuntimeError, match=r"the connection ended after 4000 of 1280000 bytes. A later call resumes"):
        download(server.url, SHA256, tmp_path)
    assert names(tmp_path) == ["model one.pt.part"]  # there is no file under its own name
    assert download(server.url, SHA256, tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=4000-"
    assert names(tmp_path) == ["model one.pt"]


def test_a_server_without_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    server.cuts, server.ranges = [300_000], False
    assert download(server.url, SHA256, tmp_path).read_bytes() == CONTENT


def test_a_part_that_is_complete_needs_no_byte(server: Server, tmp_path: Path) -> None:
    (tmp_path / "model one.pt.part").write_bytes(CONTENT)
    assert download(server.url, SHA256, tmp_path).read_bytes() == CONTENT


def test_a_part_of_another_file_is_removed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "model one.pt.part").write_bytes(b"other" * 100)
    with pytest.raises(RuntimeError, match="its sha256 is"):
        download(server.url, SHA256, tmp_path)
    assert names(tmp_path) == []
    assert download(server.url, SHA256, tmp_path).read_bytes() == CONTENT


def test_a_part_that_was_not_requested_is_not_appended(server: Server, tmp_path: Path) -> None:
    server.cuts, server.wrong_part = [300_000], True
    assert download(server.url, SHA256, tmp_path).read_bytes() == CONTENT


def test_a_wrong_file_is_refused_and_removed(server: Server, tmp_path: Path) -> None:
    server.content = b"<html>please log in</html>"
    with pytest.raises(RuntimeError, match=f"its sha256 is {hashlib.sha256(server.content).hexdigest()} instead of {SHA256}"):
        download(server.url, SHA256, tmp_path)
    assert names(tmp_path) == []


def test_a_damaged_file_is_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "model one.pt").write_bytes(CONTENT[:-1])
    with pytest.warns(UserWarning, match=f"exists, but its sha256 is not {SHA256}; downloading it again"):
        download(server.url, SHA256, tmp_path)
    assert (tmp_path / "model one.pt").read_bytes() == CONTENT


def test_errors_of_the_server(server: Server, tmp_path: Path) -> None:
    server.failures = [503, 500]  # these are temporary
    assert download(server.url, SHA256, tmp_path / "a").read_bytes() == CONTENT
    server.failures, server.asked[:] = [404], []
    with pytest.raises(RuntimeError, match="HTTP 404 Not Found"):
        download(server.url, SHA256, tmp_path / "b")
    assert server.asked == ["all"]  # not asked again


def test_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("clipfast.common.download.PAUSE", 0.0)
    with pytest.raises(RuntimeError) as found:
        download("http://127.0.0.1:9/model.pt", SHA256, tmp_path)
    message = str(found.value)
    assert "could not download http://127.0.0.1:9/model.pt: [Errno" in message
    assert (
        f"If this machine is offline, fetch the file elsewhere and put it at {tmp_path / 'model.pt'} (sha256 {SHA256})"
        in message
    )


def test_a_folder_in_the_files_place(server: Server, tmp_path: Path) -> None:
    (tmp_path / "model one.pt").mkdir()
    with pytest.raises(RuntimeError, match="exists and is not a regular file"):
        download(server.url, SHA256, tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="no file locks")
def test_several_ask_for_one_file_and_one_fetches_it(server: Server, tmp_path: Path) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(download(server.url, SHA256, tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert server.asked == ["all"]
    assert names(tmp_path) == ["model one.pt"]


def test_progress_is_lines_where_there_is_no_terminal(server: Server, tmp_path: Path, capsys) -> None:
    download(server.url, SHA256, tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "downloading model one.pt: 0.0 of 1.2 MiB"
    assert lines[-1] == "downloading model one.pt: 1.2 of 1.2 MiB"
    assert len(lines) <= download_progress.LINES + 1


@pytest.mark.parametrize("missing", [(), ("rich",), ("rich", "tqdm")])
def test_progress_on_a_terminal_uses_what_is_installed(missing, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(download_progress, "find_spec", lambda name: None if name in missing else object())
    original = builtins.__import__

    def without(name, *arguments):
        assert name.partition(".")[0] not in missing
        return original(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    for kind in ("rich", "tqdm"):
        if kind not in missing:
            pytest.importorskip(kind)
    for total in (1000, None):
        with download_progress.progress("file.pt", 100, total) as advance:
            advance(900)
    assert "file.pt" in capsys.readouterr().err
