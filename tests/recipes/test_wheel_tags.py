from __future__ import annotations

import pytest
from packaging.utils import parse_wheel_filename

from mr_bundler.lock.wheel_tags import best_wheel, supported_tags, wheel_rank
from mr_core.bundle_config import HostRequirements
from mr_core.platform import Target

AMD64 = (Target.parse("linux/amd64+cpu"), HostRequirements(glibc="2.35"))
ARM64 = (Target.parse("linux/arm64+cpu"), HostRequirements(glibc="2.28"))
MAC = (Target.parse("darwin/arm64+metal"), HostRequirements(macos="14.0"))


@pytest.mark.parametrize(
    ("tag", "fits_amd64", "fits_arm64", "fits_mac"),
    [
        ("py3-none-any", True, True, True),
        ("py2.py3-none-any", True, True, True),
        ("cp312-cp312-manylinux_2_35_x86_64", True, False, False),
        ("cp312-cp312-manylinux_2_36_x86_64", False, False, False),
        ("cp312-cp312-manylinux1_x86_64", True, False, False),
        ("cp312-cp312-manylinux2014_aarch64", False, True, False),
        ("cp312-cp312-manylinux_2_28_aarch64", False, True, False),
        ("cp312-cp312-manylinux_2_31_aarch64", False, False, False),
        ("cp312-cp312-manylinux_2_5_aarch64", False, False, False),
        ("cp312-cp312-musllinux_1_2_x86_64", False, False, False),
        ("cp38-abi3-manylinux2014_x86_64.manylinux_2_17_x86_64", True, False, False),
        ("cp313-abi3-manylinux2014_x86_64", False, False, False),
        ("cp313-cp313-manylinux2014_x86_64", False, False, False),
        ("cp312-cp312t-manylinux2014_x86_64", False, False, False),
        ("py3-none-manylinux_2_35_x86_64", True, False, False),
        ("cp312-cp312-macosx_14_0_arm64", False, False, True),
        ("cp312-cp312-macosx_15_0_arm64", False, False, False),
        ("cp312-cp312-macosx_11_0_universal2", False, False, True),
        ("cp312-cp312-macosx_11_0_x86_64", False, False, False),
        ("cp312-cp312-win_amd64", False, False, False),
    ],
)
def test_what_fits(tag: str, fits_amd64: bool, fits_arm64: bool, fits_mac: bool) -> None:
    found = tuple(wheel_rank(f"a-1-{tag}.whl", *where) is not None for where in (AMD64, ARM64, MAC))
    assert found == (fits_amd64, fits_arm64, fits_mac)


@pytest.mark.parametrize(
    ("where", "files"),
    [
        (MAC, ["n-2-cp312-cp312-macosx_14_0_arm64.whl", "n-2-cp312-cp312-macosx_11_0_arm64.whl"]),
        (MAC, ["n-2-cp312-cp312-macosx_11_0_arm64.whl", "n-2-cp312-cp312-macosx_10_13_universal2.whl"]),
        (AMD64, ["n-2-cp312-cp312-manylinux_2_28_x86_64.whl", "n-2-cp312-cp312-manylinux_2_17_x86_64.whl"]),
        (AMD64, ["n-2-cp312-cp312-manylinux1_x86_64.whl", "n-2-cp38-abi3-manylinux_2_35_x86_64.whl"]),
        (AMD64, ["n-2-cp310-abi3-manylinux2014_x86_64.whl", "n-2-py3-none-any.whl"]),
        (AMD64, ["n-2-2-py3-none-any.whl", "n-2-1-py3-none-any.whl"]),
        (AMD64, ["n-2-1-py3-none-any.whl", "n-2-py3-none-any.whl"]),
        (AMD64, ["n-2-py3-none-any.whl", "n-2-cp312-cp312-manylinux_2_39_x86_64.whl", "n-2.tar.gz"]),
    ],
)
def test_the_first_is_best_in_any_order(where: tuple[Target, HostRequirements], files: list[str]) -> None:
    assert best_wheel(files, *where) == files[0]
    assert best_wheel(files[::-1], *where) == files[0]


def test_nothing_fits() -> None:
    assert best_wheel(["n-2-cp312-cp312-win_amd64.whl", "n-2.tar.gz", "x"], *AMD64) is None
    assert best_wheel([], *MAC) is None


def test_same_answer_as_packaging_gives_on_a_linux_host() -> None:
    """The tags of a floor of glibc are those `packaging` computes on a host that has it."""
    tags = supported_tags(*AMD64)
    assert len(tags) == len(set(tags))
    (exact,) = parse_wheel_filename("a-1-cp312-cp312-manylinux_2_35_x86_64.whl")[3]
    assert tags[0] == exact
    assert str(tags[-1]) == "py30-none-any"
