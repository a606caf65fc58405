"""Records kept as JSON on disk: the receipt inside a release, the journal, the history and the probe record."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mr_core import __version__
from mr_core.bundle_config import NAME_PATTERN, VERSION_PATTERN
from mr_core.decode import Decoder, dump_json, parse_json
from mr_core.digest import Digest
from mr_core.durable import host_errors, make_directories, write_durably
from mr_core.errors import BundleError, UnsupportedError
from mr_installer.root import RELEASE_ID

FORMAT = 1
HISTORY_LIMIT = 50
_OPERATIONS = "install|rollback|uninstall"
_TRANSACTION = "[0-9a-f]{8}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Facts recorded inside a release before it is placed.

    Attributes:
        digest: Of the image manifest: the identity of the bundle.
        resolved: Digest that the source's name had when it was resolved (an index, or the manifest itself).
        config: Of the bundle config, ``.mr/bundle.json``.
        source: Where it came from, without secrets.
        insecure: Whether the transport was unverified (plain http, or TLS not checked).
        installed: UTC time, RFC 3339.
    """

    backend: str
    version: str
    target: str
    digest: Digest
    resolved: Digest
    config: Digest
    source: str
    insecure: bool = False
    policy: str = "digest"
    installed: str = ""
    tool: str = f"mr-backends {__version__}"

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `read_receipt` reads back."""
        return {
            "format": FORMAT,
            "backend": self.backend,
            "version": self.version,
            "target": self.target,
            "digest": str(self.digest),
            "resolved": str(self.resolved),
            "config": str(self.config),
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
        UnsupportedError: when a newer tool wrote it.
    """
    content = _read(path)
    if content is None:
        return None
    what = f"receipt `{path}`"
    read = Decoder(parse_json(content, what), what)
    if read.integer("format", FORMAT, least=1) > FORMAT:
        raise UnsupportedError(f"Cannot read {what}: a newer tool wrote it", hint="upgrade mr-backends")
    nothing = Digest("sha256", "0" * 64)
    receipt = Receipt(
        backend=read.text("backend", pattern=NAME_PATTERN),
        version=read.text("version", pattern=VERSION_PATTERN),
        target=read.text("target"),
        digest=read.parsed("digest", Digest.parse, nothing),
        resolved=read.parsed("resolved", Digest.parse, nothing),
        config=read.parsed("config", Digest.parse, nothing),
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


def now() -> str:
    """Return the current UTC time, RFC 3339, in seconds."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


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
    release = f"|{RELEASE_ID.pattern}"
    journal = Journal(
        operation=read.text("operation", pattern=_OPERATIONS),
        transaction=read.text("transaction", pattern=_TRANSACTION),
        release=read.text("release", "", pattern=release),
        previous=read.text("previous", "", pattern=release),
    )
    try:
        read.finish()
    except BundleError:
        return None
    return journal


def read_history(path: Path) -> list[str]:
    """Return release ids in the order of their activation, the newest last."""
    read = _record(path)
    return [] if read is None else [text for text in read.texts("activations") if RELEASE_ID.fullmatch(text)]


def append_history(path: Path, release: str) -> None:
    """Record that ``release`` became active; a repeated last entry is not doubled."""
    known = read_history(path)
    if not known or known[-1] != release:
        write_record(path, {"activations": [*known, release][-HISTORY_LIMIT:]})


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRecord:
    """That a release passed its probe on this host, or that its user chose to skip it.

    Attributes:
        passed: UTC time, RFC 3339.
        seconds: Of the whole probe.
        modules: Import seconds by module.
        versions: Versions by distribution.
        skipped: Whether nothing was probed.
    """

    passed: str
    seconds: float
    modules: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    skipped: bool = False


def write_probe_record(path: Path, record: ProbeRecord) -> None:
    """Record that a release may become active."""
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


def read_probe_record(path: Path) -> ProbeRecord | None:
    """Return the record; `None` when there is none, or when it cannot be read."""
    read = _record(path)
    if read is None:
        return None
    return ProbeRecord(passed=read.text("passed", ""), seconds=0.0, skipped=read.boolean("skipped"))


def write_record(path: Path, value: dict[str, Any]) -> None:
    """Write a record durably, readable by people too."""
    write_durably(path, dump_json({"format": 1, **value}) + b"\n")


def _record(path: Path) -> Decoder | None:
    content = _read(path)
    if content is None:
        return None
    try:
        value = parse_json(content, str(path))
    except BundleError:
        return None
    return Decoder(value, str(path)) if isinstance(value, dict) else None


def _read(path: Path) -> bytes | None:
    with host_errors("read", path):
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
