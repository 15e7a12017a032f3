"""A peer that speaks a vLLM server's protocol over real sockets, computes with transformers, and fails on request.

It stands for what a server may do wrong; what a server does right is tested against vLLM itself.
"""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import torch
from transformers import LlamaForCausalLM

Answer = tuple[int, dict[str, Any]]


class Peer:
    """Serves `directory` on a port of the loopback, until `kill`; `start` begins anew, with the weights of old."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.calls: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.port = 0
        self.most_at_once = 0
        self.ignores_reloads = False
        self.keeps_head = False
        self.on_generate: Callable[[int], Answer | None] = lambda count: None
        """Given how many generations were asked for: an error to answer, or None; may kill or wait."""
        self._at_once = 0
        self._lock = threading.Lock()
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def generations(self) -> int:
        return len(self.bodies)

    def start(self) -> None:
        self.label = "default"
        self.asleep = False
        self._model = _load(self.directory)
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), _handler(self))
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self._dead = False
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def kill(self) -> None:
        self._dead = True
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: dict[str, Any]) -> Answer | None:
        """The answer, or None: the connection breaks."""
        self.calls.append(path)
        if self._dead:
            return None
        if path == "/inference/v1/generate":
            return self._generate(body)
        if path == "/collective_rpc":
            self._reload(Path(body["kwargs"]["weights_path"]))
        elif path == "/update_weight_version":
            self.label = body["new_version"]
        elif path.startswith("/sleep"):
            self.asleep = True
        elif path.startswith("/wake_up?tags=kv_cache"):
            self.asleep = False
        known = {
            "/weight_info": {"weight_version": self.label},
            "/is_sleeping": {"is_sleeping": self.asleep},
            "/v1/models": {"data": [{"max_model_len": 256}]},
        }
        return 200, known.get(path, {"success": True})

    def _reload(self, directory: Path) -> None:
        if not self.ignores_reloads:
            head = self._model.lm_head.weight
            self._model = _load(directory)
            if self.keeps_head:
                self._model.lm_head.weight = head

    def _generate(self, body: dict[str, Any]) -> Answer | None:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if "prompt_logprobs" in body["sampling_params"]:
                return 200, {"prompt_logprobs": self._prompt_logprobs(body["token_ids"]), "choices": []}
            if "allowed_token_ids" not in body["sampling_params"]:
                self.bodies.append(body)
                if (told := self.on_generate(self.generations)) is not None:
                    return told
            if self._dead:
                return None
            choices = [self._choice(body, index) for index in range(body["sampling_params"]["n"])]
            return 200, {"choices": choices}
        finally:
            with self._lock:
                self._at_once -= 1

    @torch.no_grad()
    def _prompt_logprobs(self, tokens: list[int]) -> list[dict[str, Any] | None]:
        logprobs = self._model(input_ids=torch.tensor([tokens])).logits[0].log_softmax(-1)
        return [None, *({str(t): {"logprob": float(logprobs[i, t])}} for i, t in enumerate(tokens[1:]))]

    @torch.no_grad()
    def _choice(self, body: dict[str, Any], index: int) -> dict[str, Any]:
        sampling = body["sampling_params"]
        label = self.label
        random = torch.Generator().manual_seed(sampling["seed"] + index)
        tokens, content = list(body["token_ids"]), []
        while len(content) < sampling["max_tokens"] and tokens[-1] not in sampling.get("stop_token_ids", []):
            logits = self._model(input_ids=torch.tensor([tokens])).logits[0, -1]
            for token, bias in sampling.get("logit_bias", {}).items():
                logits[int(token)] += bias
            if allowed := sampling.get("allowed_token_ids"):
                logits = torch.full_like(logits, -torch.inf).index_copy(0, torch.tensor(allowed), logits[allowed])
            logprobs = (logits / sampling["temperature"]).log_softmax(-1)
            tokens.append(int(torch.multinomial(logprobs.exp(), 1, generator=random)))
            content.append({"token_id": tokens[-1], "logprob": float(logprobs[tokens[-1]])})
        ids = [entry["token_id"] for entry in content]
        return {
            "index": index,
            "token_ids": ids,
            "logprobs": {"content": content},
            "finish_reason": "stop" if ids[-1] in sampling.get("stop_token_ids", []) else "length",
            "weight_versions": [{"version": label, "start": 0, "end": len(ids)}],
        }


def _load(directory: Path) -> LlamaForCausalLM:
    return cast("LlamaForCausalLM", LlamaForCausalLM.from_pretrained(directory, local_files_only=True).eval())


def _handler(peer: Peer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
            answer = peer.answer(self.path, body)
            if answer is None:
                self.close_connection = True
                return
            status, told = answer
            content = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _serve  # noqa: N815

        def log_message(self, format: str, *args: object) -> None: ...

    return Handler
