"""The adapter to rollout servers against a fake one that speaks SGLang's API and samples from a known distribution."""

import http.server
import json
import threading

import jax
import numpy as np
import pytest

from entjax.decoding import greedy
from entjax.sampler import Sampling
from entjax.sampler.server import ServerError, server_sampler

EOS = 2
LOGP = {5: -0.5, 6: -1.5, EOS: -2.25}


class Fake(http.server.BaseHTTPRequestHandler):
    """Answers the sum of the prompt's tokens modulo 4 times token 5 or 6 by the seed, then EOS if there is room."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, body))
        status, answer = self.server.misbehave or (200, self.answer(body))
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def answer(self, body):
        if self.path == "/update_weights_from_disk":
            good = body["model_path"] == "good"
            return {"success": good, "message": "" if good else "no such folder"}
        how = body["sampling_params"]
        out = [5 + how["sampling_seed"] % 2] * (sum(body["input_ids"]) % 4) + [EOS]
        ended = len(out) <= how["max_new_tokens"]
        out = out[: how["max_new_tokens"]]
        return {
            "text": "never read",
            "meta_info": {"output_token_logprobs": [[LOGP[t], t, None] for t in out],
                          "finish_reason": {"type": "stop" if ended else "length"}},
        }  # fmt: skip

    def log_message(self, *words):
        pass


@pytest.fixture
def servers():
    """Two fakes on free ports."""
    running = []
    for _ in range(2):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Fake)
        server.seen, server.misbehave = [], None
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
    yield running
    for server in running:
        server.shutdown()
        server.server_close()


def sampler(servers, **how):
    return server_sampler([f"http://127.0.0.1:{s.server_port}/" for s in servers], stop_ids=[EOS], **how)


PROMPTS = [[1, 2, 4], [9], [1, 1]]  # 3, 1 and 2 tokens before EOS


def test_completions_are_what_the_servers_sampled(servers):
    out = sampler(servers, pad_id=7).generate(
        PROMPTS, Sampling(max_new_tokens=3), key=jax.random.key(0), samples=2, prompt_ids=[4, 0, 9]
    )
    assert out.group.tolist() == [4, 4, 0, 0, 9, 9] and out.prompt_length.tolist() == [3, 3, 1, 1, 2, 2]
    assert out.length.tolist() == [6, 6, 3, 3, 5, 5]
    assert out.finished.tolist() == [False, False, True, True, True, True]
    for row in range(6):
        tokens = out.completion(row)
        assert out.mask[row].sum() == len(tokens) and set(tokens) <= {5, 6, EOS}
        np.testing.assert_array_equal(out.logp[row][out.mask[row]], np.float32([LOGP[t] for t in tokens]))
        assert out.tokens[row, : out.prompt_length[row]].tolist() == PROMPTS[row // 2]
        assert (out.tokens[row, out.length[row] :] == 7).all() and not out.logp[row][~out.mask[row]].any()


def test_requests_are_dealt_out_and_carry_everything(servers):
    how = Sampling(max_new_tokens=3, temperature=0.7, stop_ids=[11])
    sampler(servers).generate(PROMPTS, how, key=jax.random.key(0), samples=2)
    assert [len(s.seen) for s in servers] == [3, 3]
    path, body = servers[0].seen[0]
    assert path == "/generate" and body["return_logprob"] is True
    wanted = {"max_new_tokens": 3, "temperature": 0.7, "top_p": 1.0, "top_k": -1, "stop_token_ids": [EOS, 11]}
    assert wanted.items() <= body["sampling_params"].items()
    seeds = {b["sampling_params"]["sampling_seed"] for s in servers for _, b in s.seen}
    assert len(seeds) == 6


def test_a_sequence_depends_on_its_name_and_not_on_its_place(servers):
    """The seeds of the same (step, prompt id, sample) are equal in another order, and others at another step."""

    def seeds(step, ids):
        before = [len(s.seen) for s in servers]
        sampler(servers[:1]).generate(
            [[i] for i in ids], Sampling(max_new_tokens=2), key=jax.random.key(3), step=step, prompt_ids=ids
        )
        return {
            b["input_ids"][0]: b["sampling_params"]["sampling_seed"] for _, b in servers[0].seen[before[0] :]
        }

    assert seeds(1, [4, 5, 6]) == seeds(1, [6, 4, 5]) != seeds(2, [4, 5, 6])


def test_weights_are_loaded_everywhere_or_refused(servers):
    sampler(servers).load("good")
    assert [s.seen[-1] for s in servers] == [("/update_weights_from_disk", {"model_path": "good"})] * 2
    with pytest.raises(ServerError, match="did not load bad: no such folder"):
        sampler(servers).load("bad")
    servers[0].misbehave = (404, {"detail": "Not Found"})  # what sglang-jax answers
    with pytest.raises(ServerError, match=r"answered 404.*start it again with the new folder"):
        sampler(servers).load("good")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((500, {"error": "out of memory"}), "answered 500: .*out of memory"),
        ((400, {"error": {"message": "input is too long"}}), "answered 400: .*input is too long"),
        ((200, {"text": "hello"}), "left out log-probs"),
        (
            (200, {"meta_info": {"output_token_logprobs": [], "finish_reason": {"type": "abort"}}}),
            "ended a sequence with 'abort'",
        ),
    ],
)
def test_servers_that_misbehave(servers, answer, message):
    servers[1].misbehave = answer
    with pytest.raises(ServerError, match=message):
        sampler(servers).generate(PROMPTS, Sampling(max_new_tokens=3), key=jax.random.key(0))


def test_what_cannot_travel_is_refused(servers):
    with pytest.raises(ValueError, match="leave out rules"):
        sampler(servers).generate(PROMPTS, Sampling(rules=greedy()), key=jax.random.key(0))
    with pytest.raises(ValueError, match="http://host"):
        server_sampler(["host:30000"], stop_ids=[EOS])
    with pytest.raises(ServerError, match="cannot be used"):
        server_sampler(["http://127.0.0.1:9"], stop_ids=[EOS]).load("good")
