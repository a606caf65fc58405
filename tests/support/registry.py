"""Start the real reference registry (docker-registry) on loopback, in one of the ways that registries are protected."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

from mr_core.digest import Digest
from mr_core.registry_options import RegistryOptions
from mr_core.retry import RetryPolicy
from support.need import need

Mode = Literal["none", "basic", "tls"]
QUICK = RetryPolicy(first_delay=0.02, longest_delay=0.1)  # the policy under test, with waits that suit a test
_LISTENING = re.compile(r"listening on 127\.0\.0\.1:(\d+)")


@dataclass(kw_only=True)
class RealRegistry:
    """A running registry; a context manager.

    Attributes:
        mode: ``none`` (plain http), ``basic`` (plain http, htpasswd) or ``tls`` (self-signed certificate).
        root: Where it keeps everything; a temporary directory when not given.
    """

    mode: Mode = "none"
    root: Path | None = None
    username: str = ""
    password: str = ""
    host: str = field(default="", init=False)
    _temporary: Path | None = field(default=None, init=False, repr=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    def __enter__(self) -> Self:
        program = need("docker-registry")
        if self.root is None:
            self.root = self._temporary = Path(tempfile.mkdtemp(prefix="registry-", dir=_fast_directory()))
        self.root.mkdir(parents=True, exist_ok=True)
        config = self.root / "config.yml"
        config.write_text(self._config())
        log = self.root / "log.txt"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [program, "serve", str(config)], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            self.host = f"127.0.0.1:{self._wait_for_port(log)}"
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    @property
    def certificate(self) -> Path:
        """The certificate to trust in mode ``tls``."""
        assert self.root is not None
        return self.root / "server.crt"

    def options(self, **changes: object) -> RegistryOptions:
        """Return what a client needs to reach it, without waiting long for retries."""
        settings: dict[str, object] = {"retry": QUICK, "username": self.username, "password": self.password}
        if self.mode == "tls":
            settings["ca_bundle"] = self.certificate
        else:
            settings["insecure_hosts"] = frozenset({self.host})
        return RegistryOptions(**{**settings, **changes})  # type: ignore[arg-type]

    def blob_path(self, digest: Digest) -> Path:
        """Return the file in which the registry keeps a blob: edit it, and it serves damaged bytes with status 200."""
        assert self.root is not None
        name = f"blobs/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}/data"
        return self.root / "data/docker/registry/v2" / name

    def log(self) -> str:
        """Return what the registry has logged, its access log included."""
        assert self.root is not None
        return (self.root / "log.txt").read_text(errors="replace")

    def _config(self) -> str:
        assert self.root is not None
        lines = [
            "version: 0.1",
            "log: {level: info, accesslog: {disabled: false}}",
            "storage:",
            f"  filesystem: {{rootdirectory: {self.root / 'data'}}}",
            "  delete: {enabled: true}",
            "http:",
            "  addr: 127.0.0.1:0",
            "  secret: fixed",
        ]
        if self.mode == "tls":
            key = self.root / "server.key"
            if not key.exists():
                make_certificate(self.certificate, key)
            lines.append(f"  tls: {{certificate: {self.certificate}, key: {key}}}")
        if self.mode == "basic":
            self.username = self.username or "tester"
            self.password = self.password or secrets.token_urlsafe(12)
            entry = subprocess.run(
                [need("htpasswd"), "-niBC", "4", self.username],
                input=self.password.encode(),
                capture_output=True,
                check=True,
            )
            (self.root / "htpasswd").write_bytes(entry.stdout)
            lines.append(f"auth: {{htpasswd: {{realm: test, path: {self.root / 'htpasswd'}}}}}")
        return "\n".join(lines) + "\n"

    def _wait_for_port(self, log: Path) -> int:
        assert self._process is not None
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            found = _LISTENING.search(log.read_text(errors="replace"))
            if found:
                return int(found[1])
            if self._process.poll() is not None:
                break
            time.sleep(0.005)
        raise RuntimeError(f"the registry did not start:\n{log.read_text(errors='replace')[-2000:]}")


def _fast_directory() -> str | None:
    """Return a directory in memory with room enough, or `None` for the usual place: the registry syncs every file."""
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2 << 30:
        return str(memory)
    return None


def make_certificate(certificate: Path, key: Path, *, names: str = "DNS:localhost,IP:127.0.0.1") -> None:
    """Write a self-signed certificate for loopback, or for other ``names`` in openssl's spelling."""
    command = [need("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", f"subjectAltName={names}"]
    subprocess.run(command, check=True, capture_output=True)
