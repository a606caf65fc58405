"""Join bundles that parallel jobs have pushed into the index of their version."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mr_bundler.parallel import Check, run_tasks
from mr_core.bundle_index import VERSION, bundle_entry, bundle_index
from mr_core.digest import Digest
from mr_core.errors import IntegrityError, InvalidInputError, NotFoundError
from mr_core.events import Cancel, Phase, Reporter, SafeReporter, discard
from mr_core.manifest import MEDIA_INDEX, Descriptor, Index, Manifest, parse_document
from mr_core.reference import is_tag
from mr_core.registry import RegistryStore
from mr_core.store import Store, check_move

_JOBS = 8


def join_index(
    store: Store,
    name: str,
    members: Sequence[str],
    *,
    overwrite: bool = False,
    report: Reporter = discard,
    cancel: Cancel | None = None,
) -> Descriptor:
    """Make one index of ``members``, and let ``name`` point to it once everything behind it has been seen.

    It has the same bytes as the index that one build of all targets writes. Papers stay where they are: they refer to
    the manifests.

    Args:
        store: Where the members are and the index goes.
        name: The tag or reference name.
        members: Digests or names of manifests, or of indexes whose bundles are all taken.
        overwrite: Whether ``name`` may be moved when it means something else.
        report: Gets the phases ``inspect`` and ``publish``.
        cancel: Stops before the next request.

    Raises:
        NotFoundError: when a member, or a blob of one, is not there.
        InvalidInputError: when a member cannot be a digest or a name (nothing is asked for then), is no
            bundle, two are for one target, or they are of different versions.
        AccessDeniedError: when ``name`` means something else already.
        IntegrityError: when ``name`` does not give the index afterwards.
    """
    for member in members:
        _check_member(store, member)
    report = SafeReporter(report)
    cancel = cancel or Cancel()
    with Phase(report, "inspect", store.describe()) as phase:
        manifests: list[Manifest] = []
        for member in members:
            cancel.check()
            manifests += _bundles(store, member)
        index = bundle_index([bundle_entry(manifest) for manifest in manifests])
        phase.detail["bundles"] = len(index.manifests)
        _check_blobs(store, manifests, cancel)
        if not overwrite:
            check_move(store, name, index.digest)
    with Phase(report, "publish", f"{store.describe()}:{name}"):
        cancel.check()
        written = store.put_document(index.raw, MEDIA_INDEX, name=name, overwrite=overwrite)
        found = store.resolve(name)
        if found.digest != written.digest:
            raise IntegrityError(
                f"Cannot confirm `{name}` in `{store.describe()}`: it gives {found.digest}, not {written.digest}",
                hint="somebody else wrote the same name at the same time",
            )
    return written


def member_version(store: Store, member: str) -> str:
    """Return the version of what a member means.

    Raises:
        BundleError: as `join_index` for such a member.
    """
    _check_member(store, member)
    return bundle_entry(_bundles(store, member)[0]).annotations[VERSION]


def _check_member(store: Store, member: str) -> None:
    """Refuse what can be no digest and no name."""
    if member.startswith(("sha256:", "sha512:")):
        Digest.parse(member, f"member `{member[:200]}`")
    elif isinstance(store, RegistryStore) and not is_tag(member):
        raise InvalidInputError(
            f"Cannot make an index with `{member[:200]}`: it is neither a digest nor a tag",
            hint="name digests that `mr-bundle push --by-digest` has written",
        )


def _bundles(store: Store, member: str) -> list[Manifest]:
    """Return the manifests that a member means."""
    top = store.resolve(member)
    document = parse_document(store.read_document(top), top.media_type)
    match document:
        case Manifest():
            return [document]
        case Index():
            return [_manifest(store, entry) for entry in document.manifests]


def _manifest(store: Store, entry: Descriptor) -> Manifest:
    document = parse_document(store.read_document(entry), entry.media_type)
    if not isinstance(document, Manifest):
        raise InvalidInputError(
            f"Cannot make an index with {entry.digest}: it is an index itself", hint="name the manifests in it"
        )
    return document


def _check_blobs(store: Store, manifests: Sequence[Manifest], cancel: Cancel) -> None:
    """Refuse manifests that are not complete: a registry may have collected blobs nobody had tagged."""
    owners = {blob.digest: (blob, manifest) for manifest in manifests for blob in (manifest.config, *manifest.layers)}

    def task(blob: Descriptor, manifest: Manifest) -> Callable[[Check], None]:
        def look(check: Check) -> None:
            check()
            if not store.has_blob(blob):
                raise NotFoundError(
                    f"Cannot make an index with {manifest.digest}: `{store.describe()}` has no blob {blob.digest}",
                    hint="push that target again",
                    digest=str(blob.digest),
                )

        return look

    run_tasks([task(blob, manifest) for blob, manifest in owners.values()], jobs=_JOBS, cancel=cancel)
