"""Papers go with their bundles; targets can be chosen; what a registry has already is not sent."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mr_core.digest import Digest
from mr_core.errors import AccessDeniedError, InvalidInputError, NotFoundError, UnavailableError, UsageError
from mr_core.layout import LayoutStore
from mr_core.manifest import MEDIA_INDEX, REF_NAME
from mr_core.memory import MemoryStore
from mr_core.referrer_index import fallback_name, make_artifact
from mr_core.referrers import referrers
from mr_core.registry import RegistryStore
from mr_core.store import Store
from mr_core.transfer import transfer, transfer_by_digest
from support.need import need
from support.referrers_api import ReferrersApi
from support.registry import QUICK, RealRegistry
from support.remote_blob import connect
from support.small_bundle import ARM, CPU, METAL, NOTE, SBOM, attach_text, small_bundle, walk, write_bundles
from support.small_image import describe
from support.wire import FaultProxy

BUNDLES = [small_bundle(target, filler=20_000) for target in (CPU, METAL, ARM)]
NAME = "tiny-1.0"


@pytest.fixture
def layout(tmp_path: Path) -> LayoutStore:
    layout = LayoutStore(tmp_path / "source", create=True)
    write_bundles(layout, NAME, BUNDLES)
    return layout


@pytest.fixture
def api(plain_registry: RealRegistry) -> Iterator[ReferrersApi]:
    with ReferrersApi(plain_registry.host) as api:
        yield api


def test_papers_go_everywhere_and_come_back_unchanged(layout: LayoutStore, store: Store, tmp_path: Path) -> None:
    """Through every kind of store: layout to it, it to memory, memory to a layout."""
    everything = walk(layout, NAME)
    assert sorted(everything.values()).count(SBOM) == 3
    there = transfer(layout, NAME, store, "v1")
    assert (there.documents, there.papers) == (4, 10)
    assert walk(store, "v1") == everything
    memory = MemoryStore()
    transfer(store, "v1", memory, "v1")
    back = LayoutStore(tmp_path / "back", create=True)
    transfer(memory, "v1", back, NAME)
    assert walk(back, NAME) == everything
    assert (back.path / "index.json").read_bytes() == (layout.path / "index.json").read_bytes()


def test_papers_stay_behind_on_request(layout: LayoutStore) -> None:
    memory = MemoryStore()
    result = transfer(layout, NAME, memory, "v1", papers=False)
    assert (result.papers, result.documents) == (0, 4)
    assert set(walk(memory, "v1")) < set(walk(layout, NAME))
    assert all(referrers(memory, bundle.manifest_descriptor.digest) == () for bundle in BUNDLES)


def test_what_others_attached_at_the_destination_is_kept(layout: LayoutStore, store: Store) -> None:
    subject = BUNDLES[0].manifest_descriptor
    theirs = attach_text(store, subject, NOTE, "theirs")
    transfer(layout, NAME, store, "v1")
    found = referrers(store, subject.digest)
    assert len(found) == 3
    assert theirs.digest in {entry.digest for entry in found}


def test_the_order_is_blobs_manifests_papers_index_tag(
    layout: LayoutStore, plain_registry: RealRegistry, proxy: FaultProxy, remote: RegistryStore
) -> None:
    transfer(layout, NAME, remote, "v1", retry=QUICK)
    puts = [seen.path.rpartition("/")[2] for seen in proxy.seen if seen.method == "PUT" and "/manifests/" in seen.path]
    manifests = [str(bundle.manifest_descriptor.digest) for bundle in BUNDLES]
    index = str(layout.resolve(NAME).digest)
    assert sorted(puts[:3]) == sorted(manifests)
    assert puts.index(index) > max(puts.index(fallback_name(Digest.parse(digest))) for digest in manifests)
    assert puts[-1] == "v1"
    last_blob = max(number for number, seen in enumerate(proxy.seen) if "/blobs/uploads/" in seen.path)
    first_manifest = min(
        number for number, seen in enumerate(proxy.seen) if seen.method == "PUT" and "/manifests/" in seen.path
    )
    assert last_blob < first_manifest


def test_papers_use_the_api_of_a_registry_that_has_it(layout: LayoutStore, api: ReferrersApi, repository: str) -> None:
    store = connect(api.host, repository)
    transfer(layout, NAME, store, "v1")
    assert walk(store, "v1") == walk(layout, NAME)
    assert not any("/manifests/sha256-" in seen.path for seen in api.seen)  # no fallback tag read or written
    store.close()


def test_a_damaged_list_of_papers_is_named_and_can_be_left_behind(layout: LayoutStore) -> None:
    paper = referrers(layout, BUNDLES[1].manifest_descriptor.digest)[0]
    (layout.path / "blobs/sha256" / paper.digest.hex).unlink()
    with pytest.raises(NotFoundError, match=r"papers of sha256:.*not in") as caught:
        transfer(layout, NAME, MemoryStore(), "v1")
    assert "--no-papers" in caught.value.hint
    transfer(layout, NAME, MemoryStore(), "v1", papers=False)


def test_a_listed_artifact_of_another_subject_is_not_copied(layout: LayoutStore) -> None:
    subject = BUNDLES[0].manifest_descriptor
    stranger = make_artifact(describe(b"x", MEDIA_INDEX), artifact_type=NOTE, content=describe(b"{}"), annotations={})
    layout.put_document(stranger, "application/vnd.oci.image.manifest.v1+json")
    value = json.loads(layout.read_document(layout.resolve(fallback_name(subject.digest))))
    value["manifests"].append(describe(stranger, "application/vnd.oci.image.manifest.v1+json").to_json())
    layout.put_document(json.dumps(value).encode(), MEDIA_INDEX, name=fallback_name(subject.digest), overwrite=True)
    memory = MemoryStore()
    assert transfer(layout, NAME, memory, "v1").papers == 10


# --- layouts with papers


def test_papers_do_not_count_as_entries_of_a_layout(layout: LayoutStore) -> None:
    assert [entry.annotations[REF_NAME] for entry in layout.names()] == [NAME]
    assert layout.resolve("").annotations[REF_NAME] == NAME
    subject = BUNDLES[0].manifest_descriptor.digest
    assert layout.resolve(fallback_name(subject)).media_type == MEDIA_INDEX
    with pytest.raises(NotFoundError) as caught:
        layout.resolve("nothing")
    assert caught.value.hint == f"names there: `{NAME}`"


def test_a_name_can_be_removed(layout: LayoutStore) -> None:
    subject = BUNDLES[0].manifest_descriptor.digest
    assert layout.remove_name(fallback_name(subject))
    assert not layout.remove_name(fallback_name(subject))
    assert referrers(layout, subject) == ()
    assert len(referrers(layout, BUNDLES[1].manifest_descriptor.digest)) == 2
    assert walk(layout, NAME)


# --- targets


def test_chosen_targets_get_the_index_that_a_build_of_them_makes(layout: LayoutStore, store: Store) -> None:
    result = transfer(layout, NAME, store, "two", targets=[CPU, METAL])
    alone = MemoryStore()
    built = write_bundles(alone, "two", BUNDLES[:2], papers=False)
    assert (result.digest, result.documents) == (built.digest, 3)
    assert store.read_document(store.resolve("two")) == alone.read_document(built)
    assert result.papers == 6  # those of the two manifests; the note about the index of three stays behind
    assert not store.has_blob(BUNDLES[2].blobs[1][0])


def test_all_targets_is_the_index_itself(layout: LayoutStore) -> None:
    result = transfer(layout, NAME, MemoryStore(), "all", targets=[METAL, ARM, CPU])
    assert (result.digest, result.papers) == (layout.resolve(NAME).digest, 10)


def test_a_target_that_is_not_there(layout: LayoutStore) -> None:
    with pytest.raises(NotFoundError, match=r"linux/amd64\+cuda13") as caught:
        transfer(layout, NAME, MemoryStore(), "x", targets=["linux/amd64+cuda13"])
    assert METAL in caught.value.hint
    manifest = str(BUNDLES[0].manifest_descriptor.digest)
    with pytest.raises(NotFoundError, match=re.escape(METAL)):
        transfer(layout, manifest, MemoryStore(), "x", targets=[METAL])
    assert transfer(layout, manifest, MemoryStore(), "x", targets=[CPU]).target == CPU


def test_bundles_are_pushed_by_digest_without_index_and_name(layout: LayoutStore, store: Store) -> None:
    results = transfer_by_digest(layout, NAME, store, targets=[METAL, CPU])
    assert [(result.target, result.name, result.papers) for result in results] == [(METAL, "", 3), (CPU, "", 3)]
    for result, bundle in zip(results, (BUNDLES[1], BUNDLES[0]), strict=True):
        assert result.digest == bundle.manifest_descriptor.digest
        assert walk(store, str(result.digest))
    with pytest.raises(NotFoundError):
        store.resolve(str(layout.resolve(NAME).digest))
    (alone,) = transfer_by_digest(layout, str(results[0].digest), MemoryStore())
    assert (alone.digest, alone.blobs_pushed) == (results[0].digest, 6)  # config, two layers; empty config, two texts
    if isinstance(store, LayoutStore):
        assert store.names() == ()


# --- what need not be sent


def test_an_unchanged_bundle_sends_no_blob_bytes(layout: LayoutStore, proxy: FaultProxy, remote: RegistryStore) -> None:
    transfer(layout, NAME, remote, "v1")
    assert proxy.sent() > 60_000
    proxy.seen.clear()
    again = transfer(layout, NAME, remote, "v1")
    assert (again.blobs_pushed, again.bytes_pushed) == (0, 0)
    assert proxy.sent() == 0
    assert proxy.count("POST") == 0


def test_a_copy_within_a_registry_mounts_every_blob(
    layout: LayoutStore, proxy: FaultProxy, remote: RegistryStore, repository: str, plain_registry: RealRegistry
) -> None:
    first = transfer(layout, NAME, remote, "v1")
    other = connect(proxy.host, f"{repository}-other")
    proxy.seen.clear()
    mark = len(plain_registry.log())
    result = transfer(remote, "v1", other, "v1")
    assert (result.blobs_mounted, result.blobs_pushed, result.bytes_mounted) == (
        first.blobs_pushed,
        0,
        first.bytes_pushed,
    )
    assert proxy.sent() == 0
    assert proxy.count("POST") == result.blobs_mounted
    assert proxy.count("GET", "/blobs/") == 0  # not even read
    assert walk(other, "v1") == walk(layout, NAME)
    log = plain_registry.log()[mark:]
    assert log.count("&mount=sha256") + log.count("?mount=sha256") >= result.blobs_mounted
    other.close()


def test_a_push_mounts_from_named_siblings_and_sends_the_rest(
    layout: LayoutStore, proxy: FaultProxy, remote: RegistryStore, repository: str
) -> None:
    transfer(layout, NAME, remote, "v1")
    newer = LayoutStore(layout.path.with_name("newer"), create=True)
    write_bundles(newer, NAME, [BUNDLES[0], small_bundle(METAL, filler=500, text=repository)], papers=False)
    other = connect(proxy.host, f"{repository}-other")
    proxy.seen.clear()
    names = [f"{repository}-none", f"docker://{proxy.host}/{repository}"]
    result = transfer(newer, NAME, other, "v1", mount_from=names)
    assert (result.blobs_mounted, result.blobs_pushed) == (3, 3)
    assert proxy.sent() == result.bytes_pushed < 5000
    assert walk(other, "v1") == walk(newer, NAME)
    other.close()


def test_only_registries_mount(layout: LayoutStore) -> None:
    with pytest.raises(UsageError, match="only registries"):
        transfer(layout, NAME, MemoryStore(), "x", mount_from=["a/b"])


def test_a_mount_from_a_name_that_is_no_repository(layout: LayoutStore, remote: RegistryStore) -> None:
    with pytest.raises(InvalidInputError, match="upper-case"):
        transfer(layout, NAME, remote, "x", mount_from=["A/b"])


# --- hostile and odd answers about referrers


def entry(number: int) -> dict[str, object]:
    return {**describe(b"%d" % number, "application/vnd.oci.image.manifest.v1+json").to_json(), "artifactType": NOTE}


def listing(*entries: dict[str, object], **more: object) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": list(entries), **more}).encode()


INDEX = {"Content-Type": MEDIA_INDEX}


def test_pages_are_followed_and_filtered(api: ReferrersApi, repository: str) -> None:
    store = connect(api.host, repository)
    subject = BUNDLES[0].manifest_descriptor
    made = {attach_text(store, subject, NOTE if number % 3 else SBOM, f"{number}").digest for number in range(11)}
    api.page = 2
    assert {found.digest for found in referrers(store, subject.digest)} == made
    assert api.count("GET", "/referrers/") == 6
    assert len(referrers(store, subject.digest, artifact_type=SBOM)) == 4
    assert "artifactType=application" in api.seen[-1].path
    store.close()


@pytest.mark.parametrize(
    ("answers", "error", "text"),
    [
        ([(200, INDEX, b"[]")], InvalidInputError, "expected a JSON object"),
        ([(200, INDEX, b"{")], InvalidInputError, "referrers of"),
        ([(200, INDEX, listing() + b" " * (5 << 20))], InvalidInputError, "more than 4194304"),
        ([(200, INDEX, listing(*map(entry, range(300))))], InvalidInputError, "more than 256"),
        (
            [(200, {**INDEX, "Link": f'</v2/x/referrers/y?{n}>; rel="next"'}, listing(*map(entry, range(n, n + 9))))
             for n in range(0, 2700, 9)],
            InvalidInputError, "more than 256",
        ),
        (
            [(200, {**INDEX, "Link": '</v2/x/referrers/y>; rel="next"'}, listing(entry(1)))] * 300,
            InvalidInputError, "do not end",
        ),
        (
            [(200, {**INDEX, "Link": f'</v2/x/referrers/y?{n}>; rel="next"'}, listing(entry(1))) for n in range(99)],
            InvalidInputError, "do not end",
        ),
        (
            [(200, {**INDEX, "Link": '<https://elsewhere.example/x>; rel="next"'}, listing())],
            UnavailableError, "another",
        ),
        ([(200, {**INDEX, "Link": '<http://[x>; rel="next"'}, listing())], UnavailableError, "bad address"),
        (
            [(200, {**INDEX, "Link": '</v2/x/referrers/y>; rel="next"'}, listing(entry(1))), (404, {}, b"")],
            UnavailableError, "later page",
        ),
        ([(403, {}, b"")], AccessDeniedError, "denies"),
        ([(503, {}, b"")] * 9, UnavailableError, "503"),
    ],
    ids=["list", "cut", "huge", "many", "manypages", "circle", "endless", "away", "bad", "gone", "denied", "down"],
)  # fmt: skip
def test_hostile_lists_of_referrers_are_bounded(
    api: ReferrersApi,
    repository: str,
    answers: list[tuple[int, dict[str, str], bytes]],
    error: type[Exception],
    text: str,
) -> None:
    api.answers = list(answers)
    store = connect(api.host, repository)
    with pytest.raises(error, match=text):
        referrers(store, Digest.of(b"subject"))
    store.close()


@pytest.mark.parametrize(
    "answer",
    [(404, {}, b""), (405, {}, b""), (400, {}, b"{}"), (501, {}, b""), (200, {"Content-Type": "text/html"}, b"<html>")],
    ids=["404", "405", "400", "501", "html"],
)
def test_a_registry_without_the_api_is_asked_once_and_then_for_the_fallback_tag(
    api: ReferrersApi, plain_registry: RealRegistry, repository: str, answer: tuple[int, dict[str, str], bytes]
) -> None:
    direct = connect(plain_registry.host, repository)
    subject = BUNDLES[0].manifest_descriptor
    made = attach_text(direct, subject, NOTE, "note")
    api.answers = [answer]
    store = connect(api.host, repository)
    for _ in range(3):
        assert referrers(store, subject.digest) == (made,)
    assert api.count("GET", "/referrers/") == 1
    for opened in (direct, store):
        opened.close()


def test_a_registry_that_refuses_deletion_keeps_what_was_replaced(api: ReferrersApi, repository: str) -> None:
    api.deletable = False
    store = connect(api.host, repository)
    subject = BUNDLES[0].manifest_descriptor
    old = attach_text(store, subject, NOTE, "old")
    raw = make_artifact(subject, artifact_type=NOTE, content=describe(b"old"), annotations={"x": "new"})
    store.put_referrers(subject.digest, [raw], replace=True)
    assert {found.digest for found in referrers(store, subject.digest)} == {old.digest, Digest.of(raw)}
    store.close()


def test_a_list_that_another_client_overwrites_is_merged_again(
    proxy: FaultProxy, remote: RegistryStore, plain_registry: RealRegistry, repository: str
) -> None:
    """Somebody writes the list of one paper of theirs just after ours, as read-modify-write without a lock does."""
    direct = connect(plain_registry.host, repository)
    subject = BUNDLES[0].manifest_descriptor
    theirs = attach_text(direct, subject, SBOM, "theirs")
    tag = fallback_name(subject.digest)
    lost = direct.read_document(direct.resolve(tag))
    done: list[int] = []

    def overwrite(moment: str, number: int) -> None:
        seen = proxy.seen[number - 1]
        if moment == "answered" and (seen.method, seen.path.endswith(tag)) == ("PUT", True) and len(done) < 3:
            done.append(number)
            direct.write_manifest(tag, lost, MEDIA_INDEX)

    proxy.watch = overwrite
    ours = attach_text(remote, subject, NOTE, "ours")
    assert len(done) == 3
    assert referrers(remote, subject.digest) == (theirs, ours)

    def without_end(moment: str, number: int) -> None:
        done.clear()
        overwrite(moment, number)

    proxy.watch = without_end
    with pytest.raises(UnavailableError, match="others keep writing"):
        attach_text(remote, subject, NOTE, "never")
    direct.close()


# --- other tools


def test_layouts_that_skopeo_made_have_their_papers(
    layout: LayoutStore, remote: RegistryStore, plain_registry: RealRegistry, repository: str, tmp_path: Path
) -> None:
    """skopeo knows no referrers, but the fallback tags are tags: copied by name they work in a layout, and back."""
    skopeo = need("skopeo")
    transfer(layout, NAME, remote, "v1")
    place = f"docker://{plain_registry.host}/{repository}"
    copy = [skopeo, "copy", "--all", "--src-tls-verify=false"]  # it writes lists without the types it does not know
    theirs = tmp_path / "theirs"
    subject = BUNDLES[0].manifest_descriptor.digest
    for tag, name in (("v1", NAME), (fallback_name(subject), fallback_name(subject))):
        ran = subprocess.run(
            [*copy, f"{place}:{tag}", f"oci:{theirs}:{name}"], capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
    store = LayoutStore(theirs)
    assert store.resolve("").annotations[REF_NAME] == NAME
    assert referrers(store, subject) == referrers(layout, subject)
    assert transfer(store, "", MemoryStore(), "x", targets=[CPU]).papers == 2  # no list of the SBOM's own papers came
    listed = subprocess.run(
        [skopeo, "list-tags", "--tls-verify=false", place], capture_output=True, text=True, check=True
    )
    tags = json.loads(listed.stdout)["Tags"]
    assert "v1" in tags
    assert fallback_name(subject) in tags
