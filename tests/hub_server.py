"""A stand-in of the Hub on the loopback: repositories with commits, branches, tags, pull requests and large files.

It speaks the endpoints that huggingface_hub 2.4 calls (without Xet), keeps contents on disk, knows tokens and private
repositories, notes every request, and fails on demand.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LFS_ENDINGS = (".safetensors", ".bin", ".pt", ".npz")
REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
PIPELINE_TAGS = ("feature-extraction", "sentence-similarity")
FRONT_MATTER = re.compile(r"^---\n(.*?)\n---\n", re.DOTALL)


@dataclass(frozen=True)
class File:
    """A file of a commit; its content lies in the store under its SHA-256."""

    sha256: str
    git_oid: str
    size: int
    large: bool

    @property
    def etag(self) -> str:
        """What the Hub calls the version of a file."""
        return self.sha256 if self.large else self.git_oid


@dataclass
class Repo:
    """A repository: commits, each with all its files, and what points at them."""

    owner: str
    private: bool
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, File], ref: str, message: str) -> str:
        """Add a commit."""
        oid = hashlib.sha1(f"{len(self.commits)} {message} {sorted(files.items())}".encode()).hexdigest()
        self.commits[oid], self.refs[ref], self.messages[oid] = files, oid, message
        return oid

    def resolve(self, revision: str) -> str | None:
        """Return the commit of a branch, tag, pull request or commit."""
        for ref in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if ref in self.refs:
                return self.refs[ref]
        return revision if revision in self.commits else None


@dataclass(frozen=True)
class Request:
    """What a client asked, and what it was answered."""

    method: str
    path: str
    status: int
    range: str | None
    authorized: bool


@dataclass
class Fault:
    """What goes wrong.

    Args:
        method: Of the request.
        pattern: Found in its path.
        status: Answered instead, with this message; None drops the connection.
        after: Bytes that pass before the connection drops.
        times: How often.
    """

    method: str
    pattern: str
    status: int | None = None
    after: int = 0
    times: int = 1


class HubError(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, code: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status, self.code, self.body = status, code, {"error": message, **more}


class Hub:
    """The state of the stand-in.

    Args:
        folder: Where contents are kept.
        tokens: User of each token; those of users that begin with "reader" may not write.
    """

    def __init__(self, folder: Path, tokens: dict[str, str]) -> None:
        self.folder = folder
        self.tokens = tokens
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.after_request: Callable[[Request], None] | None = None
        self.lock = threading.RLock()
        self.url = self.cdn = ""

    # --- contents ---------------------------------------------------------------------------------------------------

    def stored(self, sha256: str) -> Path:
        """Where a content lies, or would."""
        return self.folder / sha256

    def store(self, content: bytes, large: bool) -> File:
        """Keep a content."""
        sha256 = hashlib.sha256(content).hexdigest()
        self.stored(sha256).write_bytes(content)
        return File(sha256, hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(), len(content), large)

    def add(self, name: str, folder: Path, private: bool = False, message: str = "a commit") -> str:
        """Make a commit of a folder by the back door, and return it."""
        repo = self.repos.setdefault(name, Repo(name.split("/")[0], private))
        files = {
            path.relative_to(folder).as_posix(): self.store(path.read_bytes(), path.suffix in LFS_ENDINGS)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        return repo.commit(files, "refs/heads/main", message)

    def names(self, name: str, revision: str = "main") -> list[str]:
        """The files of a revision."""
        repo = self.repos[name]
        return sorted(repo.commits[repo.resolve(revision) or ""])

    def text(self, name: str, path: str, revision: str = "main") -> str:
        """The content of a file."""
        repo = self.repos[name]
        return self.stored(repo.commits[repo.resolve(revision) or ""][path].sha256).read_text()

    def found(self, method: str, pattern: str) -> list[Request]:
        """The requests of a kind."""
        return [asked for asked in self.requests if asked.method == method and re.search(pattern, asked.path)]

    # --- who may what -----------------------------------------------------------------------------------------------

    def user(self, header: str | None) -> str | None:
        """The user of an authorization header; none without one."""
        if header is None:
            return None
        user = self.tokens.get(header.removeprefix("Bearer "))
        if user is None:
            raise HubError(401, "", "Invalid credentials in Authorization header")
        return user

    def repo(self, name: str, user: str | None, write: bool = False) -> Repo:
        """A repository that a user may read, or write."""
        repo = self.repos.get(name)
        if repo is None or (repo.private and user is None):
            raise HubError(401 if user is None else 404, "RepoNotFound", "Repository not found")
        if repo.private and user.removeprefix("reader of ") != repo.owner:  # type: ignore[union-attr]
            raise HubError(404, "RepoNotFound", "Repository not found")
        if write and user != repo.owner:
            raise HubError(403, "", f"You don't have the rights to write to {name}")
        return repo

    @staticmethod
    def revision(repo: Repo, revision: str) -> str:
        """The commit of a revision."""
        oid = repo.resolve(revision)
        if oid is None:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return oid


class Handler(BaseHTTPRequestHandler):
    """Answers requests."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    ROUTES: tuple[tuple[str, str, str], ...] = (
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("GET", r"/api/whoami-v2", "whoami"),
        ("GET", rf"/api/models/{REPO}/refs", "refs"),
        ("GET", rf"/api/models/{REPO}(/revision/(?P<rev>[^/]+))?", "info"),
        ("GET", rf"/api/models/{REPO}/tree/(?P<rev>[^/]+)(?P<path>/.*)?", "tree"),
        ("POST", rf"/api/models/{REPO}/preupload/(?P<rev>[^/]+)", "preupload"),
        ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
        ("PUT", r"/lfs/(?P<sha256>\w+)", "lfs_put"),
        ("POST", r"/lfs/verify", "lfs_verify"),
        ("POST", rf"/api/models/{REPO}/commit/(?P<rev>[^/]+)", "commit"),
        ("POST", rf"/api/models/{REPO}/tag/(?P<rev>[^/]+)", "tag"),
        ("POST", rf"/api/models/{REPO}/branch/(?P<rev>[^/]+)", "branch"),
        ("HEAD", rf"/{REPO}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", "resolve"),
        ("GET", rf"/{REPO}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", "resolve"),
        ("GET", r"/cdn/(?P<sha256>\w+)", "cdn"),
    )

    def handle_any(self) -> None:
        """Answer a request, and note it."""
        self.status, self.drop_after = 0, None
        parts = urlsplit(self.path)
        try:
            fault = self._fault()
            if fault is not None and fault.status is not None:
                self._read()
                raise HubError(fault.status, "", "the stand-in was told to fail")
            if fault is not None:
                if self.command == "PUT":
                    self.rfile.read(min(fault.after, int(self.headers["Content-Length"])))
                    self._hang_up()
                    return
                self.drop_after = fault.after
            for method, pattern, name in self.ROUTES:
                match = re.fullmatch(pattern, parts.path)
                if method == self.command and match:
                    groups = {key: unquote(value) for key, value in match.groupdict().items() if value}
                    with self.hub.lock:
                        user = None if name in ("cdn", "lfs_put") else self.hub.user(self.headers.get("Authorization"))
                        getattr(self, f"on_{name}")(user, parse_qs(parts.query), **groups)
                    return
            raise HubError(404, "", f"the stand-in does not know {self.command} {parts.path}")
        except HubError as error:
            headers = {"X-Error-Code": error.code} if error.code else {}
            self._send(error.status, error.body, {**headers, "X-Error-Message": str(error)})
        finally:
            authorized = "Authorization" in self.headers
            asked = Request(self.command, unquote(parts.path), self.status, self.headers.get("Range"), authorized)
            with self.hub.lock:
                self.hub.requests.append(asked)
                if self.hub.after_request is not None:
                    self.hub.after_request(asked)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def _fault(self) -> Fault | None:
        with self.hub.lock:
            for fault in self.hub.faults:
                if fault.times and fault.method == self.command and re.search(fault.pattern, unquote(self.path)):
                    fault.times -= 1
                    return fault
        return None

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _read(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _json(self) -> Any:
        return json.loads(self._read())

    def _send(
        self, status: int, body: Any = b"", headers: dict[str, str] | None = None, length: int | None = None
    ) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.status = status
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if not isinstance(body, bytes):
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.drop_after is not None:
            self.wfile.write(content[: self.drop_after])
            self.wfile.flush()
            self._hang_up()
            return
        self.wfile.write(content)

    # --- repositories -----------------------------------------------------------------------------------------------

    def on_create(self, user: str | None, query: Any) -> None:
        asked = self._json()
        owner = asked["organization"] or user
        name = f"{owner}/{asked['name']}"
        if user is None:
            raise HubError(401, "", "Invalid username or password.")
        if user != owner:
            raise HubError(403, "", f"You don't have the rights to create a model under the namespace {owner!r}")
        url = f"{self.hub.url}/{name}"
        if name in self.hub.repos:
            raise HubError(409, "", "You already created this model repo", url=url)
        repo = self.hub.repos[name] = Repo(owner, asked.get("visibility") == "private")
        repo.commit(
            {".gitattributes": self.hub.store(b"*.safetensors filter=lfs\n", False)}, "refs/heads/main", "first"
        )
        self._send(200, {"url": url, "name": name})

    def on_validate(self, user: str | None, query: Any) -> None:
        errors = card_errors(self._json()["content"])
        self._send(400 if errors else 200, {"errors": [{"message": error} for error in errors], "warnings": []})

    def on_whoami(self, user: str | None, query: Any) -> None:
        if user is None:
            raise HubError(401, "", "Invalid username or password.")
        self._send(200, {"type": "user", "name": user, "orgs": []})

    def on_info(self, user: str | None, query: Any, repo: str, rev: str = "main") -> None:
        found = self.hub.repo(repo, user)
        oid = self.hub.revision(found, rev)
        siblings = [{"rfilename": name} for name in sorted(found.commits[oid])]
        self._send(200, {"id": repo, "sha": oid, "private": found.private, "siblings": siblings, "tags": []})

    def on_refs(self, user: str | None, query: Any, repo: str) -> None:
        found = self.hub.repo(repo, user)
        kinds = {"branches": "refs/heads/", "tags": "refs/tags/", "pullRequests": "refs/pr/"}
        self._send(
            200,
            {
                kind: [
                    {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": oid}
                    for ref, oid in found.refs.items()
                    if ref.startswith(prefix)
                ]
                for kind, prefix in kinds.items()
            }
            | {"converts": []},
        )

    def on_tree(self, user: str | None, query: Any, repo: str, rev: str, path: str = "/") -> None:
        found = self.hub.repo(repo, user)
        oid = self.hub.revision(found, rev)
        entries = []
        for name, file in sorted(found.commits[oid].items()):
            if not f"/{name}".startswith(path):
                continue
            entry: dict[str, Any] = {"type": "file", "path": name, "size": file.size, "oid": file.git_oid}
            if file.large:
                entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 134}
            entries.append(entry)
        self._send(200, entries)

    # --- upload -----------------------------------------------------------------------------------------------------

    def on_preupload(self, user: str | None, query: Any, repo: str, rev: str) -> None:
        found = self.hub.repo(repo, user, write="create_pr" not in query)
        files = found.commits[self.hub.revision(found, rev)]
        answers = []
        for entry in self._json()["files"]:
            large = entry["path"].endswith(LFS_ENDINGS) or entry["size"] > 10_000_000
            old = files.get(entry["path"])
            answers.append(
                {
                    "path": entry["path"],
                    "uploadMode": "lfs" if large else "regular",
                    "shouldIgnore": False,
                    "oid": None if old is None else old.etag,
                }
            )
        self._send(200, {"files": answers})

    def on_lfs_batch(self, user: str | None, query: Any, repo: str) -> None:
        self.hub.repo(repo, user)
        objects = []
        for entry in self._json()["objects"]:
            known: dict[str, Any] = {"oid": entry["oid"], "size": entry["size"]}
            if not self.hub.stored(entry["oid"]).exists():
                upload = {"href": f"{self.hub.url}/lfs/{entry['oid']}", "header": {}}
                known["actions"] = {"upload": upload, "verify": {"href": f"{self.hub.url}/lfs/verify"}}
            objects.append(known)
        self._send(200, {"transfer": "basic", "objects": objects})

    def on_lfs_put(self, user: str | None, query: Any, sha256: str) -> None:
        content = self._read()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise HubError(400, "", "the content is not what was announced")
        self.hub.store(content, True)
        self._send(200)

    def on_lfs_verify(self, user: str | None, query: Any) -> None:
        asked = self._json()
        path = self.hub.stored(asked["oid"])
        if not path.exists() or path.stat().st_size != asked["size"]:
            raise HubError(404, "", "the object was not uploaded")
        self._send(200, {})

    def on_commit(self, user: str | None, query: Any, repo: str, rev: str) -> None:
        is_pull_request = "create_pr" in query
        found = self.hub.repo(repo, user, write=not is_pull_request)
        lines = [json.loads(line) for line in self._read().splitlines()]
        files = dict(found.commits[self.hub.revision(found, rev)])
        for entry in lines[1:]:
            value, key = entry["value"], entry["key"]
            if key == "file":
                files[value["path"]] = self.hub.store(base64.b64decode(value["content"]), False)
            elif key == "lfsFile":
                content = self.hub.stored(value["oid"])
                if not content.exists():
                    raise HubError(400, "", f"{value['path']}: the object was not uploaded")
                files[value["path"]] = self.hub.store(content.read_bytes(), True)
            elif key == "deletedFile":
                del files[value["path"]]
        number = 1 + sum(ref.startswith("refs/pr/") for ref in found.refs)
        ref = f"refs/pr/{number}" if is_pull_request else rev if rev.startswith("refs/") else f"refs/heads/{rev}"
        oid = found.commit(files, ref, lines[0]["value"]["summary"])
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{repo}/commit/{oid}"}
        if is_pull_request:
            answer["pullRequestUrl"] = f"{self.hub.url}/{repo}/discussions/{number}"
        self._send(200, answer)

    def on_tag(self, user: str | None, query: Any, repo: str, rev: str) -> None:
        found = self.hub.repo(repo, user, write=True)
        oid, tag = self.hub.revision(found, rev), f"refs/tags/{self._json()['tag']}"
        if tag in found.refs:
            raise HubError(409, "", "Tag reference exists already")
        found.refs[tag] = oid
        self._send(200, {})

    def on_branch(self, user: str | None, query: Any, repo: str, rev: str) -> None:
        found = self.hub.repo(repo, user, write=True)
        self._read()
        if f"refs/heads/{rev}" in found.refs:
            raise HubError(409, "", "Reference already exists")
        found.refs[f"refs/heads/{rev}"] = found.refs["refs/heads/main"]
        self._send(200, {})

    # --- download ---------------------------------------------------------------------------------------------------

    def on_resolve(self, user: str | None, query: Any, repo: str, rev: str, path: str) -> None:
        found = self.hub.repo(repo, user)
        oid = self.hub.revision(found, rev)
        headers = {"X-Repo-Commit": oid}
        file = found.commits[oid].get(path)
        if file is None:
            self._send(404, {"error": "Entry not found"}, {**headers, "X-Error-Code": "EntryNotFound"})
        elif file.large:
            linked = {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(file.size)}
            self._send(302, b"", {**headers, **linked, "Location": f"{self.hub.cdn}/cdn/{file.sha256}"})
        else:
            content = self.hub.stored(file.sha256).read_bytes()
            self._send(200, content, {**headers, "ETag": f'"{file.etag}"'}, length=len(content))

    def on_cdn(self, user: str | None, query: Any, sha256: str) -> None:
        content = self.hub.stored(sha256).read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked is None:
            self._send(200, content, {"Accept-Ranges": "bytes"})
            return
        start = int(asked[1])
        headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        self._send(206, content[start:], headers)


def card_errors(content: str) -> list[str]:
    """What the Hub would not accept in the metadata of a card."""
    match = FRONT_MATTER.match(content)
    try:
        data = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError as error:
        return [f"the metadata is not YAML: {error}"]
    if not isinstance(data, dict):
        return ["the metadata is not a mapping"]
    errors = [
        f"{key!r} must be a string" for key in ("license", "library_name") if not isinstance(data.get(key, ""), str)
    ]
    errors += [f"{key!r} must be a list" for key in ("tags", "datasets") if not isinstance(data.get(key, []), list)]
    if data.get("pipeline_tag", PIPELINE_TAGS[0]) not in PIPELINE_TAGS:
        errors.append(f"'pipeline_tag' {data['pipeline_tag']!r} is unknown")
    base = data.get("base_model", [])
    ids = [base] if isinstance(base, str) else base
    errors += [f"'base_model' {name!r} is no id" for name in ids if not re.fullmatch(r"[\w.-]+/[\w.-]+", name)]
    return errors


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that clients drop are no news."""


@contextmanager
def serving(folder: Path, tokens: dict[str, str]) -> Iterator[Hub]:
    """Serve a stand-in of the Hub while the block runs."""
    folder.mkdir(parents=True, exist_ok=True)
    hub = Hub(folder, tokens)
    server = _Server(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    # Another host to the client, to which no token may go.
    hub.cdn = f"http://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
