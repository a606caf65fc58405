"""Layouts on disk: crashes, several writers, hostile files, and other tools."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from mr_core.errors import HostError, IntegrityError, InvalidInputError, NotFoundError
from mr_core.layout import LayoutStore
from mr_core.location import parse_location
from mr_core.manifest import MEDIA_INDEX, MEDIA_MANIFEST, REF_NAME
from mr_core.memory import BytesStream
from mr_core.open_store import open_source, open_store
from support.need import need
from support.small_image import describe, small_image


@pytest.fixture
def layout(tmp_path: Path) -> LayoutStore:
    return LayoutStore(tmp_path / "layout", create=True)


def child(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start Python with our packages and some of the test parts."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments], env=environment, stdout=subprocess.PIPE
    )


def index_json(layout: LayoutStore) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((layout.path / "index.json").read_bytes())
    return value


def test_two_processes_and_their_threads_lose_no_entry(layout: LayoutStore) -> None:
    writer = """
        import sys
        from concurrent.futures import ThreadPoolExecutor
        from pathlib import Path
        from mr_core.layout import LayoutStore
        from support.small_image import small_image

        layout = LayoutStore(Path(sys.argv[1]), create=True)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: small_image(f"{sys.argv[2]}{n}").write(layout, f"{sys.argv[2]}{n}"), range(12)))
    """
    processes = [child(writer, str(layout.path), name) for name in ("a", "b")]
    assert [process.communicate(timeout=60)[0] for process in processes] == [b"", b""]
    assert [process.returncode for process in processes] == [0, 0]
    expected = {f"{name}{number}": small_image(f"{name}{number}") for name in "ab" for number in range(12)}
    names = [entry["annotations"][REF_NAME] for entry in index_json(layout)["manifests"]]
    assert names == sorted(expected)
    for name, image in expected.items():
        assert layout.read_document(layout.resolve(name)) == image.index


def test_a_killed_writer_leaves_nothing_visible_and_is_swept_up_later(layout: LayoutStore) -> None:
    process = child(
        """
        import sys, time
        from pathlib import Path
        from mr_core.layout import LayoutStore
        from mr_core.memory import BytesStream
        from support.small_image import describe

        class Slow(BytesStream):
            def read(self, size, /):
                print("reading", flush=True)
                chunk = super().read(100)
                time.sleep(0 if self._stream.tell() < 300 else 60)
                return chunk

        LayoutStore(Path(sys.argv[1])).put_blob(describe(b"x" * 1000), Slow(b"x" * 1000))
        """,
        str(layout.path),
    )
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    time.sleep(0.05)
    (leftover,) = (layout.path / ".ingest").iterdir()
    old = time.time() - 3600
    os.utime(leftover, (old, old))

    other = LayoutStore(layout.path)
    other.put_blob(describe(b"while it runs"), BytesStream(b"while it runs"))
    assert leftover.exists(), "a blob that is being written was swept away"

    process.send_signal(signal.SIGKILL)
    process.wait(10)
    process.stdout.close()
    later = LayoutStore(layout.path)
    assert not later.has_blob(describe(b"x" * 1000))
    later.put_blob(describe(b"afterwards"), BytesStream(b"afterwards"))
    assert list((layout.path / ".ingest").iterdir()) == []


def test_entries_of_other_tools_keep_fields_we_do_not_know(layout: LayoutStore) -> None:
    image = small_image()
    image.write(layout, "mine")
    foreign = {
        **image.manifest_descriptor.to_json(),
        "platform": {"architecture": "arm", "os": "linux", "variant": "v7"},
        "urls": ["https://mirror.example/x"],
        "annotations": {REF_NAME: "theirs"},
    }
    changed = index_json(layout)
    changed["manifests"].append(foreign)
    changed["org.example.extra"] = {"kept": True}
    (layout.path / "index.json").write_text(json.dumps(changed))
    layout.put_document(image.index, MEDIA_INDEX, name="another", annotations={"org.example.note": "n"})
    found = index_json(layout)
    assert foreign in found["manifests"]
    assert found["org.example.extra"] == {"kept": True}
    assert layout.resolve("another").annotations == {REF_NAME: "another", "org.example.note": "n"}


def test_a_read_change_write_can_be_made_exclusive(layout: LayoutStore) -> None:
    first, second = small_image("1"), small_image("2")
    first.write(layout, "x")
    with layout.exclusive(), layout.exclusive():
        assert layout.read_document(layout.resolve("x")) == first.index
        second.write(layout, "y")
        layout.put_document(second.index, MEDIA_INDEX, name="x", overwrite=True)
    assert layout.resolve("x").digest == second.index_descriptor.digest


def test_a_damaged_document_is_repaired_by_writing_it_again(layout: LayoutStore) -> None:
    image = small_image()
    image.write(layout, "x")
    path = layout.path / "blobs/sha256" / image.index_descriptor.digest.hex
    path.write_bytes(b"#" * len(image.index))
    layout.put_document(image.index, MEDIA_INDEX, name="x")
    assert layout.read_document(layout.resolve("x")) == image.index


def test_names_that_do_not_decide_are_refused_with_the_choices(layout: LayoutStore) -> None:
    with pytest.raises(NotFoundError, match="empty"):
        layout.resolve("")
    small_image("1").write(layout, "one")
    assert layout.resolve("").digest == small_image("1").index_descriptor.digest
    small_image("2").write(layout, "two")
    with pytest.raises(InvalidInputError, match="holds 2 entries") as caught:
        layout.resolve("")
    assert "`one`, `two`" in caught.value.hint
    with pytest.raises(NotFoundError) as missing:
        layout.resolve("three")
    assert "`one`, `two`" in missing.value.hint


HOSTILE = {
    "not json": (b"{", "Expecting"),
    "not an object": (b"[]", "JSON object"),
    "no manifests": (b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json"}', "manifests"),
    "an image manifest": (small_image().manifest, "announced as"),
    "duplicate keys": (b'{"schemaVersion":2,"manifests":[],"manifests":[]}', "duplicate key"),
    "bad digest": (
        b'{"schemaVersion":2,"manifests":[{"mediaType":"x","size":1,"digest":"sha256:../../etc/passwd"}]}',
        r"manifests\[0\].digest",
    ),
    "negative size": (
        b'{"schemaVersion":2,"manifests":[{"mediaType":"x","size":-1,"digest":"sha256:' + b"0" * 64 + b'"}]}',
        r"manifests\[0\].size",
    ),
    "annotations of another type": (
        b'{"schemaVersion":2,"manifests":[{"mediaType":"x","size":1,"digest":"sha256:'
        + b"0" * 64
        + b'","annotations":[1]}]}',
        r"manifests\[0\].annotations",
    ),
    "deep nesting": (b'{"a":' * 100_000, "recursion"),
    "too large": (b" " * (4 << 20) + b"{}", "more than the 4194304"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_index_is_refused_with_its_place(layout: LayoutStore, what: str) -> None:
    raw, words = HOSTILE[what]
    (layout.path / "index.json").write_bytes(raw)
    with pytest.raises(InvalidInputError, match=f"(?s){words}") as caught:
        layout.resolve("x")
    assert str(layout.path) in caught.value.message
    with pytest.raises(InvalidInputError):  # and is not written over either
        layout.put_document(small_image().index, MEDIA_INDEX, name="x")
    assert (layout.path / "index.json").read_bytes() == raw


@pytest.mark.parametrize("version", ['{"imageLayoutVersion":"2.0.0"}', "{}", "x", '{"imageLayoutVersion":1}'])
def test_another_layout_version_is_refused(layout: LayoutStore, version: str) -> None:
    (layout.path / "oci-layout").write_text(version)
    with pytest.raises(InvalidInputError, match="oci-layout"):
        LayoutStore(layout.path)


@pytest.mark.parametrize("kind", ["fifo", "directory", "device"])
def test_a_blob_that_is_no_regular_file_neither_hangs_nor_passes(layout: LayoutStore, kind: str) -> None:
    blob = describe(b"content")
    path = layout.path / "blobs/sha256" / blob.digest.hex
    {"fifo": os.mkfifo, "directory": os.mkdir, "device": lambda place: place.symlink_to("/dev/zero")}[kind](path)
    with pytest.raises(IntegrityError, match="regular file"):
        layout.open_blob(blob)
    assert not layout.has_blob(blob)


def test_what_is_no_layout_is_not_found_and_not_filled(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(NotFoundError, match="has no `oci-layout`"):
        LayoutStore(tmp_path)
    with pytest.raises(InvalidInputError, match="holds `precious`"):
        LayoutStore(tmp_path, create=True)
    with pytest.raises(NotFoundError):
        LayoutStore(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_locations_open_their_stores(tmp_path: Path) -> None:
    location = parse_location(f"oci:{tmp_path / 'new'}:x")
    store, name = open_store(location)
    small_image().write(store, name)
    source, name = open_source(location)
    assert source.resolve(name).digest == small_image().index_descriptor.digest
    registry, tag = open_source(parse_location("docker://registry.example:5000/a/b:c"))
    assert (registry.describe(), tag) == ("docker://registry.example:5000/a/b", "c")
    registry.close()


def test_skopeo_reads_what_we_write_and_we_read_what_skopeo_writes(layout: LayoutStore, tmp_path: Path) -> None:
    skopeo = need("skopeo")
    image = small_image("for skopeo")
    image.write(layout, "x-1.0")
    shown = subprocess.run([skopeo, "inspect", "--raw", f"oci:{layout.path}:x-1.0"], capture_output=True, check=True)
    assert shown.stdout == image.index
    target = tmp_path / "copied"
    copy = [skopeo, "copy", "--all", "--preserve-digests", f"oci:{layout.path}:x-1.0", f"oci:{target}:x-1.0"]
    subprocess.run(copy, capture_output=True, check=True)
    theirs = LayoutStore(target)
    assert theirs.read_document(theirs.resolve("x-1.0")) == image.index
    inner = theirs.resolve(str(image.manifest_descriptor.digest))
    assert inner.media_type == MEDIA_MANIFEST
    for blob, content in image.blobs:
        assert theirs.read_blob(blob) == content
    small_image("ours").write(theirs, "ours-1")  # beside an index that skopeo wrote
    assert {entry.annotations[REF_NAME] for entry in theirs.names()} == {"ours-1", "x-1.0"}


@pytest.mark.parametrize("create", [False, True])
def test_a_path_that_is_too_long_is_a_host_error(tmp_path: Path, create: bool) -> None:
    with pytest.raises(HostError, match="too long"):
        LayoutStore(tmp_path / ("x" * 300), create=create)
