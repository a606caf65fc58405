"""Pinned archives: from a mirror to a tree, with every way in which that can fail."""

from __future__ import annotations

import functools
import hashlib
import http.server
import socket
import threading
import time
from dataclasses import replace

import pytest

from mr_bundler.interpreter import fetch, prepare_interpreter
from mr_bundler.interpreter.standalone import unpack_archive
from mr_bundler.lock.python_pin import pin_for
from mr_bundler.wheels import download
from mr_core.errors import BuildError, IntegrityError, InvalidInputError, NotFoundError, UnavailableError
from mr_core.events import BlobProgress, Level, Notice
from mr_core.platform import Platform, Target
from support.python_archive import HERE, write_archive

DARWIN = Target.parse("darwin/arm64+metal")


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_args):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(directory):
        handler = functools.partial(QuietHandler, directory=str(directory))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def _direct(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("UV_PYTHON_INSTALL_MIRROR", raising=False)
    monkeypatch.delenv("MR_PYTHON_FROM", raising=False)


@pytest.fixture(scope="session")
def darwin(tmp_path_factory):
    place = (
        tmp_path_factory.mktemp("darwin") / "cpython-3.12.14+20260814-aarch64-apple-darwin-install_only_stripped.tar.gz"
    )
    macho = b"\xcf\xfa\xed\xfe" + bytes(60)
    variables = {
        "prefix": "/install",
        "exec_prefix": "/install",
        "CC": "clang",
        "LDSHARED": "clang -isysroot /X/SDK -shared",
    }
    return place, write_archive(
        place,
        {
            "python": None,
            "python/bin": None,
            "python/bin/python3.12": macho,
            "python/bin/python": "python3.12",
            "python/lib/libpython3.12.dylib": macho,
            "python/lib/python3.12/os.py": b"# os\n",
            "python/lib/python3.12/site.py": b"import sys\nENABLE_USER_SITE = None\n",
            "python/lib/python3.12/encodings/__init__.py": b"import sys\nfrom . import aliases\n",
            "python/lib/python3.12/_sysconfigdata__darwin_darwin.py": f"build_time_vars = {variables!r}\n".encode(),
            "python/lib/python3.12/lib-dynload/_tkinter.cpython-312-darwin.so": macho,
        },
    )


@pytest.mark.parametrize("form", ["directory", "file-url", "flat", "http", "archive"])
def test_an_archive_from_a_mirror_runs(form, stand_in, tmp_path, serve, ask):
    mirror = tmp_path / "mirror"
    place = mirror / stand_in.pin.file if form == "flat" else mirror / stand_in.pin.build / stand_in.pin.file
    place.parent.mkdir(parents=True)
    place.symlink_to(stand_in.path)
    named = {"file-url": mirror.as_uri()}.get(form) or (serve(mirror) if form == "http" else str(mirror))
    environ = {} if form == "archive" else {"UV_PYTHON_INSTALL_MIRROR": named}
    events = []
    made = prepare_interpreter(
        stand_in.pin,
        HERE,
        destination=tmp_path / "d",
        cache=tmp_path / "cache",
        python_archive=stand_in.path if form == "archive" else None,
        environ=environ,
        report=events.append,
    )
    assert made.source == "python-build-standalone 20260814"
    assert made.version == "3.12.14"
    answer = ask(
        made.prefix,
        "import ssl, site, sysconfig\nanswer = [sys.prefix, site.ENABLE_USER_SITE, sysconfig.get_config_var('CC'),\n"
        "  sysconfig.get_config_var('LIBDIR'), sysconfig.get_config_var('abs_srcdir')]",
    )
    assert answer == [str(made.prefix), False, "cc -pthread", f"{made.prefix}/lib", "/nonexistent"]
    progress = [e for e in events if isinstance(e, BlobProgress)]
    assert progress[-1].offset == progress[-1].total == stand_in.path.stat().st_size


def test_an_archive_is_reduced_to_what_bundles_hold(stand_in, relocated, tmp_path):
    tree, glibc = unpack_archive(stand_in.path, stand_in.pin)
    there = {str(p.relative_to(relocated.prefix)) for p in relocated.prefix.rglob("*") if p.is_symlink() or p.is_file()}
    assert set(tree) == there | {"lib/python3.12/telling.py"}
    assert tree["lib/python3.12/telling.py"].content == b"#!/usr/bin/env python3\n"
    assert glibc == relocated.glibc


def test_two_unpackings_are_equal_and_the_second_needs_no_archive(stand_in, tmp_path):
    made = [
        prepare_interpreter(
            stand_in.pin, HERE, destination=tmp_path / name, cache=tmp_path / "cache", python_archive=archive
        )
        for name, archive in (("one", stand_in.path), ("two", tmp_path / "absent"))
    ]
    assert made[0].identity == made[1].identity


def test_an_archive_for_macos_unpacks_anywhere(darwin, tmp_path):
    place, pin = darwin
    made = prepare_interpreter(pin, DARWIN, destination=tmp_path / "d", cache=tmp_path / "c", python_archive=place)
    found = {str(p.relative_to(made.prefix)) for p in made.prefix.rglob("*") if p.is_symlink() or p.is_file()}
    assert found == {
        "bin/python",
        "bin/python3",
        "bin/python3.12",
        "lib/libpython3.12.dylib",
        "lib/python3.12/_sysconfigdata__darwin_darwin.py",
        "lib/python3.12/lib-dynload/README.txt",  # the directory is CPython's landmark
        "lib/python3.12/encodings/__init__.py",
        "lib/python3.12/os.py",
        "lib/python3.12/site.py",
    }
    assert made.glibc == ""
    assert "isysroot" not in (made.prefix / "lib/python3.12/_sysconfigdata__darwin_darwin.py").read_text()
    assert (made.prefix / "bin/python3.12").stat().st_mode & 0o777 == 0o755


def test_a_wrong_digest_stops_everything(darwin, tmp_path):
    place, pin = darwin
    wrong = replace(pin, sha256="1" * 64)
    environ = {"UV_PYTHON_INSTALL_MIRROR": str(place.parent)}
    for target in (DARWIN, HERE):  # no falling back to a host Python either
        with pytest.raises(IntegrityError) as caught:
            prepare_interpreter(wrong, target, destination=tmp_path / "d", cache=tmp_path / "c", environ=environ)
        assert caught.value.exit_code == 6
        assert pin.sha256 in caught.value.message
        assert "1" * 64 in caught.value.message
    assert not (tmp_path / "d").exists()
    assert [p for p in (tmp_path / "c").rglob("*") if p.is_file()] == []


def test_a_damaged_archive_in_the_cache_is_not_used(darwin, tmp_path):
    place, pin = darwin
    (tmp_path / "c/archives").mkdir(parents=True)
    (tmp_path / "c/archives" / pin.sha256).write_bytes(place.read_bytes()[:-1] + b"?")
    with pytest.raises(UnavailableError, match="Cannot fetch"):
        prepare_interpreter(pin, DARWIN, destination=tmp_path / "d", cache=tmp_path / "c")


@pytest.mark.parametrize(
    "mirror", ["", "http://127.0.0.1:9/mirror", "/nonexistent/mirror", "file:///nonexistent/mirror"]
)
def test_what_cannot_be_had_is_named_exactly(mirror, darwin, tmp_path):
    _, pin = darwin
    with pytest.raises(UnavailableError) as caught:
        prepare_interpreter(
            pin,
            DARWIN,
            destination=tmp_path / "d",
            cache=tmp_path / "c",
            environ={"UV_PYTHON_INSTALL_MIRROR": mirror} if mirror else {},
        )
    assert pin.file in caught.value.message
    assert pin.sha256 in caught.value.message
    assert "--python-archive" in caught.value.hint
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("name", ["absent", "."])
def test_a_wrong_archive_names_the_option(name, darwin, tmp_path):
    _, pin = darwin
    with pytest.raises(NotFoundError, match="named with `--python-archive`: ") as caught:
        prepare_interpreter(
            pin, DARWIN, destination=tmp_path / "d", cache=tmp_path / "c", python_archive=tmp_path / name
        )
    assert str(tmp_path / name) in caught.value.message
    assert pin.file in caught.value.hint
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_says_nothing_is_given_up_soon(scheme, darwin, tmp_path, monkeypatch):
    _, pin = darwin
    monkeypatch.setattr(download, "CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(download, "READ_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mirror = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(UnavailableError, match="timed out"):
            fetch.fetch_archive(pin, tmp_path, mirror=mirror)
        assert time.monotonic() - began < 5


def test_without_network_a_host_python_stands_in(host, cache, relocated, darwin, tmp_path):
    _, pin = darwin
    events = []
    made = prepare_interpreter(pin, HERE, destination=tmp_path / "d", cache=cache, environ={
        "UV_PYTHON_INSTALL_MIRROR": str(tmp_path), "PATH": f"{host.prefix}/bin", "PYENV_ROOT": "/nonexistent",
    }, report=events.append)  # fmt: skip
    assert made.source == "host"
    assert made.identity == relocated.identity
    notices = [event for event in events if isinstance(event, Notice)]
    assert [notice.level for notice in notices] == [Level.WARNING, Level.DETAIL]
    assert {notice.code for notice in notices} == {"python-fallback"}
    assert pin.file in notices[1].message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("python/../../outside", b"x"),
        ("/python/lib/python3.12/absolute.py", b"x"),
        ("elsewhere/lib/python3.12/x.py", b"x"),
        ("python/lib/python3.12/link.py", "/etc/passwd"),
        ("python/lib/python3.12/link.py", "../../../../outside"),
    ],
)
def test_an_entry_that_leaves_the_tree_is_refused(name, content, tmp_path):
    pin = write_archive(tmp_path / "a.tar.gz", {name: content})
    with pytest.raises(IntegrityError, match="Cannot unpack"):
        unpack_archive(tmp_path / "a.tar.gz", pin)


