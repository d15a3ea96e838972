"""FineWeb-Edu from a hub: the real client against a server on this machine, or without a server."""

import errno
import hashlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest

from sweeper.data import DataSpec, TokenizerSpec, find_data, hub, prepare_data
from sweeper.errors import UserError

from .corpus import quiet, texts
from .test_sources import write_parquet

SPEC = DataSpec("fineweb_edu", None, "text", TokenizerSpec("bpe", 300), 1000, 0.2, files=1)


@dataclass
class Hub:
    """Content and answers of the server."""

    content: bytes
    status: int = 200
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one small file under the first name, and the client pointed at it."""
    content = (write_parquet(tmp_path / "upstream", list(texts(60))) / "rows.parquet").read_bytes()
    hub_server = Hub(content)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            hub_server.requests.append(f"{self.command} {self.path}")
            self.send_response(hub_server.status)
            self.send_header("Content-Length", str(len(hub_server.content) if hub_server.status == 200 else 0))
            self.send_header("ETag", f'"{hashlib.sha256(hub_server.content).hexdigest()}"')
            self.send_header("X-Repo-Commit", hub.REVISION)
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            if hub_server.status == 200:
                self.wfile.write(hub_server.content)

        def log_message(self, *_: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    pin(monkeypatch, content)
    point(monkeypatch, listening.server_port)
    yield hub_server
    listening.shutdown()
    listening.server_close()


def pin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(
        hub, "FILES", (hub.HubFile("sample/10BT/000_00000.parquet", hashlib.sha256(content).hexdigest()),)
    )


def point(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    download = partial(huggingface_hub.hf_hub_download, endpoint=f"http://127.0.0.1:{port}")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)


def test_a_pinned_file_is_fetched_once_checked_and_prepared(server: Hub, tmp_path: Path) -> None:
    assert find_data(SPEC, tmp_path / "data") is None
    assert server.requests == []
    manifest = prepare_data(SPEC, tmp_path / "data", quiet)
    assert {line.split()[0] for line in server.requests} == {"HEAD", "GET"}
    assert all(hub.REVISION in line and "sample/10BT/000_00000.parquet" in line for line in server.requests)
    assert sum(manifest.documents.values()) == 60
    assert manifest.source["revision"] == hub.REVISION
    assert manifest.source["files"] == {file.name: file.sha256 for file in hub.FILES}
    server.status = 500
    assert find_data(SPEC, tmp_path / "data") == manifest
    another = DataSpec("fineweb_edu", None, "text", TokenizerSpec("bpe", 301), 1000, 0.2, files=1)
    assert prepare_data(another, tmp_path / "data", quiet).hash != manifest.hash


def test_a_local_copy_gives_the_same_shards(server: Hub, tmp_path: Path) -> None:
    fetched = prepare_data(SPEC, tmp_path / "data", quiet)
    copy = DataSpec("fineweb_edu", str(tmp_path / "upstream"), "text", TokenizerSpec("bpe", 300), 1000, 0.2, files=1)
    assert prepare_data(copy, tmp_path / "data", quiet).splits == fetched.splits


def test_a_file_of_the_wrong_hash_is_deleted_and_fetched_anew(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        pin(patch, b"other")
        with pytest.raises(UserError, match=r"000_00000\.parquet: sha256 .* must be d9298a10.*data\.path=DIR"):
            prepare_data(SPEC, tmp_path / "data", quiet)
    assert prepare_data(SPEC, tmp_path / "data", quiet).tokens("train")


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_one_line_that_says_so(server: Hub, tmp_path: Path, status: int) -> None:
    server.status = status
    with pytest.raises(
        UserError, match=rf"refused .* \(HTTP {status}\): the HF token is expired or wrong.*data\.path=DIR"
    ) as e:
        prepare_data(SPEC, tmp_path / "data", quiet)
    assert "\n" not in str(e.value)


def test_a_hub_in_trouble_is_one_line_with_its_answer(server: Hub, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(UserError, match=r"the Hugging Face hub answered HTTP 404: .*data\.path=DIR") as caught:
        prepare_data(SPEC, tmp_path / "data", quiet)
    assert "\n" not in str(caught.value)


def test_a_hub_out_of_reach_is_one_line_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        point(monkeypatch, free.getsockname()[1])
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda _: None)  # between the client's six tries
    with pytest.raises(UserError, match=r"the Hugging Face hub cannot be reached.*data\.path=DIR") as caught:
        prepare_data(SPEC, tmp_path / "data", quiet)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_disk_that_fills_while_fetching_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("transfer failed") from error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", full)
    with pytest.raises(UserError, match=r"no space left for .*paths\.data=DIR"):
        prepare_data(SPEC, tmp_path / "data", quiet)


def test_the_pinned_files_are_the_fourteen_of_one_revision() -> None:
    assert [file.name for file in hub.FILES] == [f"sample/10BT/{i:03d}_00000.parquet" for i in range(14)]
    assert len({file.sha256 for file in hub.FILES}) == 14
    assert {len(file.sha256) for file in hub.FILES} == {64}
    assert len(hub.REVISION) == 40
    assert hub.chosen(None) == hub.FILES
    assert hub.chosen(2) == hub.FILES[:2]
    with pytest.raises(UserError, match=r"data\.files=15 must be at most 14"):
        hub.chosen(15)
