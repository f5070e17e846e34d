"""A local server that answers what an upload asks of the Hub: repositories, branches, large files, commits, hashes."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".onnx", ".bin")


@dataclass
class Hub:
    """What the server has.

    commits  "name/repository@branch" → the files of each commit
    large    sha256 → content, and `uploads`: what was sent, in order
    hold     keeps every upload but the first waiting; `spoil` makes a commit store other bytes
    """

    url: str = ""
    token: str = "hf_test"
    private: dict[str, bool] = field(default_factory=dict)
    commits: dict[str, list[dict[str, bytes]]] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    uploads: list[str] = field(default_factory=list)
    hold: threading.Event | None = None
    spoil: bool = False

    def files(self, place: str) -> dict[str, bytes]:
        """The files of the last commit."""
        made = self.commits.get(place, [])
        return made[-1] if made else {}


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A Hub with nothing in it, on a port of its own."""
    hub = Hub()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error, and what is printed here another test would find in its own output."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = b""
            while size := int(self._line(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _line(self) -> bytes:
        line = self.rfile.readline()
        if not line:
            raise ConnectionAbortedError("the client went away in the middle of a file")
        return line

    def _answer(self, value: Any, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _refused(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {self.hub.token}":
            return False
        self._answer({"error": "Invalid credentials in Authorization header"}, 401)
        return True

    def do_PUT(self) -> None:
        digest = self.path.rsplit("/", 1)[-1]
        content = self._body()
        if self.hub.hold is not None and self.hub.uploads:
            self.hub.hold.wait(30)
        self.hub.uploads.append(digest)
        self.hub.large[digest] = content
        self._answer({})

    def do_GET(self) -> None:
        if self._refused():
            return
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        # api/models/name/repository/tree/branch
        files = self.hub.files(f"{parts[2]}/{parts[3]}@{parts[5]}")
        self._answer([{"type": "file", "path": name, "size": len(c), "oid": "0" * 40} for name, c in files.items()])

    def do_POST(self) -> None:
        body = self._body()
        if self._refused():
            return
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        match parts:
            case ["api", "repos", "create"]:
                self._create(json.loads(body))
            case ["api", "validate-yaml"]:
                self._answer({"warnings": [], "errors": []})
            case ["api", "models", name, repository, action, where]:
                getattr(self, f"_{action.replace('-', '_')}")(f"{name}/{repository}", where, body)
            case [*_, "info", "lfs", "objects", "batch"]:
                self._batch(json.loads(body))
            case _:
                self._answer({"error": f"nothing at {self.path}"}, 404)

    def _create(self, body: dict[str, Any]) -> None:
        repo_id = f"{body['organization']}/{body['name']}"
        known = repo_id in self.hub.private
        self.hub.private.setdefault(repo_id, body.get("private") or body.get("visibility") == "private")
        self._answer({"url": f"{self.hub.url}/{repo_id}"}, 409 if known else 200)

    def _branch(self, repo_id: str, branch: str, body: bytes) -> None:
        self.hub.commits.setdefault(f"{repo_id}@{branch}", [])
        self._answer({})

    def _preupload(self, repo_id: str, branch: str, body: bytes) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for file in json.loads(body)["files"]
        ]
        self._answer({"files": files})

    def _batch(self, body: dict[str, Any]) -> None:
        objects = []
        for item in body["objects"]:
            if item["oid"] not in self.hub.large:
                upload = {"upload": {"href": f"{self.hub.url}/large/{item['oid']}", "header": {}}}
                objects.append({**item, "actions": upload})
            else:
                objects.append(item)
        self._answer({"transfer": "basic", "objects": objects})

    def _commit(self, repo_id: str, branch: str, body: bytes) -> None:
        place = f"{repo_id}@{branch}"
        files = dict(self.hub.files(place))
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                content = self.hub.large[value["oid"]]
                files[value["path"]] = b"#" + content[1:] if self.hub.spoil else content
        made = self.hub.commits.setdefault(place, [])
        made.append(files)
        oid = hashlib.sha1(f"{place}{len(made)}".encode()).hexdigest()
        self.hub.commits[f"{repo_id}@{oid}"] = [files]
        self._answer({"commitUrl": f"{self.hub.url}/{repo_id}/commit/{oid}", "commitOid": oid})

    def _paths_info(self, repo_id: str, where: str, body: bytes) -> None:
        files = self.hub.files(f"{repo_id}@{where}")
        wanted = json.loads(body)["paths"] if body.startswith(b"{") else _form_values(body)
        self._answer([self._entry(name, files[name]) for name in wanted if name in files])

    def _entry(self, name: str, content: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
        if name.endswith(LARGE):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return entry


def _form_values(body: bytes) -> list[str]:
    from urllib.parse import parse_qs

    return parse_qs(body.decode())["paths"]
