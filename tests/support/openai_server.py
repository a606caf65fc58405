"""A small server with OpenAI's paths, copied into stand-in wheels: it says what it was asked, and by whom it answers.

Standard library only.
"""

from __future__ import annotations

import argparse
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class _Handler(BaseHTTPRequestHandler):
    model = ""
    speaker = ""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        match self.path:
            case "/health":
                self._answer({})
            case "/v1/models":
                self._answer({"object": "list", "data": [{"id": self.model, "object": "model"}]})
            case _:
                self.send_error(404)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions" or asked["model"] != self.model:
            self.send_error(404)
            return
        text = f"{self.speaker}: {asked['messages'][-1]['content']}"
        message = {"role": "assistant", "content": text}
        self._answer({"object": "chat.completion", "choices": [{"index": 0, "message": message}]})

    def _answer(self, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main(speaker: str) -> None:
    parser = argparse.ArgumentParser(prog="vllm", allow_abbrev=False)
    serve = parser.add_subparsers(dest="command", required=True).add_parser("serve")
    serve.add_argument("model")
    serve.add_argument("--host", required=True)
    serve.add_argument("--port", type=int, required=True)
    serve.add_argument("--served-model-name", nargs="+", default=[])
    arguments = parser.parse_args()
    _Handler.model = (arguments.served_model_name or [arguments.model])[0]
    _Handler.speaker = speaker
    sys.stderr.write(f"serving {_Handler.model}\n")
    with ThreadingHTTPServer((arguments.host, arguments.port), _Handler) as server:
        server.serve_forever()
