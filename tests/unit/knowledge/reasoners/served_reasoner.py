"""A server process that speaks OpenAI's embeddings and chat, and misbehaves on request: python served_reasoner.py FAULTS

FAULTS is a comma-separated list; the n-th request meets the n-th fault, later ones meet none. Faults: ok, 500, 429, drop,
stall, garbage, short, twice, nan, html, and the statuses 400, 408, 409 and 500. A text with "forbidden" in it is always
answered by 413. The first line of output is the port; GET /count tells the requests so far, GET /peak the most that were
open at once, GET /read and GET /again how many texts were read (but the one that is asked for the length of vectors), and
how many of these not for the first time.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import sys
import threading
import time
from typing import Any

FAULTS = [fault for fault in sys.argv[1].split(",") if fault] if len(sys.argv) > 1 else []
LOCK, STATE = threading.Lock(), {"count": 0, "open": 0, "peak": 0, "read": 0, "again": 0}
SEEN: set[str] = set()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(200, json.dumps(STATE[self.path.strip("/")]).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with LOCK:
            number = STATE["count"]
            STATE["count"] += 1
            STATE["open"] += 1
            STATE["peak"] = max(STATE["peak"], STATE["open"])
        try:
            self.serve(body, FAULTS[number] if number < len(FAULTS) else "ok")
        finally:
            with LOCK:
                STATE["open"] -= 1

    def serve(self, body: dict, fault: str) -> None:
        texts = [m["content"] for m in body["messages"]] if "messages" in body else body["input"]
        if fault == "drop":
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault == "stall":
            time.sleep(60)  # A client that waited for this has no time-out, and is told what ends its run.
            with contextlib.suppress(OSError):
                self.answer(403, b'{"error": {"message": "waited for a stalled server"}}')
        elif fault in ("400", "408", "409", "500"):
            self.answer(int(fault), b'{"error": {"message": "out of memory"}}')
        elif fault == "429":
            self.answer(429, b'{"error": {"message": "slow down"}}', {"Retry-After": "0.01"})
        elif fault == "html":
            self.answer(200, b"<html>welcome</html>")
        elif any("forbidden" in text for text in texts):
            self.answer(413, b'{"error": {"message": "too large"}}')
        elif body["model"] != "known":
            self.answer(404, b'{"error": {"message": "no such model"}}')
        else:
            with LOCK:
                paid = [text for text in texts if text != "dimension"]
                STATE["read"] += len(paid)
                STATE["again"] += sum(text in SEEN for text in paid)
                SEEN.update(paid)
            self.answer(200, json.dumps(self.chat(body) if "messages" in body else self.embed(body, fault)).encode())

    def embed(self, body: dict, fault: str) -> dict:
        texts = body["input"]
        rows: list[dict[str, Any]] = [
            {"object": "embedding", "index": i, "embedding": [len(t), 0.5, -1]} for i, t in enumerate(texts)
        ]
        rows = rows[1:] if fault == "short" else rows[::-1]
        if fault == "garbage":
            rows = [{"object": "embedding", "index": 0, "embedding": "zzz"}]
        if fault == "twice":
            for row in rows:
                row["index"] %= 2
        if fault == "nan":
            rows[0]["embedding"][0] = None
        used = sum(len(t) for t in texts)
        usage = {"prompt_tokens": used, "total_tokens": used}
        return {"object": "list", "model": body["model"], "data": rows, "usage": usage}

    def chat(self, body: dict) -> dict:
        said = {"role": "assistant", "content": f" likes {len(body['messages'][-1]['content'])} "}
        usage = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
        choices = [{"index": 0, "finish_reason": "stop", "message": said}]
        return {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": "known",
            "choices": choices,
            "usage": usage,
        }

    def answer(self, status: int, body: bytes, headers: dict | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()
