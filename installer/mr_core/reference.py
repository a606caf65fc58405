"""References to content in a registry: ``[registry/]repository[:tag][@digest]``."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from mr_core.digest import Digest
from mr_core.errors import InvalidInputError

DOCKER_HUB = "docker.io"
_REGISTRY = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::(?P<port>[0-9]{1,5}))?")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_NOT_IN_TAGS = re.compile(r"[^A-Za-z0-9_.-]")
_LIKE_DIGEST = re.compile(r"[A-Za-z0-9]+:[0-9A-Za-z]*")


def tag_text(text: str) -> str:
    """Return ``text`` with ``-`` for every character that no tag may have, such as the ``+`` of a version."""
    return _NOT_IN_TAGS.sub("-", text)


def is_tag(text: str) -> bool:
    """Whether ``text`` can be a tag."""
    return _TAG.fullmatch(text) is not None


def is_registry(text: str) -> bool:
    """Whether ``text`` is HOST or HOST:PORT, as the first part of a reference."""
    host = _REGISTRY.fullmatch(text)
    return host is not None and int(host["port"] or 0) <= 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A valid registry reference. With both tag and digest, the digest decides."""

    registry: str
    repository: str
    tag: str = ""
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse the grammar of the distribution project, with Docker Hub normalisation.

        The first component is a registry when it holds a dot or a colon, or is ``localhost``. Without tag and digest
        the tag is ``latest``.

        Raises:
            InvalidInputError: naming what is wrong, but never what may be a user name and a password.
        """
        rest, at, digest_text = text.partition("@")
        if at and _LIKE_DIGEST.fullmatch(digest_text) is None:
            raise InvalidInputError(
                "Cannot read reference: no digest follows the `@`",
                hint="a reference holds no user name and no password; `docker login` keeps those",
            )
        digest = Digest.parse(digest_text, f"reference `{text[:200]}`") if at else None
        head, slash, tail = rest.partition("/")
        if slash and ("." in head or ":" in head or head == "localhost"):
            registry, path = head, tail
        else:
            registry, path = DOCKER_HUB, rest
            if not slash and re.fullmatch(r"localhost(:[0-9]+)?|[^:]*\.[^:]*:[0-9]+|\[.*", rest):
                raise _bad(text, "no repository follows the registry")
        last = path.rpartition("/")[2]
        tag = ""
        if ":" in last:
            path, _, tag = path.rpartition(":")
            if _TAG.fullmatch(tag) is None:
                raise _bad(text, f"`{tag[:130]}` is not a tag")
        if registry in {"index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"}:
            registry = DOCKER_HUB
        if registry == DOCKER_HUB and path and "/" not in path:
            path = f"library/{path}"
        if not is_registry(registry):
            raise _bad(text, f"`{registry}` is not a registry host")
        if len(path) > 255 or _REPOSITORY.fullmatch(path) is None:
            reason = (
                "upper-case letters are not allowed in a repository"
                if path != path.lower()
                else f"`{path}` is not a repository"
            )
            raise _bad(text, reason)
        if not tag and digest is None:
            tag = "latest"
        return cls(registry=registry, repository=path, tag=tag, digest=digest)

    @property
    def target(self) -> str:
        """What to ask the registry for: the digest when there is one, else the tag."""
        return str(self.digest) if self.digest is not None else self.tag

    def at(self, digest: Digest) -> Reference:
        """Return the same reference pinned to ``digest``."""
        return replace(self, digest=digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest is not None else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"


def _bad(text: str, reason: str) -> InvalidInputError:
    return InvalidInputError(
        f"Cannot read reference `{text[:200]}`: {reason}",
        hint="a reference looks like `registry.example:5000/bundles/mlx-lm:0.32.2`",
    )
