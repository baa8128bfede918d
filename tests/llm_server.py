"""A server of OpenAI's chat completions on loopback, whose answers are made up but always the same, and which can fail.

    python llm_server.py [--port N] [--log FILE] [--delay S] [--plan JSON] [--no-format STATUS] [--key KEY]

It prints its port and serves until it is killed. The plan says for a class what becomes of each request about it in turn:
{"Bengal": ["429", "few"]}; later requests are answered well, and a last entry that ends in "!" goes on for ever.
The log gets a line of JSON a request.
"""

import argparse
import contextlib
import hashlib
import json
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COLOURS = ["black", "white", "grey", "brown", "golden", "orange", "red", "blue", "green", "cream", "silver", "violet"]
PARTS = ["coat", "head", "tail", "back", "belly", "paws", "ears", "eyes", "snout", "chest", "legs", "neck"]


def texts(name, count, first=0):
    """Descriptors or sentences of a class: the same for the same name, and all different."""
    start = int(hashlib.sha256(name.encode()).hexdigest(), 16)
    pairs = [divmod((start + i * 7) % 144, 12) for i in range(first, first + count)]
    return [f"a {COLOURS[c]} {PARTS[p]} seen from number {start % 89} side" for c, p in pairs]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path.endswith("/models"):
            self._keyed() and self._json(200, {"object": "list", "data": [{"id": "made-up", "object": "model"}]})
        else:
            self._json(404, {"error": {"message": "no such page"}})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.path.endswith("/v1/chat/completions"):
            return self._json(404, {"error": {"message": "no such page"}})
        if not self._keyed():
            return None
        if body["model"] != "made-up":
            return self._json(404, {"error": {"message": f"model '{body['model']}' not found"}})
        question = body["messages"][1]["content"]
        name = re.search(r"^Class: (.*)$", question, re.MULTILINE).group(1)
        formatted = "response_format" in body
        rejected = formatted and self.server.options.no_format
        fault = "format" if rejected else self.server.next_fault(name)
        self.server.note(name, fault, formatted, body["messages"], self.headers["Authorization"])
        time.sleep(self.server.options.delay)
        if rejected:
            return self._json(self.server.options.no_format, {"error": {"message": "response_format is not supported"}})
        return self._answer(fault, name, body["messages"])

    def _answer(self, fault, name, messages):
        count = int(re.search(r"write (\d+)", messages[0]["content"]).group(1))
        good = texts(name, count)
        if "sentences of" in messages[0]["content"]:
            good = [f"A {name} has {text}." for text in good]
        if fault == "429":
            self._json(429, {"error": {"message": "slow down"}}, {"Retry-After": "1"})
        elif fault == "500":
            self._json(500, {"error": {"message": "out of order"}}, {"retry-after-ms": "20"})
        elif fault == "echo":
            self._json(400, {"error": {"message": f"bad header {self.headers['Authorization']}"}})
        elif fault == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [{"mess')
            self.close_connection = True
        elif fault == "hung up":
            self.close_connection = True
        elif fault == "page":
            self._send(200, b"<html>a proxy's page</html>", {"Content-Type": "text/html"})
        elif fault == "broken":
            self._send(200, b'{"choices": [', {"Content-Type": "application/json"})
        elif fault == "hollow":
            self._json(200, {"id": "x", "object": "chat.completion", "choices": []})
        elif fault == "refusal":
            self._completion(None, refusal="I cannot help with that.")
        else:
            if fault == "slow":
                time.sleep(2)
            self._completion(self._content(fault, name, good))

    def _content(self, fault, name, good):
        as_json = json.dumps({"descriptions": good})
        contents = {
            "malformed": '{"descriptions": ["a black coat", "a wh',
            "prose": "Here you are: it has a black coat and white paws.",
            "few": json.dumps({"descriptions": good[:2]}),
            "leak": json.dumps({"descriptions": [f"the ears of a {name}", *good[1:]]}),
            "nameless": json.dumps({"descriptions": ["It has a black coat all over.", *good[1:]]}),
            "long": json.dumps({"descriptions": ["a " + "very " * 30 + "long tail", *good[1:]]}),
            "repeat": json.dumps({"descriptions": [good[1].upper(), *good[1:]]}),
            "fenced": f"<think>[1] what does it look like?</think>\nSure:\n```json\n{as_json}\n```",
            "half emoji": json.dumps({"descriptions": [f"{good[0]} \ud83d", *good[1:]]}),
            "list": json.dumps(good),
            "listed": json.dumps({"descriptions": [f"{i}. has {text}." for i, text in enumerate(good, 1)]}),
            "echo content": json.dumps({"descriptions": [f"a label with {self.headers['Authorization']}", *good[1:]]}),
        }
        return contents.get(fault, as_json)

    def _completion(self, content, **more):
        message = {"role": "assistant", "content": content, **more}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        self._json(200, {"id": "x", "object": "chat.completion", "created": 0, "model": "made-up", "choices": [choice]})

    def _keyed(self):
        key = self.server.options.key
        if key and self.headers["Authorization"] != f"Bearer {key}":
            self._json(401, {"error": {"message": f"Incorrect API key provided: {self.headers['Authorization']}"}})
        return not key or self.headers["Authorization"] == f"Bearer {key}"

    def _json(self, status, content, headers=()):
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json", **dict(headers)})

    def _send(self, status, body, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, options):
        super().__init__(("127.0.0.1", options.port), Handler)
        self.options = options
        self.plan = {name: list(faults) for name, faults in json.loads(options.plan).items()}
        self.lock = threading.Lock()

    def next_fault(self, name):
        with self.lock:
            faults = self.plan.get(name, [])
            if not faults:
                return "none"
            return faults[0][:-1] if faults[0].endswith("!") else faults.pop(0)

    def note(self, name, fault, formatted, messages, authorization):
        if not self.options.log:
            return
        entry = {"class": name, "fault": fault, "formatted": formatted, "time": time.monotonic()}
        entry |= {"messages": messages, "authorization": authorization}
        with self.lock, open(self.options.log, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


class Running:
    """A server in its own process."""

    def __init__(self, process, log):
        self._process, self._log = process, log
        self.port = int(process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def log(self, name=None):
        lines = self._log.read_text(encoding="utf-8").splitlines() if self._log.exists() else []
        return [entry for entry in map(json.loads, lines) if name in (None, entry["class"])]

    def stop(self):
        self._process.kill()
        self._process.wait()


def serving(folder):
    """Yield a function that starts a server, which keeps its log in the folder; all are stopped in the end."""
    with contextlib.ExitStack() as stack:

        def start(plan=None, **options):
            log = folder / f"log{time.monotonic_ns()}"
            words = [str(word) for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
            command = [sys.executable, __file__, "--log", str(log), "--plan", json.dumps(plan or {}), *words]
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            running = Running(process, log)
            stack.callback(running.stop)
            return running

        yield start


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log")
    parser.add_argument("--delay", type=float, default=0)
    parser.add_argument("--plan", default="{}")
    parser.add_argument("--no-format", type=int, metavar="STATUS", help="reject response_format with this status")
    parser.add_argument("--key", help="refuse all other keys")
    server = Server(parser.parse_args())
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
