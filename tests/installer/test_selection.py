"""Choosing a target is pure: facts about a host in, a choice and reasons out."""

from __future__ import annotations

import pytest

from mr_core.bundle_config import HostRequirements
from mr_core.digest import Digest
from mr_core.errors import UnsupportedError
from mr_core.manifest import MEDIA_MANIFEST, Descriptor
from mr_core.platform import Platform, Target
from mr_installer.host import Host, survey_host
from mr_installer.selection import Candidate, judge, select

LINUX = Host(
    platform=Platform("linux", "amd64"), glibc="2.36", cuda_driver="580.65.06", cpu_features=frozenset({"avx2", "fma"})
)
MAC = Host(platform=Platform("darwin", "arm64"), macos="14.4")


def candidate(target: str, **requires: object) -> Candidate:
    descriptor = Descriptor(media_type=MEDIA_MANIFEST, digest=Digest.of(target.encode()), size=1)
    return Candidate(target=Target.parse(target), requires=HostRequirements(**requires), descriptor=descriptor)


@pytest.mark.parametrize(
    ("host", "target", "requires", "codes"),
    [
        (LINUX, "linux/amd64+cpu", {"glibc": "2.35"}, []),
        (LINUX, "linux/amd64+cpu", {"glibc": "2.36"}, []),
        (LINUX, "linux/amd64+cpu", {"glibc": "2.4"}, []),
        (LINUX, "linux/amd64+cpu", {"glibc": "2.39"}, ["glibc"]),
        (Host(platform=Platform("linux", "amd64")), "linux/amd64+cpu", {"glibc": "2.17"}, ["glibc-missing"]),
        (LINUX, "linux/arm64+cpu", {"glibc": "2.99"}, ["platform"]),
        (LINUX, "linux/amd64+cuda13", {"cuda_driver": "580"}, []),
        (LINUX, "linux/amd64+cuda13", {"cuda_driver": "590", "glibc": "2.40"}, ["glibc", "nvidia-driver"]),
        (Host(platform=LINUX.platform, glibc="2.36"), "linux/amd64+cuda13", {}, ["no-nvidia-driver"]),
        (LINUX, "linux/amd64+cpu", {"cpu_features": ("avx2", "avx512f")}, ["cpu-feature"]),
        (MAC, "darwin/arm64+metal", {"macos": "14.0"}, []),
        (Host(platform=MAC.platform, macos="14"), "darwin/arm64+metal", {"macos": "14.0.0"}, []),
        (MAC, "darwin/arm64+metal", {"macos": "15.0"}, ["macos"]),
    ],
)
def test_reasons(host: Host, target: str, requires: dict[str, object], codes: list[str]) -> None:
    found = judge(Target.parse(target), HostRequirements(**requires), host)
    assert [reason.code for reason in found] == codes


def test_an_accelerator_is_preferred_to_the_cpu() -> None:
    chosen = select([candidate("linux/amd64+cpu"), candidate("linux/amd64+cuda13")], LINUX, what="x")
    assert str(chosen.chosen.target) == "linux/amd64+cuda13"


def test_the_cpu_is_chosen_where_the_accelerator_is_missing() -> None:
    host = Host(platform=LINUX.platform, glibc="2.36")
    chosen = select([candidate("linux/amd64+cuda13"), candidate("linux/amd64+cpu")], host, what="x")
    assert str(chosen.chosen.target) == "linux/amd64+cpu"
    assert [str(r.target) for r in chosen.rejected] == ["linux/amd64+cuda13"]


def test_every_rejection_is_in_the_error() -> None:
    with pytest.raises(UnsupportedError) as caught:
        select([candidate("darwin/arm64+metal"), candidate("linux/amd64+cpu", glibc="2.99")], LINUX, what="mlx-lm")
    assert "darwin/arm64+metal: this host is linux/amd64" in caught.value.message
    assert "linux/amd64+cpu: needs glibc 2.99, this host has 2.36" in caught.value.message
    assert caught.value.fields["rejected"] == {"darwin/arm64+metal": ["platform"], "linux/amd64+cpu": ["glibc"]}


def test_wanting_a_target_does_not_make_a_host_run_it() -> None:
    with pytest.raises(UnsupportedError):
        select([candidate("darwin/arm64+metal")], LINUX, what="x", wanted=Target.parse("darwin/arm64+metal"))


def test_this_host_is_surveyed() -> None:
    host = survey_host()
    assert host.platform == Platform.host()
    if host.platform.os == "linux":
        assert host.glibc == "" or host.glibc.startswith("2.")
        assert host.cpu_features
