"""Stand-ins for what the vllm-metal recipe takes from a forge: two wheels and a git repository, of the same shape.

The recipe is the committed one as a dictionary (``tomllib``); its own addresses, versions and ``[[lock.metadata]]``
decide what is made, so that a change of the recipe changes the stand-ins.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.utils import canonicalize_name

from support import openai_server
from support.need import need
from support.release_host import ReleaseHost
from support.wheels import Wheel

FORGE = "https://github.com"
_NAME = re.compile(r"^[A-Za-z0-9._-]+")  # versions in braces are no valid requirement yet
PLATFORMS = '''
"""As vLLM chooses: the plugin that loads and says it fits, else the CPU without a word."""
import importlib, importlib.metadata


class CpuPlatform:
    device_name = "cpu"

    def is_out_of_tree(self):
        return False


def _chosen():
    for point in importlib.metadata.entry_points(group="vllm.platform_plugins"):
        try:
            module, _, name = point.load()().rpartition(".")
            return getattr(importlib.import_module(module), name)()
        except Exception:
            pass
    return CpuPlatform()


current_platform = _chosen()
'''
MAIN = """
from vllm.openai_server import main
from vllm.platforms import current_platform

if __name__ == "__main__":
    main(current_platform.device_name)
"""
PLUGIN = """
import mlx.core, mlx_lm


def register():
    return "vllm_metal.platform.MetalPlatform"
"""
METAL = """
class MetalPlatform:
    device_name = "metal"

    def is_out_of_tree(self):
        return True
"""
BUILD = '''
"""A build backend without requirements: packs the package beside it."""
import base64, hashlib, os, pathlib, time, zipfile


def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = f"mlx_lm-{VERSION}-py3-none-any.whl"
    info = f"mlx_lm-{VERSION}.dist-info"
    files = {str(path): path.read_bytes() for path in sorted(pathlib.Path("mlx_lm").rglob("*.py"))}
    files[f"{info}/METADATA"] = pathlib.Path("METADATA").read_bytes()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    record = ""
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(content)}\\n"
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\\n".encode()
    moment = time.gmtime(int(os.environ["SOURCE_DATE_EPOCH"]))[:6]
    with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
        for path, content in files.items():
            wheel.writestr(zipfile.ZipInfo(path, moment), content)
    return name
'''
PROJECT = '[build-system]\nrequires = []\nbuild-backend = "build_here"\nbackend-path = ["."]\n'


def serve_stand_ins(recipe: dict[str, Any], host: ReleaseHost, *, tag: str = "", plugin: str = PLUGIN) -> None:
    """Make the stand-ins where ``host`` serves them, and turn the recipe's addresses and commit to these.

    Args:
        recipe: Changed in place: host names, the commit, and with ``tag`` the wheels' file names.
        host: Gets the wheels and the repository below the paths that they have on the real forge.
        tag: Platform tag of the two wheels instead of macOS's.
        plugin: What ``vllm_metal/__init__.py`` holds.
    """
    for item in recipe["lock"]["wheels"]:
        address = urlsplit(item["url"].format(**recipe["versions"]))
        name, version, python, abi, platform = unquote(address.path).rpartition("/")[2][: -len(".whl")].split("-")
        wheel = _wheel(recipe, name, version, tag=f"{python}-{abi}-{tag or platform}", plugin=plugin)
        wheel.write(host.directory / unquote(address.path).lstrip("/").rpartition("/")[0])
        if tag:
            item["url"] = item["url"].replace(platform, tag)
        item["url"] = item["url"].replace(FORGE, host.url)
    (item,) = recipe["lock"]["git"]
    version = item["version"].format(**recipe["versions"])
    files = {
        "METADATA": _metadata(recipe, "mlx-lm", version),
        "pyproject.toml": PROJECT,
        "build_here.py": f"VERSION = {version!r}\n{BUILD}",
        "mlx_lm/__init__.py": "import mlx.core\n",
    }
    item["commit"] = _repository(host.directory / urlsplit(item["url"]).path.lstrip("/"), files)
    item["url"] = item["url"].replace(FORGE, host.url)


def keep_requirements(recipe: dict[str, Any], names: Sequence[str]) -> None:
    """Leave in ``[[lock.metadata]]`` only what requires one of ``names``, with the recipe's own limits."""
    for item in recipe["lock"]["metadata"]:
        item["requires-dist"] = [
            text for text in item["requires-dist"] if canonicalize_name(_NAME.findall(text)[0]) in names
        ]


def write_small(place: Path, versions: Mapping[str, str]) -> None:
    """Write a pure wheel for each distribution: a package of its name, with an empty ``core``."""
    for name, version in versions.items():
        stem = name.replace("-", "_")
        Wheel(name=name, version=version, files={f"{stem}/__init__.py": "", f"{stem}/core.py": ""}).write(place)


def _wheel(recipe: dict[str, Any], name: str, version: str, *, tag: str, plugin: str) -> Wheel:
    files: dict[str, bytes | str | tuple[bytes, int]]
    match name:
        case "vllm":
            files = {
                "vllm/__init__.py": "",
                "vllm/openai_server.py": Path(openai_server.__file__).read_bytes(),
                "vllm/platforms/__init__.py": PLATFORMS,
                "vllm/entrypoints/__init__.py": "",
                "vllm/entrypoints/cli/__init__.py": "",
                "vllm/entrypoints/cli/main.py": MAIN,
            }
        case "vllm_metal":
            points = "[vllm.platform_plugins]\nmetal = vllm_metal:register\n"
            files = {
                "vllm_metal/__init__.py": plugin,
                "vllm_metal/platform.py": METAL,
                f"vllm_metal-{version}.dist-info/entry_points.txt": points,
            }
        case _:
            raise AssertionError(f"the recipe gives a wheel that has no stand-in: {name}")
    name = canonicalize_name(name)
    return Wheel(name=name, version=version, files=files, tag=tag, metadata=_metadata(recipe, name, version))


def _metadata(recipe: dict[str, Any], name: str, version: str) -> str:
    """Return a METADATA that requires what the recipe says of this version."""
    (stated,) = [item for item in recipe["lock"]["metadata"] if item["name"] == name]
    assert stated["version"].format(**recipe["versions"]) == version
    lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", "License-Expression: Apache-2.0"]
    lines += [f"Requires-Dist: {text.format(**recipe['versions'])}" for text in stated["requires-dist"]]
    return "".join(f"{line}\n" for line in lines)


def _repository(place: Path, files: Mapping[str, str]) -> str:
    """Make a repository and return its only commit."""
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    git = [need("git"), "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    environ = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    ran = subprocess.CompletedProcess[str]((), 0, "")
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "x"), ("rev-parse", "HEAD")):
        ran = subprocess.run([*git, *words], cwd=place, env=environ, check=True, capture_output=True, text=True)
    return ran.stdout.strip()
