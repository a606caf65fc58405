"""Switch the user's own site-packages off for good, however and from wherever the interpreter is started.

``-s``, ``-I`` and ``PYTHONNOUSERSITE`` do it too, and the launcher uses them. A host that starts ``bin/python3`` by
itself, and many child processes, do not; and packages or ``.pth`` files of somebody's home must never run in a bundle.

CPython 3.11 and later import ``site`` from a copy frozen into the executable, so that editing ``site.py`` alone changes
nothing. `encodings` is the last module that is always read from disk before ``site``. It therefore asks the importer to
leave frozen modules out, and the edited ``site.py`` takes that back in its first statement: exactly one module comes
from disk. Nothing compiled is touched, which would break the signatures macOS asks for. When a flag or the environment
has switched the user site off already, nothing happens at all.

A ``pyvenv.cfg`` would not do: ``site`` looks for it beside the link an interpreter is started through.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from mr_core.errors import BuildError

_MARK = b"# Edited for a backend bundle: the user site is off.\n"
_ALIASES = re.compile(rb"^from \. import aliases\n", re.MULTILINE)
_FIRST_IMPORT = re.compile(rb"^import sys\n", re.MULTILINE)
_USER_SITE = re.compile(rb"^ENABLE_USER_SITE = None\n", re.MULTILINE)
_LEAVE_FROZEN_OUT = (
    _MARK + b"if not (sys.flags.no_site or sys.flags.no_user_site):\n"
    b"    import _imp\n"
    b"    _imp._override_frozen_modules_for_tests(-1)\n"
)
_TAKE_FROZEN_BACK = _MARK + b"import _imp\n_imp._override_frozen_modules_for_tests(0)\n"


def encodings_with_own_site(content: bytes) -> bytes:
    """Return ``encodings/__init__.py`` so that ``site`` comes from disk; raise `BuildError` for an unknown form."""
    if _MARK in content:
        return content
    return _edited(_ALIASES, lambda line: line + _LEAVE_FROZEN_OUT, content, "encodings/__init__.py")


def site_without_user_site(content: bytes) -> bytes:
    """Return ``site.py`` with ``ENABLE_USER_SITE = False``; raise `BuildError` for an unknown form."""
    if _MARK in content:
        return content
    content = _edited(_FIRST_IMPORT, lambda line: _TAKE_FROZEN_BACK + line, content, "site.py")
    return _edited(_USER_SITE, lambda _: b"ENABLE_USER_SITE = False\n", content, "site.py")


def _edited(pattern: re.Pattern[bytes], edit: Callable[[bytes], bytes], content: bytes, name: str) -> bytes:
    edited, count = pattern.subn(lambda match: edit(match[0]), content)
    if count != 1:
        line = pattern.pattern.decode().removeprefix("^").removesuffix("\\n").replace("\\", "")
        raise BuildError(
            f"Cannot disable the user site: `{line}` stands {count} times in `{name}`, not once",
            hint="report this: a new Python release needs a new rule",
        )
    return edited
