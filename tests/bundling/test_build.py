"""The whole way: wheels in, a layout out, and what lies in it works and says what it should."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from mr_bundler.build import build_bundle
from mr_bundler.result import BuildOptions
from mr_core.bundle_config import ANNOTATION_TARGET
from mr_core.digest import Digest
from mr_core.errors import BuildError, CancelledError, InvalidInputError, NotFoundError
from mr_core.events import Cancel, Event, Notice, PhaseFinished, PhaseProgress, PhaseStarted
from mr_core.file_manifest import UNLISTED, FileEntry, LinkEntry, parse_entries
from mr_core.layout import LayoutStore
from mr_core.platform import Platform, Target
from mr_installer.extract.finish import finish_tree
from mr_installer.extract.job import LayerJob
from mr_installer.extract.pool import ExtractionPool
from support.building import HERE, SERVER, Builder, Built
from support.need import need
from support.wheels import Wheel

SITE = "lib/python3.12/site-packages"
STEPS = ["interpreter", "recall", "wheels", "slim", "audit", "layers", "shim", "bytecode", "manifest", "pack"]
STEPS += ["image", "papers"]


def extract(built: Built, stage: Path) -> dict[str, FileEntry | LinkEntry]:
    """Extract as the installer does."""
    stage.mkdir()
    store = LayoutStore(built.layout)
    with ExtractionPool(stage, 0) as pool:
        jobs = [
            LayerJob(
                blob=store.blob_file(layer),
                digest=layer.digest,
                diff_id=Digest.parse(diff_id),
                compression="zstd",
                verified=False,
            )
            for layer, diff_id in zip(built.manifest.layers, built.image["rootfs"]["diff_ids"], strict=True)
        ]
        results = [pool.submit(job).result() for job in jobs]
    return finish_tree(stage, results)


def test_the_installer_gets_exactly_what_the_manifest_lists(builder: Builder, tmp_path: Path) -> None:
    events: list[Event] = []
    result = builder.build(report=events.append)
    built = builder.open(result)
    tree = extract(built, tmp_path / "stage")
    raw = (tmp_path / "stage/.mr/files.jsonl").read_bytes()
    assert parse_entries(raw) == {path: entry for path, entry in tree.items() if path not in UNLISTED}
    contents = built.config.contents
    assert (contents.digest, contents.size) == (Digest.of(raw), len(raw))
    assert contents.count == len(tree) - 2 == result.file_count
    assert contents.bytes == result.installed_bytes
    assert contents.bytes == sum(e.size for e in parse_entries(raw).values() if isinstance(e, FileEntry))
    directories = sum(len(names) for _, names, _ in os.walk(tmp_path / "stage"))
    assert contents.directories == directories
    label = built.image["config"]["Labels"]["io.mr-backends.bundle"]
    assert (tmp_path / "stage/.mr/bundle.json").read_text() == label
    assert [step.name for step in result.steps] == STEPS
    phases = [event.phase for event in events if isinstance(event, PhaseStarted)]
    assert [phase for phase in phases if phase in STEPS and phase != "wheels"] == [s for s in STEPS if s != "wheels"]
    assert not list((builder.cache / "tmp").iterdir()), "the build directory is gone"


def test_the_tree_works_wherever_it_lies(builder: Builder, tmp_path: Path) -> None:
    prefix = builder.open(builder.build()).unpack(tmp_path / "first")
    moved = tmp_path / "sécond place" / "with 'quotes'"
    moved.parent.mkdir()
    prefix.rename(moved)
    bare = {"PATH": os.defpath}
    ran = subprocess.run([moved / "bin/tiny-server", "a b", "*"], capture_output=True, text=True, env=bare, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (3, "tiny a b *\n", "")
    code = "import tiny_server.deep as deep, sys; print(deep.where(), sys.prefix)"
    ran = subprocess.run(
        [moved / "bin/python3", "-I", "-c", code], capture_output=True, text=True, env=bare, check=True
    )
    assert ran.stdout == f"{moved}/{SITE}/tiny_server/deep.py {moved}\n"
    ran = subprocess.run([moved / "bin/mr-serve", "--version"], capture_output=True, text=True, env=bare, check=True)
    assert "tiny 1.0" in ran.stdout


def test_no_bytecode_is_written_or_checked_later(builder: Builder, tmp_path: Path) -> None:
    prefix = builder.open(builder.build()).unpack(tmp_path / "first")
    sources = list((prefix / "lib/python3.12").rglob("*.py"))
    sources += list((prefix / ".mr/shim").rglob("*.py"))
    compiled = set(prefix.rglob("*.pyc"))
    expected = {path.with_name("__pycache__") / f"{path.stem}.cpython-312.pyc" for path in sources}
    assert compiled == expected
    assert all(path.read_bytes()[4:8] == b"\1\0\0\0" for path in compiled), "unchecked-hash"
    # edited sources do not count any more: the host's sandbox forbids to compile again, so nothing may want to
    (prefix / SITE / "tiny_server/__init__.py").write_text("raise SystemExit('compiled again')")
    ran = subprocess.run([prefix / "bin/tiny-server"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (3, "tiny\n")


def test_records_name_what_is_there(builder: Builder, tmp_path: Path) -> None:
    extra = Wheel(name="extra", files={"extra/__init__.py": "", "extra/tests/big.py": "x = 1\n", "extra/ä,b.txt": "c"})
    result = builder.build(extra, remove=["**/tests"])
    prefix = builder.open(result).unpack(tmp_path / "tree")
    site = prefix / SITE
    for info in site.glob("*.dist-info"):
        assert (info / "INSTALLER").read_text() == "mr-bundle\n"
        assert not (info / "REQUESTED").exists()
        assert not (info / "direct_url.json").exists()
        with (info / "RECORD").open(newline="") as file:
            rows = list(csv.reader(file))
        assert rows[:-1] == sorted(rows[:-1], key=lambda row: row[0].encode())
        assert rows[-1] == [f"{info.name}/RECORD", "", ""]
        for path, digest, size in rows[:-1]:
            content = (site / path).read_bytes()
            assert len(content) == int(size)
            assert digest.startswith("sha256=")
    names = {row.split(",")[0] for row in (site / "tiny_server-1.0.dist-info/RECORD").read_text().splitlines()}
    assert "../../../bin/tiny-server" in names
    assert not (site / "extra/tests").exists()
    # importlib.metadata of the bundle's own Python agrees with every digest
    code = (
        "import base64, hashlib, importlib.metadata as m\n"
        "for d in m.distributions():\n"
        "    for f in d.files:\n"
        "        if f.hash:\n"
        "            found = hashlib.sha256(f.locate().read_bytes()).digest()\n"
        "            assert base64.urlsafe_b64encode(found).rstrip(b'=').decode() == f.hash.value, f\n"
    )
    subprocess.run([prefix / "bin/python3", "-I", "-c", code], check=True)


def test_slim_rules_and_stale_ones(builder: Builder) -> None:
    extra = Wheel(
        name="extra",
        files={"extra/__init__.py": "", "extra/tests/a.py": "", "extra/tests/keep.py": "", "extra/x.a": "static"},
        scripts={"extra-tool": "extra:main"},
    )
    events: list[Event] = []
    remove = ["**/tests", "*/*.a", "nothing/**", "/bin/extra-tool", "/lib/python3.12/xml"]
    built = builder.open(builder.build(extra, remove=remove, keep=["extra/tests/keep.py"], report=events.append))
    paths = built.listing()
    assert f"{SITE}/extra/__init__.py" in paths
    assert f"{SITE}/extra/tests/keep.py" in paths
    assert f"{SITE}/extra/tests/__pycache__/keep.cpython-312.pyc" in paths
    gone = ["extra/tests/a.py", "extra/tests/__pycache__/a.cpython-312.pyc", "extra/x.a"]
    assert not [path for path in gone if f"{SITE}/{path}" in paths]
    assert "bin/extra-tool" not in paths
    assert not [path for path in paths if path.startswith("lib/python3.12/xml/")]
    notices = [event.message for event in events if isinstance(event, Notice) and event.code == "slim-unused"]
    assert notices == ["These slim rules match nothing: nothing/**"]


def test_who_owns_which_layer(builder: Builder) -> None:
    large = Wheel(name="large", files={"large/weights.bin": os.urandom(9 << 20)})
    built = builder.open(builder.build(large))
    owners = built.listing()
    assert owners["bin/python3.12"] == owners["lib/python3.12/os.py"] == "(interpreter)"
    assert owners[f"{SITE}/large/weights.bin"] == "large"
    assert owners["bin/tiny-server"] == owners[f"{SITE}/tiny_server/__init__.py"] == "tiny-server"
    assert owners[f"{SITE}/tiny_server/__pycache__/deep.cpython-312.pyc"] == "tiny-server"
    own = {path for path, owner in owners.items() if owner == "(bundle)"}
    assert {"bin/mr-serve", ".mr/bundle.json", ".mr/files.jsonl", ".mr/shim/mr_shim/main.py"} <= own
    assert all(path.startswith((".mr/", "bin/mr-serve")) for path in own)
    assert owners[".mr/bundle.json"] == built.image["history"][-1]["comment"], "the bundle's own layer is the last"


def test_bundles_share_layers(builder: Builder, tmp_path: Path) -> None:
    other = Wheel(name="other", files={"other.py": "y = 2\n"})
    first = builder.open(builder.build())
    second_builder = replace(builder, directory=tmp_path / "two", layout=tmp_path / "two/layout")
    second = second_builder.open(second_builder.build(other))
    layers = [
        {history["comment"]: layer.digest for layer, history in zip(b.manifest.layers, b.image["history"], strict=True)}
        for b in (first, second)
    ]
    assert layers[0]["(interpreter)"] == layers[1]["(interpreter)"]
    assert layers[0]["tiny-server"] == layers[1]["tiny-server"]
    assert layers[0]["(bundle)"] != layers[1]["(bundle)"]


def test_skopeo_reads_the_layout(builder: Builder, tmp_path: Path) -> None:
    skopeo = need("skopeo")
    result = builder.build()
    source = f"oci:{builder.layout}:{result.ref_name}"
    ran = subprocess.run([skopeo, "inspect", "--config", source], capture_output=True, text=True, check=True)
    config = json.loads(ran.stdout)
    assert (config["os"], config["architecture"]) == (HERE.platform.os, HERE.platform.architecture)
    assert config["config"]["Entrypoint"] == ["/backend/bin/mr-serve"]
    assert config["created"] == "2026-11-20T00:00:00Z"
    assert config["config"]["Labels"]["org.opencontainers.image.version"] == "1.0"
    target = f"oci:{tmp_path}/copy:x"
    subprocess.run([skopeo, "copy", "--all", "--preserve-digests", source, target], check=True, capture_output=True)
    copied = json.loads((tmp_path / "copy/index.json").read_text())["manifests"][0]["digest"]
    assert copied == str(result.index_digest)


def test_targets_of_one_version_share_an_index(builder: Builder) -> None:
    targets = (f"{HERE}", f"{HERE.platform}+cuda13")
    builder = replace(builder, targets=targets)
    cuda = Target.parse(targets[1])
    builder.build(target=cuda)
    builder.build()
    result = builder.build(target=cuda)  # replaces the first
    index = builder.open(result).index
    assert [entry.annotations[ANNOTATION_TARGET] for entry in index.manifests] == sorted(targets)
    assert all(entry.platform == Platform.host() for entry in index.manifests)
    assert index.digest == result.index_digest
    assert len(LayoutStore(builder.layout).names()) == 1
    newer = builder.build(replace(SERVER, version="2.0"))
    assert [
        entry.annotations["org.opencontainers.image.ref.name"] for entry in LayoutStore(builder.layout).names()
    ] == [
        "tiny-1.0",
        "tiny-2.0",
    ]
    assert newer.version == "2.0"


def test_source_date_epoch(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert builder.open(builder.build()).image["created"] == "1970-01-02T00:00:00Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(InvalidInputError, match="SOURCE_DATE_EPOCH") as caught:
        builder.build()
    assert caught.value.hint


def test_stale_lock_is_refused(builder: Builder) -> None:
    recipe = builder.recipe()
    lock = builder.lock(recipe, [SERVER])
    options = BuildOptions(layout=builder.layout, cache=builder.cache, python_from=builder.python)
    with pytest.raises(InvalidInputError, match="another state of the recipe") as caught:
        build_bundle(recipe, HERE, replace(lock, inputs=str(Digest.of(b"older"))), options=options)
    assert "mr-bundle lock" in caught.value.hint
    assert not builder.layout.exists()


def test_a_leak_fails_the_build_and_leaves_nothing(builder: Builder) -> None:
    good = builder.build()
    before = (builder.layout / "index.json").read_bytes()
    leaky = Wheel(name="leaky", files={"leaky.py": "", "leaky.bin": b"\0" * 100 + bytes(str(builder.cache), "utf-8")})
    with pytest.raises(BuildError, match=r"leaked-path in `\S+/leaky\.bin` \(cache directory\)") as caught:
        builder.build(leaky)
    assert str(builder.cache) not in f"{caught.value} {caught.value.fields}", "the error does not carry it further"
    assert (builder.layout / "index.json").read_bytes() == before
    assert not list((builder.cache / "tmp").iterdir())
    assert LayoutStore(builder.layout).resolve(good.ref_name).digest == good.index_digest


def test_a_leak_that_only_bytecode_holds(builder: Builder) -> None:
    parent, name = str(builder.cache).rsplit("/", 1)
    # constant folding joins what the source keeps apart
    leaky = Wheel(name="leaky", files={"leaky.py": f"x = {parent!r} + {'/' + name!r}\n"})
    with pytest.raises(BuildError, match=r"leaky\.cpython-312\.pyc` names the cache directory"):
        builder.build(leaky)


@pytest.mark.parametrize("phase", ["wheels", "audit", "bytecode", "pack", "image"])
def test_cancelling_leaves_nothing(builder: Builder, phase: str, tmp_path: Path) -> None:
    cancel = Cancel()

    def report(event: Event) -> None:
        if isinstance(event, PhaseStarted) and event.phase == phase:
            cancel.set()

    cache = tmp_path / "cache"
    if (builder.cache / "interpreters").exists():
        shutil.copytree(builder.cache / "interpreters", cache / "interpreters")
    with pytest.raises(CancelledError):
        builder.build(report=report, cancel=cancel, cache=cache)
    assert not list((cache / "tmp").iterdir())
    if builder.layout.exists():
        with pytest.raises(NotFoundError):
            LayoutStore(builder.layout).resolve("tiny-1.0")


def test_leftovers_of_a_killed_build_are_removed(builder: Builder) -> None:
    builder.build()
    leftover = builder.cache / "tmp/mr-build-killed"
    (leftover / "backend").mkdir(parents=True)
    (leftover / ".lock").touch()
    builder.build(replace(SERVER, version="1.1"))
    assert not leftover.exists()


def test_templates_are_kept_without_bytecode(builder: Builder) -> None:
    extra = Wheel(name="extra", files={"extra/__init__.py": "", "extra/template.py": "class {{ name }}: ...\n"})
    events: list[Event] = []
    paths = builder.open(builder.build(extra, report=events.append)).listing()
    assert f"{SITE}/extra/template.py" in paths
    assert f"{SITE}/extra/__pycache__/template.cpython-312.pyc" not in paths
    assert f"{SITE}/extra/__pycache__/__init__.cpython-312.pyc" in paths
    finished = next(e for e in events if isinstance(e, PhaseFinished) and e.phase == "bytecode")
    assert finished.detail["failed"] == 1


def test_a_wheel_cannot_bring_our_files(builder: Builder) -> None:
    with pytest.raises(BuildError, match=r"bin/mr-serve`: a wheel brings a file"):
        builder.build(Wheel(name="rogue", files={"rogue-1.0.data/scripts/mr-serve": (b"#!/bin/sh\n", 0o755)}))


def test_paths_that_collide_on_other_systems(builder: Builder) -> None:
    with pytest.raises(BuildError, match=r"case-collision in `\S+/twice/read\.txt`"):
        builder.build(Wheel(name="twice", files={"twice/Read.txt": "a", "twice/read.txt": "b"}))


def test_what_the_bundle_says_of_itself_is_searched_too(
    builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe lies in the bundle as it is; its summary and homepage also in the bundle config and the papers."""
    home = tmp_path / "somebody"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    extra = f"# wheels of {(home / 'wheels').as_uri()}\n"
    with pytest.raises(BuildError, match=r"leaked-path in `\.mr/recipe\.toml` \(home directory\)"):
        builder.build(extra=extra)
    assert not builder.layout.exists()
    extra += (
        '[[audit.allow]]\nfinding = "leaked-path"\npaths = ["/.mr/recipe.toml"]\nreason = "for this machine only"\n'
    )
    allowed = builder.build(extra=extra).audit.allowed
    assert [(finding.path, finding.detail) for finding in allowed] == [(".mr/recipe.toml", "home directory")]


