"""A Hugging Face hub on localhost that keeps models in a directory."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0" * 40


class Hub(BaseHTTPRequestHandler):
    folder: Path

    def log_message(self, *_):
        pass

    def answer(self, content, status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.partition("?")[0].split("/")
        if path[-1] == "create":
            content = json.loads(body)
            owner = content.get("organization") or "me"
            self.answer({"url": f"http://{self.headers['Host']}/{owner}/{content['name']}"})
        elif path[-1] == "validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "preupload" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            regular = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            self.answer({"files": [{"path": name, **regular} for name in names]})
        else:
            model = self.folder / "/".join(path[3:5])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    file = model / line["value"]["path"]
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(base64.b64decode(line["value"]["content"]))
            self.answer(
                {
                    "commitUrl": f"http://{self.headers['Host']}/{path[3]}/{path[4]}/commit/{COMMIT}",
                    "commitOid": COMMIT,
                }
            )

    def do_GET(self):
        path = self.path.partition("?")[0].split("/")
        if path[1] == "api":
            model = self.folder / "/".join(path[3:5])
            if not model.is_dir():
                self.answer({"error": "no"}, 404, X_Error_Code="RepoNotFound")
                return
            files = {f.relative_to(model).as_posix(): f for f in model.rglob("*") if f.is_file()}
            if "tree" in path:
                sizes = {name: file.stat().st_size for name, file in files.items()}
                entry = {"type": "file", "oid": COMMIT}
                self.answer([{"path": n, "size": size, **entry} for n, size in sizes.items()])
                return
            siblings = [{"rfilename": name} for name in files]
            self.answer({"id": "/".join(path[3:5]), "sha": COMMIT, "siblings": siblings})
            return
        file = self.folder / "/".join(path[1:3]) / "/".join(path[5:])
        if not file.is_file():
            self.answer({"error": "no"}, 404, X_Error_Code="EntryNotFound")
            return
        content = file.read_bytes()
        self.answer(content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET  # noqa: N815


@contextmanager
def fake_hub(folder):
    """Yield the address of a hub with models `owner/name` in a directory."""
    handler = type("Handler", (Hub,), {"folder": Path(folder)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
