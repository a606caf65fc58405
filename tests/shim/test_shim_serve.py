"""The shim in a real release: what reaches the server, what the caller sees, and what a failure looks like."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from mr_core.file_manifest import LEASE_PATH
from mr_shim.spec import LaunchSpec
from support.fake_release import LAUNCH, VERSION, activate, host_python, make_release, write_bundle_config
from support.launching import free_port, is_gone, run, running
from support.shim_place import Place


def test_the_server_gets_its_arguments_and_keeps_the_process(place: Place) -> None:
    extra = ("--served-model-name", "a b", "--served-model-name", "ü$(x)", "--", "--say", 'it\'s "fine" \\ *')
    with running(place.launcher, place.model, *extra, environment=place.environment, cwd=place.cwd) as server:
        facts = server.get("/facts")
        assert facts["pid"] == server.process.pid
        assert facts["argv"][1:] == [
            *("--model", str(place.model), "--host", "127.0.0.1", "--port", str(server.port)),
            *("--names", "a b", "ü$(x)", "--say", 'it\'s "fine" \\ *'),
        ]
        assert facts["executable"] == f"{place.release}/bin/python{VERSION}"
        assert facts["prefix"] == str(place.release)
        assert facts["environment"]["FAKE_SETTING"] == "on"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == -signal.SIGTERM


def test_the_exit_status_passes_through(place: Place) -> None:
    arguments = ("--model", str(place.model), "--port", "0", "--", "--crash", "37")
    result = run(place.launcher, *arguments, environment=place.environment, cwd=place.cwd)
    assert result.returncode == 37
    assert "line 59 before the crash" in result.stderr


def test_a_relative_model_is_the_callers(place: Place) -> None:
    (place.cwd / "mine").mkdir()
    with running(place.launcher, Path("mine"), environment=place.environment, cwd=place.cwd) as server:
        facts = server.get("/facts")
    assert facts["argv"][2] == str(place.cwd / "mine")
    assert facts["directory"].startswith(place.environment["TMPDIR"])


def _plant_canaries(place: Place) -> tuple[dict[str, str], Path]:
    """Put code wherever an interpreter might pick it up; each piece leaves a file in the returned directory."""
    marks = place.cwd.parent / "marks"
    marks.mkdir()
    path = place.cwd.parent / "pythonpath"
    path.mkdir()
    user_site = Path(place.environment["HOME"]) / f".local/lib/python{VERSION}/site-packages"
    user_site.mkdir(parents=True)
    (user_site / "canary.pth").write_text(f"import pathlib; pathlib.Path({str(marks)!r}, 'pth').touch()\n")
    (user_site / "usercustomize.py").write_text(f"import pathlib; pathlib.Path({str(marks)!r}, 'user').touch()\n")
    (path / "sitecustomize.py").write_text(f"import pathlib; pathlib.Path({str(marks)!r}, 'custom').touch()\n")
    (place.cwd / "torch.py").write_text(f"import pathlib; pathlib.Path({str(marks)!r}, 'torch').touch()\n")
    (place.cwd / "json.py").write_text("raise SystemExit('the working directory is on sys.path')\n")
    rc = place.cwd / "rc"
    rc.write_text(f"touch '{marks}/bash'\n")
    environment = {
        **place.environment,
        "PYTHONPATH": str(path),
        "LD_PRELOAD": "/nothing/canary.so",
        "BASH_ENV": str(rc),
        "ENV": str(rc),
        "SOME_SECRET": "canary",
    }
    return environment, marks


def test_the_canaries_would_sing(place: Place) -> None:
    environment, marks = _plant_canaries(place)
    (place.cwd / "json.py").unlink()
    subprocess.run(
        [host_python()[0], "-c", "import torch"], env=environment, cwd=place.cwd, check=True, stderr=subprocess.DEVNULL
    )
    assert {mark.name for mark in marks.iterdir()} == {"pth", "user", "custom", "torch"}


def test_nothing_of_the_callers_python_reaches_server_or_children(place: Place) -> None:
    environment, marks = _plant_canaries(place)
    with running(place.launcher, place.model, environment=environment, cwd=place.cwd) as server:
        for who in ("/facts", "/child"):
            facts = server.get(who)
            assert facts["canary"] == ""
            assert facts["flags"] == {"no_user_site": 1, "safe_path": True, "dont_write_bytecode": 1}
            assert {"LD_PRELOAD", "PYTHONPATH", "BASH_ENV", "ENV", "SOME_SECRET"}.isdisjoint(facts["environment"])
            assert all(entry.startswith(str(place.release)) for entry in facts["path"])
            assert "mr_shim" not in facts["modules"]
    assert [mark.name for mark in marks.iterdir()] == []


def test_directories_are_private_and_the_hub_cache_exists(place: Place) -> None:
    with running(place.launcher, place.model, environment=place.environment, cwd=place.cwd) as server:
        facts = server.get("/facts")
        temporary, directory = Path(facts["environment"]["TMPDIR"]), Path(facts["directory"])
        assert temporary.parent == Path(place.environment["TMPDIR"])
        assert directory.is_relative_to(temporary)
        assert {place.stat().st_mode & 0o777 for place in (temporary, directory)} == {0o700}
        cache = Path(facts["environment"]["HF_HUB_CACHE"])
        assert cache == Path(place.environment["HOME"]) / ".cache/huggingface/hub"
        assert cache.is_dir()
    with running(place.launcher, place.model, environment=place.environment, cwd=place.cwd) as server:
        assert server.get("/facts")["environment"]["TMPDIR"] == str(temporary)


def test_a_home_that_cannot_be_written_gets_a_private_hub_cache(place: Place) -> None:
    (Path(place.environment["HOME"]) / ".cache").write_text("not a directory")
    with running(place.launcher, place.model, environment=place.environment, cwd=place.cwd) as server:
        environment = server.get("/facts")["environment"]
    assert environment["HF_HUB_CACHE"] == environment["TMPDIR"] + "/hub"
    assert Path(environment["HF_HUB_CACHE"]).is_dir()


def test_a_release_is_not_written_to(place: Place) -> None:
    def listing() -> set[tuple[str, int]]:
        return {(str(path), path.lstat().st_mtime_ns) for path in place.release.rglob("*") if not path.is_symlink()}

    before = listing()
    with running(place.launcher, place.model, environment=place.environment, cwd=place.cwd) as server:
        server.get("/child")
    assert listing() == before


def test_the_lease_lives_as_long_as_the_server(place: Place) -> None:
    with (place.release / LEASE_PATH).open("rb") as lease:
        with running(place.launcher, place.model, environment=place.environment, cwd=place.cwd) as server:
            with pytest.raises(BlockingIOError):
                fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(lease, fcntl.LOCK_SH | fcntl.LOCK_NB)  # many servers may share it
            fcntl.flock(lease, fcntl.LOCK_UN)
            server.process.kill()
            server.process.wait(10)
        fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_release_that_is_being_removed_is_not_started(place: Place) -> None:
    with (place.release / LEASE_PATH).open("rb") as lease:
        fcntl.flock(lease, fcntl.LOCK_EX)
        result = run(place.launcher, "--model", str(place.model), environment=place.environment, cwd=place.cwd)
    assert result.returncode == 9
    assert f"error: Cannot use release `{place.release}`: it is being removed\nhint: " in result.stderr


def test_a_bundle_used_in_place_needs_no_lease(place: Place) -> None:
    (place.release / LEASE_PATH).unlink()
    with running(place.launcher, place.model, environment=place.environment, cwd=place.cwd) as server:
        assert server.get("/facts")["prefix"] == str(place.release)
    assert not (place.release / LEASE_PATH).exists()


def test_an_upgrade_at_the_same_path_leaves_the_running_server_alone(place: Place) -> None:
    newer = make_release(place.backend / "releases/1.6-0123456789ab", modules={"only_new.py": ""})
    with running(place.launcher, place.model, environment=place.environment, cwd=place.cwd) as old:
        activate(place.backend, newer)
        with running(place.launcher, place.model, environment=place.environment, cwd=place.cwd) as new:
            assert new.get("/child")["prefix"] == str(newer)
        assert old.get("/child")["prefix"] == str(place.release)


def test_print_shows_everything_but_secrets_and_starts_nothing(place: Place) -> None:
    environment = {**place.environment, "VLLM_API_KEY": "s3cret", "https_proxy": "http://u:s3cret@proxy:1"}
    arguments = ("--model", str(place.model), "--print", "--", "--api-key", "s3cret")
    result = run(place.launcher, *arguments, environment=environment, cwd=place.cwd)
    assert (result.returncode, result.stderr) == (0, "")
    shown = json.loads(result.stdout)
    assert shown["argv"][0] == f"{place.release}/bin/python{VERSION}"
    assert shown["argv"][-2:] == ["--api-key", "***"]
    assert shown["environment"]["VLLM_API_KEY"] == "***"
    assert "s3cret" not in result.stdout
    assert list(Path(place.environment["TMPDIR"]).iterdir()) == []
    assert list(Path(place.environment["HOME"]).iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([], 2, "`--model` is missing"),
        (["--model", "MODEL", "--bogus"], 2, "unknown option `--bogus`"),
        (["--model", "nothing-here"], 4, "Cannot find model `nothing-here`"),
        (["--model", "MODEL", "--uds", "s"], 5, "Cannot use `--uds`: fake_backend listens on TCP only"),
        (["--model", "MODEL", "--mode", "x"], 5, "Cannot serve mode `x`"),
        (["--model", "MODEL", "--host", "192.0.2.1"], 9, "Cannot listen on `192.0.2.1:8080`: "),
        (["--model", "MODEL", "--host", "no.such.host.invalid"], 9, "Cannot listen on `no.such.host.invalid:8080`: "),
    ],
)
def test_wrong_input_is_one_line_and_a_hint(place: Place, arguments: list[str], code: int, text: str) -> None:
    filled = [str(place.model) if argument == "MODEL" else argument for argument in arguments]
    result = run(place.launcher, *filled, environment=place.environment, cwd=place.cwd)
    assert result.returncode == code
    error, hint = result.stderr.splitlines()
    assert error.startswith("error: Cannot ")
    assert text in error
    assert hint.startswith("hint: ")
    assert result.stdout == ""


def test_a_port_in_use_is_said_before_the_backend_starts(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        arguments = ("--model", str(place.model), "--port", str(port))
        result = run(place.launcher, *arguments, environment=place.environment, cwd=place.cwd)
    assert result.returncode == 9
    assert f"error: Cannot listen on `127.0.0.1:{port}`: address already in use\n" in result.stderr
    assert "fake backend starts" not in result.stdout


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        (None, 3, "No such file or directory"),
        ("{", 3, "Expecting property name"),
        ("[]", 3, "expected a table"),
        ("{}", 3, "launch.expected a table"),
        ('{"launch": {"module": "m", "options": {}}}', 3, "launch.options.model: required"),
        ('{"launch": {"contract": 2}}', 5, "launch contract 2 is newer than 1"),
    ],
)
def test_a_damaged_bundle_config_is_invalid_input(place: Place, text: str | None, code: int, reason: str) -> None:
    path = place.release / ".mr/bundle.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    result = run(place.launcher, "--model", str(place.model), environment=place.environment, cwd=place.cwd)
    assert result.returncode == code
    assert f"error: Cannot read `{path}`: " in result.stderr
    assert reason in result.stderr


def test_a_directory_of_somebody_else_is_not_used(place: Place) -> None:
    shown = run(place.launcher, "--model", str(place.model), "--print", environment=place.environment, cwd=place.cwd)
    temporary = Path(json.loads(shown.stdout)["environment"]["TMPDIR"])
    temporary.mkdir(mode=0o777)
    temporary.chmod(0o777)
    result = run(
        place.launcher, "--model", str(place.model), "--port", "0", environment=place.environment, cwd=place.cwd
    )
    assert result.returncode == 9
    assert f"Cannot use directory `{temporary}`: it is not private to this user" in result.stderr


def test_a_release_without_its_interpreter_says_so(place: Place) -> None:
    spec = LaunchSpec(script="not-there", options=LAUNCH.options)
    write_bundle_config(place.release, launch=spec)
    result = run(
        place.launcher, "--model", str(place.model), "--port", "0", environment=place.environment, cwd=place.cwd
    )
    assert result.returncode == 3
    assert f"Cannot run `{place.release}/bin/not-there`: no such file" in result.stderr


def test_sockets(place: Place) -> None:
    options = {**LAUNCH.options, "uds": "--say"}
    write_bundle_config(place.release, launch=LaunchSpec(module="fake_backend", options=options))
    sockets = Path(place.environment["TMPDIR"])
    arguments = ("--model", str(place.model))
    tail = ("--", "--crash", "5")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(sockets / "used"))
        other.listen()
        used = run(
            place.launcher, *arguments, "--uds", f"{sockets}/used", *tail, environment=place.environment, cwd=place.cwd
        )
    assert (used.returncode, "address already in use" in used.stderr) == (9, True)
    for name, code in (("used", 5), ("new", 5), ("no/where", 9)):
        result = run(
            place.launcher,
            *arguments,
            "--uds",
            f"{sockets}/{name}",
            *tail,
            environment=place.environment,
            cwd=place.cwd,
        )
        assert result.returncode == code, result.stderr


@pytest.mark.parametrize("arguments", [("--help",), ("-h",), ("--version",)])
def test_help_and_version(place: Place, arguments: tuple[str, ...]) -> None:
    result = run(place.launcher, *arguments, environment=place.environment, cwd=place.cwd)
    assert (result.returncode, result.stderr) == (0, "")
    expected = "fake 1.5 linux/amd64+cpu\nlaunch contract 1\n" if arguments == ("--version",) else "Usage: mr-serve"
    assert result.stdout.startswith(expected)


def test_closed_standard_descriptors_are_not_taken_by_the_lease(place: Place) -> None:
    script = 'exec "$0" "$@" <&- 2>&-'
    port = free_port()
    command = ["sh", "-c", script, str(place.launcher), "--model", str(place.model), "--port", str(port)]
    with subprocess.Popen(command, env=place.environment, cwd=place.cwd, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        links = {}
        for entry in Path(f"/proc/{process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                links[int(entry.name)] = str(entry.readlink())
        process.kill()
    holding = [number for number, target in links.items() if target == str(place.release / LEASE_PATH)]
    assert holding
    assert min(holding) >= 3
    assert is_gone(process.pid)


def test_shell_metacharacters_in_paths(place: Place) -> None:
    model = place.model.parent / 'm $(touch x) "q" `y`'
    shutil.copytree(place.model, model)
    with running(place.launcher, model, environment=place.environment, cwd=place.cwd) as server:
        assert server.get("/facts")["argv"][2] == str(model)
