"""Splitting foreign libraries off, following requirements, and who owns which file."""

from __future__ import annotations

import pytest

from mr_bundler.papers.component import Component
from mr_bundler.papers.coverage import check_ownership, read_owners
from mr_bundler.papers.libraries import split_libraries, unlicensed_libraries
from mr_bundler.papers.licences import licences_of, with_licences
from mr_bundler.papers.requirements import require
from mr_core.errors import BuildError, InvalidInputError
from mr_core.file_manifest import LinkEntry
from mr_core.platform import Target
from support.papers import SITE, distribution, file_entry, own_component

INTERPRETER = (
    "bin/python3.12",
    "lib/libpython3.12.so.1.0",
    "lib/libssl.so.3",
    "lib/libcrypto.so.3",
    "lib/liblzma.so.5",
    "lib/libz.so.1",
    "lib/libstrange-1.2.so.7",
    "lib/python3.12/ssl.py",
    "share/licenses/libssl3/copyright",
    "share/licenses/zlib1g/copyright",
    "share/licenses/unheard-of/copyright",
)


def interpreter(*paths: str) -> Component:
    return Component(kind="interpreter", name="cpython", entries=[file_entry(path) for path in paths or INTERPRETER])


def owned(component: Component) -> set[str]:
    return {entry.path for entry in component.entries}


def test_grafted_libraries_own_their_files_and_licence_texts() -> None:
    tree = split_libraries(interpreter())
    found = {library.name: (owned(library), library.licence) for library in tree.libraries}
    assert found == {
        "openssl": ({"lib/libssl.so.3", "lib/libcrypto.so.3", "share/licenses/libssl3/copyright"}, "Apache-2.0"),
        "xz": ({"lib/liblzma.so.5"}, "0BSD OR LicenseRef-Public-Domain"),
        "zlib": ({"lib/libz.so.1", "share/licenses/zlib1g/copyright"}, "Zlib"),
        "libstrange-1.2": ({"lib/libstrange-1.2.so.7"}, ""),
    }
    assert unlicensed_libraries(interpreter().entries) == ["libstrange-1.2"]
    assert owned(tree.component) == {
        "bin/python3.12",
        "lib/libpython3.12.so.1.0",
        "lib/python3.12/ssl.py",
        "share/licenses/unheard-of/copyright",
    }


def test_vendored_libraries_are_recognised_by_their_place_or_digest() -> None:
    wheel = distribution(
        "numpy",
        "numpy.libs/libgfortran-040039e1-0352e75f.so.5.0.0",
        "numpy.libs/libscipy_openblas64_-8fb3d286.so",
        "numpy/.dylibs/libgcc_s.1.1.dylib",
        "torch/lib/libgomp-24e2ab19.so.1",
        "torch/lib/libtorch_cpu.so",
        "numpy/_core/_multiarray_umath.cpython-312-x86_64-linux-gnu.so",
        "mlx/lib/libmlx.dylib",
    )
    tree = split_libraries(wheel)
    assert [library.name for library in tree.libraries] == [
        "libgcc_s",
        "libgfortran-040039e1",
        "libgomp",
        "libscipy_openblas64_",
    ]
    everything = [*tree.component.entries, *(entry for library in tree.libraries for entry in library.entries)]
    assert sorted(entry.path for entry in everything) == sorted(entry.path for entry in wheel.entries)
    assert f"{SITE}/torch/lib/libtorch_cpu.so" in owned(tree.component)


def test_nothing_is_split_off_our_own_files() -> None:
    odd = Component(kind="bundle", name="(bundle)", entries=[file_entry("lib/libx.so.1"), file_entry("a.libs/libx.so")])
    assert split_libraries(odd).libraries == ()


