"""Rules on names, text and bytes that need no interpreter to be tested."""

from __future__ import annotations

import pytest

from mr_bundler.interpreter.build_variables import (
    builder_paths,
    read_build_variables,
    relocated_build_variables,
)
from mr_bundler.interpreter.builder_traces import neutralised, refuse_traces, telling_paths
from mr_bundler.interpreter.contents import belongs
from mr_bundler.interpreter.normalise import normalise
from mr_bundler.interpreter.tree import File, Link, digest_of, pack_tree, unpack_tree
from mr_core.errors import BuildError, IntegrityError

SITE = b"import sys\nENABLE_USER_SITE = None\ny = 2\n"
ENCODINGS = b"import sys\nfrom . import aliases\n"
BASE = {
    "bin/python3.12": File(content=b"\x7fELF"),
    "lib/python3.12/os.py": File(content=b""),
    "lib/python3.12/site.py": File(content=SITE),
    "lib/python3.12/encodings/__init__.py": File(content=ENCODINGS),
}


def variables_at(place, variables, prefixes=("/home/joe/py",)):
    module = place / "lib/python3.12/_sysconfigdata_x.py"
    module.parent.mkdir(parents=True)
    module.write_text(relocated_build_variables(variables, prefixes))
    namespace = {"__file__": str(module)}
    exec(module.read_text(), namespace)
    return namespace["build_time_vars"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/home/joe/py/lib", "{}/lib"),
        ("/home/joe/py", "{}"),
        ("/home/joe/python-src/x", "/nonexistent"),
        ("-L/home/joe/py/lib -Wl,-rpath,/home/joe/py/lib", "-L{0}/lib -Wl,-rpath,{0}/lib"),
        ("'--prefix=/home/joe/py' 'CFLAGS=-I/home/joe/ssl/include'", "'--prefix={}' 'CFLAGS=-I/nonexistent'"),
        (
            "-isystem/home/joe/inc -I./Include -I$(srcdir)/Include",
            "-isystem/nonexistent -I./Include -I$(srcdir)/Include",
        ),
        ("/usr/bin/install -c -m 644", "/usr/bin/install -c -m 644"),
        ("/usr/share/zoneinfo:/etc/zoneinfo", "/usr/share/zoneinfo:/etc/zoneinfo"),
        ("LD_LIBRARY_PATH=/tmp/build.7/Python ./python -E", "LD_LIBRARY_PATH=/nonexistent ./python -E"),
        ("/* Don't use extensions */", "/* Don't use extensions */"),
        ("-g -isysroot /Applications/X.app/SDK -O2", "-g -O2"),
        ("Modules/a.o Modules/b.o", "Modules/a.o Modules/b.o"),
    ],
)
def test_build_variables_follow_the_tree(value, expected, tmp_path):
    place = tmp_path / "a b"
    assert variables_at(place, {"V": value, "N": 3}) == {"V": expected.format(place), "N": 3}


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("gcc -pthread", "cc -pthread"),
        ("/tools/llvm/bin/clang++ -shared", "c++ -shared"),
        ("/usr/bin/aarch64-linux-gnu-gcc", "cc"),
        ("x86_64-linux-gnu-g++-12", "c++"),
        ("/tools/clang-linux64/bin/llvm-ar", "ar"),
    ],
)
def test_compilers_are_named_as_every_machine_has_them(command, expected, tmp_path):
    assert variables_at(tmp_path, {"CC": command})["CC"] == expected


def test_build_variables_are_read_as_data_only():
    assert read_build_variables("# c\nbuild_time_vars = {'A': 1,\n 'B': 'x' 'y'}\n") == {"A": 1, "B": "xy"}
    assert read_build_variables(relocated_build_variables({"A": 1}, ())) is None
    for bad in ("build_time_vars = open('/etc/passwd')", "x = 1", "build_time_vars = {"):
        with pytest.raises(BuildError, match="build variables"):
            read_build_variables(bad)
    assert builder_paths({"prefix": "/p/", "abs_srcdir": "/b", "abs_builddir": "", "LIBDIR": "/p/lib"}) == ("/b", "/p")


