"""Small test process for the supervisor: `python tiny.py NAME HOST:PORT [grpc|http|mute] [stubborn]`.

It is ready at once, or never (mute). A stubborn one ignores SIGTERM. It ends with status 3 when the file $TINY_DIE appears.
"""

import json
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc


class Ready(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/ready" else 404)
        self.end_headers()


def print_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def serve(kind: str, address: str) -> None:
    if kind == "grpc":
        server = grpc.server(ThreadPoolExecutor(2))
        servicer = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        server.add_insecure_port(address)
        server.start()
        servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    elif kind == "http":
        host, _, port = address.rpartition(":")
        threading.Thread(target=HTTPServer((host, int(port)), Ready).serve_forever, daemon=True).start()


def main(name: str, address: str, kind: str = "grpc", *traits: str) -> None:
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: None if "stubborn" in traits else ended.set())
    serve(kind, address)
    record = {"event": "listening", "level": "info", "timestamp": "2026-05-01T10:00:00Z", "process": name, "address": address}
    print_line(json.dumps(record))
    die = Path(os.environ.get("TINY_DIE", "/nonexistent"))
    while not ended.is_set():
        if die.exists():
            print_line(f"{name}: out of stock")
            sys.exit(3)
        time.sleep(0.02)
    print_line(f"{name} ends in order")


if __name__ == "__main__":
    main(*sys.argv[1:])
