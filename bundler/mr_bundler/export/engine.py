"""Put bundles into a container engine that speaks Docker's API: the one module that knows the docker library.

Everything goes through the engine's socket, so the engine may be older than zstd layers, and may be podman's service.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mr_bundler.export.docker_archive import DockerArchive, plan_archive
from mr_bundler.published import PublishedBundle, read_published
from mr_core.bundle_config import ANNOTATION_TARGET, LABEL, BundleConfig
from mr_core.errors import (
    BundleError,
    HostError,
    IntegrityError,
    InvalidInputError,
    UnavailableError,
    UnsupportedError,
    UsageError,
    printable,
)
from mr_core.events import Cancel, Outcome, Phase, Reporter, SafeReporter, Unit, discard
from mr_core.manifest import Index, parse_document
from mr_core.platform import Target
from mr_core.reference import Reference, tag_text
from mr_core.store import Source

DEFAULT_HOST = "unix:///var/run/docker.sock"
_TIMEOUT_SECONDS = 600  # between two signs of life: an engine may write a large layer without a word


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """An image in an engine; ``bytes`` were sent to it, none when it had the image already.

    Attributes:
        image: The engine's identity of the image: the digest of its config, or of its manifest in newer engines.
        engine: Name and version of the engine, and where it was reached.
    """

    image: str
    tag: str
    target: Target
    engine: str
    bytes: int
    skipped: bool


def load_bundle(
    source: Source,
    name: str,
    *,
    target: Target | None = None,
    tag: str = "",
    host: str = "",
    report: Reporter = discard,
    cancel: Cancel | None = None,
) -> LoadResult:
    """Load a bundle into an engine and confirm that the engine has it, config and layers unchanged.

    Args:
        source: Where the bundle is.
        name: A name or digest there.
        target: Which bundle of an index; without it, the only one for the engine's platform.
        tag: ``NAME[:TAG]`` of the image; ``BACKEND:VERSION`` when empty, with
            ``-ACCELERATOR`` where the index has several bundles for the platform. A tag that exists is moved, as
            by ``docker``.
        host: Address of the engine, such as ``unix:///run/docker.sock``; when empty, what the environment says as for
            ``docker`` (``DOCKER_HOST``, ``DOCKER_CONTEXT``), or else the usual socket.
        report: Gets the phases ``inspect`` and ``load``.
        cancel: Stops at the next piece of data.

    Raises:
        UnsupportedError: the docker library is missing, or nothing in the index is for the engine's platform.
        UnavailableError: no engine answers.
        HostError: the engine refused the image, with its words; or this user may not talk to it.
    """
    report = SafeReporter(report)
    cancel = cancel or Cancel()
    if tag and Reference.parse(tag).digest is not None:
        raise InvalidInputError(f"Cannot tag an image `{tag[:200]}`: a digest is no tag", hint="leave the digest away")
    with contextlib.ExitStack() as stack:
        with Phase(report, "inspect", source.describe()):
            place = source.describe()
            # The source comes first: no engine is needed to say that the bundle is not there.
            offered = _targets(source, name)
            bundle = read_published(source, name, place=place, target=target) if target or not offered else None
            engine = stack.enter_context(contextlib.closing(_Engine(host)))
            if bundle is None:
                bundle = read_published(source, name, place=place, target=_fitting(offered, engine.platform, place))
            _check_system(bundle.config.target, engine)
            tag = _full_tag(tag, bundle.config, offered)
            image = engine.find(str(bundle.manifest.config.digest), bundle)
            archive = None if image else plan_archive(source, bundle, tag=tag, cancel=cancel)
        total = archive.size if archive else 0
        with Phase(report, "load", engine.name, total=total, unit=Unit.BYTES) as phase:
            if archive is None:
                phase.outcome = Outcome.SKIPPED
                engine.tag(image, tag)
            else:
                engine.load(_counted(archive, source, phase, cancel), cancel)
                image = engine.find(tag, bundle)
        if not image:
            raise IntegrityError(
                f"Cannot confirm `{tag}` in {engine.name}: it is not the image that was sent",
                hint="somebody else may have moved the tag at the same time; load it again",
            )
        return LoadResult(
            image=image,
            tag=tag,
            target=bundle.config.target,
            engine=engine.name,
            bytes=total,
            skipped=archive is None,
        )


def _targets(source: Source, name: str) -> Sequence[str]:
    """Return the targets of an index, sorted; none for a lone manifest, which leaves no choice."""
    top = source.resolve(name)
    document = parse_document(source.read_document(top), top.media_type)
    entries = document.manifests if isinstance(document, Index) else ()
    return sorted(text for entry in entries if (text := entry.annotations.get(ANNOTATION_TARGET, "")))


def _fitting(offered: Sequence[str], platform: str, place: str) -> Target:
    """Return the only target for an engine's platform."""
    fitting = [text for text in offered if text.partition("+")[0] == platform]
    if len(fitting) == 1:
        return Target.parse(fitting[0])
    listed = ", ".join(f"`{text}`" for text in offered)
    what = f"Cannot choose a bundle in `{place}` for an engine on {platform}"
    if fitting:
        raise UsageError(f"{what}: it has {listed}", hint="add `--target` with one of these")
    raise UnsupportedError(f"{what}: it has {listed}", hint="add `--target` to load one of them all the same")


def _check_system(target: Target, engine: _Engine) -> None:
    """Refuse a bundle for another operating system: some engines crash instead of refusing it (Docker 20.10 does)."""
    system = engine.platform.partition("/")[0]
    if target.platform.os != system:
        raise UnsupportedError(
            f"Cannot load a bundle for `{target}` into {engine.name}: it holds images for {system} only",
            hint="choose another `--target`, or write an archive with `mr-bundle export`",
        )


