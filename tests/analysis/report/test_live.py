"""`loopsweep watch --web`: read-only, on loopback, under a token, drawn again when a run has got on."""

import http.client
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from analysis.report import live
from analysis.report import page as report
from sweeper.errors import UserError
from sweeper.records.sweep_manifest import Sweep


@pytest.fixture
def served() -> Iterator[tuple[live.Page, int]]:
    page = live.Page()
    with live.server(page, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield page, server.server_address[1]
        server.shutdown()


def ask(port: int, path: str, method: str = "GET", host: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{port}"})
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_only_the_path_with_the_token_answers(served: tuple[live.Page, int]) -> None:
    page, port = served
    page.replace(b"<p>the page")
    assert ask(port, f"/{page.token}/") == (200, b"<p>the page")
    assert ask(port, f"/{page.token}/version") == (200, b"1")
    for path in ("/", "/index.html", f"/{page.token[:-1]}/", f"/{page.token}/../", f"/{page.token}/runs", "/%00/"):
        assert ask(port, path) == (404, b"")
    assert len(page.token) >= 32
    assert live.Page().token != page.token


def test_it_only_reads_and_answers_no_other_host(served: tuple[live.Page, int]) -> None:
    page, port = served
    for method in ("POST", "PUT", "DELETE"):
        assert ask(port, f"/{page.token}/", method)[0] == 501
    assert ask(port, f"/{page.token}/", host="evil.example:80") == (404, b"")
    assert ask(port, f"/{page.token}/", host=f"localhost:{port}")[0] == 200


def test_it_listens_on_loopback_alone_and_a_taken_port_is_an_error() -> None:
    with live.server(live.Page(), 0) as server:
        host, port = server.server_address[:2]
        assert host == "127.0.0.1"
        with pytest.raises(UserError, match=f"--port {port}"):
            live.server(live.Page(), int(port))


@pytest.fixture
def runs(cell_table: Callable[..., pd.DataFrame], tmp_path: Path) -> Path:
    """The directory of a sweep's runs, none of which has begun, with one that has lines."""
    cells = cell_table(loop_counts=(1, 2)).query("panel == 'b'")
    rows = cells.drop(columns=["sweep", "experiment", "preset", "state", "val_loss", "step", "reason"])
    Sweep("mine", "lr_transfer", "quick", tuple(rows.to_dict("records"))).save(tmp_path / "sweeps")
    for run_id in cells["run_id"]:
        (tmp_path / "runs" / run_id).mkdir(parents=True)
    lines = [json.dumps({"step": step, "loss": 5.0, "grad_norm": 1.0, "base_lr": 1e-3}) for step in range(10)]
    (tmp_path / "runs" / cells["run_id"].iloc[0] / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "runs"


def test_a_sweep_is_drawn_again_only_when_a_run_has_got_on(runs: Path) -> None:
    first = live.progress(runs, None, "mine")
    assert live.progress(runs, None, "mine") == first
    with next(runs.glob("*/metrics.jsonl")).open("a") as lines:
        lines.write('{"step": 10, "loss": 4.9}\n')
    assert live.progress(runs, None, "mine") != first


def test_the_page_of_a_sweep_has_its_curves_before_any_run_is_done(runs: Path, tmp_path: Path) -> None:
    assert report.main(["--runs", str(runs), "--sweep", "mine", "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    [curves] = re.findall(r"<figcaption>Curves of the runs.*?</figure>", page, flags=re.DOTALL)
    assert "<svg" in curves
    assert "connect-src 'self'" in page
    assert page.count("<section id=") == 2  # the claims and this sweep
    shutil.rmtree(runs)
    assert report.main(["--runs", str(runs), "--sweep", "other", "--out", str(tmp_path / "out")]) == 2
