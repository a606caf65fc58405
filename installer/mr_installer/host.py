"""What this machine is: the facts that decide which target it can run."""

from __future__ import annotations

import ctypes
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from mr_core.platform import Platform

_NVIDIA_VERSION = Path("/sys/module/nvidia/version")
_NVIDIA_PROC = Path("/proc/driver/nvidia/version")
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Facts about a machine; empty text means *not there* or *not known*.

    Attributes:
        glibc: Version of the C library, such as ``2.36``.
        macos: Version of macOS, such as ``15.1``.
        cuda_driver: Version of the NVIDIA kernel driver, such as ``580.65.06``.
        cpu_features: Flags as ``/proc/cpuinfo`` spells them (Linux only).
    """

    platform: Platform
    glibc: str = ""
    macos: str = ""
    cuda_driver: str = ""
    cpu_features: frozenset[str] = frozenset()


def survey_host() -> Host:
    """Read the facts from this machine; nothing is started but ``sysctl`` on macOS."""
    return Host(
        platform=Platform.host(),
        glibc=_glibc(),
        macos=platform.mac_ver()[0] if sys.platform == "darwin" else "",
        cuda_driver=_cuda_driver(),
        cpu_features=_cpu_features(),
    )


def _glibc() -> str:
    if sys.platform != "linux":
        return ""
    try:
        version = ctypes.CDLL(None).gnu_get_libc_version
    except (OSError, AttributeError):  # musl has no such function
        return ""
    version.restype = ctypes.c_char_p
    return str(version().decode("ascii", "replace"))


def _cuda_driver() -> str:
    """Read the kernel module's version: it is there exactly when the driver is loaded, and needs no ``nvidia-smi``."""
    for place in (_NVIDIA_VERSION, _NVIDIA_PROC):
        try:
            text = place.read_text()
        except OSError:
            continue
        if match := re.search(r"\b(\d{3,}(?:\.\d+)+)\b", text):
            return match[1]
    return ""


def _cpu_features() -> frozenset[str]:
    if sys.platform == "darwin":
        try:
            listed = subprocess.run(
                ["/usr/sbin/sysctl", "hw.optional"], capture_output=True, text=True, timeout=5, check=False
            ).stdout
        except (OSError, subprocess.TimeoutExpired):
            return frozenset()
        return frozenset(re.findall(r"^hw\.optional\.(\S+): 1$", listed, flags=re.MULTILINE))
    try:
        text = _CPUINFO.read_text()
    except OSError:
        return frozenset()
    match = re.search(r"^(?:flags|Features)\s*:(.*)$", text, flags=re.MULTILINE)
    return frozenset(match[1].split()) if match else frozenset()
