"""``mr-bundle rebuild``: published bundles are built again, and what differs is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mr_bundler.build import BuildOptions, BuildResult, build_bundle
from mr_bundler.compare.rebuild import RebuildOptions, rebuild_bundle, refuse_difference
from mr_bundler.compare.rebuilt import Verdict
from mr_bundler.lock.lock import VcsPin
from mr_core.errors import IntegrityError, UsageError
from mr_core.layout import LayoutStore
from mr_core.platform import Platform, Target
from support.building import HERE, SERVER, Builder
from support.command import Ran
from support.macho import MachO
from support.published import PART, Published
from support.python_archive import write_archive
from support.registry import RealRegistry
from support.retouch import retouch

pytestmark = pytest.mark.xdist_group("comparing")  # they share one bundle
SITE = "lib/python3.12/site-packages"


@pytest.fixture
def builder(published: Published) -> Builder:
    return published.builder


@pytest.fixture
def built(published: Published) -> BuildResult:
    return published.built


def rebuild(mr_bundle: Callable[..., Ran], builder: Builder, name: str, *arguments: object) -> Ran:
    """Rebuild with packed layers of the first build: what is tested is how the outcome is compared."""
    place = f"oci:{builder.layout}:{name}"
    return mr_bundle("rebuild", place, "--use-cache", "--cache", builder.cache, "--json", *arguments)


def differences(ran: Ran) -> list[tuple[str, str]]:
    assert ran.status == 6, ran.output
    assert ran.outcome["code"] == "integrity"
    assert ran.outcome["hint"]
    return [(item["kind"], item["place"]) for item in ran.outcome["differences"]]


def test_what_was_published_is_what_its_sources_give(
    mr_bundle: Callable[..., Ran], builder: Builder, built: BuildResult, tmp_path: Path
) -> None:
    """From a registry, with nothing of the first build at hand, at another time."""
    before = sorted(path.name for path in (builder.layout / "blobs" / "sha256").iterdir())
    with RealRegistry(root=tmp_path / "registry") as registry:
        place = f"docker://{registry.host}/bundles/tiny:1.0"
        insecure = ("--insecure-registry", registry.host)
        pushed = mr_bundle("push", f"oci:{builder.layout}:{built.ref_name}", place, *insecure)
        assert pushed.status == 0, pushed.errors
        ran = mr_bundle(
            "rebuild", place, "--check", "--cache", tmp_path / "c", "--json", *insecure, SOURCE_DATE_EPOCH="1800000000"
        )
        missing = mr_bundle("rebuild", f"{place}-none", "--check", *insecure)
    assert ran.status == 0, ran.output
    assert ran.outcome["verdict"] == "identical"
    assert ran.outcome["digest"] == ran.outcome["rebuilt"] == str(built.digest)
    assert sorted(path.name for path in (builder.layout / "blobs" / "sha256").iterdir()) == before
    assert list((tmp_path / "c" / "tmp").iterdir()) == []
    assert missing.status == 4
    assert f"{registry.host}/bundles/tiny:1.0-none" in missing.errors


def test_the_recorded_time_counts(
    mr_bundle: Callable[..., Ran], builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    builder = replace(builder, layout=tmp_path / "layout")
    built = builder.build(PART)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1800000000")
    ran = mr_bundle(
        "rebuild", f"oci:{builder.layout}:{built.ref_name}", "--check", "--use-cache", "--cache", builder.cache
    )
    assert ran.status == 0, ran.errors
    assert "identical, byte for byte" in ran.output
    assert "using 3.12" in ran.errors


@pytest.mark.parametrize("honest", [True, False])
def test_a_changed_file_is_named(
    mr_bundle: Callable[..., Ran], builder: Builder, built: BuildResult, honest: bool
) -> None:
    """Whether the file manifest was changed with it or not."""

    def change(tar: bytes) -> bytes:
        tar = tar.replace(b"a note\n", b"A note\n")
        return tar.replace(_sha256(b"a note\n"), _sha256(b"A note\n")) if honest else tar

    retouch(builder.layout, built.ref_name, tar=change)
    ran = rebuild(mr_bundle, builder, "retouched", "--check")
    found = differences(ran)
    assert found[0] == ("file", f"{SITE}/part/note.txt")
    assert f"`{SITE}/part/note.txt`" in ran.outcome["message"]
    assert "7 bytes, sha256" in ran.outcome["message"]
    assert any(layer.startswith("group") for layer in ran.outcome["layers"])


def _sha256(content: bytes) -> bytes:
    import hashlib  # noqa: PLC0415

    return hashlib.sha256(content).hexdigest().encode()


def test_a_damaged_blob_is_never_called_identical(
    mr_bundle: Callable[..., Ran], builder: Builder, built: BuildResult, tmp_path: Path
) -> None:
    """Equal manifests say nothing about the bytes behind the published one."""
    copy = tmp_path / "layout"
    shutil.copytree(builder.layout, copy)
    largest = max(built.layers, key=lambda layer: layer.size)
    blob = copy / "blobs" / "sha256" / largest.digest.hex
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(content)
    ran = mr_bundle(
        "rebuild", f"oci:{copy}:{built.ref_name}", "--check", "--use-cache", "--cache", builder.cache, "--json"
    )
    assert ran.status == 6, ran.output
    assert largest.digest.hex in ran.outcome["message"]


def test_another_compressor_is_the_same_bundle(
    mr_bundle: Callable[..., Ran], builder: Builder, built: BuildResult
) -> None:
    digest = retouch(builder.layout, built.ref_name, repack=True)
    assert digest != str(built.digest)
    ran = rebuild(mr_bundle, builder, "retouched", "--check")
    assert (ran.status, ran.outcome["verdict"]) == (0, "same-contents")
    assert {item["kind"] for item in ran.outcome["differences"]} == {"compressor"}
    assert ran.outcome["rebuilt"] == str(built.digest)
    place = f"oci:{builder.layout}:retouched"
    shown = mr_bundle("rebuild", place, "--check", "--use-cache", "--cache", builder.cache)
    assert "only the compressor's output differs" in shown.output


def test_the_interpreter_comes_before_its_files(
    mr_bundle: Callable[..., Ran], builder: Builder, built: BuildResult
) -> None:
    def label(value: dict[str, Any]) -> None:
        value["python"] = {"version": "3.12.14", "source": "python-build-standalone 20260814"}

    retouch(builder.layout, built.ref_name, tar=lambda tar: tar.replace(b"a note\n", b"A note\n"), label=label)
    ran = rebuild(mr_bundle, builder, "retouched", "--check", "--python-from", builder.python)
    assert differences(ran)[0] == ("interpreter", "python")
    assert "recorded CPython 3.12.14 (python-build-standalone 20260814), rebuilt CPython 3.12" in ran.outcome["message"]
    assert "--python-archive" in ran.outcome["hint"]


def test_another_builder_and_another_field(mr_bundle: Callable[..., Ran], builder: Builder, built: BuildResult) -> None:
    def label(value: dict[str, Any]) -> None:
        value["builder"] = "mr-bundle 0.0.1"
        value["launch"]["options"]["model"] = "--other"

    retouch(builder.layout, built.ref_name, label=label)
    ran = rebuild(mr_bundle, builder, "retouched", "--check")
    assert differences(ran)[:2] == [("builder", "builder"), ("config", "launch.options.model")]
    assert "install mr-bundle 0.0.1" in ran.outcome["hint"]


def test_keeping_what_was_rebuilt(
    mr_bundle: Callable[..., Ran], builder: Builder, built: BuildResult, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    ran = rebuild(mr_bundle, builder, built.ref_name, "--layout", again)
    assert ran.status == 0, ran.output
    assert ran.outcome["verdict"] == ""
    assert LayoutStore(again).resolve(built.ref_name).digest == built.index_digest


def test_without_a_purpose_or_a_recipe(mr_bundle: Callable[..., Ran], builder: Builder, built: BuildResult) -> None:
    assert rebuild(mr_bundle, builder, built.ref_name).status == 2

    def lose(tar: bytes) -> bytes:
        return tar.replace(b"backend/.mr/recipe.toml", b"backend/.mr/recipe.lost")

    def remember(tar: bytes) -> bytes:  # the header's checksum is a sum of its bytes
        lost = lose(tar)
        at = lost.find(b"backend/.mr/recipe.lost\0")
        header = bytearray(lost[at : at + 512])
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        return lost[:at] + bytes(header) + lost[at + 512 :] if at >= 0 else tar

    retouch(builder.layout, built.ref_name, tar=remember)
    ran = rebuild(mr_bundle, builder, "retouched", "--check")
    assert (ran.status, ran.outcome["code"]) == (3, "invalid-input")
    assert ".mr/recipe.toml" in ran.outcome["message"]


STEP = """
[[prebuild]]
name = "generate"
command = ["{python}", "-c", "import os, sys; os.mkdir(sys.argv[1]); open(sys.argv[1] + '/x', 'w'); open(NOTE, 'a')",
    "{tree}/lib/python3.12/site-packages/generated"]
