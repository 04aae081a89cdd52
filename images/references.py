"""What the arguments of a build stand for, looked up: digests of images, commits of branches.

The end of an argument's name says what it is:

    _IMAGE      an image; its digest, asked of its registry
    _REF        a branch, tag or commit of the repository in the argument that ends with _GIT
    _VERSION    one version of a package, which never changes; a range is not resolved
    _SNAPSHOT   a moment of Debian's archive; where none is given, the mirrors may change
    others      are what they say

A look-up never raises: what can't be resolved says why, and the tag is then a new one each time.
"""

import json
import os
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

TIMEOUT_S = 30.0
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_VERSION = re.compile(r"[0-9][0-9A-Za-z.!+-]*")
_SNAPSHOT = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
_MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)


@dataclass(frozen=True)
class Resolved:
    """What an argument stands for; a build that is given `value` makes what the tag says."""

    value: str


@dataclass(frozen=True)
class Unresolved:
    """An argument as it was given, and why nobody knows what it stands for."""

    value: str
    why: str


Reference = Resolved | Unresolved


def resolve_all(arguments: Mapping[str, str]) -> dict[str, Reference]:
    """Look up all arguments of a build; takes `TIMEOUT_S` for each at most, and raises nothing."""
    return {name: _resolve(name, value, arguments) for name, value in arguments.items()}


def _resolve(name: str, value: str, arguments: Mapping[str, str]) -> Reference:
    if name.endswith("_IMAGE"):
        return resolve_image(value)
    if name.endswith("_REF"):
        url = arguments.get(f"{name.removesuffix('_REF')}_GIT", "")
        return resolve_commit(url, value) if value else Resolved("")
    if name.endswith("_VERSION") and value and not _VERSION.fullmatch(value):
        return Unresolved(value, f"{value} is no single version: give one, such as 3.11.0")
    if name.endswith("_SNAPSHOT") and not _SNAPSHOT.fullmatch(value):
        return Unresolved(value, "Debian's mirrors change: give a moment, such as 20261115T000000Z")
    return Resolved(value)


# git


def resolve_commit(url: str, ref: str) -> Reference:
    """Return the commit that `ref` is in the repository `url`: a tag comes before a branch."""
    if _COMMIT.fullmatch(ref):
        return Resolved(ref)
    if not url:
        return Unresolved(ref, "no repository is given: add the _GIT argument beside the _REF")
    command = ["git", "ls-remote", "--", url]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Unresolved(ref, f"{url}: {error}")
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["git ls-remote failed"]
        return Unresolved(ref, f"{url}: {lines[-1]}")
    commit = find_commit(done.stdout, ref)
    if commit is None:
        return Unresolved(ref, f"{url} has no branch or tag {ref}; a commit takes all 40 digits")
    return Resolved(commit)


def find_commit(listing: str, ref: str) -> str | None:
    """Return the commit of `ref` by the lines of `git ls-remote`; an annotated tag names one."""
    listed = {
        name: commit for commit, _, name in (line.partition("\t") for line in listing.splitlines())
    }
    for name in (ref, f"refs/tags/{ref}", f"refs/heads/{ref}"):
        commit = listed.get(f"{name}^{{}}") or listed.get(name)
        if commit:
            return commit
    return None


# Images


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image's name in its parts; `tag` is "" beside a digest alone."""

    registry: str
    repository: str
    tag: str
    digest: str


def parse_image(name: str) -> Image:
    """Return the parts of an image's name as Docker reads it: docker.io is the usual registry."""
    rest, _, digest = name.partition("@")
    first, slash, others = rest.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        registry, rest = first, others
    else:
        registry, rest = "docker.io", rest if slash else f"library/{rest}"
    repository, _, tag = rest.partition(":")
    return Image(
        registry=registry,
        repository=repository,
        tag=tag or ("" if digest else "latest"),
        digest=digest,
    )


def resolve_image(name: str) -> Reference:
    """Return the image's name with its digest, which is asked for where the name has none."""
    image = parse_image(name)
    if DIGEST.fullmatch(image.digest):
        return Resolved(name)
    if image.digest:
        return Unresolved(name, f"{image.digest} is no digest: sha256: and 64 digits")
    try:
        digest = ask_registry(image)
    except (OSError, ValueError, KeyError) as error:
        return Unresolved(name, f"{image.registry} does not tell: {error!r}")
    return Resolved(f"{name}@{digest}")


def ask_registry(image: Image) -> str:
    """Return the digest that a tag has now; raises OSError, ValueError or KeyError."""
    host = "registry-1.docker.io" if image.registry == "docker.io" else image.registry
    scheme = "http" if host.rpartition(":")[0] in ("localhost", "127.0.0.1") else "https"
    url = f"{scheme}://{host}/v2/{image.repository}/manifests/{image.tag}"
    headers = {"Accept": ", ".join(_MANIFESTS)}
    try:
        digest = _head(url, headers)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 401:
            raise
        token = _token(error.headers.get("WWW-Authenticate", ""))
        digest = _head(url, headers | {"Authorization": f"Bearer {token}"})
    if not DIGEST.fullmatch(digest):
        raise ValueError(f"{url} gave no digest of a list of architectures")
    return digest


def _head(url: str, headers: dict[str, str]) -> str:
    request = urllib.request.Request(url, headers=headers, method="HEAD")
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        listed = answer.headers.get("Content-Type", "") in _MANIFESTS
        return str(answer.headers.get("Docker-Content-Digest", "")) if listed else ""


def _token(challenge: str) -> str:
    """Return what the registry's own authority gives to anybody who may read."""
    wanted = dict(_CHALLENGE.findall(challenge))
    query = urllib.parse.urlencode({name: wanted[name] for name in ("service", "scope")})
    with urllib.request.urlopen(f"{wanted['realm']}?{query}", timeout=TIMEOUT_S) as answer:
        return str(json.load(answer)["token"])
