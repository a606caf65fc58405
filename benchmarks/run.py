"""Measure the project against named tools, as ratios in one run, on tmpfs.

``make bench`` builds mlx-lm for this host (about 11,000 files and 330 MB), serves it from a real registry on loopback,
and compares. Nothing fails when a figure is missed: the table says so. Results go to ``benchmarks/results/``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT / "tests"), str(PROJECT / "benchmarks")]

from bundles import Bundles  # noqa: E402 - after the path is set
from measure import Figure, Run, alternate, median, run, write_results  # noqa: E402 - after the path is set

from support.registry import RealRegistry  # noqa: E402 - same

BACKEND = "mlx-lm"
BIN = Path(sys.executable).parent


class Bench:
    """One benchmark run: a directory on tmpfs, a built bundle, and a registry that holds it."""

    def __init__(self, directory: Path, runs: int) -> None:
        self.directory = directory
        self.runs = runs
        self.layout = directory / "layout"
        self.root = directory / "root"
        self.figures: list[Figure] = []

    def tool(self, name: str, *arguments: str | Path) -> list[str]:
        return [str(BIN / name), *map(str, arguments)]

    def build(self, *extra: str) -> list[str]:
        return self.tool("mr-bundle", "build", PROJECT / "recipes" / BACKEND, "--layout", self.layout, "-q", *extra)

    def outcome(self) -> dict[str, object]:
        lines = subprocess.run(
            [*self.build(), "--json"], check=True, stdout=subprocess.PIPE, text=True
        ).stdout.splitlines()
        found: dict[str, object] = json.loads(lines[-1])
        return found

    def add(self, name: str, value: float, unit: str, target: float, **detail: object) -> None:
        self.figures.append(Figure(name=name, value=value, unit=unit, target=target, detail=detail))
        print(self.figures[-1].line(), flush=True)

    def prepare(self) -> None:
        run(self.build())
        self.built = self.outcome()
        self.name = str(self.built["ref_name"])
        blobs = self.layout / "blobs" / "sha256"
        manifest = json.loads((blobs / str(self.built["digest"]).partition(":")[2]).read_bytes())
        self.layers = [(layer["digest"], layer["size"]) for layer in manifest["layers"]]

    def clean_root(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def reference(self, registry: RealRegistry) -> str:
        return f"docker://{registry.host}/bench/{BACKEND}:1"

    def fetch(self, registry: RealRegistry) -> None:
        """Fetch, verify, extract and commit against ``curl | zstd -d | tar -x``, which verifies nothing."""
        reference = self.reference(registry)
        trust = ["--insecure-registry", registry.host]
        run(self.tool("mr-bundle", "push", f"oci:{self.layout}:{self.name}", reference, *trust, "-q"))
        base = f"http://{registry.host}/v2/bench/{BACKEND}/blobs"
        script = "set -eu -o pipefail; mkdir -p OUT; " + "; ".join(
            f"curl -sS {base}/{digest} | zstd -dc | tar -xf - -C OUT" for digest, _ in self.layers
        )
        plain = script.replace("OUT", str(self.root / "plain"))
        install = self.tool(
            "mr-install", BACKEND, "--from", reference, "--root", self.root, "--yes", "--no-probe", "-q", *trust
        )

        def ours() -> Run:
            return run(install)

        def theirs() -> Run:
            return run(["bash", "-c", plain])

        one, two = alternate(ours, theirs, runs=self.runs, before=self.clean_root)
        ratio = statistics.median(one) / statistics.median(two)
        self.add("install / (curl | zstd -d | tar -x)", ratio, "x", 2.0, ours=one, theirs=two)
        self.clean_root()
        memory = run(install, memory=True)
        self.add("peak memory of mr-install", memory.peak_mib, "MiB", 200, tree_mib=round(memory.tree_mib, 1))
        self.add("peak memory of mr-install and its workers", memory.tree_mib, "MiB", 200)
        again, seconds = median(lambda: run(install), runs=self.runs)
        self.add("mr-install when installed already", again, "s", 0.5, seconds=seconds)
        local = self.tool("mr-install", BACKEND, "--root", self.root, "-q")
        again, seconds = median(lambda: run(local), runs=self.runs)
        self.add("the same without --from", again, "s", 0.5, seconds=seconds)

    def start_up(self) -> None:
        seconds, every = median(lambda: run(self.tool("mr-install", "--help")), runs=self.runs)
        self.add("mr-install --help", seconds, "s", 0.2, seconds=every)

    def shim(self) -> None:
        """Compare a launcher whose backend is `true` with running `true` the same way by hand."""
        backend = self.root / BACKEND
        model = self.directory / "model"
        model.mkdir(exist_ok=True)
        launcher = [str(backend / "bin" / "mr-serve"), "--model", str(model), "--port", "0", "--print"]
        python = [str(backend / "bin" / "python3"), "-I", "-S", "-B", "-c", "pass"]
        with_shim, every = median(lambda: run(launcher), runs=self.runs * 4)
        bare, plain = median(lambda: run(python), runs=self.runs * 4)
        self.add("shim overhead before exec, Python start included", with_shim * 1000, "ms", 30, seconds=every)
        self.add("of which an empty Python", bare * 1000, "ms", 30, seconds=plain)

    def cold_build(self) -> None:
        """Compare a build without caches of ours with uv's install plus tar | zstd -9 -T2 of the same tree."""
        release = next((self.root / BACKEND / "releases").iterdir())
        lock = self.tool(
            "mr-bundle", "export-lock", PROJECT / "recipes" / BACKEND, "--target", str(self.built["target"])
        )
        requirements = self.directory / "requirements.txt"
        requirements.write_text(subprocess.run(lock, check=True, stdout=subprocess.PIPE, text=True).stdout)
        scratch = self.directory / "scratch"
        by_hand = (
            f"set -eu -o pipefail; {BIN}/uv pip install -q --link-mode copy --no-deps --require-hashes"
            f" --python {release}/bin/python3.12 --target {scratch}/site -r {requirements};"
            f" tar -C {release} -cf - . | zstd -9 -T2 -q -o {scratch}/tree.tar.zst"
        )

        def ours() -> Run:
            return run(self.build("--no-cache"))

        def theirs() -> Run:
            return run(["bash", "-c", by_hand])

        def before() -> None:
            shutil.rmtree(scratch, ignore_errors=True)
            shutil.rmtree(self.layout, ignore_errors=True)
            scratch.mkdir()

        one, two = alternate(ours, theirs, runs=max(2, self.runs // 2), before=before)
        size = (scratch / "tree.tar.zst").stat().st_size
        self.cold_seconds = statistics.median(one)
        ratio = self.cold_seconds / statistics.median(two)
        self.add("cold build / (uv pip install + tar | zstd -9 -T2)", ratio, "x", 2.0, ours=one, theirs=two)
        copy = self.directory / "copy"

        def fresh_copy() -> None:
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(release, copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))

        compileall = [str(release / "bin" / "python3.12"), "-m", "compileall", "-q", "-j", str(os.cpu_count() or 1)]
        compileall += ["--invalidation-mode", "unchecked-hash", str(copy / "lib")]
        # Some files in a Python environment are templates and no Python: compileall then ends with status 1.
        compile_all = ["bash", "-c", '"$@" >/dev/null || [ $? = 1 ]', "bash", *compileall]
        compiling, seconds = median(lambda: run(compile_all), runs=max(2, self.runs // 2), before=fresh_copy)
        ratio = statistics.median(one) / (statistics.median(two) + compiling)
        self.add("cold build / (the same + compileall -j)", ratio, "x", 1.2, compileall=seconds)
        compressed = sum(layer_size for _, layer_size in self.layers)
        self.add("compressed size / one tar | zstd -9", compressed / size, "x", 1.03, ours=compressed, theirs=size)
        run(self.build())
        seconds, every = median(lambda: run(self.build()), runs=self.runs)
        self.add("build with nothing to do", seconds, "s", 1.0, seconds=every)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each command")
    parser.add_argument("--directory", type=Path, help="where everything is made; default: a directory on tmpfs")
    parser.add_argument("--out", type=Path, default=PROJECT / "benchmarks" / "results" / "latest.json")
    options = parser.parse_args()
    base = options.directory or (Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None)
    # Bytecode of our own modules is used and written, as in every ordinary installation.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory(prefix="mr-bench-", dir=base) as name:
        bench = Bench(Path(name), options.runs)
        os.environ["MR_CACHE"] = str(bench.directory / "cache")
        print(f"building {BACKEND} …", flush=True)
        bench.prepare()
        print(
            f"{bench.built['file_count']} files, {int(str(bench.built['installed_bytes'])) / 1e6:.0f} MB,"
            f" {len(bench.layers)} layers, {int(str(bench.built['compressed_bytes'])) / 1e6:.0f} MB compressed\n"
        )
        with RealRegistry(root=bench.directory / "registry") as registry:
            bench.start_up()
            bench.fetch(registry)
            bundles = Bundles(bench.directory, PROJECT, bench.tool)
            bundles.push_again(registry, bench.reference(registry), f"oci:{bench.layout}:{bench.name}")
        bench.shim()
        bench.cold_build()
        bundles.rebuild(bench.cold_seconds, str(bench.built["target"]), options.runs)
        bundles.shares(str(bench.built["target"]))
        figures = [*bench.figures, *bundles.figures]
        write_results(options.out, figures)
    missed = [figure.name for figure in figures if not figure.met]
    print(f"\n{len(figures) - len(missed)} figures met, {len(missed)} missed; written to {options.out}")


if __name__ == "__main__":
    main()
