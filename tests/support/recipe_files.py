"""A recipe and a lock that are right, to be broken in one place by a test, and wheels to lock and install."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

RECIPE = """\
format = 1

[backend]
name = "tiny"
summary = "A backend for tests"
homepage = "https://example.org/tiny"
license = "MIT"
version-from = "tiny-server"

[python]
version = "3.12.14"
build = "20260814"

[lock]
exclude-newer = 2026-11-20T00:00:00Z
requirements = ["Tiny_Server>=1"]

[[targets]]
target = "linux/amd64+cpu"
glibc = "2.35"
requirements = ["tiny-kernels"]

[[targets]]
target = "darwin/arm64+metal"
macos = "14.0"

[slim]
remove = ["**/tests", "tiny_server/*.txt", "/share/doc/**"]
keep = ["tiny_server/needed.txt"]

[probe]
imports = ["tiny_server"]
timeout = 30

[launch]
module = "tiny_server"
health-path = "/health"
stop-grace = 5

[launch.options]
model = "positional"
chat-template = "--template"

[launch.unsupported]
served-model-name = "it has one name"

[launch.environment]
TINY_HOME = "x"

[api]
health = "/health"
chat-completions = "/v1/chat/completions"
"""


FULL = f"""\
{RECIPE.partition("[lock]")[0]}\
[versions]
server = "1.5"
extra = "2.0"

[lock]
exclude-newer = 2026-11-20T00:00:00Z
requirements = ["tiny-server=={{server}}"]
constraints = ["tiny-words<={{extra}}"]
overrides = ["tiny-unwanted; python_version < '3'"]

[lock.index]
tiny-words = "private"

[[lock.wheels]]
url = "https://example.org/v{{extra}}/tiny_extra-{{extra}}%2Bcpu-py3-none-any.whl"
sha256 = "{"ab" * 32}"
targets = ["linux/amd64+cpu"]

[[lock.git]]
name = "tiny-made"
url = "https://example.org/tiny-made.git"
commit = "{"c0" * 20}"
version = "3.1"
subdirectory = "python/made"
sha256 = "pending"

[[lock.metadata]]
name = "Tiny_Made"
version = "3.1"
requires-dist = ["tiny-words>=1", "tiny-extra[all]; sys_platform == 'linux'"]

[[targets]]
target = "linux/amd64+cpu"
glibc = "2.35"
constraints = ["tiny-kernels<3"]

[[targets]]
target = "darwin/arm64+metal"
macos = "14.0"
overrides = ["tiny-other>=2"]

[[prebuild]]
name = "make-table"
command = ["{{python}}", "-c", "print({{}})"]
writes = ["tiny_server/table.bin"]
targets = ["linux/amd64+cpu"]

[[audit.allow]]
finding = "missing-library"
paths = ["**/libtiny.so"]
details = ["libcuda.so.1"]
targets = ["linux/amd64+cpu"]
reason = "the driver brings it"

[slim]{RECIPE.partition("[slim]")[2]}"""
"""A recipe with every field."""


def write_recipe(directory: Path, text: str = RECIPE) -> Path:
    """Write ``recipe.toml`` below ``directory`` and return that directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "recipe.toml").write_text(text)
    return directory


def edit(text: str, old: str, new: str) -> str:
    """Replace exactly one place; a test that edits nothing must fail."""
    assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
    return text.replace(old, new)


def write_wheel(
    directory: Path,
    name: str,
    version: str,
    *,
    tag: str = "py3-none-any",
    requires: tuple[str, ...] = (),
    files: dict[str, str] | None = None,
) -> str:
    """Write a valid wheel of one package with the same bytes every time, and return its sha256."""
    directory.mkdir(parents=True, exist_ok=True)
    stem = name.replace("-", "_")
    dist_info = f"{stem}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {text}\n" for text in requires)
    members = {
        f"{stem}/__init__.py": f'__version__ = "{version}"\n',
        **(files or {}),
        f"{dist_info}/METADATA": metadata,
        f"{dist_info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
        f"{dist_info}/entry_points.txt": f"[console_scripts]\n{stem} = {stem}:main\n",
    }
    record = ""
    for path, text in members.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text.encode())}\n"
    members[f"{dist_info}/RECORD"] = f"{record}{dist_info}/RECORD,,\n"
    wheel = directory / f"{stem}-{version}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for member, text in members.items():
            archive.writestr(zipfile.ZipInfo(member), text)
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def write_index(wheelhouse: Path, directory: Path) -> str:
    """Write a simple index (PEP 503) of all wheels with their sha256, and return its address."""
    pages: dict[str, str] = {}
    for wheel in sorted(wheelhouse.glob("*.whl")):
        sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
        name = wheel.name.partition("-")[0].replace("_", "-")
        link = f'<a href="{wheel.as_uri()}#sha256={sha256}">{wheel.name}</a>\n'
        pages[name] = pages.get(name, "<!DOCTYPE html>\n") + link
    for name, page in pages.items():
        (directory / name).mkdir(parents=True)
        (directory / name / "index.html").write_text(page)
    return directory.as_uri()
