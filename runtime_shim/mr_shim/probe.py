"""The import probe: what a release must show before it may become active. Runs inside the release, with its site.

Prints one JSON object on standard output; whatever the imported modules print goes to standard error. Exit status 0
when everything passed, 11 when not. A hang ends with a traceback on standard error after the spec's timeout.
"""

from __future__ import annotations

import faulthandler
import importlib
import importlib.metadata
import json
import os
import re
import sys
import time
import traceback

from mr_shim.errors import PROBE
from mr_shim.spec import ProbeSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_MISSING = (
    re.compile(r"(\S+): cannot open shared object file"),
    re.compile(r"Library not loaded: (\S+)"),
    re.compile(r"version [`'](\S+?)' not found"),
)


def run() -> NoReturn:
    """Probe with the spec in ``sys.argv[1]`` (JSON), print the report, and end this process."""
    report_to = os.dup(1)
    os.dup2(2, 1)  # native code that prints must not damage the report
    spec = ProbeSpec.from_json(json.loads(sys.argv[1]))
    faulthandler.dump_traceback_later(spec.timeout, exit=True)
    report = probe(spec)
    faulthandler.cancel_dump_traceback_later()
    with os.fdopen(report_to, "w", encoding="utf-8") as file:
        file.write(json.dumps(report, ensure_ascii=False) + "\n")
    sys.stderr.flush()
    os._exit(0 if report["ok"] else PROBE)  # threads and exit handlers of half-imported modules may hang


def probe(spec: ProbeSpec) -> dict[str, Any]:
    """Import every module, ask for versions and the accelerator; never raises for what it finds."""
    begin = time.monotonic()
    imports = [_import(name) for name in spec.imports]
    accelerator = _accelerator(spec.accelerator) if spec.accelerator else None
    return {
        "ok": all(item["ok"] for item in imports) and (accelerator is None or accelerator["ok"]),
        "python": sys.version.split()[0],
        "executable": sys.executable,
        "prefix": sys.prefix,
        "seconds": _seconds_since(begin),
        "imports": imports,
        "versions": {name: _version(name) for name in spec.versions},
        "accelerator": accelerator,
    }


def _import(name: str) -> dict[str, Any]:
    begin = time.monotonic()
    result: dict[str, Any] = {"module": name, "ok": True}
    try:
        importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - modules raise SystemExit too; whatever it is belongs in the report
        result.update(_failure(error))
    result["seconds"] = _seconds_since(begin)
    return result


def _accelerator(check: str) -> dict[str, Any]:
    module, _, attribute = check.partition(":")
    result: dict[str, Any] = {"check": check, "ok": False}
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
        answer = found()
        result["ok"] = bool(answer)
        result["answer"] = repr(answer)[:200]
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - as above
        result.update(_failure(error))
    return result


def _failure(error: BaseException) -> dict[str, Any]:
    return {
        "ok": False,
        "error": f"{type(error).__name__}: {error}"[:2000],
        "traceback": "".join(traceback.format_exception(error)),
        "missing_libraries": _missing_libraries(error),
    }


def _missing_libraries(error: BaseException) -> list[str]:
    """Name the shared libraries, or symbol versions of one, that the dynamic loader did not find."""
    found: dict[str, None] = {}
    link: BaseException | None = error
    while link is not None:
        for pattern in _MISSING:
            found.update(dict.fromkeys(pattern.findall(str(link))))
        link = link.__cause__ or link.__context__
    return list(found)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _seconds_since(begin: float) -> float:
    return round(time.monotonic() - begin, 4)
