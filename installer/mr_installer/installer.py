"""The library a host embeds: one object for one root."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mr_core.digest import Digest
from mr_core.errors import BundleError, NotFoundError, UsageError
from mr_core.events import Cancel, Level, Notice, Phase, Reporter, SafeReporter, discard
from mr_core.location import Location, RegistryLocation, parse_location
from mr_core.open_store import open_source
from mr_core.platform import Target
from mr_core.registry_options import RegistryOptions
from mr_core.store import Source
from mr_installer.activation import activate, exclusive
from mr_installer.blobs import BlobStore
from mr_installer.bundle import read_bundle
from mr_installer.catalogue import default_location
from mr_installer.host import Host, survey_host
from mr_installer.plan import Action, InstallPlan, plan_bundle
from mr_installer.probing import ProbeResult, probe_release
from mr_installer.receipt import Journal, write_journal
from mr_installer.releases import (
    Release,
    State,
    Status,
    previous_release,
    read_config,
    read_release,
    read_status,
    require_active,
)
from mr_installer.removal import Uninstalled, uninstall
from mr_installer.root import Root
from mr_installer.server import Server, start_server
from mr_installer.staging import StageOptions
from mr_installer.transaction import Installed, apply_plan, outcome_of
from mr_installer.usage import use_release
from mr_installer.verification import Verified, verify_release

Confirm = Callable[[InstallPlan], None]


class Installer:
    """Installs, checks and removes backends below one root; safe to use from many threads and processes.

    Args:
        root: Directory that holds the backends; default ``MR_ROOT``, else ``~/.docker/model-runner``.
        source: Default source, such as ``docker://registry.example/bundles/mlx-lm:0.32.2``.
        registry: How registries are talked to: insecure hosts, CA bundle, credentials, timeouts.
        cuda_driver: Take this host for one with this NVIDIA driver, to prepare a disk for a machine that has it.
        report: Receives events while calls run, possibly from worker threads.
        cancel: Asks running calls to stop.
    """

    def __init__(
        self,
        root: Path | str | None = None,
        *,
        source: str = "",
        registry: RegistryOptions | None = None,
        cuda_driver: str = "",
        report: Reporter = discard,
        cancel: Cancel | None = None,
    ) -> None:
        self.root = Root.at(root)
        self._source = source
        self._registry = registry or RegistryOptions()
        self._cuda_driver = cuda_driver
        self._report: Reporter = SafeReporter(report)
        self._cancel = cancel or Cancel()

    def status(self, backend: str) -> Status:
        """Return the state of one backend; never waits and never touches the network."""
        return read_status(self.root.backend(backend))

    def list(self) -> list[Status]:
        """Return the state of everything below the root that is installed or was put there by others."""
        found = [read_status(directory) for directory in self.root.backends()]
        return [status for status in found if status.state is not State.NOT_INSTALLED or status.releases]

    def is_installed(self, backend: str) -> bool:
        """Whether ``backend`` can be started now; never waits."""
        directory = self.root.backend(backend)
        active = directory.active()
        return active is not None and active in directory.release_ids()

    def launcher(self, backend: str) -> Path:
        """Return the stable path that starts the backend's server, through every upgrade."""
        return self.root.backend(backend).launcher

    def using(self, *, report: Reporter | None = None, cancel: Cancel | None = None) -> Installer:
        """Return an installer of the same root and settings with its own reporter or cancel token, for one job."""
        return Installer(
            self.root.path,
            source=self._source,
            registry=self._registry,
            cuda_driver=self._cuda_driver,
            report=report or self._report,
            cancel=cancel or self._cancel,
        )

    def plan(
        self, backend: str, *, version: str = "", source: str = "", target: Target | None = None, probe: bool = True
    ) -> InstallPlan:
        """Decide what an install would do; changes nothing.

        Args:
            backend: Name of the backend.
            version: A version, ``sha256:…``, or empty for what the source's name points to.
            source: Location to install from; default the one of this object, else ``MR_REPOSITORY``.
            target: Consider this target only.
            probe: Whether a release whose probe was skipped counts as not ready.
        """
        plan, opened = self._plan(backend, version, source, target, probe=probe)
        if opened is not None:
            opened.close()
        return plan

    def install(
        self,
        backend: str,
        *,
        version: str = "",
        source: str = "",
        target: Target | None = None,
        probe: bool = True,
        options: StageOptions | None = None,
        confirm: Confirm | None = None,
    ) -> Installed:
        """Make a backend ready to serve: fetch what is missing, prove it, and activate it.

        Args:
            backend: Name of the backend.
            version: As for `plan`.
            source: As for `plan`.
            target: As for `plan`.
            probe: Import the bundle's modules before it becomes active.
            options: Parallelism, and whether downloaded blobs are kept.
            confirm: Shown the plan before the first layer byte; raises to stop.

        Raises:
            BundleError: the active release, if there was one, is still active.
        """
        plan, opened = self._plan(backend, version, source, target, probe=probe)
        try:
            if confirm is not None and plan.action is not Action.NOTHING:
                confirm(plan)
            return apply_plan(
                plan,
                self.root,
                opened,
                probe=probe,
                options=options or StageOptions(retry=self._registry.retry),
                report=self._report,
                cancel=self._cancel,
            )
        except BundleError as error:
            self._comfort(backend, error)
            raise
        finally:
            if opened is not None:
                opened.close()

    def rollback(self, backend: str) -> Installed:
        """Activate the release that was active before; no network, no copying.

        Raises:
            NotFoundError: when no release that was active earlier is on disk.
        """
        directory = self.root.backend(backend)
        if not directory.release_ids():
            raise NotFoundError(
                f"Cannot roll back `{backend}`: it is not installed below `{self.root.path}`",
                hint="`mr-install list` shows what is installed",
            )
        with exclusive(directory, report=self._report, cancel=self._cancel):
            release = previous_release(directory)
            active = directory.active() or ""
            if release is None:
                raise NotFoundError(
                    f"Cannot roll back `{backend}`: no earlier release is on disk",
                    hint=f"install the version you want: `mr-install {backend}@VERSION --from SOURCE`",
                )
            plan = self._plan_local(backend, release)
            with Phase(self._report, "rollback", release.id):
                transaction = secrets.token_hex(4)
                write_journal(
                    directory.journal,
                    Journal(operation="rollback", transaction=transaction, release=release.id, previous=active),
                )
                activate(directory, release.id, report=self._report)
        return outcome_of(plan, directory)

    def probe(self, backend: str) -> ProbeResult:
        """Import the active release's modules again; raises `ProbeError` when that fails."""
        directory = self.root.backend(backend)
        release = require_active(directory)
        spec = read_config(directory, release.id).probe
        with use_release(directory, release.id), Phase(self._report, "probe", ", ".join(spec.imports)):
            return probe_release(directory, release.id, spec, cancel=self._cancel)

    def serve(
        self,
        backend: str,
        model: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        names: Sequence[str] = (),
        extra: Sequence[str] = (),
        log: Path | None = None,
        timeout: float | None = None,
    ) -> Server:
        """Start the server of the active release and return when it is healthy; the arguments are `start_server`'s.

        Raises:
            NotFoundError: when the backend is not installed, or the model does not exist.
            ProbeError: when the server ends or does not become healthy.
        """
        directory = self.root.backend(backend)
        release = require_active(directory)
        return start_server(
            directory.launcher,
            model,
            spec=read_config(directory, release.id).launch,
            host=host,
            port=port,
            names=names,
            extra=extra,
            log=log,
            timeout=timeout,
            report=self._report,
            cancel=self._cancel,
        )

    def uninstall(self, backend: str, *, force: bool = False) -> Uninstalled:
        """Remove a backend; refuses while it is in use unless ``force``."""
        return uninstall(self.root.backend(backend), force=force, report=self._report, cancel=self._cancel)

    def verify(self, backend: str, *, deep: bool = False) -> Verified:
        """Check the active release: its sealed papers, or every byte of it when ``deep``."""
        return verify_release(self.root.backend(backend), deep=deep, report=self._report, cancel=self._cancel)

    def _plan(
        self, backend: str, version: str, source: str, target: Target | None, *, probe: bool
    ) -> tuple[InstallPlan, Source | None]:
        self.root.backend(backend)  # refuse an impossible name before anything else
        text = source or self._source
        if not text and (local := self._local(backend, version, probe=probe)) is not None:
            return local, None
        location = parse_location(text) if text else default_location(backend, version)
        host = survey_host()
        if self._cuda_driver:
            host = replace(host, cuda_driver=self._cuda_driver)
        opened, name = open_source(location, options=self._registry, cancel=self._cancel)
        try:
            plan = self._plan_source(
                opened, location, name, backend=backend, version=version, target=target, host=host, probe=probe
            )
        except BaseException as error:
            opened.close()
            if isinstance(error, BundleError):
                self._comfort(backend, error)
            raise
        return plan, opened

    def _plan_source(
        self,
        opened: Source,
        location: Location,
        name: str,
        *,
        backend: str,
        version: str,
        target: Target | None,
        host: Host,
        probe: bool,
    ) -> InstallPlan:
        directory = self.root.backend(backend)
        with Phase(self._report, "resolve", str(location)):
            found = opened.resolve(version if _is_digest(version) else name)
            if (same := self._same(backend, found.digest, version, target, probe=probe)) is not None:
                return same
            bundle = read_bundle(opened, found, host, what=f"{backend} from `{location}`", wanted=target)
        config = bundle.config
        if config.backend != backend:
            raise NotFoundError(
                f"Cannot find backend `{backend}` in `{location}`: it holds `{config.backend}`",
                hint=f"run `mr-install {config.backend} --from {location}`",
            )
        if version and not _is_digest(version) and config.version != version:
            raise NotFoundError(
                f"Cannot find version {version} of {backend} in `{location}`: it holds {config.version}",
                hint=f"run `mr-install {backend}@{config.version} --from {location}`, or name another source",
            )
        blobs = BlobStore(self.root.blobs)
        fetch = 0
        for layer in bundle.layers:
            if opened.blob_file(layer.descriptor) is None:
                fetch += blobs.missing_bytes(layer.descriptor)
        return plan_bundle(
            bundle,
            directory,
            source=str(location),
            insecure=self._is_insecure(location),
            fetch_bytes=fetch,
            probe=probe,
        )

    def _is_insecure(self, location: Location) -> bool:
        match location:
            case RegistryLocation(reference=reference):
                return self._registry.is_insecure(reference.registry)
            case _:
                return False

    def _same(
        self, backend: str, digest: Digest, version: str, target: Target | None, *, probe: bool
    ) -> InstallPlan | None:
        """Return a plan that needs no more of the network when ``digest`` is what an active release came from."""
        active = self._active(backend)
        if active is None or digest not in (active.receipt.resolved, active.receipt.digest):
            return None
        if not _is_ready(active, probe=probe) or not (_is_digest(version) or _is_version(active, version)):
            return None
        if target is not None and str(target) != active.receipt.target:
            return None
        return self._plan_local(backend, active)

    def _local(self, backend: str, version: str, *, probe: bool) -> InstallPlan | None:
        """Return a plan from what is on disk, when that already is what was asked for."""
        active = self._active(backend)
        if active is not None and _is_version(active, version):
            return self._plan_local(backend, active, ready=_is_ready(active, probe=probe))
        if version:
            for release in read_status(self.root.backend(backend)).releases:
                if release.accepted and _is_version(release, version):
                    return self._plan_local(backend, release)
        return None

    def _active(self, backend: str) -> Release | None:
        directory = self.root.backend(backend)
        active = directory.active()
        try:
            return read_release(directory, active) if active is not None else None
        except BundleError as error:
            self._report(Notice(code="release-damaged", message=error.message, level=Level.WARNING))
            return None

    def _plan_local(self, backend: str, release: Release, *, ready: bool = True) -> InstallPlan:
        active = self.root.backend(backend).active()
        receipt = release.receipt
        return InstallPlan(
            backend=backend,
            version=receipt.version,
            target=receipt.target,
            release=release.id,
            digest=receipt.digest,
            resolved=receipt.resolved,
            source=receipt.source,
            action=Action.NOTHING if ready and release.id == active else Action.ACTIVATE,
            previous=active if active is not None and active != release.id else "",
            insecure=receipt.insecure,
        )

    def _comfort(self, backend: str, error: BundleError) -> None:
        """Say that an installed release keeps working, whatever went wrong with the new one."""
        active = self.root.backend(backend).active()
        if active is not None and not isinstance(error, UsageError):
            self._report(Notice(code="still-active", message=f"{backend} {active} is still active", level=Level.NOTE))


def _is_digest(version: str) -> bool:
    return version.startswith(("sha256:", "sha512:"))


def _is_ready(release: Release, *, probe: bool) -> bool:
    """Whether a release may stay active as it is; one whose probe was skipped is probed when that is wanted."""
    return release.probed if probe else release.accepted


def _is_version(release: Release, version: str) -> bool:
    return version in ("", release.receipt.version, str(release.receipt.digest), str(release.receipt.resolved))
