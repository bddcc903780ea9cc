"""As much of a Hugging Face hub as huggingface_hub asks for when it downloads a repository and commits to one: files in memory, one commit a repository."""
import base64
import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub(BaseHTTPRequestHandler):
    """Repositories by their id, and which requests came."""

    repositories: dict
    asked: list

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append(("POST", self.path, self.headers.get("Authorization")))
        if self.path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given['organization']}/{given['name']}"
            self.repositories.setdefault(name, {})
            self._answer({"url": f"http://{self.headers['Host']}/{name}"})
        elif "/preupload/" in self.path:
            self._answer({"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]})
        elif "/commit/" in self.path:
            name = self.path.split("/commit/")[0].removeprefix("/api/models/")
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._answer({"commitUrl": f"http://{self.headers['Host']}/{name}/commit/{'a' * 40}", "commitOid": "a" * 40})
        else:
            self._answer({})

    def do_HEAD(self):
        self._send_file(with_body=False)

    def do_GET(self):
        self.asked.append(("GET", self.path, self.headers.get("Authorization")))
        if not self.path.startswith("/api/models/"):
            self._send_file(with_body=True)
            return
        name = self.path.removeprefix("/api/models/").split("/revision/")[0].split("?")[0]
        if name not in self.repositories:
            self._answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        else:
            self._answer({"id": name, "sha": "a" * 40, "siblings": [{"rfilename": path} for path in self.repositories[name]]})

    def log_message(self, *_):
        """Say nothing."""

    def _send_file(self, with_body):
        name, _, rest = self.path[1:].partition("/resolve/")
        path = rest.partition("/")[2]
        data = self.repositories.get(name, {}).get(path)
        if data is None:
            self._answer({}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        self._send(200, data if with_body else b"", {"X-Repo-Commit": "a" * 40, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}, len(data))

    def _answer(self, content, status=200, headers=None):
        data = json.dumps(content).encode()
        self._send(status, data, {"Content-Type": "application/json", **(headers or {})}, len(data))

    def _send(self, status, data, headers, length):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(data)


@contextlib.contextmanager
def hub(repositories):
    """Serve repositories, each a dict of contents by path; give the address and the class, which records what is asked."""
    handler = type("OwnHub", (Hub,), {"repositories": repositories, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", handler
        server.shutdown()
