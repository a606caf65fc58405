"""Killing a push anywhere, then repeating it, ends in the same digests; a tag is never there before all behind it is.

The command is the real one, in a process that is killed with SIGKILL at a chosen request: when it arrives, in the
middle of its body, or when the registry has answered and the client does not know yet.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from mr_core.errors import NotFoundError
from mr_core.layout import LayoutStore
from mr_core.registry import RegistryStore
from support.fork_commands import Forker
from support.registry import RealRegistry
from support.remote_blob import connect
from support.small_bundle import CPU, METAL, NOTE, SBOM, SIGNATURE, attach_text, small_bundle, walk, write_bundles
from support.wire import FaultProxy

NAME = "tiny-1.0"
CHANGING = {"POST", "PUT", "PATCH"}
SIZES = {"CHUNKED_FROM": 40_000, "CHUNK_BYTES": 30_000}  # so that one blob goes up in chunks, the others in one request


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> LayoutStore:
    layout = LayoutStore(tmp_path_factory.mktemp("killed") / "layout", create=True)
    bundles = [small_bundle(CPU, filler=70_000), small_bundle(METAL, filler=30_000)]
    index = write_bundles(layout, NAME, bundles, papers=False)
    attach_text(layout, attach_text(layout, bundles[0].manifest_descriptor, SBOM, "{}"), SIGNATURE, "signed")
    for subject in (bundles[1].manifest_descriptor, index):
        attach_text(layout, subject, NOTE, "built here")
    return layout


@pytest.fixture(scope="module")
def forker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forker]:
    with Forker(tmp_path_factory.mktemp("forker"), **SIZES) as forker:
        yield forker


def push(forker: Forker, layout: LayoutStore, proxy: FaultProxy, repository: str) -> None:
    place = f"docker://{proxy.host}/{repository}:v1"
    forker.start("push", f"oci:{layout.path}", place, "--insecure-registry", proxy.host, "--quiet", "-j", "2")


def wait(forker: Forker) -> None:
    assert forker.wait() == 0, forker.output


def check_tag(direct: RegistryStore, everything: dict[str, str]) -> bool:
    """Whether the tag is there; if so, everything must be."""
    try:
        direct.resolve("v1")
    except NotFoundError:
        return False
    assert walk(direct, "v1") == everything
    return True


@pytest.mark.parametrize(
    ("moment", "first", "step"),
    [
        ("asked", 1, 5),
        ("answered", 3, 5),
        ("half", 1, 1),
        pytest.param("asked", 1, 1, marks=pytest.mark.slow),
        pytest.param("answered", 1, 1, marks=pytest.mark.slow),
    ],
)
def test_a_push_may_be_killed_at_any_request(
    plain_registry: RealRegistry,
    proxy: FaultProxy,
    forker: Forker,
    layout: LayoutStore,
    moment: str,
    first: int,
    step: int,
) -> None:
    """Each push goes to a new repository and is killed later than the one before; the next completes it.

    Only requests that change something count: what the registry holds is the same before and after all others.
    """
    everything = walk(layout, NAME)
    kills, seen_absent, seen_present = 0, 0, 0
    number = first
    while True:
        repository = f"killed/{uuid.uuid4().hex}"
        direct = connect(plain_registry.host, repository)
        proxy.seen.clear()
        killed: list[int] = []

        def strike(when: str, at: int, number: int = number, killed: list[int] = killed) -> None:
            if when == moment and not killed and proxy.seen[at - 1].method in CHANGING:
                count = sum(seen.method in CHANGING for seen in proxy.seen[:at])
                if count >= number:
                    killed.append(count)
                    forker.kill()

        proxy.watch = strike
        push(forker, layout, proxy, repository)
        status = forker.wait()
        proxy.watch = lambda _when, _at: None
        if not killed:
            assert status == 0, forker.output
            break
        kills += 1
        present = check_tag(direct, everything)
        seen_present += present
        seen_absent += not present
        push(forker, layout, proxy, repository)
        wait(forker)
        assert walk(direct, "v1") == everything
        direct.close()
        number = max(number, killed[0]) + step  # requests without a body have no middle
    print(f"{moment}: killed {kills} pushes, the tag was absent after {seen_absent}, complete after {seen_present}")
    assert kills >= (3 if moment == "half" else 30 // step)
    assert seen_absent >= kills - 5


def test_pushes_that_are_killed_again_and_again_end_after_all(
    plain_registry: RealRegistry, proxy: FaultProxy, forker: Forker, layout: LayoutStore, repository: str
) -> None:
    """Each run is killed after a few more requests than the one before; what they sent adds up."""
    everything = walk(layout, NAME)
    direct = connect(plain_registry.host, repository)
    for allowed in range(4, 400, 6):
        proxy.seen.clear()

        def strike(when: str, at: int, allowed: int = allowed) -> None:
            if (when, at) == ("answered", allowed):
                forker.kill()

        proxy.watch = strike
        push(forker, layout, proxy, repository)
        status = forker.wait()
        check_tag(direct, everything)
        if status == 0:
            break
        assert status == -9, forker.output
    assert walk(direct, "v1") == everything
    direct.close()
