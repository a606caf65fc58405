"""Start a launcher, wait until its server is healthy, and ask it something."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

QUESTION = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "temperature": 0}
"""Greedy, so that equal models give equal replies. Without the model's name, which mlx-lm does not need."""


@contextlib.contextmanager
def serving(command: list[str], port: int) -> Iterator[str]:
    """Run a launcher until the block ends, and give the server's address once it is healthy."""
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            deadline = time.monotonic() + 90
            while True:
                try:
                    with urllib.request.urlopen(f"{url}/health", timeout=5):
                        break
                except OSError:
                    assert process.poll() is None, process.communicate()[0]
                    assert time.monotonic() < deadline, "the server did not become healthy"
                    time.sleep(0.1)
            yield url
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def post(url: str, body: dict[str, Any]) -> bytes:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=90) as answer:
        return answer.read()


def greedy_reply(url: str) -> str:
    """Ask the first model the server lists."""
    with urllib.request.urlopen(f"{url}/v1/models", timeout=30) as answer:
        model = json.load(answer)["data"][0]["id"]
    reply = json.loads(post(f"{url}/v1/chat/completions", {**QUESTION, "model": model}))
    text = reply["choices"][0]["message"]["content"]
    assert isinstance(text, str)
    return text
