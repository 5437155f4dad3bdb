"""A Hugging Face Hub on loopback that knows what `HfApi` asks to create and fill a repository."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub:
    """What it was asked and given. files: of each repository, by path; refuses: every commit."""

    def __init__(self) -> None:
        self.private: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.refuses = False
        self.url = ""


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A server that takes small files; its state."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, answer = _answer(hub, self.path.partition("?")[0], body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield hub
        server.shutdown()


def _answer(hub: Hub, path: str, body: bytes) -> tuple[int, Any]:
    if path == "/api/repos/create":
        asked = json.loads(body)
        repo = f"{asked['organization']}/{asked['name']}"
        hub.private.setdefault(repo, asked.get("visibility") == "private" or asked.get("private"))
        return 200, {"url": f"{hub.url}/{repo}"}
    if path == "/api/validate-yaml":
        return 200, {"errors": [], "warnings": []}
    repo, _, verb = path.removeprefix("/api/models/").rpartition("/main")[0].rpartition("/")
    if verb == "preupload":
        files = json.loads(body)["files"]
        modes = [
            {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files
        ]
        return 200, {"files": modes}
    if verb == "commit" and not hub.refuses:
        lines = [json.loads(line) for line in body.splitlines()]
        hub.files.setdefault(repo, {}).update(
            {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
        )
        return 200, {"commitUrl": f"{hub.url}/{repo}/commit/1", "commitOid": "1" * 40}
    return 403, {"error": "no write access"}