writes = ["generated/**"]
"""


def test_nothing_that_a_bundle_names_runs_unasked(
    mr_bundle: Callable[..., Ran], builder: Builder, tmp_path: Path
) -> None:
    note = tmp_path / "ran"
    builder = replace(builder, layout=tmp_path / "layout", directory=tmp_path)
    built = builder.build(extra=STEP.replace("NOTE", f"'{note}'"))
    note.unlink()
    ran = rebuild(mr_bundle, builder, built.ref_name, "--check")
    assert (ran.status, ran.outcome["code"]) == (2, "usage"), ran.output
    assert "step `generate` of its recipe" in ran.outcome["message"]
    assert "--run-steps" in ran.outcome["hint"]
    assert not note.exists()
    trusted = rebuild(mr_bundle, builder, built.ref_name, "--check", "--run-steps", "--python-from", builder.python)
    assert (trusted.status, trusted.outcome["verdict"]) == (0, "identical"), trusted.output
    told = mr_bundle("rebuild", "--help")
    assert "refused with status 2 unless --run-steps is given" in " ".join(told.output.split())


def test_a_step_that_gives_another_result_is_the_first_suspect(
    mr_bundle: Callable[..., Ran], builder: Builder, tmp_path: Path
) -> None:
    builder = replace(builder, layout=tmp_path / "layout", directory=tmp_path)
    built = builder.build(extra=STEP.replace("open(NOTE, 'a')", "open(sys.argv[1] + '/y', 'wb').write(os.urandom(9))"))
    ran = rebuild(mr_bundle, builder, built.ref_name, "--check", "--run-steps", "--python-from", builder.python)
    assert ("file", f"{SITE}/generated/y") in differences(ran)
    assert "`generate`" in ran.outcome["hint"]


def test_no_commit_is_built_unasked(mr_bundle: Callable[..., Ran], builder: Builder, tmp_path: Path) -> None:
    """Whoever can publish a bundle can write any commit into its lock."""
    builder = replace(builder, layout=tmp_path / "layout", directory=tmp_path)
    recipe = builder.recipe()
    lock = builder.lock(recipe, [SERVER, PART])
    (part,) = (item for item in lock.packages if item.name == "part")
    pinned = replace(part, vcs=VcsPin(url="https://example.org/part.git", commit="0" * 40), upload_time="")
    lock = replace(lock, packages=tuple(pinned if item is part else item for item in lock.packages))
    kept = builder.cache / "wheels" / "sha256" / part.sha256  # as if it had been built from there
    kept.mkdir(parents=True)
    (kept / part.file).write_bytes((tmp_path / "wheelhouse" / part.file).read_bytes())
    options = BuildOptions(layout=builder.layout, cache=builder.cache, python_from=builder.python, jobs=2)
    built = build_bundle(recipe, HERE, lock, options=options)
    ran = rebuild(mr_bundle, builder, built.ref_name, "--check")
    assert (ran.status, ran.outcome["code"]) == (2, "usage"), ran.output
    assert "the build of `part` from `https://example.org/part.git`" in ran.outcome["message"]
    trusted = rebuild(mr_bundle, builder, built.ref_name, "--check", "--run-steps")
    assert (trusted.status, trusted.outcome["verdict"]) == (0, "identical"), trusted.output


def test_for_another_platform(builder: Builder, python: Path, tmp_path: Path) -> None:
    mac = Target(Platform("darwin", "arm64"), "metal")
    builder = replace(builder, targets=(f"{mac}",), layout=tmp_path / "layout", directory=tmp_path)
    recipe = builder.recipe()
    members: dict[str, bytes | str | None] = {
        f"python/lib/python3.12/{name}": (python / "lib/python3.12" / name).read_bytes()
        for name in ("os.py", "site.py", "abc.py", "encodings/__init__.py")
    }
    members["python/bin/python3.12"] = MachO().dump()
    archive = tmp_path / "python-darwin.tar.gz"
    pin = write_archive(archive, members)
    lock = builder.lock(recipe, [SERVER], mac, pin)
    build = BuildOptions(layout=builder.layout, cache=builder.cache, python_archive=archive, jobs=2)
    built = build_bundle(recipe, mac, lock, options=build)
    store = LayoutStore(builder.layout)
    options = RebuildOptions(cache=tmp_path / "cache", python_archive=archive)
    result = rebuild_bundle(store, built.ref_name, place="the bundle", compare=True, options=options)
    assert result.comparison is not None
    assert result.comparison.verdict is Verdict.IDENTICAL
    refuse_difference(result)
    with pytest.raises(UsageError, match=f"the interpreter from `{pin.url}`, which is not known here"):
        rebuild_bundle(
            store, built.ref_name, place="the bundle", compare=True, options=replace(options, python_archive=None)
        )
    retouch(builder.layout, built.ref_name, tar=lambda tar: tar.replace(b"print('tiny'", b"print('tony'"))
    changed = rebuild_bundle(store, "retouched", place="the bundle", compare=True, options=options)
    expected = r"Cannot reproduce `the bundle`: file `.*tiny_server/__init__\.py`"
    with pytest.raises(IntegrityError, match=expected) as caught:
        refuse_difference(changed)
    assert "do not use this bundle" in caught.value.hint
    assert json.dumps(caught.value.fields)
