"""The part of a wandb server that the real client needs to log runs and to read them back, in memory.

Runs arrive over GraphQL (their records) and the file stream (their rows). Files are uploaded to the server's addresses.
It can also fail as real servers do: not answer, refuse for a while, close connections.
"""

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

ENTITY = "somebody"


@dataclass
class StoredRun:
    """One run on the server. `rows` are the lines of its history, as JSON."""

    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    rows: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    state: str = "running"

    def history(self) -> list[dict[str, Any]]:
        return [json.loads(row) for row in self.rows]

    def upsert(self, variables: dict[str, Any]) -> None:
        self.fields |= {key: value for key, value in variables.items() if value is not None}
        self.config = json.loads(variables.get("config") or "{}")  # whole, as a client that resumes has read it before
        self.summary |= json.loads(variables.get("summaryMetrics") or "{}")

    def stream(self, body: dict[str, Any]) -> None:
        for name, chunk in (body.get("files") or {}).items():
            if name == "wandb-history.jsonl":
                self.rows[chunk["offset"] :] = chunk["content"]
            elif name == "wandb-summary.json":
                self.summary |= json.loads(chunk["content"][-1])
        if body.get("complete"):
            self.state = "finished" if body.get("exitcode") == 0 else "crashed"


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Ignore connections that killed clients break."""


class WandbServer:
    """A server on a free port.

    Attributes:
        runs: by project and run id.
        operations: GraphQL operations and other requests, in order.
        failing: answer every request with this HTTP status.
        refusals: number of requests to answer with 429.
        silent: accept connections and never answer.
    """

    def __init__(self) -> None:
        self.runs: dict[tuple[str, str], StoredRun] = {}
        self.operations: list[str] = []
        self.failing: int | None = None
        self.refusals = 0
        self.silent = False
        self.closing = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None: ...

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if server.silent:
                    server.closing.wait()
                    return
                status, content = server.respond(self.path, body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = answer  # noqa: N815

        self.http = _Http(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    @contextmanager
    def serving(self) -> Iterator["WandbServer"]:
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield self
        finally:
            self.stop()

    def stop(self) -> None:
        """Refuse connections from now on."""
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()

    def respond(self, path: str, body: bytes) -> tuple[int, bytes]:
        """HTTP status and content for a request."""
        if self.failing or self.refusals:
            self.refusals -= 1 if self.refusals else 0
            return self.failing or 429, b"{}"
        if path == "/graphql":
            request = json.loads(body)
            found = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
            operation = found[1] if found else ""
            self.operations.append(operation)
            if operation not in self.ANSWERS:
                return 200, json.dumps({"errors": [{"message": f"unknown operation {operation}"}]}).encode()
            return 200, json.dumps({"data": self.ANSWERS[operation](self, request.get("variables") or {})}).encode()
        self.operations.append(path)
        parts = [unquote(part) for part in path.split("/")]
        if parts[1] == "files" and parts[-1] == "file_stream":
            self.runs[parts[3], parts[4]].stream(json.loads(body))
            return 200, b"{}"
        if parts[1] == "storage":
            run, name = self.runs[parts[2], parts[3]], "/".join(parts[4:])
            if body:
                run.files[name] = body
            return 200, run.files[name]
        return 404, b"{}"

    # Requests of logging.

    def viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        return {
            "viewer": {
                "__typename": "User",
                "id": "1",
                "entity": ENTITY,
                "username": ENTITY,
                "flags": "{}",
                "teams": {"edges": []},
            }
        }

    def resume_status(self, variables: dict[str, Any]) -> dict[str, Any]:
        run, bucket = self.runs.get((variables["project"], variables["name"])), None
        if run is not None:
            bucket = {
                **self._bucket(run, variables),
                "summaryMetrics": json.dumps(run.summary),
                "logLineCount": 0,
                "eventsLineCount": 0,
                "historyTail": json.dumps(run.rows[-1:]),
                "eventsTail": "[]",
                "tags": run.fields.get("tags") or [],
                "wandbConfig": json.dumps({"t": 1}),
            }
        return {"model": {**self._project(variables), "bucket": bucket}}

    def upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        key = variables["project"], variables["name"]
        new = key not in self.runs
        run = self.runs.setdefault(key, StoredRun(variables["name"]))
        run.upsert(variables)
        return {"upsertBucket": {"bucket": self._bucket(run, variables), "inserted": new}}

    def create_files(self, variables: dict[str, Any]) -> dict[str, Any]:
        place = f"{self.url}/storage/{variables['project']}/{variables['run']}"
        files = [{"name": name, "uploadUrl": f"{place}/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}

    def _bucket(self, run: StoredRun, variables: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": run.name,
            "name": run.name,
            "displayName": run.fields.get("displayName"),
            "config": json.dumps(run.config),
            "project": self._project(variables),
            "historyLineCount": len(run.rows),
        }

    @staticmethod
    def _project(variables: dict[str, Any]) -> dict[str, Any]:
        return {"id": "1", "name": variables["project"], "entity": {"id": "1", "name": ENTITY}}

    # Requests of reading.

    def list_runs(self, variables: dict[str, Any]) -> dict[str, Any]:
        filters = json.loads(variables["filters"])
        assert filters.keys() <= {"jobType", "group", "name"}
        of_project = [run for (project, _), run in self.runs.items() if project == variables["project"]]
        found = [
            run
            for run in of_project
            if filters.get("jobType") in (None, run.fields.get("jobType"))
            and filters.get("group") in (None, run.fields.get("groupName"))
            and run.name in filters.get("name", {"$in": [run.name]})["$in"]
        ]
        edges = [{"node": self._node(run), "cursor": run.name} for run in found]
        page = {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}
        return {"project": {"internalId": "1", "runCount": len(found), "readOnly": False, "runs": page}}

    def history_keys(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"run": {"historyKeys": self._node(self._run(variables))["historyKeys"]}}}

    def history_page(self, variables: dict[str, Any]) -> dict[str, Any]:
        steps = range(int(variables["minStep"]), int(variables["maxStep"]))
        rows = [row for row in self._run(variables).rows if json.loads(row)["_step"] in steps]
        return {"project": {"run": {"history": rows}}}

    def no_parquet(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": []}}}}

    def list_files(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self._run(variables)
        nodes = [
            {"id": name, "name": name, "sizeBytes": str(len(run.files[name])), "url": url, "directUrl": url}
            for name in variables["fileNames"]
            for url in [f"{self.url}/storage/{variables['project']}/{run.name}/{name}"]
        ]
        page = {"edges": [{"node": n, "cursor": ""} for n in nodes], "pageInfo": {"hasNextPage": False}}
        return {"project": {"internalId": "1", "run": {"fileCount": len(nodes), "files": page}}}

    def _run(self, variables: dict[str, Any]) -> StoredRun:
        return self.runs[variables["project"], variables.get("run") or variables.get("runName") or variables["name"]]

    @staticmethod
    def _node(run: StoredRun) -> dict[str, Any]:
        fields = run.fields
        return {
            "id": run.name,
            "name": run.name,
            "displayName": fields.get("displayName"),
            "projectId": "1",
            "tags": fields.get("tags") or [],
            "state": run.state,
            "config": json.dumps(run.config),
            "summaryMetrics": json.dumps(run.summary),
            "group": fields.get("groupName"),
            "jobType": fields.get("jobType"),
            "createdAt": "2026-01-01T00:00:00Z",
            "historyLineCount": len(run.rows),
            "historyKeys": {"lastStep": max((row["_step"] for row in run.history()), default=-1)},
        }

    ANSWERS = {  # noqa: RUF012
        "Viewer": viewer,
        "ServerFeaturesQuery": lambda self, _: {"serverInfo": {"features": []}},
        "RunResumeStatus": resume_status,
        "UpsertBucket": upsert,
        "CreateRunFiles": create_files,
        "GetDefaultEntity": viewer,
        "Runs": list_runs,
        "RunHistoryKeys": history_keys,
        "RunParquetHistory": no_parquet,
        "HistoryPage": history_page,
        "RunFiles": list_files,
    }