@pytest.mark.parametrize("path", ["/home/joe/py", "/home/jöe/p", "/a/3.12.1"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-32-le"])
def test_traces_are_overwritten_in_place(path, encoding):
    tail = path.rpartition("/")[2].encode(encoding)  # a linker may have merged another string into it
    content = b"\0before\0" + f"{path}/lib".encode(encoding) + b"\0" + path.encode(encoding) + b"\0after"
    clean = neutralised(content, telling_paths([path]))
    assert path.encode(encoding) not in clean
    assert clean.endswith(tail + b"\0after")
    if path.isascii():
        assert len(clean) == len(content)
        assert "/lib".encode(encoding) in clean
    with pytest.raises(BuildError, match=r"bin/python3\.12"):
        refuse_traces({"bin/python3.12": File(content=content)}, (path,))
    refuse_traces({"bin/python3.12": File(content=clean)}, (path,))


def test_prefixes_every_machine_shares_are_no_traces():
    assert telling_paths(["/usr", "/usr/local/", "", "/", "/python", "/opt/py", "/opt/py/3"]) == (
        "/opt/py/3",
        "/opt/py",
    )


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("bin/python3.12", True),
        ("bin/python3.12-config", False),
        ("include/python3.12/Python.h", True),
        ("lib/libpython3.12.so.1.0", True),
        ("lib/libtcl8.6.so", False),
        ("lib/libssl.so.3", True),
        ("lib/pkgconfig/python3.pc", False),
        ("lib/python3.12/json/__init__.py", True),
        ("lib/python3.12/test/test_os.py", False),
        ("lib/python3.12/unittest/case.py", True),
        ("lib/python3.12/config-3.12-darwin/Makefile", False),
        ("lib/python3.12/lib-dynload/_testcapi.cpython-312-darwin.so", False),
        ("lib/python3.12/lib-dynload/readline.cpython-312-darwin.so", False),
        ("lib/python3.12/lib-dynload/_ssl.cpython-312-darwin.so", True),
        ("lib/python3.12/sitecustomize.py", False),
        ("lib/python3.12/email/__pycache__/x.cpython-312.pyc", False),
        ("lib/python3.13/os.py", False),
        ("share/man/man1/python3.12.1", False),
    ],
)
def test_the_drop_list(path, kept):
    assert belongs(path) is kept


def test_normalising_twice_changes_nothing():
    once = normalise({**BASE, "lib/python3.12/cgi.py": File(content=b"#! /usr/local/bin/python\nx\n")})
    assert once["lib/python3.12/cgi.py"] == File(content=b"#!/usr/bin/env python3\nx\n")
    assert once["lib/python3.12/site.py"].content.endswith(b"import sys\nENABLE_USER_SITE = False\ny = 2\n")
    assert once["bin/python3.12"] == File(content=b"\x7fELF", executable=True)
    assert normalise(once) == once


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("site.py", b""),
        ("site.py", b"import sys\nENABLE_USER_SITE = check()\n"),
        ("site.py", SITE * 2),
        ("encodings/__init__.py", b"import sys\nfrom encodings import aliases\n"),
    ],
)
def test_an_unknown_start_up_module_is_an_error(name, text):
    with pytest.raises(BuildError, match=f"Cannot disable the user site: .*{name}"):
        normalise({**BASE, f"lib/python3.12/{name}": File(content=text)})


@pytest.mark.parametrize("path", list(BASE))
def test_a_missing_part_is_named(path):
    with pytest.raises(BuildError, match=path):
        normalise({name: member for name, member in BASE.items() if name != path})


def test_links_to_what_is_dropped_go_with_it():
    tree = normalise(
        {**BASE, "lib/libpython3.so": Link(target="absent.so"), "lib/libx.so": Link(target="../bin/python3.12")}
    )
    assert "lib/libpython3.so" not in tree
    assert tree["lib/libx.so"] == Link(target="../bin/python3.12")


def test_a_packed_tree_comes_back_and_depends_on_nothing_but_itself():
    tree = {"b": File(content=b"1\n2", executable=True), "a/ü": Link(target="../b"), "a/e": File(content=b"")}
    packed = pack_tree(tree)
    assert unpack_tree(packed) == tree
    assert pack_tree(dict(reversed(tree.items()))) == packed
    assert digest_of(packed) != digest_of(pack_tree({**tree, "b": File(content=b"1\n2")}))
    for damaged in (b"", packed[:-1], packed + b"x", b"{}", b"[1]\n", b'[["a","f"]]\n'):
        with pytest.raises(IntegrityError):
            unpack_tree(damaged)
