"""A host CPython made relocatable: it runs anywhere, tells nothing of its machine, and is always the same."""

from __future__ import annotations

import ast
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mr_bundler.interpreter import find_host_python, prepare_interpreter
from mr_bundler.interpreter.libraries import SYSTEM_LIBRARIES
from mr_core.errors import BuildError, CancelledError, NotFoundError, UnsupportedError, UsageError
from mr_core.events import Cancel, Level, Notice, Outcome, PhaseFinished
from mr_core.platform import Target
from support.need import missing, need
from support.python_archive import HERE, NOWHERE

IMPORTS = "import ssl, sqlite3, ctypes, lzma, bz2, zlib, hashlib, uuid, json, asyncio, multiprocessing, decimal"


def snapshot(prefix):
    found = {}
    for place in sorted(prefix.rglob("*")):
        status = place.lstat()
        content = str(place.readlink()) if place.is_symlink() else place.read_bytes() if place.is_file() else None
        found[str(place.relative_to(prefix))] = (stat.filemode(status.st_mode), content)
    return found


def test_a_moved_tree_runs_with_its_own_libraries(host, relocated, tmp_path, ask):
    moved = tmp_path / "mit Leerzeichen und Ümläuten 日本"
    shutil.copytree(relocated.prefix, moved, symlinks=True)
    answer = ask(
        moved,
        f"{IMPORTS}\nimport platform, sysconfig\n"
        "hashlib.sha256(b''); sqlite3.connect(':memory:').execute('select 1'); ssl.create_default_context()\n"
        "mapped = sorted({line.split(None, 5)[5].strip() for line in open('/proc/self/maps') if '.so' in line})\n"
        "answer = {'version': platform.python_version(), 'prefix': sys.prefix, 'exec': sys.exec_prefix,\n"
        "  'path': sys.path, 'mapped': mapped,\n"
        "  'purelib': sysconfig.get_path('purelib'), 'include': sysconfig.get_config_var('INCLUDEPY')}",
    )
    assert answer["version"] == host.version
    assert answer["prefix"] == answer["exec"] == str(moved)
    assert answer["purelib"] == f"{moved}/lib/python3.12/site-packages"
    assert Path(answer["include"], "Python.h").is_file()
    assert all(entry.startswith(f"{moved}/") for entry in answer["path"])
    foreign = {Path(name).name for name in answer["mapped"] if not name.startswith(f"{moved}/")}
    assert foreign <= SYSTEM_LIBRARIES


@pytest.mark.root
def test_it_runs_while_the_original_is_hidden(host, relocated, ask):
    need("unshare")
    if os.geteuid() != 0 or host.prefix in (Path("/usr"), Path("/usr/local")):
        missing("root, and a CPython 3.12 with a prefix of its own")
    hide = 'mount -t tmpfs none "$0" && [ ! -e "$0/bin" ] && exec "$@"'
    wrap = ("unshare", "--mount", "sh", "-c", hide, str(host.prefix))
    answer = ask(relocated.prefix, f"{IMPORTS}\nanswer = sys.prefix", wrap=wrap)
    assert answer == str(relocated.prefix)


def test_no_file_names_the_machine(host, relocated):
    text = next((host.prefix / "lib/python3.12").glob("_sysconfigdata*.py")).read_text()
    variables = ast.literal_eval(text.partition("=")[2].strip()) if "_VARIABLES" not in text else {}
    telling = {str(host.prefix), os.path.realpath(host.prefix), str(Path.home()), variables.get("abs_builddir", "")}
    telling = {path for path in telling if path.count("/") > 1 or path == str(Path.home())} - {"/usr/local", "/"}
    assert telling
    needles = [path.encode(encoding) for path in telling for encoding in ("utf-8", "utf-16-le", "utf-32-le")]
    found = [
        (str(place), needle)
        for place in relocated.prefix.rglob("*")
        if place.is_file()
        for needle in needles
        if needle in place.read_bytes()
    ]
    assert found == []