def test_what_is_no_archive_is_refused(tmp_path):
    write_archive(tmp_path / "a.tar.gz", {"python/lib/python3.12/os.py": b"x" * 100_000})
    whole = (tmp_path / "a.tar.gz").read_bytes()
    for number, damaged in enumerate((b"", b"not gzip", whole[: len(whole) // 2])):
        place = tmp_path / str(number)
        place.write_bytes(damaged)
        pin = pin_for("3.12.14", "20260814", Platform("linux", "amd64"))
        with pytest.raises((IntegrityError, BuildError)):
            unpack_archive(place, replace(pin, sha256=hashlib.sha256(damaged).hexdigest()))


def test_known_builds_are_pinned_by_platform():
    pin = pin_for("3.12.14", "20260814", Platform("darwin", "arm64"))
    assert pin.file == "cpython-3.12.14+20260814-aarch64-apple-darwin-install_only_stripped.tar.gz"
    assert pin.url.endswith("/20260814/cpython-3.12.14%2B20260814-aarch64-apple-darwin-install_only_stripped.tar.gz")
    assert pin.sha256.startswith("dd5b76ab")
    for version, build, platform in (
        ("3.12.13", "20260814", Platform("linux", "amd64")),
        ("3.12.14", "20260814", Platform("darwin", "amd64")),
    ):
        with pytest.raises(InvalidInputError):
            pin_for(version, build, platform)


def test_a_damaged_archive_in_the_cache_is_fetched_again(stand_in, tmp_path):
    kept = tmp_path / "archives" / stand_in.pin.sha256
    kept.parent.mkdir()
    kept.write_bytes(stand_in.path.read_bytes()[:-1] + b"x")
    for _ in range(2):
        assert fetch.fetch_archive(stand_in.pin, tmp_path, archive=stand_in.path) == kept
        assert kept.read_bytes() == stand_in.path.read_bytes()
    assert fetch.fetch_archive(stand_in.pin, tmp_path, archive=tmp_path / "absent") == kept
