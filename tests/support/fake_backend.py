"""A small server, copied into fake releases as a backend's own: it tells what it was started with.

Extra options choose how it misbehaves. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

_CHILD = "import fake_backend; fake_backend.print_facts()"


def facts() -> dict[str, Any]:
    try:
        import torch  # type: ignore[import-not-found] # noqa: PLC0415 - a canary in the caller's directory

        canary = str(torch.__file__)
    except ImportError:
        canary = ""
    return {
        "pid": os.getpid(),
        "argv": sys.argv,
        "executable": sys.executable,
        "prefix": sys.prefix,
        "path": sys.path,
        "flags": {name: getattr(sys.flags, name) for name in ("no_user_site", "safe_path", "dont_write_bytecode")},
        "environment": dict(os.environ),
        "directory": str(Path.cwd()),
        "modules": sorted(sys.modules),
        "canary": canary,
    }


def print_facts() -> None:
    print(json.dumps(facts()))


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        match self.path:
            case "/health":
                status, answer = 200, {}
            case "/facts":
                status, answer = 200, facts()
            case "/child":
                child = subprocess.run([sys.executable, "-c", _CHILD], stdout=subprocess.PIPE, check=True)
                status, answer = 200, json.loads(child.stdout)
            case _:
                status, answer = 404, {}
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        sys.stderr.write(f"request {self.path}\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="fake_backend", allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--names", nargs="+", default=[])
    parser.add_argument("--crash", type=int, help="end with this status at once, after some lines")
    parser.add_argument("--abort", action="store_true", help="end by SIGABRT")
    parser.add_argument("--hang", action="store_true", help="never listen")
    parser.add_argument("--end-after", type=float, help="end with status 7 after so many seconds")
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--child", help="start a child that outlives its parent, and write its process id here")
    parser.add_argument("--no-reuse", action="store_true", help="bind without SO_REUSEADDR")
    parser.add_argument("--task", default="complete")
    parser.add_argument("--say", help="print this")
    arguments = parser.parse_args()
    print("fake backend starts", arguments.say or "")
    if arguments.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if arguments.child:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(arguments.child).write_text(str(child.pid))
    if arguments.crash is not None:
        for number in range(60):
            sys.stderr.write(f"line {number} before the crash\n")
        sys.exit(arguments.crash)
    if arguments.abort:
        os.abort()
    if arguments.end_after is not None:
        threading.Timer(arguments.end_after, os._exit, [7]).start()
    while arguments.hang:
        time.sleep(60)
    HTTPServer.allow_reuse_address = not arguments.no_reuse
    HTTPServer.address_family = socket.AF_INET6 if ":" in arguments.host else socket.AF_INET
    with HTTPServer((arguments.host, arguments.port), _Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
