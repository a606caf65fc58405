"""The main job, end to end: build a backend, install it, serve it, and ask it something.

Run through ``make demo``. Everything it makes lies below ``.demo/``: an OCI layout that stands for the registry, a root
that stands for ``~/.docker/model-runner``, and a tiny random model. A second run skips what is done already.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
BACKEND = "mlx-lm"
NOTHING_TO_DO = ("is up to date", "is installed already", "0 blobs sent")
PROMPT = "Say hello to everyone who packages software."

sys.path.insert(0, str(PROJECT / "tests"))


class Steps:
    """Runs steps, and remembers their seconds for the table at the end."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, str]] = []

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[list[str]]:
        """Time a block; what it appends to the list is shown beside its time."""
        sys.stderr.write(f"\n\x1b[1m== {title}\x1b[0m\n" if sys.stderr.isatty() else f"\n== {title}\n")
        sys.stderr.flush()
        notes: list[str] = []
        begin = time.monotonic()
        yield notes
        self.rows.append((title, time.monotonic() - begin, ", ".join(notes)))


def command(program: str, *arguments: str | Path) -> list[str]:
    """Return the command line of one of the two tools, as a user would type it."""
    return [str(Path(sys.executable).with_name(program)), *map(str, arguments)]


def show(arguments: list[str]) -> None:
    """Print a command before it runs."""
    shown = " ".join(f'"{item}"' if " " in item else item for item in [Path(arguments[0]).name, *arguments[1:]])
    sys.stderr.write(f"$ {shown}\n")
    sys.stderr.flush()


def run(arguments: list[str], notes: list[str]) -> None:
    """Run a command with its own progress on the terminal; end the demo with its status when it fails."""
    show(arguments)
    finished = subprocess.run(arguments, check=False, stdout=subprocess.PIPE, text=True)
    sys.stdout.write(finished.stdout)
    sys.stdout.flush()
    if finished.returncode:
        sys.exit(finished.returncode)
    if any(text in finished.stdout for text in NOTHING_TO_DO):
        notes.append("nothing to do: skipped")


def ask(arguments: list[str]) -> dict[str, Any]:
    """Run a command with ``--json`` and return its result."""
    finished = subprocess.run([*arguments, "--json"], check=False, stdout=subprocess.PIPE, text=True)
    lines = finished.stdout.splitlines()
    outcome: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    if finished.returncode:
        sys.exit(finished.returncode)
    return outcome


def megabytes(count: int) -> str:
    """Return a size as people read it."""
    return f"{count / 1e6:.1f} MB"


def chat(url: str, model: Path) -> dict[str, Any]:
    """Ask the server one question through the OpenAI API."""
    body = {
        "model": str(model),
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 24,
        "temperature": 0,
    }
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        reply: dict[str, Any] = json.load(answer)
    return reply


def serve_and_ask(root: Path, model: Path, notes: list[str]) -> dict[str, Any]:
    """Start the server with ``mr-install serve``, ask it, and stop it as Ctrl-C would."""
    arguments = command("mr-install", "serve", BACKEND, "--model", model, "--root", root, "--quiet")
    show(arguments)
    begin = time.monotonic()
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as server:
        try:
            url = (server.stdout.readline() if server.stdout else "").strip()
            if not url:
                sys.exit(server.wait() or 1)
            notes.append(f"ready in {time.monotonic() - begin:.2f} s")
            begin = time.monotonic()
            reply = chat(url, model)
            notes.append(f"answered in {time.monotonic() - begin:.2f} s")
        finally:
            server.terminate()
            server.wait()
    return reply


def main() -> None:
    """Do the main job."""
    parser = argparse.ArgumentParser(description="Build, install and serve mlx-lm, and ask it something.")
    parser.add_argument("--registry", default="", help="HOST:PORT/NAMESPACE to go through, instead of an OCI layout")
    parser.add_argument("--directory", type=Path, default=PROJECT / ".demo", help="where everything is made")
    options = parser.parse_args()
    directory: Path = options.directory
    layout, root, model = directory / "layout", directory / "root", directory / "model"
    steps = Steps()

    with steps.step("build: recipe and lock to an OCI layout") as notes:
        build = command("mr-bundle", "build", PROJECT / "recipes" / BACKEND, "--layout", layout)
        run(build, notes)
        built = ask([*build, "--quiet"])  # nothing is left to do: this reads the outcome
        name = built["ref_name"]
        version = built["version"]
        notes.append(f"{megabytes(built['installed_bytes'])} in {built['file_count']} files")
        notes.append(f"{megabytes(built['compressed_bytes'])} compressed")
    source = f"oci:{layout}:{name}"
    trust: list[str] = []
    if options.registry:
        host = options.registry.partition("/")[0]
        trust = ["--insecure-registry", host] if host.startswith(("127.", "localhost", "[::1]")) else []
        target = f"docker://{options.registry}/{BACKEND}:{version}"
        with steps.step("push: layout to registry") as notes:
            run(command("mr-bundle", "push", source, target, "--overwrite", *trust), notes)
        source = target
        root = directory / "root-from-registry"  # so that something is fetched, whatever was installed before
    with steps.step("install: fetch, verify, extract, probe, commit") as notes:
        run(command("mr-install", BACKEND, "--from", source, "--root", root, "--yes", *trust), notes)
    with steps.step("model: a tiny random one, made on the spot"):
        from support.tiny_model import make_tiny_model  # noqa: PLC0415 - it lives with the tests that share it

        if not (model / "config.json").exists():
            make_tiny_model(model)
    with steps.step("serve: one chat completion") as notes:
        reply = serve_and_ask(root, model, notes)

    print(json.dumps(reply, indent=2, ensure_ascii=False))
    print(f"\nreply: {reply['choices'][0]['message']['content']!r}")
    print("(a random model speaks nonsense; a real one goes to --model)\n")
    for title, seconds, remark in steps.rows:
        print(f"{seconds:8.2f} s  {title}{f'  ({remark})' if remark else ''}")
    print(f"{sum(row[1] for row in steps.rows):8.2f} s  in all")


if __name__ == "__main__":
    main()
