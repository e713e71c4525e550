"""A hub on the loopback interface that speaks as much of the hub's HTTP API as pushing and pulling need, with repositories in memory."""

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_stub_token_that_may_write"
READER = "hf_stub_token_that_may_only_read"


@dataclass
class Repository:
    """Branches of commits, each a whole tree."""

    is_private: bool
    branches: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})
    commits: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"0" * 40: {".gitattributes": b"*.npy filter=lfs\n"}})

    def commit(self, branch: str, tree: dict[str, bytes]) -> str:
        digest = hashlib.sha1(repr((self.branches[branch], sorted(tree.items()))).encode()).hexdigest()
        self.commits[digest] = tree
        self.branches[branch] = digest
        return digest

    def resolve(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)


class StubHub:
    """The server; ``repositories`` by ("models" or "datasets", id)."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large_files: dict[str, bytes] = {}
        self.writes: list[str] = []
        """Paths of the requests that changed something."""
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def files(self, kind: str, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        repository = self.repositories[kind, repo_id]
        return repository.commits[repository.branches[revision]]

    def change(self, kind: str, repo_id: str, changes: dict[str, bytes | None]) -> None:
        """What somebody does to a repository by other means than lewm: None deletes."""
        tree = self.files(kind, repo_id) | changes
        self.repositories[kind, repo_id].commit("main", {name: content for name, content in tree.items() if content is not None})

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: StubHub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._read()

    def do_HEAD(self) -> None:
        self._read()

    def do_PUT(self) -> None:
        oid = self.path.rsplit("/", 1)[1]
        content = self._body()
        ok = hashlib.sha256(content).hexdigest() == oid
        self.hub.large_files |= {oid: content} if ok else {}
        self._json({}, 200 if ok else 400)

    def do_POST(self) -> None:
        body = self._body()
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts == ["api", "validate-yaml"]:
            return self._json({"errors": [], "warnings": []})
        if self.headers.get("Authorization") == f"Bearer {READER}":
            return self._json({"error": "You need write access"}, 403)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._json({"error": "Invalid credentials in Authorization header"}, 401)
        self.hub.writes.append(self.path)
        if parts == ["api", "repos", "create"]:
            return self._create(json.loads(body))
        if parts[-1] == "batch":
            return self._batch(json.loads(body))
        kind, repo_id, verb, revision = parts[1], "/".join(parts[2:4]), parts[4], parts[5]
        repository = self.hub.repositories.get((kind, repo_id))
        if repository is None:
            return self._missing("RepoNotFound")
        if verb == "preupload":
            modes = [(entry["path"], "lfs" if entry["path"].endswith((".npy", ".safetensors")) else "regular") for entry in json.loads(body)["files"]]
            return self._json({"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes]})
        if verb == "branch":
            repository.branches.setdefault(revision, repository.branches["main"])
            return self._json({}, 201)
        return self._commit(repository, revision, [json.loads(line) for line in body.splitlines()], self._url(kind, repo_id))

    def _create(self, request: dict[str, Any]) -> None:
        kind, repo_id = f"{request.get('type', 'model')}s", f"{request['organization']}/{request['name']}"
        url = self._url(kind, repo_id)
        if (kind, repo_id) in self.hub.repositories:
            return self._json({"error": "You already created this repo", "url": url}, 409)
        self.hub.repositories[kind, repo_id] = Repository(is_private=request.get("visibility") == "private" or bool(request.get("private")))
        return self._json({"url": url, "name": repo_id, "id": repo_id})

    def _batch(self, request: dict[str, Any]) -> None:
        objects = [
            entry | ({} if entry["oid"] in self.hub.large_files else {"actions": {"upload": {"href": f"{self.hub.endpoint}/lfs/{entry['oid']}"}}})
            for entry in request["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, repository: Repository, branch: str, lines: list[dict[str, Any]], url: str) -> None:
        tree = dict(repository.commits[repository.branches[branch]])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                tree[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                tree[value["path"]] = self.hub.large_files[value["oid"]]
            else:
                del tree[value["path"]]
        commit = repository.commit(branch, tree)
        self._json({"commitUrl": f"{url}/commit/{commit}", "commitOid": commit})

    def _read(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[0] == "api":
            kind, repo_id, rest = parts[1], "/".join(parts[2:4]), parts[4:]
        else:
            kind = "datasets" if parts[0] == "datasets" else "models"
            parts = parts[1:] if kind == "datasets" else parts
            repo_id, rest = "/".join(parts[:2]), parts[2:]
        repository = self.hub.repositories.get((kind, repo_id))
        if repository is None or (repository.is_private and self.headers.get("Authorization") is None):
            return self._missing("RepoNotFound")
        commit = repository.resolve(rest[1] if len(rest) > 1 else "main")
        if commit is None:
            return self._missing("RevisionNotFound")
        tree = repository.commits[commit]
        if not rest or rest[0] == "revision":
            siblings = [{"rfilename": name} for name in tree]
            return self._json({"id": repo_id, "modelId": repo_id, "sha": commit, "private": repository.is_private, "siblings": siblings, "tags": []})
        if rest[0] == "tree":
            return self._json([_tree_entry(name, content) for name, content in tree.items()])
        name = "/".join(rest[2:])
        if name not in tree:
            return self._missing("EntryNotFound")
        return self._send(tree[name], {"X-Repo-Commit": commit, "ETag": f'"{_tree_entry(name, tree[name])["oid"]}"'})

    def _url(self, kind: str, repo_id: str) -> str:
        return f"{self.hub.endpoint}/{'datasets/' if kind == 'datasets' else ''}{repo_id}"

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _missing(self, code: str) -> None:
        self._json({"error": code}, 404, {"X-Error-Code": code})

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), {"Content-Type": "application/json"} | (headers or {}), status)

    def _send(self, content: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _tree_entry(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
