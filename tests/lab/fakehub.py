"""A stand-in for the Hugging Face hub on loopback, for the real client: repositories, commits, files, faults on wish.

    hub = FakeHub(); hub.start()
    commit = hub.commit("model", "org/tiny", {"config.json": b"{}", "model.safetensors": b"…"})
    hub.faults.append(Fault("resolve", status=503, times=2))
    os.environ["HF_ENDPOINT"] = hub.url

It answers what reading needs: repository facts, trees, refs, files with ranges; and what writing needs, in
`fakehub_write`: new repositories and branches, large files, commits. Only `writers` may write. Files of `lfs_from`
bytes and all weights are large ones with a SHA-256; others have git's hash. HF_ENDPOINT is read when
`huggingface_hub` is imported.
"""

import hashlib
import json
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from fakehub_write import Writes

WEIGHTS = (".safetensors", ".bin", ".parquet", ".pt")
_REPO = r"(?P<repo>[\w.-]+(?:/[\w.-]+)?)"
_RESOLVE = re.compile(rf"/(?P<kind>datasets/)?{_REPO}/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_API = re.compile(rf"/api/(?P<kind>models|datasets)/{_REPO}(?:/(?P<what>revision|tree|refs)(?:/(?P<revision>[^/]+))?)?")


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose `METHOD /path` contains `where`."""

    where: str
    status: int = 0
    """An answer of this status; 0: none."""
    cut_after: int | None = None
    """The connection ends after so many bytes of the body."""
    wait_s: float = 0.0
    """Before every 64 kB of the body."""
    times: int = 1
    message: str = "out of order"
    retry_after: int | None = None


@dataclass
class Repo:
    """Commits by their hash, and what branches and tags mean."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False


class FakeHub:
    """Serves `repos` from a thread until `stop`; counts requests in `seen` by `METHOD path`."""

    def __init__(self, *, lfs_from: int = 10_000) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.faults: list[Fault] = []
        self.seen: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        """Bytes of bodies by file."""
        self.tokens: set[str] = set()
        """Accepted; gated and private repositories want one."""
        self.writers: dict[str, str] = {}
        """User by token; they may also read."""
        self.stored: dict[str, bytes] = {}
        """Large files that were put, by their SHA-256."""
        self.spoilt: set[str] = set()
        """Files that come back with another content than the tree says."""
        self.lfs_from = lfs_from
        self.lock = threading.Lock()

    def start(self) -> None:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def commit(self, kind: str, repo: str, files: dict[str, bytes], *, branch: str = "main") -> str:
        """Replace a branch's files; returns the commit."""
        there = self.repos.setdefault((kind, repo), Repo())
        told = json.dumps([there.refs.get(branch), sorted((name, git_sha1(data)) for name, data in files.items())])
        commit = hashlib.sha1(told.encode()).hexdigest()
        there.commits[commit] = dict(files)
        there.refs[branch] = commit
        return commit

    def environment(self, home: Any) -> dict[str, str]:
        """Variables that lead the hub's client here, with a cache of its own and no token of this machine."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_ETAG_TIMEOUT": "5",
        }


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(Writes, BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are written apart: each answer would take 40 ms
    hub: FakeHub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        fault = self._fault(f"{self.command} {path}")
        if fault is not None and fault.status:
            return self._refuse_by(fault)
        if path == "/api/whoami-v2":
            return self._who()
        if path in ("/api/models", "/api/datasets"):
            return self._list(path.removeprefix("/api/").rstrip("s"), parse_qs(parts.query))
        if found := _RESOLVE.fullmatch(path):
            return self._file(found, fault)
        if found := _API.fullmatch(path):
            return self._facts(found)
        return self._refuse(404, f"no such page: {path}")

    def _fault(self, where: str) -> Fault | None:
        with self.hub.lock:
            self.hub.seen[where] += 1
            fault = next((one for one in self.hub.faults if one.times > 0 and one.where in where), None)
            if fault is not None:
                fault.times -= 1
        return fault

    def _refuse_by(self, fault: Fault) -> None:
        extra = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
        self._refuse(fault.status, fault.message, **extra)

    def _list(self, kind: str, query: dict[str, list[str]]) -> None:
        author = query.get("author", [""])[0]
        ids = [repo for at, repo in self.hub.repos if at == kind and repo.startswith(f"{author}/")]
        self._say([{"_id": "0", "id": repo, "modelId": repo} for repo in ids])

    def _repo(self, kind: str, name: str) -> Repo | None:
        """The repository; None after a refusal has been sent."""
        repo = self.hub.repos.get((kind, name))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens and token not in self.hub.writers:
            self._refuse(401, "Invalid credentials in Authorization header")
        elif repo is None or (repo.private and not token):
            self._refuse(404, "Repository not found", **{"X-Error-Code": "RepoNotFound"})
        elif repo.gated and not token and "/resolve/" in self.path:
            self._refuse(401, "Access is restricted", **{"X-Error-Code": "GatedRepo"})
        else:
            return repo
        return None

    def _facts(self, found: re.Match[str]) -> None:
        repo = self._repo(found["kind"].rstrip("s"), found["repo"])
        if repo is None:
            return None
        if found["what"] == "refs":
            refs = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": at} for name, at in repo.refs.items()]
            return self._say({"branches": refs, "converts": [], "tags": []})
        commit = self._commit(repo, found["revision"] or "main")
        if commit is None:
            return None
        entries = [self._entry(name, data) for name, data in sorted(repo.commits[commit].items())]
        if found["what"] == "tree":
            return self._say(entries)
        facts = {"_id": "0", "id": found["repo"], "sha": commit, "private": repo.private, "tags": [], "downloads": 0}
        return self._say({**facts, "likes": 0, "siblings": [{"rfilename": entry["path"]} for entry in entries]})

    def _commit(self, repo: Repo, revision: str) -> str | None:
        commit = repo.refs.get(revision, revision if revision in repo.commits else None)
        if commit is None:
            self._refuse(404, f"Invalid rev id: {revision}", **{"X-Error-Code": "RevisionNotFound"})
        return commit

    def _entry(self, name: str, data: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": git_sha1(data)}
        if self._is_large(name, data):
            oid = hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"oid": oid, "sha256": oid, "size": len(data), "pointerSize": 134}
        return entry

    def _is_large(self, name: str, data: bytes) -> bool:
        return name.endswith(WEIGHTS) or len(data) >= self.hub.lfs_from

    def _file(self, found: re.Match[str], fault: Fault | None) -> None:
        repo = self._repo("dataset" if found["kind"] else "model", found["repo"])
        commit = None if repo is None else self._commit(repo, found["revision"])
        if repo is None or commit is None:
            return None
        data = repo.commits[commit].get(found["file"])
        if data is None:
            return self._refuse(404, "Entry not found", **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        large = self._is_large(found["file"], data)
        if found["file"] in self.hub.spoilt:
            data = bytes([data[0] ^ 1]) + data[1:]
        etag = hashlib.sha256(data).hexdigest() if large else git_sha1(data)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if large:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
        start = 0
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start = int(asked[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return self._send(206 if start else 200, data[start:], headers, found["file"], fault)

    def _send(self, status: int, body: bytes, headers: dict[str, str], name: str, fault: Fault | None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), "Content-Type": "application/octet-stream"}.items():
            self.send_header(key, value)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        end = len(body) if fault is None or fault.cut_after is None else fault.cut_after
        for at in range(0, min(end, len(body)), 65_536):
            if fault is not None and fault.wait_s:
                time.sleep(fault.wait_s)
            chunk = body[at : min(at + 65_536, end)]
            try:
                self.wfile.write(chunk)
                self.wfile.flush()
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
                return
            with self.hub.lock:
                self.hub.sent[name] += len(chunk)
        if end < len(body):
            self.close_connection = True

    def _say(self, value: Any) -> None:
        self._answer(200, value, {})

    def _refuse(self, status: int, message: str, **headers: str) -> None:
        self._answer(status, {"error": message}, {"X-Error-Message": message, **headers})

    def _answer(self, status: int, value: Any, headers: dict[str, str]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for key, text in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
