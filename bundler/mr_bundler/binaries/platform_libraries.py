"""Libraries that a bundle takes from its host."""

from __future__ import annotations

from mr_core.platform import Target

# glibc itself, and the compiler's run-time libraries: wheels rely on the host's (PEP 600 has them in every manylinux
# policy), and an older libstdc++ in the tree would be found before a newer one of the host. What else those policies
# take for granted (X11, OpenGL, GLib, zlib, expat) is missing on servers and in containers, so a bundle brings it.
SYSTEM_LIBRARIES = frozenset(
    {
        "ld-linux-aarch64.so.1",
        "ld-linux-x86-64.so.2",
        "libanl.so.1",
        "libc.so.6",
        "libdl.so.2",
        "libgcc_s.so.1",
        "libm.so.6",
        "libmvec.so.1",
        "libnsl.so.1",
        "libpthread.so.0",
        "libresolv.so.2",
        "librt.so.1",
        "libstdc++.so.6",
        "libthread_db.so.1",
        "libutil.so.1",
    }
)
# Where the ABIs put glibc's loader (x86-64 psABI, "Program Interpreter"; AArch64: glibc's own `sysdeps`).
_LOADERS = frozenset({"/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"})
# What the NVIDIA driver installs, and only the driver: its README, chapter "Installed Components". Their version is
# that of the kernel module, so a bundle could not bring them.
_NVIDIA_DRIVER = frozenset(
    {
        "libcuda.so.1",
        "libcudadebugger.so.1",
        "libnvcuvid.so.1",
        "libnvidia-allocator.so.1",
        "libnvidia-cfg.so.1",
        "libnvidia-encode.so.1",
        "libnvidia-fbc.so.1",
        "libnvidia-ml.so.1",
        "libnvidia-nvvm.so.4",
        "libnvidia-opencl.so.1",
        "libnvidia-opticalflow.so.1",
        "libnvidia-ptxjitcompiler.so.1",
        "libnvoptix.so.1",
    }
)
# Part of macOS, and since macOS 11 often only of its shared cache, so there is no file to look at ("New in macOS Big
# Sur 11.0.1", Kernel). `/usr/local` and `/Library` are the user's.
MACOS_DIRECTORIES = ("/usr/lib/", "/System/Library/")


def is_platform_library(name: str, target: Target) -> bool:
    """Return whether the loader of a host of ``target`` finds ``name``, as a binary asks for it, outside the bundle."""
    if target.platform.os == "darwin":
        return name.startswith(MACOS_DIRECTORIES) and "/../" not in name
    if name in SYSTEM_LIBRARIES or name in _LOADERS:
        return True
    return target.accelerator.startswith("cuda") and name in _NVIDIA_DRIVER