GRAPH = (
    distribution(
        "server",
        requires=[
            "mlx[cpu]>=1; sys_platform == 'linux'",
            "metal; sys_platform == 'darwin'",
            "torch",
            "Old.Name",
            "tests-only; extra == 'test'",
            "new-python; python_full_version >= '3.12.14'",
            "kernel; platform_release >= '20'",
        ],
    ),
    distribution("mlx", requires=["mlx-cpu; extra == 'cpu'", "mlx-cuda; extra == 'cuda'", "server"]),
    distribution("mlx-cpu", requires=["numpy[fast]", "mlx-cpu"]),
    distribution("numpy", requires=["speed; extra == 'fast' and platform_machine == 'x86_64'"]),
    *(distribution(name) for name in ("metal", "mlx-cuda", "old-name", "tests-only", "new-python", "speed", "kernel")),
)


def graph_for(target: str, python: str = "3.12.14", requirements: tuple[str, ...] = ("server",)) -> dict[str, set[str]]:
    metadata = {item.name: item.metadata for item in GRAPH if item.metadata is not None}
    found = require(requirements, metadata, Target.parse(target), python)
    assert found.roots == requirements
    assert found.absent["server"] == ("torch",)
    return {name: set(others) for name, others in found.needs.items() if others}


def test_requirements_are_judged_for_the_target() -> None:
    linux = graph_for("linux/amd64+cpu")
    assert linux == {
        "server": {"mlx", "old-name", "new-python"},
        "mlx": {"mlx-cpu", "server"},
        "mlx-cpu": {"numpy"},
        "numpy": {"speed"},
    }
    assert graph_for("linux/arm64+cpu").get("numpy") is None
    darwin = graph_for("darwin/arm64+metal", "3.12.1")
    assert darwin == {"server": {"metal", "old-name"}, "mlx": {"server"}, "mlx-cpu": {"numpy"}}


def test_every_file_has_one_owner() -> None:
    components = [distribution("a"), interpreter(), own_component()]
    entries = [entry for component in components for entry in component.entries]
    check_ownership(components, entries)
    own_with_papers = Component(kind="bundle", name="x", entries=[file_entry(".mr/files.jsonl")])
    check_ownership([*components, own_with_papers], entries)
    stray = file_entry("stray")
    for wrong, changed, message in (
        (components, [*entries, stray], "`stray` belongs to nothing"),
        ([*components, interpreter("stray")], entries, "`stray` of cpython .interpreter. is not in the bundle"),
        ([*components, components[0]], entries, "belongs to a .distribution. and to a .distribution."),
        (components, [*entries[:-1], LinkEntry(path=entries[-1].path, link="x")], "is not in the bundle as"),
    ):
        with pytest.raises(BuildError, match=message):
            check_ownership(wrong, changed)


def test_the_recipe_has_the_last_word_on_licences() -> None:
    components = [
        distribution("known", licence="MIT", licence_source="License"),
        distribution("unknown"),
        interpreter(),
        own_component(),
    ]
    assert licences_of(components) == {"known": "MIT", "unknown": ""}
    stated = {"unknown": "BSD-3-Clause", "not-there": "MIT"}
    assert licences_of(components, stated) == {"known": "MIT", "unknown": "BSD-3-Clause"}
    changed = with_licences(components, stated)
    assert [item.metadata.licence_source for item in changed if item.metadata] == ["License", "recipe"]
    assert changed[2].licence == "Python-2.0.1"
    assert licences_of([Component(kind="distribution", name="bare", entries=[])]) == {"bare": ""}


TWO_OWNERS = (
    b'{"metadata":{"component":{"bom-ref":"a","evidence":{"occurrences":[{"location":"x"}]}}},'
    b'"components":[{"bom-ref":"b","evidence":{"occurrences":[{"location":"x"}]}}]}'
)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"metadata":{"component":{}},"components":[1]}',
        b'{"metadata":{"component":{"evidence":{"occurrences":[{}]}}},"components":[]}',
        TWO_OWNERS,
    ],
)
def test_documents_that_are_no_sbom(text: bytes) -> None:
    with pytest.raises(InvalidInputError):
        read_owners(text)
