"""The install transaction: FETCH, STAGE, SYNC, SEAL, PLACE, PROBE, COMMIT, LEGACY, CLEAN.

RESOLVE, POLICY, SELECT and PLAN come before, in `mr_installer.installer`. Nothing half-done is visible: a crash before
COMMIT leaves the old release active, and after it only steps that can be redone are left.
"""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass
from pathlib import Path

from mr_core.decode import dump_json
from mr_core.digest import Digest
from mr_core.durable import host_errors, make_directories, remove_tree, sync_directory, sync_tree, write_durably
from mr_core.errors import BundleError, HostError, NotFoundError
from mr_core.events import Cancel, Level, Notice, Phase, Reporter
from mr_core.file_manifest import LEASE_PATH, RECEIPT_PATH
from mr_core.store import Source
from mr_installer.activation import (
    Checkpoint,
    activate,
    close_journal,
    discard,
    exclusive,
    finish_leftovers,
    no_checkpoint,
    set_aside,
)
from mr_installer.blobs import BlobStore
from mr_installer.bundle import Bundle
from mr_installer.plan import Action, InstallPlan, preflight
from mr_installer.probing import probe_release
from mr_installer.receipt import (
    Journal,
    ProbeRecord,
    Receipt,
    now,
    read_probe_record,
    write_journal,
    write_probe_record,
)
from mr_installer.releases import find_release, read_config
from mr_installer.root import BackendDirectory, Root
from mr_installer.staging import StageOptions, stage_bundle
from mr_installer.usage import hold_leases


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """The outcome of an install: what is active now, and what was active before."""

    backend: str
    version: str
    target: str
    release: str
    digest: str
    path: Path
    launcher: Path
    action: Action
    previous: str = ""


def apply_plan(
    plan: InstallPlan,
    root: Root,
    source: Source | None,
    *,
    probe: bool = True,
    options: StageOptions | None = None,
    report: Reporter,
    cancel: Cancel,
    checkpoint: Checkpoint = no_checkpoint,
) -> Installed:
    """Carry out ``plan``.

    Raises:
        ProbeError: the bundle does not work here; what was active before still is.
        BundleError: any other typed failure; the active release is unchanged.
    """
    directory = root.backend(plan.backend)
    if plan.action is Action.NOTHING:
        finish_leftovers(directory, report)
    else:
        preflight(plan, directory)
        with exclusive(directory, report=report, cancel=cancel):
            _Transaction(plan, root, directory, report=report, cancel=cancel, checkpoint=checkpoint).run(
                source, probe=probe, options=options or StageOptions()
            )
    return outcome_of(plan, directory)


def outcome_of(plan: InstallPlan, directory: BackendDirectory) -> Installed:
    """Return what is so once ``plan`` has been carried out."""
    return Installed(
        backend=plan.backend,
        version=plan.version,
        target=plan.target,
        release=plan.release,
        digest=str(plan.digest),
        path=directory.release(plan.release),
        launcher=directory.launcher,
        action=plan.action,
        previous=plan.previous,
    )


