"""Large blobs go up in chunks that survive a broken wire, and blobs that a sibling repository has are mounted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from mr_core import registry_upload
from mr_core.errors import CancelledError, IntegrityError, InvalidInputError, UnavailableError
from mr_core.events import BlobFinished, BlobProgress, Cancel, Event, Outcome
from mr_core.manifest import Descriptor
from mr_core.memory import BytesStream, MemoryStore
from mr_core.registry import RegistryStore
from mr_core.transfer_blobs import BlobSender
from support.kind_uploads import KindUploads
from support.registry import QUICK, RealRegistry
from support.remote_blob import connect
from support.small_image import describe
from support.wire import Fault, FaultProxy

CHUNK = 200_000
SIZE = 5 * CHUNK + 777


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_upload, "CHUNKED_FROM", CHUNK)
    monkeypatch.setattr(registry_upload, "CHUNK_BYTES", CHUNK)
    monkeypatch.setattr(registry_upload, "_ENOUGH_BYTES", 1000)


@pytest.fixture
def content(repository: str) -> bytes:
    """Bytes that no other test sends: the registry shares blobs among repositories."""
    return hashlib.shake_128(repository.encode()).digest(SIZE)


@pytest.fixture
def blob(content: bytes) -> Descriptor:
    return describe(content)


@pytest.fixture
def local(blob: Descriptor, content: bytes) -> MemoryStore:
    store = MemoryStore()
    store.put_blob(blob, BytesStream(content))
    return store


@pytest.fixture
def kind(plain_registry: RealRegistry) -> Iterator[KindUploads]:
    with KindUploads(plain_registry.host) as kind:
        yield kind


def send(local: MemoryStore, remote: RegistryStore, blob: Descriptor) -> Outcome:
    """Send a blob as `transfer` does: begun again when an upload broke for good."""
    sender = BlobSender(local, remote, mount_from=(), policy=QUICK, report=lambda _: None)
    return sender.send_all([blob], 1, Cancel())[blob.digest]


def patches(proxy: FaultProxy) -> list[str]:
    return [seen.headers["Content-Range"] for seen in proxy.seen if seen.method == "PATCH"]


# --- chunks


def test_a_large_blob_goes_up_in_chunks_in_one_session(
    proxy: FaultProxy, remote: RegistryStore, blob: Descriptor, content: bytes
) -> None:
    events: list[Event] = []
    assert remote.put_blob(blob, BytesStream(content), report=events.append) is Outcome.DONE
    assert remote.read_blob(blob) == content
    starts = range(0, SIZE, CHUNK)
    assert patches(proxy) == [f"{start}-{min(start + CHUNK, SIZE) - 1}" for start in starts]
    assert (proxy.count("POST"), proxy.count("PUT")) == (1, 1)
    assert proxy.sent() == SIZE
    offsets = [event.offset for event in events if isinstance(event, BlobProgress)]
    assert offsets == sorted(offsets)
    assert offsets[-1] == SIZE
    assert isinstance(events[-1], BlobFinished)


def test_a_blob_up_to_the_limit_goes_up_in_one_request(proxy: FaultProxy, remote: RegistryStore) -> None:
    content = b"x" * CHUNK
    remote.put_blob(describe(content), BytesStream(content))
    assert (proxy.count("PATCH"), proxy.count("PUT")) == (0, 1)


@pytest.mark.parametrize("at", [0, 1, 70_000, CHUNK - 1])
@pytest.mark.parametrize("nth", [1, 3, 6])
def test_a_cut_chunk_costs_no_more_than_the_registry_forgets(
    proxy: FaultProxy, remote: RegistryStore, local: MemoryStore, blob: Descriptor, content: bytes, nth: int, at: int
) -> None:
    """The reference registry may end the session of a cut chunk: then everything before it is sent again."""
    last = SIZE - (nth - 1) * CHUNK - 1
    before = [Fault(method="PATCH") for _ in range(nth - 1)]  # these pass
    proxy.faults = [*before, Fault(method="PATCH", reset_upload_at=min(at, last))]
    assert send(local, remote, blob) is Outcome.DONE
    assert remote.read_blob(blob) == content
    assert not any(fault.times for fault in proxy.faults)


@pytest.mark.parametrize("kept", [0, 1, 2, 70_000, CHUNK - 1, CHUNK])
@pytest.mark.parametrize("nth", [0, 2, 5])
def test_an_upload_continues_where_the_registry_says(
    kind: KindUploads, repository: str, blob: Descriptor, content: bytes, nth: int, kept: int
) -> None:
    """The source is read once, so nothing but the chunk in memory can have been sent again."""
    remote = connect(kind.host, repository)
    length = min(CHUNK, SIZE - nth * CHUNK)
    kept = min(kept, length)
    broken = Fault(method="PATCH", lose_reply=True) if kept == length else Fault(method="PATCH", reset_upload_at=kept)
    kind.faults = [*(Fault(method="PATCH") for _ in range(nth)), broken]
    assert remote.put_blob(blob, BytesStream(content)) is Outcome.DONE
    assert remote.read_blob(blob) == content
    again = kept if nth == 0 and kept < 2 else 0  # one byte is not told from none, and a new session begins
    assert kind.sent() == SIZE + again
    assert kind.count("POST") == 1 + (nth == 0 and kept < 2)
    remote.close()


def test_an_upload_that_breaks_again_and_again_still_ends(
    kind: KindUploads, repository: str, blob: Descriptor, content: bytes
) -> None:
    remote = connect(kind.host, repository)
    kind.faults = [Fault(method="PATCH", reset_upload_at=30_000, times=20)]
    assert remote.put_blob(blob, BytesStream(content)) is Outcome.DONE
    assert remote.read_blob(blob) == content
    assert kind.sent() == SIZE
    remote.close()


def test_a_lost_reply_to_a_chunk_ends_the_session_of_the_reference_registry(
    proxy: FaultProxy, remote: RegistryStore, local: MemoryStore, blob: Descriptor, content: bytes
) -> None:
    proxy.faults = [Fault(method="PATCH"), Fault(method="PATCH", lose_reply=True)]
    with pytest.raises(UnavailableError, match="gave the upload up"):
        remote.put_blob(blob, BytesStream(content))
    proxy.faults = [Fault(method="PATCH"), Fault(method="PATCH", lose_reply=True)]
    assert send(local, remote, blob) is Outcome.DONE
    assert remote.read_blob(blob) == content


def test_a_chunk_that_is_answered_with_an_error_is_sent_again(
    proxy: FaultProxy, remote: RegistryStore, blob: Descriptor, content: bytes
) -> None:
    proxy.faults = [Fault(method="PATCH", status=500, times=2), Fault(method="PATCH", status=429)]
    remote.put_blob(blob, BytesStream(content))
    assert remote.read_blob(blob) == content
    assert patches(proxy)[:4] == [f"0-{CHUNK - 1}"] * 4


def test_a_session_that_is_gone_begins_again(
    proxy: FaultProxy, remote: RegistryStore, local: MemoryStore, blob: Descriptor, content: bytes
) -> None:
    proxy.faults = [
        Fault(method="PATCH"),
        Fault(method="PATCH", status=404),
        Fault(method="GET", path="/uploads/", status=404),
    ]
    assert send(local, remote, blob) is Outcome.DONE
    assert proxy.count("POST") == 2
    assert remote.read_blob(blob) == content


def test_chunks_that_never_arrive_end_as_unavailable(
    proxy: FaultProxy, remote: RegistryStore, blob: Descriptor, content: bytes
) -> None:
    proxy.faults = [Fault(method="PATCH", status=503, times=99)]
    with pytest.raises(UnavailableError, match="503") as caught:
        remote.put_blob(blob, BytesStream(content))
    assert caught.value.exit_code == 7
    assert proxy.count("PATCH") == QUICK.attempts
    assert not remote.has_blob(blob)


@pytest.mark.parametrize("size", [SIZE, CHUNK], ids=["chunks", "whole"])
def test_a_lost_reply_to_the_last_request_is_no_failure(
    proxy: FaultProxy, remote: RegistryStore, content: bytes, size: int
) -> None:
    part = content[:size]
    proxy.faults = [Fault(method="PUT", lose_reply=True)]
    assert remote.put_blob(describe(part), BytesStream(part)) is Outcome.DONE
    assert remote.read_blob(describe(part)) == part
    assert proxy.sent() == size


@pytest.mark.parametrize("wrong", ["flip", "short", "long"])
def test_wrong_bytes_in_chunks_are_refused_and_nothing_is_stored(
    remote: RegistryStore, blob: Descriptor, content: bytes, wrong: str
) -> None:
    given = {"flip": content[:-1] + bytes([content[-1] ^ 1]), "short": content[:-1], "long": content + b"x"}[wrong]
    with pytest.raises(IntegrityError):
        remote.put_blob(blob, BytesStream(given))
    assert not remote.has_blob(blob)


def test_a_registry_that_counts_wrongly_is_not_believed(
    proxy: FaultProxy, remote: RegistryStore, local: MemoryStore, blob: Descriptor, content: bytes
) -> None:
    """Its answers claim more than was sent, once to a chunk and once to the question how far it got."""
    wrong = {"Range": "0-99999999", "Location": "/v2/x/blobs/uploads/none"}
    proxy.faults = [
        Fault(method="PATCH", status=202, headers=wrong),
        Fault(method="GET", path="/uploads/", status=204, headers=wrong),
    ]
    assert send(local, remote, blob) is Outcome.DONE
    assert remote.read_blob(blob) == content


def test_a_registry_that_wants_large_chunks_gets_them(
    proxy: FaultProxy, remote: RegistryStore, blob: Descriptor, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    least: list[tuple[int, int]] = []
    for wanted, most in ((2 * CHUNK, SIZE), (2 * CHUNK, CHUNK)):
        monkeypatch.setattr(registry_upload, "MOST_CHUNK_BYTES", most)
        monkeypatch.setattr(registry_upload, "_least_chunk", lambda _response, wanted=wanted: wanted)
        before = proxy.count("PATCH")
        part = content[: SIZE - most % 7]
        remote.put_blob(describe(part), BytesStream(part))
        least.append((proxy.count("PATCH") - before, most))
    assert least == [(3, SIZE), (0, CHUNK)]


def test_an_upload_in_chunks_can_be_cancelled(remote: RegistryStore, blob: Descriptor, content: bytes) -> None:
    cancel = Cancel()

    def report(event: Event) -> None:
        if isinstance(event, BlobProgress) and event.offset > 2 * CHUNK:
            cancel.set()

    with pytest.raises(CancelledError):
        remote.put_blob(blob, BytesStream(content), report=report, cancel=cancel)
    assert not remote.has_blob(blob)


# --- mounts


@pytest.fixture
def sibling(plain_registry: RealRegistry, repository: str, blob: Descriptor, content: bytes) -> Iterator[str]:
    """A repository of the same registry that has the blob."""
    store = connect(plain_registry.host, f"{repository}-sibling")
    store.put_blob(blob, BytesStream(content))
    yield f"{repository}-sibling"
    store.close()


def test_a_blob_of_a_sibling_is_mounted_without_a_byte(
    proxy: FaultProxy, remote: RegistryStore, blob: Descriptor, content: bytes, sibling: str
) -> None:
    events: list[Event] = []
    outcome = remote.put_blob(blob, BytesStream(b""), mount_from=["none/such", sibling], report=events.append)
    assert outcome is Outcome.MOUNTED
    assert events == [BlobFinished(digest=str(blob.digest), total=blob.size, outcome=Outcome.MOUNTED)]
    assert proxy.sent() == 0
    assert remote.read_blob(blob) == content
    assert remote.put_blob(blob, BytesStream(b""), mount_from=[sibling]) is Outcome.SKIPPED


def test_a_registry_that_does_not_mount_gets_the_bytes_in_the_session_it_offers(
    proxy: FaultProxy, remote: RegistryStore, content: bytes, repository: str
) -> None:
    part = content[:1000]
    assert remote.put_blob(describe(part), BytesStream(part), mount_from=[f"{repository}-none"]) is Outcome.DONE
    assert proxy.count("POST") == 1  # a 202 is the session: no further request for one
    assert proxy.sent() == 1000


def test_a_sibling_that_may_not_be_read_is_no_failure(
    proxy: FaultProxy, remote: RegistryStore, content: bytes, sibling: str
) -> None:
    part = content[:1000]
    proxy.faults = [Fault(method="POST", path="mount=", status=403)]
    assert remote.put_blob(describe(part), BytesStream(part), mount_from=[sibling]) is Outcome.DONE


def test_a_refused_upload_says_why(proxy: FaultProxy, remote: RegistryStore, content: bytes) -> None:
    proxy.faults = [Fault(method="PUT", path="/uploads/", status=400, times=9)]
    with pytest.raises(InvalidInputError, match="refuses it with status 400"):
        remote.put_blob(describe(content[:500]), BytesStream(content[:500]))
