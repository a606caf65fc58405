"""The bundle config: what a client must know before it fetches a layer byte.

One JSON document, stored as the image config's label `LABEL` and, byte for byte the same, as ``.mr/bundle.json`` in
the last layer. Unknown fields are ignored (newer writers may add some); a higher ``format`` is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mr_core.decode import Decoder, dump_json, parse_json
from mr_core.digest import Digest
from mr_core.errors import UnsupportedError
from mr_core.platform import Platform, Target
from mr_shim.spec import LaunchSpec, ProbeSpec, SpecError

FORMAT = 1
PREFIX = "io.mr-backends."
LABEL = PREFIX + "bundle"
"""Image config label that holds the bundle config."""
ANNOTATION_BACKEND = PREFIX + "backend"
ANNOTATION_TARGET = PREFIX + "target"
ANNOTATION_ACCELERATOR = PREFIX + "accelerator"
ANNOTATION_BYTES = PREFIX + "installed-bytes"
ANNOTATION_COUNT = PREFIX + "installed-files"
ANNOTATION_REQUIRES = PREFIX + "requires"
ANNOTATION_PYTHON = PREFIX + "python"
ANNOTATION_MADE_FROM = PREFIX + "made-from"
"""On an image in another form: the form's format, and the digest of the bundle it was made from."""

IMAGE_ROOT = "backend"
"""The one top directory of every layer; the same for all backends, so that equal distributions give equal layers."""
NAME_PATTERN = r"[a-z0-9][a-z0-9._-]{0,63}"
VERSION_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9._!+-]{0,100}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRequirements:
    """What a host must offer; empty text means no demand.

    Attributes:
        glibc: Least glibc, such as ``2.35``.
        macos: Least macOS, such as ``14.0``.
        cuda_driver: Least NVIDIA driver, such as ``580``.
        cpu_features: Names as in ``/proc/cpuinfo`` flags or ``sysctl hw.optional``.
    """

    glibc: str = ""
    macos: str = ""
    cuda_driver: str = ""
    cpu_features: tuple[str, ...] = ()

    @classmethod
    def decode(cls, read: Decoder) -> HostRequirements:
        """Read the table; problems are recorded in ``read``."""
        version = r"[0-9]+(\.[0-9]+){0,3}"
        return cls(
            glibc=read.text("glibc", "", pattern=f"|{version}"),
            macos=read.text("macos", "", pattern=f"|{version}"),
            cuda_driver=read.text("cuda_driver", "", pattern=f"|{version}"),
            cpu_features=read.texts("cpu_features", pattern=r"[A-Za-z0-9._]+"),
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values, without empty ones."""
        value: dict[str, Any] = {"glibc": self.glibc, "macos": self.macos, "cuda_driver": self.cuda_driver}
        value = {key: text for key, text in value.items() if text}
        if self.cpu_features:
            value["cpu_features"] = list(self.cpu_features)
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Sizes of the tree below the image root.

    Attributes:
        digest: Of the file manifest.
        size: Of the file manifest, in bytes.
        count: Files and links it lists.
        directories: Directories they need (``count + directories`` + 5 is the number of inodes).
        bytes: Sum of the sizes of its files.
    """

    digest: Digest
    size: int
    count: int
    directories: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleConfig:
    """Everything about a bundle but its bytes."""

    backend: str
    version: str
    target: Target
    summary: str = ""
    homepage: str = ""
    license: str = ""
    python_version: str = ""
    python_source: str = ""
    requires: HostRequirements = field(default_factory=HostRequirements)
    contents: Contents
    probe: ProbeSpec
    launch: LaunchSpec
    api: dict[str, str] = field(default_factory=dict)
    distributions: dict[str, str] = field(default_factory=dict)
    builder: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `parse_bundle_config` reads back."""
        return {
            "format": FORMAT,
            "backend": self.backend,
            "version": self.version,
            "target": str(self.target),
            "summary": self.summary,
            "homepage": self.homepage,
            "license": self.license,
            "python": {"version": self.python_version, "source": self.python_source},
            "requires": self.requires.to_json(),
            "contents": {
                "digest": str(self.contents.digest),
                "size": self.contents.size,
                "count": self.contents.count,
                "directories": self.contents.directories,
                "bytes": self.contents.bytes,
            },
            "probe": self.probe.to_json(),
            "launch": self.launch.to_json(),
            "api": dict(self.api),
            "distributions": dict(self.distributions),
            "builder": self.builder,
        }

    def dump(self) -> bytes:
        """Return the canonical bytes: the label's text and the content of ``.mr/bundle.json``."""
        return dump_json(self.to_json())


def parse_bundle_config(data: bytes, what: str = "bundle config") -> BundleConfig:
    """Parse a bundle config whose digest has been verified.

    Raises:
        InvalidInputError: with every problem and its path.
        UnsupportedError: when it was written for a newer format.
    """
    read = Decoder(parse_json(data, what), what)
    version = read.integer("format", least=1)
    if version > FORMAT:
        raise UnsupportedError(
            f"Cannot read {what}: format {version} is newer than {FORMAT}",
            hint="upgrade this tool: `uv tool upgrade mr-backends`",
        )
    contents = read.table("contents", required=True)
    python = read.table("python")
    config = BundleConfig(
        backend=read.text("backend", pattern=NAME_PATTERN),
        version=read.text("version", pattern=VERSION_PATTERN),
        target=read.parsed("target", Target.parse, _NO_TARGET),
        summary=read.text("summary", ""),
        homepage=read.text("homepage", ""),
        license=read.text("license", ""),
        python_version=python.text("version", ""),
        python_source=python.text("source", ""),
        requires=HostRequirements.decode(read.table("requires")),
        contents=Contents(
            digest=contents.parsed("digest", Digest.parse, Digest("sha256", "0" * 64)),
            size=contents.integer("size", most=256 << 20),
            count=contents.integer("count", most=500_000),
            directories=contents.integer("directories", most=500_000),
            bytes=contents.integer("bytes"),
        ),
        probe=_spec(read, "probe", ProbeSpec()),
        launch=_spec(read, "launch", LaunchSpec()),
        api=read.text_map("api"),
        distributions=read.text_map("distributions"),
        builder=read.text("builder", ""),
    )
    read.finish()
    return config


_NO_TARGET = Target(Platform("linux", "amd64"), "cpu")


def _spec(read: Decoder, key: str, default: Any) -> Any:
    """Let the shim's own parser read a spec, and file its problems under ``key``."""
    table = read.table(key, required=True)
    try:
        return type(default).from_json(table.value)
    except SpecError as error:
        for problem in error.problems:
            table.problem(problem)
        return default
