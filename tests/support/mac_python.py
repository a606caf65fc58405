"""An archive shaped as python-build-standalone's for Apple silicon: audited like the real one, never started."""

from __future__ import annotations

import json
from pathlib import Path

from mr_bundler.lock.python_pin import PythonPin
from support.macho import BUNDLE, EXECUTE, MachO
from support.python_archive import write_archive

NAME = "cpython-3.12.14+20260814-aarch64-apple-darwin-install_only_stripped.tar.gz"
_MODULES = ("os.py", "abc.py", "io.py", "site.py", "codecs.py", "encodings/__init__.py", "encodings/utf_8.py")


def write_mac_python(directory: Path) -> PythonPin:
    """Write the archive as ``NAME`` into ``directory`` and return its pin."""
    source = Path(json.__file__).parent.parent  # this Python's standard library
    members: dict[str, bytes | str | None] = {
        f"python/lib/python3.12/{name}": (source / name).read_bytes() for name in _MODULES
    }
    members |= {
        "python/bin/python3.12": MachO(kind=EXECUTE, minos="11.0").dump(),
        "python/bin/python3": "python3.12",
        "python/lib/libpython3.12.dylib": MachO(minos="11.0").dump(),
        "python/lib/python3.12/lib-dynload/_ssl.cpython-312-darwin.so": MachO(kind=BUNDLE, minos="11.0").dump(),
        "python/lib/python3.12/LICENSE.txt": b"PSF\n",
        "python/lib/python3.12/_sysconfigdata__darwin_darwin.py": b"build_time_vars = {'prefix': '/install'}\n",
    }
    return write_archive(directory / NAME, members)