def test_papers_are_searched_too(builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "somebody"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    telling = Wheel(
        name="telling",
        files={"telling.py": ""},
        metadata=f"Metadata-Version: 2.1\nName: telling\nVersion: 1.0\nSummary: of {home}/wheels\n",
    )
    with pytest.raises(BuildError, match=r"`sbom paper` names the home directory"):
        builder.build(telling)
    assert not LayoutStore(builder.layout).names()


def test_installing_wheels_tells_how_far_it_is(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mr_bundler.environment.assembly._WATCH_SECONDS", 0.001)
    parts = [
        Wheel(name=f"part-{number}", files={f"part_{number}/m{i}.py": "" for i in range(20)}) for number in range(40)
    ]
    events: list[Event] = []
    builder.build(*parts, report=events.append, use_cache=False)
    told = [e for e in events if isinstance(e, PhaseStarted | PhaseProgress | PhaseFinished) and e.phase == "wheels"]
    start, *progress, end = told
    assert isinstance(start, PhaseStarted)
    assert start.total == 41
    assert isinstance(end, PhaseFinished)
    steps = [(event.done, event.total) for event in progress if isinstance(event, PhaseProgress)]
    assert steps
    assert len(steps) == len(progress)
    assert steps == sorted(steps)
    assert all(0 < done <= total == 41 for done, total in steps)