def test_a_tree_without_its_library_does_not_take_another_pythons(host, relocated, tmp_path):
    if host.prefix in (Path("/usr"), Path("/usr/local")):
        missing("a CPython 3.12 with a prefix of its own")
    shutil.copytree(relocated.prefix / "bin", tmp_path / "bin", symlinks=True)
    (tmp_path / "lib").mkdir()
    for library in (relocated.prefix / "lib").glob("*.so*"):
        shutil.copy(library, tmp_path / "lib")
    ran = subprocess.run([tmp_path / "bin/python3", "-I", "-c", ""], capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert "Could not find platform independent libraries" in ran.stderr
    assert str(host.prefix) not in ran.stderr


def test_two_builds_are_byte_identical(host, relocated, tmp_path):
    before = os.umask(0o077)
    try:
        second = prepare_interpreter(
            NOWHERE, HERE, destination=tmp_path / "second", cache=tmp_path / "cache", python_from=host.executable
        )
    finally:
        os.umask(before)
    assert second.identity == relocated.identity
    assert snapshot(second.prefix) == snapshot(relocated.prefix)


def test_the_second_call_is_a_copy_and_a_damaged_cache_is_not_used(host, tmp_path):
    def build(name):
        events = []
        place = tmp_path / name
        made = prepare_interpreter(
            NOWHERE, HERE, destination=place, cache=tmp_path / "cache", python_from=host.prefix, report=events.append
        )
        told.extend(events)
        return made, [(e.phase, e.outcome) for e in events if isinstance(e, PhaseFinished)]

    told = []
    first, worked = build("one")
    second, copied = build("two")
    assert worked == [("relocate", Outcome.DONE), ("interpreter", Outcome.DONE)]
    assert copied == [("interpreter", Outcome.SKIPPED)]
    (notice,) = [e for e in told if isinstance(e, Notice) and e.code == "grafted-libraries"]
    detail = next(e.detail for e in told if isinstance(e, PhaseFinished) and e.phase == "relocate")
    names = notice.message.partition(": ")[2]
    assert notice.level is Level.DETAIL
    assert detail["libraries"] == (0 if names == "none" else len(names.split(", ")))
    assert snapshot(second.prefix) == snapshot(first.prefix)
    (entry,) = (tmp_path / "cache/interpreters").iterdir()
    content = bytearray(entry.read_bytes())
    content[-1000] ^= 1
    entry.write_bytes(content)
    third, repaired = build("three")
    assert repaired == worked
    assert snapshot(third.prefix) == snapshot(first.prefix)


def test_packages_of_a_home_directory_are_out_of_reach(relocated, tmp_path, ask):
    """Started by a host without any flag, directly or through a link, and in child processes too."""
    packages = tmp_path / ".local/lib/python3.12/site-packages"
    packages.mkdir(parents=True)
    (packages / "intruder.py").write_text("")
    (packages / "usercustomize.py").write_text("raise SystemExit('canary: usercustomize')")
    (packages / "canary.pth").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    (tmp_path / "backend/bin").mkdir(parents=True)
    (tmp_path / "backend/bin/python3.12").symlink_to(relocated.prefix / "bin/python3")
    code = (
        "import importlib.util, os, site, subprocess\n"
        "child = 'import site, sys; print(site.ENABLE_USER_SITE, sys.prefix)'\n"
        "answer = {'enabled': site.ENABLE_USER_SITE, 'found': importlib.util.find_spec('intruder') is not None,\n"
        "  'prefix': sys.prefix, 'frozen': 'frozen' in str(os.__spec__.origin),\n"
        "  'child': subprocess.check_output([sys.executable, '-c', child], text=True)}"
    )
    for prefix in (relocated.prefix, tmp_path / "backend"):
        answer = ask(prefix, code, "-P", env={"HOME": str(tmp_path)})
        assert answer == {
            "enabled": False,
            "found": False,
            "prefix": str(relocated.prefix),
            "frozen": True,
            "child": f"False {relocated.prefix}\n",
        }
    assert not (tmp_path / "ran").exists()


def test_the_tree_has_the_shape_of_a_bundle(relocated):
    tree = snapshot(relocated.prefix)
    assert {path for path in tree if path.startswith("bin/")} == {"bin/python", "bin/python3", "bin/python3.12"}
    assert tree["bin/python3"] == tree["bin/python"] == ("lrwxrwxrwx", "python3.12")
    assert {mode for mode, _ in tree.values()} == {"lrwxrwxrwx", "-rw-r--r--", "-rwxr-xr-x", "drwxr-xr-x"}
    assert [path for path, (mode, target) in tree.items() if mode[0] == "l" and target.startswith("/")] == []
    gone = (
        r"\.pyc$|__pycache__|\.a$|/(test|idlelib|tkinter|curses|ensurepip|lib2to3)/|EXTERNALLY|site-packages/.|config-"
    )
    assert [path for path in tree if re.search(gone, path)] == []
    shebangs = {c.splitlines()[0] for p, (_, c) in tree.items() if p.endswith(".py") and c and c[:2] == b"#!"}
    assert {line for line in shebangs if b"python" in line} <= {b"#!/usr/bin/env python3"}
    assert "lib/python3.12/LICENSE.txt" in tree
    size = sum(len(content) for mode, content in tree.values() if mode[0] == "-")
    assert 10e6 < size < 45e6


def test_grafted_libraries_come_with_their_licences(relocated):
    need("dpkg-query")
    grafted = [p.name for p in (relocated.prefix / "lib").glob("*.so*") if not p.name.startswith("libpython")]
    texts = list((relocated.prefix / "share/licenses").glob("*/copyright"))
    assert bool(grafted) == bool(texts)
    assert all(text.stat().st_size > 100 for text in texts)


def test_the_glibc_floor_is_what_readelf_sees(relocated):
    readelf = need("readelf")
    binaries = [p for p in relocated.prefix.rglob("*") if not p.is_symlink() and p.is_file()]
    binaries = [str(p) for p in binaries if p.read_bytes()[:4] == b"\x7fELF"]
    text = subprocess.run([readelf, "-VW", *binaries], capture_output=True, text=True, check=True).stdout
    floors = {tuple(map(int, found.split("."))) for found in re.findall(r"Name: GLIBC_([0-9.]+)", text)}
    if "GLIBC_ABI_DT_RELR" in text:
        floors.add((2, 36))
    assert relocated.glibc == ".".join(map(str, max(floors)))
    dynamic = subprocess.run([readelf, "-dW", *binaries], capture_output=True, text=True, check=True).stdout
    paths = set(re.findall(r"(?:runpath|rpath): \[(.*)\]", dynamic))
    assert paths <= {"$ORIGIN", "$ORIGIN/../lib", "$ORIGIN/../.."}


def test_no_symbol_or_constant_was_lost(host, relocated, ask):
    """Strings share bytes in a binary: overwriting one must not change another."""
    readelf = need("readelf")
    for name in ["lib/libpython3.12.so.1.0", *(f"lib/python3.12/lib-dynload/{stem}" for stem in ("_ssl*", "math*"))]:
        for place in relocated.prefix.glob(name):
            original = host.prefix / place.relative_to(relocated.prefix)
            symbols = [
                re.findall(
                    r"^.* (\S+)$",
                    subprocess.run([readelf, "--dyn-syms", "-W", p], capture_output=True, text=True, check=True).stdout,
                    re.MULTILINE,
                )[4:]
                for p in (original, place)
            ]
            assert symbols[0] == symbols[1]
            assert symbols[0]
    facts = (
        "import errno, platform, sysconfig\n"
        "answer = [sys.version, platform.python_version(), sys.implementation.cache_tag, sys.platform, sys.abiflags,\n"
        "  sorted(sys.builtin_module_names), sys.copyright, sorted(errno.errorcode.values()), sys.platlibdir,\n"
        "  sysconfig.get_platform(), sys._git, sys.float_repr_style, sys.byteorder]"
    )
    assert ask(relocated.prefix, facts) == ask(host.prefix, facts, "-I", "-S")


def test_a_shim_that_fails_is_passed_over(host, tmp_path):
    for name, script in (("broken", "echo no such version >&2; exit 127"), ("other", "echo hello")):
        shim = tmp_path / name / "python3.12"
        shim.parent.mkdir()
        shim.write_text(f"#!/bin/sh\n{script}\n")
        shim.chmod(0o755)
    environ = {"HOME": str(tmp_path), "HOMEBREW_PREFIX": str(tmp_path)}
    shims = f"{tmp_path}/broken:{tmp_path}/other"
    found = find_host_python(environ={**environ, "PATH": f"{shims}:{host.prefix}/bin"})
    assert found == host.prefix
    assert find_host_python(environ={**environ, "PYENV_ROOT": "/nonexistent", "MR_PYTHON_FROM": str(host.prefix)})
    with pytest.raises(NotFoundError, match="no such version"):
        find_host_python(tmp_path / "broken/python3.12")
    with pytest.raises(NotFoundError, match=r"no `bin/python3\.12`"):
        find_host_python(tmp_path / "empty")


def test_another_python_is_refused_by_name(tmp_path):
    if sys.version_info[:2] == (3, 12):
        pytest.skip("this runs on the very series that is wanted")
    with pytest.raises(NotFoundError, match="it is version"):
        find_host_python(Path(sys.executable))


def test_a_host_python_serves_no_other_platform(host, tmp_path):
    for name in (
        "darwin/arm64+metal",
        "linux/arm64+cpu" if HERE.platform.architecture == "amd64" else "linux/amd64+cpu",
    ):
        with pytest.raises(UnsupportedError):
            prepare_interpreter(
                NOWHERE, Target.parse(name), destination=tmp_path / "d", cache=tmp_path, python_from=host.prefix
            )
    assert not (tmp_path / "d").exists()


def test_a_used_destination_is_left_alone(host, cache, relocated, tmp_path):
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(UsageError, match="not empty"):
        prepare_interpreter(NOWHERE, HERE, destination=tmp_path, cache=cache, python_from=host.prefix)
    assert [place.name for place in tmp_path.iterdir()] == ["mine"]


def test_cancelling_leaves_nothing(host, cache, relocated, tmp_path):
    cancel = Cancel()
    cancel.set()
    with pytest.raises(CancelledError):
        prepare_interpreter(
            NOWHERE, HERE, destination=tmp_path / "d", cache=cache, python_from=host.prefix, cancel=cancel
        )
    assert not (tmp_path / "d").exists()


def test_kept_in_the_cache_at_one_place_and_always_whole(host, relocated, cache, tmp_path):
    shutil.copytree(cache / "interpreters", tmp_path / "interpreters", symlinks=True)

    def keep():
        return prepare_interpreter(NOWHERE, HERE, cache=tmp_path, python_from=host.prefix)

    first = keep()
    assert first.prefix.parent == tmp_path / "interpreters"
    assert snapshot(first.prefix) == snapshot(relocated.prefix)
    status = (first.prefix / "bin/python3.12").stat()
    assert keep().prefix == first.prefix
    assert (first.prefix / "bin/python3.12").stat() == status, "it was left alone"
    site = first.prefix / "lib/python3.12/site-packages"
    damages = [
        lambda: (first.prefix / "lib/python3.12/os.py").write_text("changed"),
        (first.prefix / "lib/python3.12/os.py").unlink,
        lambda: (first.prefix / "bin/python3.12").chmod(0o644),
        lambda: (site / "intruder.pth").write_text("import intruder\n"),
        lambda: (site / "link").symlink_to("/etc"),
        lambda: (shutil.rmtree(first.prefix / "bin"), (first.prefix / "bin").write_text("a file")),
    ]
    for damage in damages:
        damage()
        again = keep()
        assert (again.prefix, again.identity) == (first.prefix, first.identity)
        assert snapshot(again.prefix) == snapshot(relocated.prefix)
    left = {place.name for place in (tmp_path / "interpreters").iterdir()}
    assert {name for name in left if not name.endswith(".tree")} == {first.prefix.name}


def test_only_what_was_made_now_is_removed_after_a_failed_check(host, relocated, cache, tmp_path, monkeypatch):
    """Another build may be running from the interpreter that lies there already."""
    shutil.copytree(cache / "interpreters", tmp_path / "interpreters", symlinks=True)
    kept = prepare_interpreter(NOWHERE, HERE, cache=tmp_path, python_from=host.prefix).prefix
    before = snapshot(kept)
    for entry in (tmp_path / "interpreters").glob("*.tree"):
        entry.unlink()

    def fail(prefix, version):
        raise BuildError(f"Cannot run {prefix} {version}")

    monkeypatch.setattr("mr_bundler.interpreter.prepare._require_running", fail)
    with pytest.raises(BuildError, match="Cannot run"):
        prepare_interpreter(NOWHERE, HERE, cache=tmp_path, python_from=host.prefix)
    assert snapshot(kept) == before
    shutil.rmtree(kept)
    with pytest.raises(BuildError, match="Cannot run"):
        prepare_interpreter(NOWHERE, HERE, cache=tmp_path, python_from=host.prefix)
    assert not kept.exists()