def _full_tag(tag: str, config: BundleConfig, offered: Sequence[str]) -> str:
    """Return ``NAME:TAG``; characters of a version that no tag may have become ``-``.

    The accelerator is added where several bundles are for one platform, which would take the tag from each other.
    """
    alike = [text for text in offered if text.partition("+")[0] == str(config.target.platform)]
    own = f"{config.version}-{config.target.accelerator}" if len(alike) > 1 else config.version
    head, slash, last = tag.rpartition("/")  # a colon before the last slash belongs to a port
    name, colon, given = last.partition(":")
    return f"{head}{slash}{name or config.backend}:{given if colon else tag_text(own)}"


def _label(bundle: PublishedBundle) -> str:
    """Return the bundle config as it stands in the image, byte for byte."""
    label: str = bundle.image["config"]["Labels"][LABEL]
    return label


def _counted(archive: DockerArchive, source: Source, phase: Phase, cancel: Cancel) -> Iterator[bytes]:
    sent = 0
    for piece in archive.chunks(source, cancel=cancel):
        cancel.check()
        yield piece
        sent += len(piece)
        phase.progress(sent)


class _Engine:
    """A connection to an engine; its errors are ours."""

    def __init__(self, host: str) -> None:
        try:
            import docker  # noqa: PLC0415 - the build extra may be missing, and that has its own message
        except ImportError as error:
            raise UnsupportedError(
                "Cannot load into a container engine: the docker library is not installed",
                hint='run `pip install "mr-backends[build]"`',
            ) from error
        self._where = host or os.environ.get("DOCKER_HOST", "") or _usual_host()
        with self._errors(f"Cannot reach a container engine at `{self._where}`"):
            if host:
                self._client = docker.DockerClient(base_url=host, version="auto", timeout=_TIMEOUT_SECONDS).api
            else:
                self._client = docker.from_env(version="auto", timeout=_TIMEOUT_SECONDS).api
            facts = self._client.version()
        self.platform = f"{facts.get('Os', '')}/{facts.get('Arch', '')}"
        kind = next((item["Name"] for item in facts.get("Components") or [] if item.get("Name")), "Engine")
        self.name = printable(f"{kind} {facts.get('Version', '')} at {self._where}")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def find(self, image: str, bundle: PublishedBundle) -> str:
        """Return the identity of ``image`` when it has the bundle's config and layers; empty when it has not."""
        import docker.errors  # noqa: PLC0415 - see above

        with self._errors(f"Cannot inspect `{image}` in {self.name}"):
            try:
                facts = self._client.inspect_image(image)
            except docker.errors.NotFound:
                return ""
        labels = (facts.get("Config") or {}).get("Labels") or {}
        layers = (facts.get("RootFS") or {}).get("Layers") or []
        same = labels.get(LABEL) == _label(bundle) and layers == [str(layer.diff_id) for layer in bundle.layers]
        return str(facts.get("Id", "")) if same else ""

    def tag(self, image: str, tag: str) -> None:
        """Let ``tag`` name an image the engine has."""
        name, _, text = tag.rpartition(":")
        with self._errors(f"Cannot tag `{tag}` in {self.name}"):
            self._client.tag(image, name, text, force=True)

    def load(self, archive: Iterator[bytes], cancel: Cancel) -> None:
        """Send an archive, and wait until the engine has unpacked it."""
        what = f"Cannot load the bundle into {self.name}"
        with self._errors(what), contextlib.closing(self._client.load_image(archive)) as answers:
            for answer in answers:
                cancel.check()
                reason = answer.get("error") or answer.get("message") if isinstance(answer, dict) else ""
                if reason:
                    raise HostError(f"{what}: {printable(str(reason), most=500)}", hint="look into the engine's log")

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Turn whatever the library raises into our errors, with the engine's own words."""
        import docker.errors  # noqa: PLC0415 - see above

        try:
            yield
        except BundleError:
            raise
        except docker.errors.APIError as error:
            reason = printable(str(error.explanation or error).strip(), most=500)
            raise HostError(f"{what}: {reason}", hint="look into the engine's log") from error
        except Exception as error:  # the library passes on what lies below it: OSError, and errors of its HTTP client
            raise _unreachable(what, error) from error


def _usual_host() -> str:
    """Return the address that the library takes when none is given: that of a context, or the usual socket."""
    try:
        from docker.context import ContextAPI  # noqa: PLC0415 - see above

        host = ContextAPI.get_current_context().Host
    except Exception:  # noqa: BLE001 - whatever is wrong with a context, the connection will say so
        host = ""
    return str(host or DEFAULT_HOST)


def _unreachable(what: str, error: BaseException) -> BundleError:
    """Return the error for a broken or missing connection; the innermost reason is the one that helps."""
    inner = error
    while inner.__cause__ or inner.__context__:
        inner = inner.__cause__ or inner.__context__ or inner
    hint = f"start the engine, or name another with `--host`; the usual one is `{DEFAULT_HOST}`"
    match inner:
        case PermissionError():
            return HostError(f"{what}: permission denied", hint="join the group that owns the socket, or use `sudo`")
        case OSError(strerror=str(reason)):
            return UnavailableError(f"{what}: {reason.lower()}", hint=hint)
        case _:
            return UnavailableError(f"{what}: {printable(str(error) or type(error).__name__, most=300)}", hint=hint)
