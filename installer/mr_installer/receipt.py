"""Records kept as JSON on disk: the receipt inside a release, the journal, the history and the probe record."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mr_core import __version__
from mr_core.bundle_config import NAME_PATTERN, VERSION_PATTERN
from mr_core.decode import Decoder, dump_json, parse_json
from mr_core.digest import Digest
from mr_core.durable import host_errors, make_directories, write_durably
from mr_core.errors import BundleError

HISTORY_LIMIT = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Facts recorded inside a release before it is placed.

    Attributes:
        digest: Of the image manifest: the identity of the bundle.
        resolved: Digest that the source's name had when it was resolved (an index, or the manifest itself).
        source: Where it came from, without secrets.
        insecure: Whether the transport was unverified (plain http, or TLS not checked).
        installed: UTC time, RFC 3339.
    """

    backend: str
    version: str
    target: str
    digest: Digest
    resolved: Digest
    source: str
    insecure: bool = False
    policy: str = "digest"
    installed: str = ""
    tool: str = f"mr-backends {__version__}"

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `read_receipt` reads back."""
        return {
            "format": 1,
            "backend": self.backend,
            "version": self.version,
            "target": self.target,
            "digest": str(self.digest),
            "resolved": str(self.resolved),
            "source": self.source,
            "insecure": self.insecure,
            "policy": self.policy,
            "installed": self.installed,
            "tool": self.tool,
        }


def read_receipt(path: Path) -> Receipt | None:
    """Return the receipt at ``path``; `None` when there is none.

    Raises:
        InvalidInputError: when it is damaged.
    """
    content = _read(path)
    if content is None:
        return None
    what = f"receipt `{path}`"
    read = Decoder(parse_json(content, what), what)
    nothing = Digest("sha256", "0" * 64)
    receipt = Receipt(
        backend=read.text("backend", pattern=NAME_PATTERN),
        version=read.text("version", pattern=VERSION_PATTERN),
        target=read.text("target"),
        digest=read.parsed("digest", Digest.parse, nothing),
        resolved=read.parsed("resolved", Digest.parse, nothing),
        source=read.text("source", ""),
        insecure=read.boolean("insecure"),
        policy=read.text("policy", ""),
        installed=read.text("installed", ""),
        tool=read.text("tool", ""),
    )
    read.finish(hint="install that release again")
    return receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """The transaction under way: enough for the next run to finish or discard it."""

    operation: str
    transaction: str
    release: str = ""
    previous: str = ""


def write_journal(path: Path, journal: Journal) -> None:
    """Record the transaction durably before its first visible step."""
    write_record(
        path,
        {
            "operation": journal.operation,
            "transaction": journal.transaction,
            "release": journal.release,
            "previous": journal.previous,
        },
    )


def read_journal(path: Path) -> Journal | None:
    """Return the journal; `None` when there is none, or when it is unreadable and so was never complete."""
    read = _record(path)
    if read is None:
        return None
    return Journal(
        operation=read.text("operation", ""),
        transaction=read.text("transaction", ""),
        release=read.text("release", ""),
        previous=read.text("previous", ""),
    )


def read_history(path: Path) -> list[str]:
    """Return release ids in the order of their activation, the newest last."""
    read = _record(path)
    return [] if read is None else list(read.texts("activations"))


def append_history(path: Path, release: str) -> None:
    """Record that ``release`` became active; a repeated last entry is not doubled."""
    known = read_history(path)
    if not known or known[-1] != release:
        write_record(path, {"activations": [*known, release][-HISTORY_LIMIT:]})


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRecord:
    """That a release passed its probe on this host: import seconds and versions by name."""

    passed: str
    seconds: float
    modules: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    skipped: bool = False


def write_probe_record(path: Path, record: ProbeRecord) -> None:
    """Record the outcome of a probe."""
    make_directories(path.parent)
    write_record(
        path,
        {
            "passed": record.passed,
            "seconds": round(record.seconds, 3),
            "modules": {name: round(seconds, 3) for name, seconds in record.modules.items()},
            "versions": record.versions,
            "skipped": record.skipped,
        },
    )


def write_record(path: Path, value: dict[str, Any]) -> None:
    """Write a record durably, readable by people too."""
    write_durably(path, dump_json({"format": 1, **value}) + b"\n")


def _record(path: Path) -> Decoder | None:
    content = _read(path)
    if content is None:
        return None
    try:
        return Decoder(parse_json(content, str(path)), str(path))
    except BundleError:
        return None


def _read(path: Path) -> bytes | None:
    with host_errors("read", path):
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