class _Transaction:
    """One run under the backend's lock."""

    def __init__(
        self,
        plan: InstallPlan,
        root: Root,
        directory: BackendDirectory,
        *,
        report: Reporter,
        cancel: Cancel,
        checkpoint: Checkpoint,
    ) -> None:
        self._plan = plan
        self._root = root
        self._directory = directory
        self._report = report
        self._cancel = cancel
        self._checkpoint = checkpoint
        self._id = secrets.token_hex(4)
        self._stage = directory.state / f"stage-{self._id}"

    def run(self, source: Source | None, *, probe: bool, options: StageOptions) -> None:
        """Do every step that is still to be done; what another run did meanwhile is used."""
        release = self._plan.release
        previous = self._directory.active() or ""
        self._checkpoint("journal")
        write_journal(
            self._directory.journal,
            Journal(operation="install", transaction=self._id, release=release, previous=previous),
        )
        try:
            if find_release(self._directory, release, self._plan.digest) is None:
                self._place(source, options)
            self._prove(probe=probe)
            self._cancel.check()
            self._checkpoint("commit")
            with Phase(self._report, "commit", release):
                activate(self._directory, release, report=self._report, checkpoint=self._checkpoint)
        except BaseException:
            self._withdraw()
            raise
        self._drop_unproven(keep={release, previous})

    def _place(self, source: Source | None, options: StageOptions) -> None:
        bundle = self._plan.bundle
        if bundle is None or source is None:
            raise NotFoundError(
                f"Cannot activate release `{self._plan.release}` of {self._plan.backend}: it is gone",
                hint=f"install it again: `mr-install {self._plan.backend} --from SOURCE`",
            )
        self._checkpoint("stage")
        stage_bundle(
            bundle,
            source,
            self._stage,
            BlobStore(self._root.blobs, retry=options.retry),
            options=options,
            report=self._report,
            cancel=self._cancel,
        )
        self._checkpoint("sync")
        with Phase(self._report, "sync"):
            with host_errors("sync", self._stage):
                sync_tree(self._stage)
            self._checkpoint("seal")
            self._seal(bundle)
        self._cancel.check()
        self._checkpoint("place")
        make_directories(self._directory.releases)
        release = self._plan.release
        target = self._directory.release(release)
        # What lies there is not whole, but may be active and work: it goes only now, when the new one is ready.
        with hold_leases(self._directory, [release]) as leased:
            if leased:
                raise HostError(
                    f"Cannot replace the damaged release `{release}` of {self._plan.backend}: a server runs from it",
                    hint="stop the server first",
                )
            damaged = set_aside(self._directory, target, self._id)
            with host_errors("place", target):
                self._stage.replace(target)
                sync_directory(target.parent)
        remove_tree(damaged)

    def _seal(self, bundle: Bundle) -> None:
        """Write the lease and the receipt into the stage, durably: a tree with a receipt is a whole tree."""
        receipt = Receipt(
            backend=self._plan.backend,
            version=self._plan.version,
            target=self._plan.target,
            digest=self._plan.digest,
            resolved=self._plan.resolved,
            config=Digest.of(bundle.label),
            source=self._plan.source,
            insecure=self._plan.insecure,
            installed=now(),
        )
        write_durably(self._stage / LEASE_PATH, b"")
        write_durably(self._stage / RECEIPT_PATH, dump_json(receipt.to_json()) + b"\n")

    def _prove(self, *, probe: bool) -> None:
        """Probe the release at its final place, once; a release that passed here before is not probed again."""
        record = self._directory.probed(self._plan.release)
        known = read_probe_record(record)
        if known is not None and not (probe and known.skipped):
            return
        if not probe:
            write_probe_record(record, ProbeRecord(passed=now(), seconds=0.0, skipped=True))
            return
        self._checkpoint("probe")
        spec = read_config(self._directory, self._plan.release).probe
        with Phase(self._report, "probe", ", ".join(spec.imports)):
            result = probe_release(self._directory, self._plan.release, spec, cancel=self._cancel)
        write_probe_record(
            record,
            ProbeRecord(passed=now(), seconds=result.seconds, modules=result.modules, versions=result.versions),
        )

    def _withdraw(self) -> None:
        """Take back what is not visible yet; the error that brought us here matters more than one of ours."""
        with contextlib.suppress(BundleError, OSError):
            discard(self._directory, self._stage, self._id)
            if self._directory.active() != self._plan.release:
                close_journal(self._directory)

    def _drop_unproven(self, *, keep: set[str]) -> None:
        """Remove releases that may not become active: leftovers of attempts that this one replaces."""
        for release in self._directory.release_ids():
            if release in keep or read_probe_record(self._directory.probed(release)) is not None:
                continue
            with hold_leases(self._directory, [release]) as leased:
                if leased:
                    continue
                try:
                    discard(self._directory, self._directory.release(release), self._id)
                except BundleError as error:
                    self._report(Notice(code="leftover", message=error.message, level=Level.WARNING))
