"""``mr-install`` as people and scripts run it: arguments, exit statuses, lines of JSON, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from support.bundles import BACKEND, BROKEN, CUDA_TARGET, DEMANDING, DRIVEN, GOOD, NEXT, Bundles
from support.invariants import check_invariants
from support.launching import free_port

PROGRAM = str(Path(sys.executable).with_name("mr-install"))


def mr_install(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def json_lines(finished: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in finished.stdout.splitlines()]
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert all(line["v"] == 1 for line in lines)
    assert [line["event"] for line in lines if line["event"] in {"result", "error"}] == [lines[-1]["event"]]
    return lines


def test_quiet_json_is_one_line(bundles: Bundles, root: Path) -> None:
    done = mr_install(BACKEND, "--from", bundles.source(GOOD), "--root", root, "-q", "--json")
    assert [line["event"] for line in json_lines(done)] == ["result"]
    failed = mr_install(BACKEND, "--from", f"oci:{root}/nowhere", "--root", root, "-q", "--json")
    assert [line["event"] for line in json_lines(failed)] == ["error"]


def test_the_everyday_calls(bundles: Bundles, root: Path) -> None:
    done = mr_install(BACKEND, "--from", bundles.source(GOOD), "--root", root)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"tiny {GOOD} is installed")
    assert "mr-serve" in done.stdout
    assert "extract" in done.stderr
    assert "\x1b" not in done.stderr  # no bars where there is no terminal
    assert "installed already" in mr_install(BACKEND, "--root", root).stdout
    assert "installed already" in mr_install("--root", root, BACKEND).stdout
    listed = mr_install("list", "--root", root).stdout
    assert BACKEND in listed
    assert GOOD in listed
    assert bundles.digests(GOOD)[0] in mr_install("--root", root, "status", BACKEND).stdout
    mr_install(BACKEND, "--from", bundles.source(NEXT), "--root", root)
    assert GOOD in mr_install("rollback", BACKEND, "--root", root).stdout
    assert "intact" in mr_install("verify", "--deep", BACKEND, "--root", root).stdout
    assert "imported in" in mr_install("probe", BACKEND, "--root", root).stdout
    assert mr_install("uninstall", BACKEND, "--root", root).returncode == 0
    assert "no backend is installed" in mr_install("list", "--root", root).stdout


def test_a_disk_can_be_prepared_for_a_machine_with_a_driver(bundles: Bundles, root: Path) -> None:
    install = (BACKEND, "--from", bundles.source(DRIVEN), "--root", root)
    refused(mr_install(*install), 5, "driver")
    refused(mr_install(*install, "--assume-cuda-driver", "998.9"), 5, "998.9")
    assert mr_install(*install, "--assume-cuda-driver", "999").returncode == 0
    assert CUDA_TARGET in mr_install("status", BACKEND, "--root", root).stdout
    refused(mr_install(*install, "--assume-cuda-driver", "new"), 2, "580")


def test_relative_paths(bundles: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundles.layout.parent)
    finished = mr_install(BACKEND, "--from", f"oci:layout:{BACKEND}-{GOOD}", "--root", os.path.relpath(tmp_path / "r"))
    assert finished.returncode == 0, finished.stderr
    check_invariants(tmp_path / "r")
    assert f"oci:layout:{BACKEND}-{GOOD}" in mr_install("status", BACKEND, "--root", tmp_path / "r").stdout


@pytest.mark.parametrize("option", [("--root", ""), ("--from", ""), ("--target", ""), ("--root", "a\nb")])
def test_an_empty_argument_is_not_a_default(bundles: Bundles, root: Path, option: tuple[str, str]) -> None:
    arguments = {"--from": bundles.source(GOOD), "--root": str(root), **dict([option])}
    refused(mr_install(BACKEND, *(text for pair in arguments.items() for text in pair)), 2, option[0])
    refused(mr_install("serve", BACKEND, "--model", "", "--root", root), 2, "--model")
    refused(mr_install(BACKEND, "--insecure-registry", "http://x/", "--root", root), 2, "--insecure-registry")


@pytest.mark.parametrize(
    ("script", "status"),
    [('"$0" list --json >&-', 0), ('"$0" list --json >/dev/full', 9), ('"$0" nope 2>&-', 4), ('"$0" list <&-', 0)],
)
def test_streams_that_are_closed_or_full(script: str, status: int, tmp_path: Path) -> None:
    environment = {**os.environ, "MR_ROOT": str(tmp_path), "MR_REPOSITORY": ""}
    finished = subprocess.run(
        ["sh", "-c", script, PROGRAM], check=False, capture_output=True, text=True, env=environment
    )
    assert finished.returncode == status
    assert "Traceback" not in finished.stdout + finished.stderr


@pytest.mark.parametrize("arguments", [("--help",), ("list", "--json"), ("list",)])
def test_a_reader_that_went_away_is_no_bug(arguments: tuple[str, ...], root: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [PROGRAM, *arguments, *([] if "--help" in arguments else ["--root", str(root)])]
    finished = subprocess.run(command, check=False, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (finished.returncode, finished.stderr) == (128 + signal.SIGPIPE, "")


def test_json_is_one_object_a_line_and_ends_with_the_outcome(bundles: Bundles, root: Path) -> None:
    lines = json_lines(mr_install(BACKEND, "--from", bundles.source(GOOD), "--root", root, "--json"))
    assert lines[-1]["event"] == "result"
    assert lines[-1]["action"] == "install"
    assert {"phase-started", "phase-progress", "phase-finished"} <= {line["event"] for line in lines}
    progress = [line for line in lines if line["event"] == "phase-progress" and line["phase"] == "extract"]
    assert [line["done"] for line in progress] == sorted(line["done"] for line in progress)
    assert all(line["done"] <= line["total"] for line in progress)
    lines = json_lines(mr_install("status", BACKEND, "--root", root, "--json"))
    assert lines[-1]["state"] == "installed"
    assert lines[-1]["active"]["receipt"]["version"] == GOOD
    lines = json_lines(mr_install("plan", BACKEND, "--from", bundles.source(NEXT), "--root", root, "--json"))
    assert lines[-1]["action"] == "install"
    assert lines[-1]["previous"].startswith(f"{GOOD}-")


def refused(finished: subprocess.CompletedProcess[str], status: int, *texts: str) -> None:
    """One clear line and one hint, the right status, and no traceback."""
    assert finished.returncode == status, (finished.stdout, finished.stderr)
    lines = finished.stderr.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, finished.stderr
    assert errors[0].startswith("error: Cannot ")
    assert not errors[0].endswith(".")
    assert [line for line in lines if line.startswith("hint: ")], finished.stderr
    assert "Traceback" not in finished.stderr or status == 11
    for text in texts:
        assert text in finished.stderr


def test_wrong_input(bundles: Bundles, root: Path, tmp_path: Path) -> None:
    good = bundles.source(GOOD)
    refused(mr_install("mlx-ml", "--root", root), 4, "did you mean `mlx-lm`")
    refused(mr_install("mlx-lm", "--root", root, MR_REPOSITORY=""), 2, "MR_REPOSITORY")
    refused(mr_install("../etc", "--from", good, "--root", root), 2)
    refused(mr_install(BACKEND, "--from", good, "--root", root, "--bogus"), 2, "--bogus")
    refused(mr_install(BACKEND, "--from", "ftp://x/y", "--root", root), 2, "oci-archive:FILE")
    refused(mr_install(BACKEND, "--from", "docker://127.0.0.1:1/UPPER", "--root", root), 2, "upper-case")
    refused(mr_install(BACKEND, "--from", good, "--target", "beos/x86+cpu", "--root", root), 2, "--target")
    refused(mr_install(BACKEND, "--from", f"oci:{bundles.layout}:nothing", "--root", root), 4)
    refused(mr_install(BACKEND, "--from", bundles.source(DEMANDING), "--root", root), 5, "glibc 2.99")
    port = free_port()
    down = ("--from", f"docker://127.0.0.1:{port}/a/b:1", "--insecure-registry", f"127.0.0.1:{port}")
    refused(mr_install(BACKEND, *down, "--root", root), 7, f"127.0.0.1:{port}")
    refused(mr_install("serve", BACKEND, "--model", tmp_path, "--root", root), 4, "not installed")
    assert not root.exists()
    mr_install(BACKEND, "--from", good, "--root", root)
    refused(mr_install(BACKEND, "--from", bundles.source(BROKEN), "--root", root), 11, "still active", "report is in")
    refused(mr_install("serve", BACKEND, "--model", tmp_path / "none", "--root", root), 4, "no such file or directory")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(mr_install("serve", BACKEND, "--model", tmp_path, "--port", port, "--root", root), 9, str(port))
    args = ("serve", BACKEND, "--model", tmp_path, "--served-model-name", "x", "--root", root)
    refused(mr_install(*args), 5, "the small server has one name")
    check_invariants(root)


def test_a_file_in_place_of_the_root(bundles: Bundles, tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("mine")
    finished = mr_install(BACKEND, "--from", bundles.source(GOOD), "--root", place)
    assert finished.returncode in {2, 9}
    assert place.read_text() == "mine"


def test_errors_are_json_too(root: Path) -> None:
    finished = mr_install("rollback", "mlx-lm", "--root", root, "--json")
    assert finished.returncode == 4
    last = json_lines(finished)[-1]
    assert last["event"] == "error"
    assert last["code"] == "not-found"
    assert last["exit_code"] == 4
    assert last["hint"]
    usage = mr_install("rollback", "--json")
    assert usage.returncode == 2
    assert json_lines(usage)[-1]["code"] == "usage"


def test_help_teaches() -> None:
    for arguments in ([], ["--help"], ["install", "--help"], ["serve", "-h"], ["status", "--help"]):
        finished = mr_install(*arguments)
        assert "Usage: mr-install" in finished.stdout + finished.stderr
    assert "docker://" in mr_install("install", "--help").stdout
    assert mr_install("--version").stdout.startswith("mr-install")
    assert "_MR_INSTALL_COMPLETE" in mr_install("completion", "bash").stdout


def test_serving_until_ctrl_c(bundles: Bundles, root: Path, tmp_path: Path) -> None:
    mr_install(BACKEND, "--from", bundles.source(GOOD), "--root", root)
    command = [PROGRAM, "serve", BACKEND, "--model", str(tmp_path), "--root", str(root), "-q"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with urllib.request.urlopen(f"{url}/facts", timeout=10) as answer:
            facts = json.load(answer)
        assert facts["executable"].startswith(str((root / BACKEND / "releases").resolve()))
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert output.strip() == "stopped"
    assert not Path(f"/proc/{facts['pid']}").exists()


def test_ctrl_c_during_an_install_cleans_up(bundles: Bundles, root: Path) -> None:
    mr_install(BACKEND, "--from", bundles.source(GOOD), "--root", root)
    command = [PROGRAM, BACKEND, "--from", bundles.source(NEXT), "--root", str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 20
        while not list((root / BACKEND / ".mr").glob("stage-*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    active = check_invariants(root)
    assert active is not None
    assert active.startswith(f"{GOOD}-")


@pytest.mark.parametrize("name", ["HOME", "MR_ROOT"])
def test_the_root_comes_from_the_environment(bundles: Bundles, tmp_path: Path, name: str) -> None:
    place = tmp_path / "with space"
    environment = {"MR_ROOT": "", "HOME": str(tmp_path), name: str(place)}
    finished = mr_install(BACKEND, "--from", bundles.source(GOOD), "--no-probe", "-q", **environment)
    assert finished.returncode == 0, finished.stderr
    check_invariants(place / ".docker" / "model-runner" if name == "HOME" else place)
