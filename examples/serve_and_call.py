"""Start a server, ask it, stop it. The client needs nothing but the standard library."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 8765
URL = f"http://127.0.0.1:{PORT}"


def post(path: str, body: object) -> dict:
    """One request; its answer."""
    request = urllib.request.Request(URL + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def wait_until_ready(server: subprocess.Popen) -> None:
    """Return when the server takes requests."""
    while server.poll() is None:
        try:
            urllib.request.urlopen(URL + "/ready", timeout=5)
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    raise SystemExit("the server ended")


server = subprocess.Popen([sys.executable, "-m", "openglm", "serve", "--port", str(PORT)])
try:
    wait_until_ready(server)
    print(json.dumps(post("/v1/fill", {"text": "The capital of France is [MASK]."}), ensure_ascii=False)[:300])
    # Insertion as OpenAI's clients ask for it.
    body = {"model": "default", "prompt": "北京是中国的", "suffix": "。", "max_tokens": 8}
    print(post("/v1/completions", body)["choices"][0]["text"])
finally:
    server.terminate()  # running requests finish
    server.wait()
