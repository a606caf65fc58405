"""Install an image as the existing host daemon does: pull one platform, extract layer after layer, copy one directory.

A model in Python of a Go program on ``archive/tar``, with its habits; whatever that program would get wrong or refuse
raises `RefusedError` here, so that a test sees it.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any

_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_LAYERS = (
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
)
_BLOCK = 512


class RefusedError(Exception):
    """The daemon would refuse this, crash, or install something else than is meant."""


def install(layout: Path, name: str, backend: str, destination: Path, *, system: str, architecture: str) -> None:
    """Install the image called ``name`` of a layout: its directory ``backend`` becomes ``destination``."""
    extracted = destination.with_name(f"{destination.name}.extracted")
    extracted.mkdir(parents=True)
    chosen = _choose(layout, name, system, architecture)
    for layer in _json(layout, chosen["digest"])["layers"]:
        if layer["mediaType"] not in _LAYERS:
            raise RefusedError(f"media type of a layer: {layer['mediaType']}")
        with gzip.open(_blob(layout, layer["digest"])) as stream:
            content = stream.read()
        extract(content, extracted)
    if os.listdir(extracted) != [backend]:
        raise RefusedError(f"top directories: {sorted(os.listdir(extracted))}")
    _copy(extracted / backend, destination)
    os.chmod(destination / "bin/python3", 0o755)  # follows the link, as the daemon does
    shutil.rmtree(extracted)


def extract(content: bytes, destination: Path) -> None:
    """Extract one layer into a directory that may hold earlier ones."""
    _refuse_global_headers(content)
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:", format=tarfile.PAX_FORMAT) as tar:
        for member in tar:
            place = destination / _relative(member.name, destination)
            if PurePosixPath(member.name).name.startswith(".wh."):
                raise RefusedError(f"a whiteout would become a file: {member.name}")
            if member.isdir():
                place.mkdir(mode=member.mode, parents=True, exist_ok=True)
            elif member.issym():
                _check_link(member)
                try:
                    os.symlink(member.linkname, place)  # makes no parents, replaces nothing
                except OSError as error:
                    raise RefusedError(f"link {member.name}: {error.strerror}") from error
            elif member.isreg():
                if not place.parent.is_dir():
                    raise RefusedError(f"no directory entry before {member.name}")
                if os.path.lexists(place):
                    raise RefusedError(f"{member.name} stands there twice")
                data = tar.extractfile(member)
                assert data is not None
                descriptor = os.open(place, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, member.mode)
                with os.fdopen(descriptor, "wb") as file:
                    shutil.copyfileobj(data, file)
            else:
                raise RefusedError(f"{member.name} of type {member.type!r} would become an empty file")


def _choose(layout: Path, name: str, system: str, architecture: str) -> dict[str, Any]:
    listed = json.loads((layout / "index.json").read_bytes())["manifests"]
    key = "org.opencontainers.image.ref.name"
    (top,) = [entry for entry in listed if (entry.get("annotations") or {}).get(key) == name]
    if top["mediaType"] not in _INDEXES:
        raise RefusedError(f"no index on top: {top['mediaType']}")
    entries = _json(layout, top["digest"])["manifests"]
    fitting = []
    for entry in entries:
        if entry.get("platform") is None:
            raise RefusedError("an entry without platform: it follows a nil pointer")
        if (entry["platform"]["os"], entry["platform"]["architecture"]) == (system, architecture):
            fitting.append(entry)
    if len(fitting) != 1:
        raise RefusedError(f"{len(fitting)} entries for {system}/{architecture}")
    chosen: dict[str, Any] = fitting[0]
    return chosen


def _refuse_global_headers(content: bytes) -> None:
    """Walk over the raw headers: Python's `tarfile` swallows global ones, ``archive/tar`` hands them out as files."""
    position = 0
    while position + _BLOCK <= len(content) and any(content[position : position + _BLOCK]):
        header = content[position : position + _BLOCK]
        if header[156:157] == b"g":
            raise RefusedError("a PAX global header")
        size = int(header[124:136].rstrip(b"\0 ") or b"0", 8)
        position += _BLOCK + size + -size % _BLOCK
    if len(content) - position < 2 * _BLOCK or any(content[position:]):
        raise RefusedError("no end of the archive")


def _relative(name: str, destination: Path) -> str:
    if name.startswith("/") or ".." in name.split("/"):
        raise RefusedError(f"a path that leaves {destination.name}: {name}")
    return name


def _check_link(member: tarfile.TarInfo) -> None:
    """A link must stay below the top directory, since only that one is copied."""
    if member.linkname.startswith("/"):
        raise RefusedError(f"an absolute link: {member.name}")
    top = member.name.split("/")[0]
    where = os.path.normpath(f"{os.path.dirname(member.name)}/{member.linkname}")
    if where.split("/")[0] != top:
        raise RefusedError(f"a link that leaves the tree: {member.name}")


def _copy(source: Path, destination: Path) -> None:
    for folder, names, files in os.walk(source):
        place = destination / Path(folder).relative_to(source)
        place.mkdir(mode=os.lstat(folder).st_mode & 0o777)
        links = [name for name in names if os.path.islink(os.path.join(folder, name))]
        for name in [*files, *links]:
            path = os.path.join(folder, name)
            if os.path.islink(path):
                os.symlink(os.readlink(path), place / name)
            else:
                shutil.copyfile(path, place / name)
                os.chmod(place / name, os.lstat(path).st_mode & 0o777)


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs/sha256" / digest.partition(":")[2]


def _json(layout: Path, digest: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(_blob(layout, digest).read_bytes())
    return value
