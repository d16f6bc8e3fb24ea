"""Rollouts from servers instead of our own sampler: SGLang's /generate, with the same Completions coming back.

    sample = server_sampler(["http://host:30000"], stop_ids=[2], pad_id=0)
    sample.load("/shared/step-100")                      # a Hugging Face folder that the servers can read
    completions = sample.generate(prompts, how, key=key, step=100, samples=8)

Contract: token ids go out and come back, never text; every sampled token has the log-prob that the server sampled it with; a
completion ends with its stop token, or was cut by max_new_tokens (`finished` tells). Servers do not report the entropy of the
whole distribution: `entropy` is 0 here and comes from the scoring pass. Decoding rules cannot travel and are refused.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from entjax.sampler.generate import check_ids
from entjax.sampler.keys import sequence_keys
from entjax.sampler.sampling import Sampling
from entjax.sampler.state import Completions

RELOAD = "/update_weights_from_disk"
NO_RELOAD = (
    " This server cannot change its weights over HTTP (SGLang's TPU port, sglang-jax, could not when this was written): start it "
    "again with the new folder as its model."
)


class ServerError(RuntimeError):
    """A server did not do what was asked; the message says which and what it answered."""


class ServerSampler(NamedTuple):
    """Servers with the same weights; sequences are dealt out among them in turn."""

    urls: tuple[str, ...]
    stop_ids: tuple[int, ...]
    pad_id: int
    seconds: float
    at_once: int

    def load(self, folder: str) -> None:
        """Every server takes the weights of a folder; no generation may be under way."""
        answers = self._to_all(RELOAD, {"model_path": str(folder)})
        for url, answer in zip(self.urls, answers, strict=True):
            if not answer.get("success"):
                raise ServerError(f"{url} did not load {folder}: {answer.get('message', answer)}.")

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        how: Sampling,
        *,
        key: Any,
        step: int = 0,
        samples: int = 1,
        prompt_ids: Sequence[int] | None = None,
    ) -> Completions:
        """Completions as `Sampler.generate` gives them, the samples of a prompt next to each other."""
        if how.rules is not None or how.stop_strings:
            raise ValueError(
                "A server samples from the policy itself and stops at token ids: leave out rules and stop_strings."
            )
        ids = check_ids(prompts, prompt_ids)
        source = np.repeat(np.arange(len(prompts)), samples)
        seeds = self._seeds(key, step, ids[source], np.tile(np.arange(samples), len(prompts)))
        temperature = np.broadcast_to(np.asarray(how.temperature, np.float64), len(source))
        requests = [
            self._request(prompts[p], how, float(t), int(seed))
            for p, t, seed in zip(source, temperature, seeds, strict=True)
        ]
        with ThreadPoolExecutor(self.at_once) as pool:
            urls = [self.urls[i % len(self.urls)] for i in range(len(requests))]
            answers = list(pool.map(lambda url, body: self._post(url, "/generate", body), urls, requests))
        rows = [_read(url, answer) for url, answer in zip(urls, answers, strict=True)]
        return self._completions([list(prompts[p]) for p in source], rows, ids[source], how.max_new_tokens)

    def _request(self, prompt: Sequence[int], how: Sampling, temperature: float, seed: int) -> dict[str, Any]:
        stop = list(dict.fromkeys([*self.stop_ids, *how.stop_ids]))
        sampling = {"max_new_tokens": how.max_new_tokens, "temperature": temperature, "top_p": 1.0, "top_k": -1,
                    "stop_token_ids": stop, "no_stop_trim": True, "sampling_seed": seed}  # fmt: skip
        return {"input_ids": list(map(int, prompt)), "sampling_params": sampling, "return_logprob": True}

    def _seeds(self, key: Any, step: int, prompt: np.ndarray, sample: np.ndarray) -> np.ndarray:
        """One number per (step, prompt id, sample), from the same keys as our own sampler's."""
        keys = sequence_keys(key, np.int32(step), prompt.astype(np.int32), sample.astype(np.int32))
        return np.asarray(jax.random.key_data(keys))[..., -1] % (2**31)

    def _completions(self, prompts: list, rows: list, group: np.ndarray, new: int) -> Completions:
        count, width = len(rows), max(map(len, prompts)) + new
        tokens = np.full((count, width), self.pad_id, np.int32)
        mask, logp = np.zeros((count, width), bool), np.zeros((count, width), np.float32)
        length = np.asarray([len(p) for p in prompts], np.int32)
        start = length.copy()
        for i, (prompt, (out, logps, _)) in enumerate(zip(prompts, rows, strict=True)):
            at = slice(len(prompt), len(prompt) + len(out))
            tokens[i, : len(prompt)], tokens[i, at], mask[i, at], logp[i, at] = prompt, out, True, logps
            length[i] += len(out)
        none = np.zeros((count, width), np.float32)
        finished = np.asarray([done for _, _, done in rows])
        return Completions(
            tokens,
            mask,
            logp,
            none,
            logp.copy(),
            none.copy(),
            start,
            length,
            finished,
            group.astype(np.int32),
        )

    def _to_all(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(len(self.urls)) as pool:
            return list(pool.map(lambda url: self._post(url, path, body), self.urls))

    def _post(self, url: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=self.seconds) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            said = error.read()[:300].decode(errors="replace")
            advice = NO_RELOAD if error.code == 404 and path == RELOAD else ""
            raise ServerError(f"{url}{path} answered {error.code}: {said}{advice}") from error
        except (OSError, json.JSONDecodeError) as error:
            raise ServerError(f"{url}{path} cannot be used: {error}") from error


def _read(url: str, answer: dict[str, Any]) -> tuple[list[int], list[float], bool]:
    """(tokens, log-probs, ended by a stop token) of one answer."""
    try:
        meta = answer["meta_info"]
        pairs = [(int(token), float(logp)) for logp, token, *_ in meta["output_token_logprobs"]]
        reason = meta["finish_reason"]["type"]
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(
            f"{url}/generate left out log-probs or the reason of its end: {str(answer)[:300]}"
        ) from error
    if reason not in ("stop", "length"):
        raise ServerError(
            f"{url}/generate ended a sequence with '{reason}', not at a stop token or the limit."
        )
    return [token for token, _ in pairs], [logp for _, logp in pairs], reason == "stop"


def server_sampler(
    urls: Sequence[str],
    *,
    stop_ids: Sequence[int],
    pad_id: int = 0,
    seconds: float = 3600.0,
    at_once: int = 256,
) -> ServerSampler:
    """Servers by their addresses; `at_once` requests are under way at a time, each for at most `seconds`."""
    bad = [url for url in urls if not url.startswith(("http://", "https://"))]
    if bad or not urls:
        raise ValueError(f"server_sampler needs addresses such as http://host:30000, got {list(urls)}.")
    if not stop_ids or at_once < 1 or seconds <= 0:
        raise ValueError(
            f"stop_ids={list(stop_ids)}, at_once={at_once} and seconds={seconds}: none may be empty or zero."
        )
    return ServerSampler(
        tuple(url.rstrip("/") for url in urls), tuple(map(int, stop_ids)), pad_id, seconds, at_once
    )
