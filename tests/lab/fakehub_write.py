"""The writing half of `fakehub`: what the client asks for between `create_repo` and a commit."""

import base64
import hashlib
import json
import re
import time
from typing import Any
from urllib.parse import unquote, urlsplit

_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
_BATCH = re.compile(rf"/{_REPO}\.git/info/lfs/objects/batch")
_PUT = re.compile(r"/lfs/(?P<oid>[0-9a-f]{64})")
_ACT = re.compile(rf"/api/models/{_REPO}/(?P<what>preupload|commit|branch)/(?P<revision>.+)")


class Writes:
    """POST and PUT of the handler; `hub`, `_answer` and their like are the reading half's."""

    hub: Any

    def do_POST(self) -> None:  # noqa: N802 - the server calls it so
        path = unquote(urlsplit(self.path).path)
        body = self._body(path)
        if body is None:
            return None
        if path == "/api/validate-yaml":
            return self._say({"errors": [], "warnings": []})
        user = self._user()
        if user is None:
            return None
        if path == "/api/repos/create":
            return self._create(user, json.loads(body))
        if found := _BATCH.fullmatch(path):
            return self._batch(found["repo"], json.loads(body))
        found = _ACT.fullmatch(path)
        repo = self.hub.repos.get(("model", found["repo"])) if found else None
        if found is None or repo is None:
            return self._refuse(404, f"no such page: {path}", **{"X-Error-Code": "RepoNotFound"})
        act = {"preupload": self._preupload, "commit": self._commit_files, "branch": self._branch}[found["what"]]
        return act(repo, found, body)

    def do_PUT(self) -> None:  # noqa: N802
        """Signed storage: no token, but the content must be what its name says."""
        path = urlsplit(self.path).path
        body = self._body(path)
        found = _PUT.fullmatch(path)
        if body is None or found is None:
            return None
        if hashlib.sha256(body).hexdigest() != found["oid"]:
            return self._refuse(400, "sha256 mismatch")
        with self.hub.lock:
            self.hub.stored[found["oid"]] = body
            self.hub.sent[found["oid"]] += len(body)
        return self._answer(200, {}, {})

    def _body(self, path: str) -> bytes | None:
        """The request's body; None after a fault has been played."""
        fault = self._fault(f"{self.command} {path}")
        size = int(self.headers.get("Content-Length") or 0)
        if fault is not None and fault.cut_after is not None:
            self.rfile.read(min(fault.cut_after, size))
            self.close_connection = True
            self.connection.close()
            return None
        if fault is not None and fault.wait_s:
            time.sleep(fault.wait_s)
        body = self._chunked() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(size)
        if fault is not None and fault.status:
            self._refuse_by(fault)
            return None
        return body

    def _chunked(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _user(self) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token in self.hub.writers:
            return str(self.hub.writers[token])
        if token in self.hub.tokens:
            self._refuse(403, "You don't have the rights to write here")
        else:
            self._refuse(401, "Invalid username or password.")
        return None

    def _who(self) -> None:
        user = self._user()
        if user is not None:
            self._say({"type": "user", "name": user, "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def _create(self, user: str, asked: dict[str, Any]) -> None:
        name = f"{asked.get('organization') or user}/{asked['name']}"
        if not name.startswith(f"{user}/"):
            return self._refuse(403, "You don't have the rights to create a model under this namespace")
        url = f"{self.hub.url}/{name}"
        if ("model", name) in self.hub.repos:
            return self._answer(409, {"error": "You already created this model repo", "url": url}, {})
        self.hub.commit("model", name, {".gitattributes": b"*.safetensors filter=lfs\n"})
        self.hub.repos["model", name].private = bool(asked.get("private") or asked.get("visibility") == "private")
        return self._say({"url": url, "name": name, "id": name})

    def _branch(self, repo: Any, found: re.Match[str], _body: bytes) -> None:
        if found["revision"] in repo.refs:
            return self._refuse(409, "Reference already exists")
        repo.refs[found["revision"]] = repo.refs["main"]
        return self._say({})

    def _batch(self, _repo: str, asked: dict[str, Any]) -> None:
        told = []
        for one in asked["objects"]:
            oid = one["oid"]
            missing = oid not in self.hub.stored
            upload = {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{oid}"}}} if missing else {}
            told.append({"oid": oid, "size": one["size"], **upload})
        self._say({"transfer": "basic", "objects": told})

    def _preupload(self, repo: Any, found: re.Match[str], body: bytes) -> None:
        files = []
        for one in json.loads(body)["files"]:
            large = self._is_large(one["path"], b"x" * one["size"])
            mode = "lfs" if large else "regular"
            files.append({"path": one["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None})
        self._say({"files": files})

    def _commit_files(self, repo: Any, found: re.Match[str], body: bytes) -> None:
        with self.hub.lock:
            files = dict(repo.commits[repo.refs[found["revision"]]])
            for line in body.splitlines():
                action = json.loads(line)
                key, value = action["key"], action["value"]
                if key == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif key == "lfsFile":
                    if value["oid"] not in self.hub.stored:
                        return self._refuse(400, f"LFS object {value['oid']} was never uploaded")
                    files[value["path"]] = self.hub.stored[value["oid"]]
                elif key == "deletedFile":
                    files.pop(value["path"], None)
            commit = self.hub.commit("model", found["repo"], files, branch=found["revision"])
        url = f"{self.hub.url}/{found['repo']}/commit/{commit}"
        return self._say({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})
