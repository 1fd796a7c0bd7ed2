"""A stand-in for the Hub's HTTP interface on loopback, for tests that upload with the real client.

It speaks what huggingface_hub's client asks: create a repository, its info, pre-upload, git-LFS batch and upload,
commit (https://huggingface.co/docs/hub/api and git-lfs' batch API). It keeps files in memory.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LFS_NAMES = re.compile(r"\.(zip|safetensors|bin|gguf)$")  # files that the Hub's .gitattributes stores in LFS


class HubStandIn:
    """The state of the stand-in: repositories, uploads, and faults to simulate."""

    def __init__(self) -> None:
        self.repos: dict[str, dict] = {}  # name -> {"private", "files": path -> content or LFS oid}
        self.objects: dict[str, bytes] = {}  # LFS contents by SHA-256
        self.sent: list[str] = []  # paths and oids that arrived, in order
        self.tokens: set[str] = set()
        self.asked: list[str] = []  # method and path of every request
        self.refuse, self.headers = 0, {}  # HTTP status for every request (0: none), and its headers
        self.drop_uploads = False  # close the connection in the middle of an upload
        self.url = ""


@contextlib.contextmanager
def serve():
    """Yield a running stand-in; its `url` is the value for HF_ENDPOINT."""
    hub = HubStandIn()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _make_handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _blob_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _make_handler(hub: HubStandIn):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def reply(self, status: int, value: object = None) -> None:
            body = b"" if self.command == "HEAD" else json.dumps(value if value is not None else {}).encode()
            self.send_response(status)
            for header in hub.headers.items():
                self.send_header(*header)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                parts = []
                while size := int(self.rfile.readline().strip() or b"0", 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def handle_request(self) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            if token := self.headers.get("Authorization"):
                hub.tokens.add(token.removeprefix("Bearer "))
            if hub.drop_uploads and self.command == "PUT":
                self.rfile.read(10)
                self.connection.close()
                return
            body = self.body()
            if hub.refuse:
                self.reply(hub.refuse, {"error": "refused"})
                return
            path = self.path.split("?")[0]
            if path == "/api/repos/create":
                self.create(json.loads(body))
            elif path == "/api/validate-yaml":
                self.reply(200, {"errors": [], "warnings": []})
            elif found := re.fullmatch(r"/api/(?:model|dataset)s/([^/]+/[^/]+)/preupload/main", path):
                self.preupload(found[1], json.loads(body))
            elif found := re.fullmatch(r"/api/(?:model|dataset)s/([^/]+/[^/]+)/commit/main", path):
                self.commit(found[1], body)
            elif found := re.fullmatch(r"/(?:datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
                self.batch(json.loads(body))
            elif found := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
                self.put_object(found[1], body)
            elif found := re.fullmatch(r"/api/(?:model|dataset)s/([^/]+/[^/]+)(?:/revision/main)?", path):
                self.info(found[1])
            else:
                self.reply(404, {"error": f"no such place: {self.command} {path}"})

        do_GET = do_POST = do_PUT = do_HEAD = handle_request

        def create(self, asked: dict) -> None:
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else f"me/{asked['name']}"
            if name in hub.repos:
                self.reply(409, {"error": "You already created this repo", "url": f"{hub.url}/{name}"})
                return
            hub.repos[name] = {"private": asked.get("private") or asked.get("visibility") == "private", "files": {}}
            self.reply(200, {"url": f"{hub.url}/{name}", "name": name, "id": name})

        def info(self, name: str) -> None:
            if name not in hub.repos:
                self.reply(404, {"error": "Repository not found"})
                return
            repo = hub.repos[name]
            self.reply(200, {"id": name, "modelId": name, "private": repo["private"], "sha": "0" * 40, "tags": [],
                             "siblings": [{"rfilename": path} for path in repo["files"]]})  # fmt: skip

        def preupload(self, name: str, asked: dict) -> None:
            kept = hub.repos[name]["files"]
            answers = []
            for file in asked["files"]:
                path = file["path"]
                oid = _blob_oid(kept[path]) if isinstance(kept.get(path), bytes) else None
                mode = "lfs" if LFS_NAMES.search(path) else "regular"
                answers.append(
                    {"path": path, "uploadMode": mode, "shouldIgnore": False} | ({"oid": oid} if oid else {})
                )
            self.reply(200, {"files": answers})

        def batch(self, asked: dict) -> None:
            objects = []
            for entry in asked["objects"]:
                entry = {"oid": entry["oid"], "size": entry["size"]}
                if entry["oid"] not in hub.objects:
                    entry["actions"] = {"upload": {"href": f"{hub.url}/lfs/{entry['oid']}"}}
                objects.append(entry)
            self.reply(200, {"transfer": "basic", "objects": objects})

        def put_object(self, oid: str, content: bytes) -> None:
            if hashlib.sha256(content).hexdigest() != oid:
                self.reply(400, {"error": "the content is not what its name says"})
                return
            hub.objects[oid] = content
            hub.sent.append(oid)
            self.reply(200)

        def commit(self, name: str, body: bytes) -> None:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    hub.repos[name]["files"][value["path"]] = base64.b64decode(value["content"])
                    hub.sent.append(value["path"])
                elif entry["key"] == "lfsFile":
                    assert value["oid"] in hub.objects
                    hub.repos[name]["files"][value["path"]] = value["oid"]
            self.reply(200, {"commitUrl": f"{hub.url}/{name}/commit/{'1' * 40}", "commitOid": "1" * 40,
                             "pullRequestUrl": None})  # fmt: skip

    return Handler
