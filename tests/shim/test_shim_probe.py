from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from mr_shim.command import shim_command
from mr_shim.spec import ProbeSpec
from support.fake_release import write_bundle_config
from support.shim_place import Place


def probe(place: Place, spec: ProbeSpec, **modules: str) -> tuple[int, dict[str, Any], str]:
    for name, text in modules.items():
        (place.release / f"lib/python3.12/site-packages/{name}.py").write_text(text)
    write_bundle_config(place.release, probe=spec)
    command = shim_command(str(place.release), "probe")
    result = subprocess.run(
        command, env=place.environment, cwd=place.cwd, capture_output=True, text=True, timeout=30, check=False
    )
    return result.returncode, json.loads(result.stdout or "{}"), result.stderr


def test_a_working_release_passes(place: Place) -> None:
    (place.cwd / "fake_backend.py").write_text("raise SystemExit('imported from the working directory')")
    spec = ProbeSpec(imports=("json", "fake_backend"), versions=("fake-backend", "absent"), accelerator="os:getpid")
    code, report, _ = probe(place, spec)
    assert code == 0
    assert report["ok"] is True
    assert [(item["module"], item["ok"]) for item in report["imports"]] == [("json", True), ("fake_backend", True)]
    assert 0 < report["imports"][1]["seconds"] <= report["seconds"] < 30
    assert report["versions"] == {"fake-backend": "1.5", "absent": None}
    assert report["accelerator"]["ok"] is True
    assert report["python"].startswith("3.12.")
    assert report["prefix"] == str(place.release)
    assert report["executable"] == f"{place.release}/bin/python3.12"


def test_every_failure_is_reported_with_its_traceback(place: Place) -> None:
    code, report, _ = probe(
        place,
        ProbeSpec(imports=("leaves", "lacks", "json"), timeout=20),
        leaves="raise SystemExit(0)",
        lacks="def load():\n    raise ImportError('libcudart.so.12: cannot open shared object file: No')\nload()",
    )
    assert code == 11
    assert report["ok"] is False
    leaves, lacks, works = report["imports"]
    assert (leaves["ok"], lacks["ok"], works["ok"]) == (False, False, True)
    assert leaves["error"] == "SystemExit: 0"
    assert "in load" in lacks["traceback"]
    assert lacks["missing_libraries"] == ["libcudart.so.12"]


@pytest.mark.parametrize(
    ("check", "error"),
    [
        ("os:getenv", "TypeError"),
        ("nothing.here:x", "ModuleNotFoundError"),
        ("os:nothing", "AttributeError"),
        ("gpu:no", ""),
    ],
)
def test_a_missing_accelerator_fails(place: Place, check: str, error: str) -> None:
    spec = ProbeSpec(imports=("json",), accelerator=check)
    code, report, _ = probe(place, spec, gpu="def no(): return False")
    assert code == 11
    assert report["accelerator"]["ok"] is False
    assert report["accelerator"].get("error", "").startswith(error)


def test_a_library_that_the_loader_misses_is_named(place: Place) -> None:
    module = "import ctypes\nctypes.CDLL('libnot-on-any-machine.so.3')"
    _, report, _ = probe(place, ProbeSpec(imports=("loads",)), loads=module)
    assert report["imports"][0]["missing_libraries"] == ["libnot-on-any-machine.so.3"]


def test_output_of_modules_does_not_damage_the_report(place: Place) -> None:
    noisy = "import os\nprint('noise', flush=True)\nos.write(1, b'native noise\\n')"
    code, report, errors = probe(place, ProbeSpec(imports=("noisy",)), noisy=noisy)
    assert (code, report["ok"]) == (0, True)
    assert "native noise" in errors


def test_a_crash_leaves_a_traceback(place: Place) -> None:
    code, report, errors = probe(place, ProbeSpec(imports=("crash",)), crash="import os\nos.abort()")
    assert (code, report) == (-6, {})
    assert "crash.py" in errors


def test_a_hang_ends_with_a_traceback(place: Place) -> None:
    code, report, errors = probe(place, ProbeSpec(imports=("hang",), timeout=1), hang="import time\ntime.sleep(60)")
    assert (code, report) == (1, {})
    assert "hang.py" in errors


def test_the_probe_runs_in_the_servers_environment(place: Place) -> None:
    module = "import os\nassert os.environ['FAKE_SETTING'] == 'on'\nassert os.environ['PYTHONSAFEPATH'] == '1'\n"
    code, report, _ = probe(place, ProbeSpec(imports=("environs",)), environs=module)
    assert (code, report["ok"]) == (0, True)


def test_arguments_are_refused(place: Place) -> None:
    result = subprocess.run(
        shim_command(str(place.release), "probe", "--x"), capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "error: Cannot read the options: unexpected argument `--x`\nhint: " in result.stderr
    unknown = subprocess.run(shim_command(str(place.release), "sing"), capture_output=True, text=True, check=False)
    assert (unknown.returncode, "Cannot run `sing`" in unknown.stderr) == (2, True)
