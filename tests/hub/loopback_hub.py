"""
A Hub on 127.0.0.1: the part of the HTTP interface of huggingface.co with which huggingface_hub publishes and loads
models.

Written against huggingface_hub 2.4. Regular files and LFS files are told apart as on the Hub, LFS files are uploaded
before the commit and downloaded by a redirect; Xet is not offered. What it holds is in memory.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LFS_SUFFIXES = (".safetensors", ".bin", ".onnx", ".png")
LICENSES = ("apache-2.0", "mit", "other", "unknown")


@dataclass(frozen=True)
class File:
    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        """What huggingface_hub compares to see whether a file has changed: SHA-256, or the id of the git blob."""
        if self.lfs:
            return self.sha256
        return hashlib.sha1(f"blob {len(self.content)}\0".encode() + self.content).hexdigest()

    def describe(self, path: str) -> dict:
        entry = {"type": "file", "path": path, "size": len(self.content), "oid": self.oid}
        return entry | (
            {"lfs": {"oid": self.sha256, "size": len(self.content), "pointerSize": 134}} if self.lfs else {}
        )


@dataclass
class Repository:
    private: bool
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, File], message: str) -> str:
        text = f"{len(self.commits)} {branch} {message} " + " ".join(files[path].oid for path in sorted(files))
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha] = files
        self.messages.append(message)
        self.branches[branch] = sha
        return sha


class Refusal(Exception):
    def __init__(self, status: int, message: str, code: str | None = None, **headers):
        self.status, self.message, self.headers = status, message, headers | ({"X-Error-Code": code} if code else {})


class LoopbackHub:
    """
    The server, for a `with` statement. `repositories` is what it holds, `requests` what it was asked, as
    `"METHOD /path"`.
    """

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.tokens: dict[str, dict] = {}
        self.lfs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.interrupt_next_download = False
        self.out_of_order = False
        self.lock = threading.RLock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        # As on the Hub, LFS files come from another host, which is not to be shown the token.
        self.storage = f"http://localhost:{self.server.server_port}/storage"

    def add_token(self, token: str, name: str, organizations=(), write: bool = True):
        self.tokens[token] = {"name": name, "organizations": list(organizations), "write": write}

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


ROUTES = []


def route(method: str, pattern: str):
    def register(function):
        ROUTES.append((method, re.compile(pattern + "$"), function))
        return function

    return register


REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"


class Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub

    def log_message(self, *_):
        pass

    def do_GET(self):
        url = urlsplit(self.path)
        self.query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        # A quoted slash is part of a revision, not of the path.
        path = url.path
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {path}")
        body = self.read_body()
        try:
            with self.hub.lock:
                if path.startswith("/storage/") and self.headers.get("Authorization"):
                    raise Refusal(400, "The token was sent to the storage")
                self.user = self.authenticate()
                for method, pattern, function in ROUTES:
                    match = pattern.match(path)
                    if match and method == ("GET" if self.command == "HEAD" else self.command):
                        arguments = {key: value and unquote(value) for key, value in match.groupdict().items()}
                        status, headers, content = function(self, body, **arguments)
                        break
                else:
                    raise Refusal(404, "Sorry, this loopback Hub has no such page.")
        except Refusal as refusal:
            status, content = refusal.status, json.dumps({"error": refusal.message}).encode()
            headers = {"X-Error-Message": refusal.message, "Content-Type": "application/json"} | refusal.headers
        self.respond(status, headers, content)

    do_HEAD = do_POST = do_PUT = do_GET

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while length := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(length)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def respond(self, status: int, headers: dict, content: bytes):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            if headers.get("X-Cut-Short"):
                content = content[: len(content) // 2]
            self.wfile.write(content)

    def authenticate(self) -> dict | None:
        authorization = self.headers.get("Authorization")
        if authorization is None:
            return None
        user = self.hub.tokens.get(authorization.removeprefix("Bearer "))
        if user is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return user

    def may_write(self, repo: str) -> bool:
        namespace = repo.split("/")[0]
        return bool(self.user and self.user["write"] and namespace in (self.user["name"], *self.user["organizations"]))

    def find(self, repo: str, write: bool = False) -> Repository:
        repository = self.hub.repositories.get(repo)
        namespace = repo.split("/")[0]
        member = self.user and namespace in (self.user["name"], *self.user["organizations"])
        if repository is None or (repository.private and not member):
            raise Refusal(404 if self.user else 401, "Repository not found", "RepoNotFound")
        if write and not self.may_write(repo):
            raise Refusal(403, "You do not have write access to this repository")
        return repository

    def sha_of(self, repository: Repository, revision: str) -> str:
        sha = repository.branches.get(revision, revision)
        if sha not in repository.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha

    @staticmethod
    def json(content, status: int = 200, **headers):
        return status, {"Content-Type": "application/json"} | headers, json.dumps(content).encode()

    @route("GET", "/api/whoami-v2")
    def whoami(self, body):
        if self.hub.out_of_order:
            raise Refusal(503, "The Hub is being repaired")
        if self.user is None:
            raise Refusal(401, "Invalid username or password.")
        organizations = [{"name": name} for name in self.user["organizations"]]
        return self.json({"type": "user", "name": self.user["name"], "orgs": organizations})

    @route("POST", "/api/repos/create")
    def create_repository(self, body):
        request = json.loads(body)
        if self.user is None:
            raise Refusal(401, "Invalid username or password.")
        repo = f"{request.get('organization') or self.user['name']}/{request['name']}"
        users = self.hub.tokens.values()
        if not any(repo.split("/")[0] in (user["name"], *user["organizations"]) for user in users):
            raise Refusal(404, "There is no such namespace")
        if not self.may_write(repo):
            raise Refusal(
                403, f"You don't have the rights to create a model under the namespace {repo.split('/')[0]!r}"
            )
        url = {"url": f"{self.hub.endpoint}/{repo}"}
        if repo in self.hub.repositories:
            return self.json(url | {"error": "You already created this model repo"}, status=409)
        repository = Repository(private=request.get("visibility") == "private" or bool(request.get("private")))
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        repository.commit("main", {".gitattributes": File(attributes.encode(), False)}, "initial commit")
        self.hub.repositories[repo] = repository
        return self.json(url)

    @route("POST", "/api/validate-yaml")
    def validate_yaml(self, body):
        content = json.loads(body)["content"]
        match = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        errors, warnings = [], []
        if match is None:
            warnings.append({"message": "empty or missing yaml metadata in repo card"})
        else:
            try:
                metadata = yaml.safe_load(match.group(1))
                if metadata.get("license") not in LICENSES:
                    errors.append({"message": '"license" must be one of ' + ", ".join(LICENSES)})
                for model in metadata.get("model-index", []):
                    for result in model["results"]:
                        if not {"type"} <= set(result["task"]) or not {"type", "name"} <= set(result["dataset"]):
                            errors.append({"message": '"model-index" results need a task and a dataset'})
                        if not all({"type", "value"} <= set(metric) for metric in result["metrics"]):
                            errors.append({"message": '"model-index" metrics need a type and a value'})
            except yaml.YAMLError as error:
                errors.append({"message": f"invalid YAML: {error}"})
        return self.json({"errors": errors, "warnings": warnings}, status=400 if errors else 200)

    @route("GET", f"/api/models/{REPO}(/revision/(?P<revision>[^/]+))?")
    def information(self, body, repo, revision):
        repository = self.find(repo)
        sha = self.sha_of(repository, revision or "main")
        siblings = [{"rfilename": path} for path in sorted(repository.commits[sha])]
        return self.json({"_id": "0", "id": repo, "sha": sha, "private": repository.private, "siblings": siblings})

    @route("GET", f"/api/models/{REPO}/refs")
    def references(self, body, repo):
        branches = self.find(repo).branches.items()
        return self.json(
            {
                "branches": [
                    {"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in branches
                ],
                "converts": [],
                "tags": [],
            }
        )

    @route("POST", f"/api/models/{REPO}/branch/(?P<branch>[^/]+)")
    def create_branch(self, body, repo, branch):
        repository = self.find(repo, write=True)
        if branch in repository.branches:
            raise Refusal(409, "Reference already exists")
        start = json.loads(body or b"{}").get("startingPoint", "main")
        repository.branches[branch] = self.sha_of(repository, start)
        return self.json({})

    @route("GET", f"/api/models/{REPO}/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?")
    def tree(self, body, repo, revision, folder):
        repository = self.find(repo)
        sha = self.sha_of(repository, revision)
        prefix = folder + "/" if folder else ""
        files = {path: file for path, file in sorted(repository.commits[sha].items()) if path.startswith(prefix)}
        if not files:
            raise Refusal(404, f"{folder} does not exist", "EntryNotFound", **{"X-Repo-Commit": sha})
        entries, folders = [], set()
        for path, file in files.items():
            inside = path.removeprefix(prefix)
            if "/" in inside and self.query.get("recursive", "false").lower() != "true":
                folders.add(prefix + inside.split("/")[0])
            else:
                entries.append(file.describe(path))
        return self.json([{"type": "directory", "path": path, "oid": "0" * 40} for path in sorted(folders)] + entries)

    @route("POST", f"/api/models/{REPO}/paths-info/(?P<revision>[^/]+)")
    def paths_information(self, body, repo, revision):
        repository = self.find(repo)
        files = repository.commits[self.sha_of(repository, revision)]
        paths = parse_qs(body.decode()).get("paths", [])
        return self.json([files[path].describe(path) for path in paths if path in files])

    @route("POST", f"/api/models/{REPO}/preupload/(?P<revision>[^/]+)")
    def preupload(self, body, repo, revision):
        repository = self.find(repo, write=True)
        there = repository.commits[self.sha_of(repository, revision)]
        return self.json(
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular",
                        "shouldIgnore": False,
                        "oid": there[file["path"]].oid if file["path"] in there else None,
                    }
                    for file in json.loads(body)["files"]
                ]
            }
        )

    @route("POST", rf"/{REPO}\.git/info/lfs/objects/batch")
    def lfs_batch(self, body, repo):
        self.find(repo, write=True)
        objects = json.loads(body)["objects"]
        for item in objects:
            if item["oid"] not in self.hub.lfs:
                upload = {"href": f"{self.hub.storage}/{item['oid']}"}
                verify = {"href": f"{self.hub.endpoint}/{repo}.git/info/lfs/objects/verify"}
                item["actions"] = {"upload": upload, "verify": verify}
        return self.json({"transfer": "basic", "objects": objects})

    @route("PUT", "/storage/(?P<oid>[0-9a-f]{64})")
    def store(self, body, oid):
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refusal(400, "The content does not have this SHA-256")
        self.hub.lfs[oid] = body
        return 200, {}, b""

    @route("POST", rf"/{REPO}\.git/info/lfs/objects/verify")
    def verify(self, body, repo):
        self.find(repo, write=True)
        request = json.loads(body)
        if len(self.hub.lfs.get(request["oid"], b"")) != request["size"]:
            raise Refusal(404, "The object is not there")
        return self.json({})

    @route("POST", f"/api/models/{REPO}/commit/(?P<revision>[^/]+)")
    def commit(self, body, repo, revision):
        repository = self.find(repo, write=True)
        if revision not in repository.branches:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        files = dict(repository.commits[repository.branches[revision]])
        message = ""
        for line in body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                if value["path"].endswith(LFS_SUFFIXES):
                    raise Refusal(400, f"{value['path']} has to be uploaded by LFS")
                files[value["path"]] = File(base64.b64decode(value["content"]), lfs=False)
            elif key == "lfsFile":
                if value["oid"] not in self.hub.lfs:
                    raise Refusal(400, f"The content of {value['path']} was never uploaded")
                files[value["path"]] = File(self.hub.lfs[value["oid"]], lfs=True)
            elif key == "deletedFile":
                del files[value["path"]]
            else:
                raise Refusal(400, f"Unknown operation {key}")
        sha = repository.commit(revision, files, message)
        url = f"{self.hub.endpoint}/{repo}/commit/{sha}"
        return self.json({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    @route("GET", f"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
    def resolve(self, body, repo, revision, path):
        repository = self.find(repo)
        sha = self.sha_of(repository, revision)
        file = repository.commits[sha].get(path)
        if file is None:
            raise Refusal(404, f"{path} does not exist at {revision}", "EntryNotFound", **{"X-Repo-Commit": sha})
        headers = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if not file.lfs:
            return self.download(file.content, headers | {"ETag": f'"{file.oid}"'})
        headers |= {
            "X-Linked-Size": str(len(file.content)),
            "X-Linked-ETag": f'"{file.sha256}"',
            "Location": f"{self.hub.storage}/{file.sha256}",
        }
        return 302, headers, b""

    @route("GET", "/storage/(?P<oid>[0-9a-f]{64})")
    def fetch(self, body, oid):
        if oid not in self.hub.lfs:
            raise Refusal(404, "No such object")
        headers = {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"}
        if self.hub.interrupt_next_download and self.command == "GET":
            self.hub.interrupt_next_download = False
            headers["X-Cut-Short"] = "yes"
        return self.download(self.hub.lfs[oid], headers)

    def download(self, content: bytes, headers: dict):
        requested = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if requested is None:
            return 200, headers, content
        first, last = int(requested[1]), min(int(requested[2] or len(content) - 1), len(content) - 1)
        if first > last:
            raise Refusal(416, "Requested range not satisfiable", **{"Content-Range": f"bytes */{len(content)}"})
        self.hub.ranges.append(requested[0])
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return 206, headers, content[first : last + 1]
