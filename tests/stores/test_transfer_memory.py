"""Large blobs are copied in constant memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

from mr_core.digest import Digest
from mr_core.layout import LayoutStore
from mr_core.manifest import MEDIA_MANIFEST, Descriptor
from mr_core.memory import BytesStream
from support.registry import RealRegistry
from support.small_image import small_image


def test_large_blobs_are_pushed_in_constant_memory() -> None:
    """Four at a time, in chunks."""
    sizes = [(100 << 20) + number for number in range(4)]
    size = sum(sizes)
    with (
        tempfile.TemporaryDirectory(prefix="large-") as scratch,
        RealRegistry(root=Path(scratch) / "registry") as registry,
    ):
        layout = LayoutStore(Path(scratch) / "layout", create=True)
        config = small_image().blobs[0]
        layers = [
            Descriptor(media_type="application/x", digest=_sparse_blob(layout, length), size=length) for length in sizes
        ]
        manifest = _manifest(config[0], layers)
        layout.put_blob(config[0], BytesStream(config[1]))
        layout.put_document(manifest, MEDIA_MANIFEST, name="large")
        code = """
            import json, resource, sys, time
            from pathlib import Path
            from mr_core.transfer import transfer
            from mr_core.layout import LayoutStore
            from mr_core.reference import Reference
            from mr_core.registry import RegistryStore
            from mr_core.registry_options import RegistryOptions

            host, path = sys.argv[1:]
            store = RegistryStore(
                Reference.parse(f"{host}/large"), options=RegistryOptions(insecure_hosts=frozenset({host}))
            )
            begin = time.monotonic()
            result = transfer(LayoutStore(Path(path)), "large", store, "v1")
            seconds = time.monotonic() - begin
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
            if sys.platform == "linux":  # there the number above never falls below that of the process that forked
                text = Path("/proc/self/status").read_text()
                peak = int(text.partition("VmHWM:")[2].split()[0]) * 1024
            print(json.dumps({"bytes": result.bytes_pushed, "seconds": seconds, "peak": peak}))
        """
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", textwrap.dedent(code), registry.host, str(layout.path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        figures = json.loads(done.stdout)
        assert figures["bytes"] >= size
        peak_bytes = figures["peak"]
        print(f"{size / figures['seconds'] / 1e6:.0f} MB/s, peak {peak_bytes / 1e6:.0f} MB")
        assert "PATCH" in registry.log()
        assert peak_bytes < 160 << 20


def _sparse_blob(layout: LayoutStore, size: int) -> Digest:
    """Put a blob of zeros into a layout without writing them."""
    place = layout.path / "blobs/sha256/new"
    with place.open("wb") as file:
        file.truncate(size)
    with place.open("rb") as file:
        digest = Digest.of_file(file)
    place.rename(place.with_name(digest.hex))
    return digest


def _manifest(config: Descriptor, layers: list[Descriptor]) -> bytes:
    described = [layer.to_json() for layer in layers]
    value = {"schemaVersion": 2, "mediaType": MEDIA_MANIFEST, "config": config.to_json(), "layers": described}
    return json.dumps(value).encode()
