"""A sweep under way as a page on this machine alone: `loopsweep watch --web`.

The page is that of `python -m analysis.report --sweep NAME`. It is drawn again when a run has got on. The server
listens on 127.0.0.1, only reads, and answers only under a path with a random token.
"""

import argparse
import getpass
import hmac
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

from analysis.records import sources
from sweeper.errors import UserError

LOOPBACK = "127.0.0.1"
WATCHED = ("result.json", "failure.json", "metrics.jsonl", "lock")
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass
class Page:
    """The page that is served now, and a number that grows with each."""

    content: bytes = (
        b'<!doctype html><meta http-equiv="refresh" content="2"><link rel="icon" href="data:,"><title>loopsweep</title>'
        b"<p>Drawing the first page \xe2\x80\xa6"
    )
    version: int = 0
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))

    def replace(self, content: bytes) -> None:
        """Serve `content` from now on."""
        self.content, self.version = content, self.version + 1


def server(page: Page, port: int) -> ThreadingHTTPServer:
    """A server of `page`, not started. Port 0 takes a free one.

    Raises:
        UserError: if the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, kind = self._answer()
            self.send_response(HTTPStatus.OK if body is not None else HTTPStatus.NOT_FOUND)
            for name, value in ({"Content-Type": kind, "Content-Length": str(len(body or b""))} | HEADERS).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET" and body is not None:
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def _answer(self) -> tuple[bytes | None, str]:
            host = self.headers.get("Host", "").rpartition(":")[0]
            _, _, rest = self.path.partition("/")
            token, _, name = rest.partition("/")
            allowed = hmac.compare_digest(token.encode(), page.token.encode()) and host in (LOOPBACK, "localhost")
            if allowed and name == "":
                return page.content, "text/html; charset=utf-8"
            if allowed and name == "version":
                return str(page.version).encode(), "text/plain; charset=utf-8"
            return None, "text/plain; charset=utf-8"

        def log_message(self, *_: object) -> None:
            """Nothing is printed for a request."""

    try:
        return ThreadingHTTPServer((LOOPBACK, port), Handler)
    except OSError as error:
        raise UserError(f"--port {port}: {error.strerror}; give another, or none for a free one") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C. Exit status 0, or 2 on a `UserError`."""
    parser = argparse.ArgumentParser(prog="python -m analysis.report.live")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--sweeps", type=Path)
    parser.add_argument("--sweep", required=True)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--port", type=int, default=0)
    args = parser.parse_args(argv)
    page = Page()
    try:
        name = sources.local_sweep(args.runs, args.sweeps, args.sweep).name
        with server(page, args.port) as serving, TemporaryDirectory() as folder:
            threading.Thread(target=serving.serve_forever, daemon=True).start()
            _print_address(serving.server_address[1], page.token)
            _keep_drawing(page, args, name, Path(folder))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


def _print_address(port: int, token: str) -> None:
    print(f"http://{LOOPBACK}:{port}/{token}/")
    print(f"from a laptop first: ssh -N -L {port}:{LOOPBACK}:{port} {getpass.getuser()}@{socket.gethostname()}")
    print("Ctrl-C ends it; the sweep goes on", flush=True)


def _keep_drawing(page: Page, args: argparse.Namespace, name: str, folder: Path) -> None:
    """Draw the page whenever a run has got on, every `--seconds` at most."""
    places = ["--runs", str(args.runs), *(["--sweeps", str(args.sweeps)] if args.sweeps is not None else [])]
    before: object = None
    while True:
        now = progress(args.runs, args.sweeps, name)
        if now != before and draw(page, [*places, "--sweep", name], folder):
            before = now
        threading.Event().wait(args.seconds)


def progress(runs: Path, sweeps: Path | None, name: str) -> object:
    """Differs if a run of the sweep has got on, or the sweep has other runs."""
    run_ids = sources.local_sweep(runs, sweeps, name).run_ids
    files = [runs / run_id / watched for run_id in run_ids for watched in WATCHED]
    return [(file, file.stat().st_mtime_ns, file.stat().st_size) for file in files if file.is_file()]


def draw(page: Page, options: Sequence[str], folder: Path) -> bool:
    """Draw the page in a process of its own; whether it could be drawn. If not, says why and keeps the last."""
    command = [sys.executable, "-m", "analysis.report", *options, "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path.cwd())
    if done.returncode:
        print(done.stderr.strip(), file=sys.stderr)
        return False
    page.replace((folder / "report.html").read_bytes())
    return True


if __name__ == "__main__":
    sys.exit(main())
