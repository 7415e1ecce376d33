"""Judges behind a URL, against a server that speaks the protocol and is no model (`Fake`): what is asked, how often."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from stage_gang import Case, alone, gang
from tiny import tiny_policy

from rlhf_api.stages.judges import JudgeUrl
from rlhf_trainer.evaluation.asked import digit, letter
from rlhf_trainer.evaluation.remote import MOST_BYTES, TRIES, Remote, Unanswered, Usage, parsed
from rlhf_trainer.exits import InputError

PROMPTS = 40  # two shards


class Fake(ThreadingHTTPServer):
    """Prefers the longer answer, and by place where both are as long; rates by length."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.tokens, self.script, self.broken_after = [], [], [], None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def base(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def say(self, text):
        if "# Answer A" not in text:
            return str(1 + len(text.split("# Answer\n")[1].split("\n\n# Task")[0]) % 8)
        first = text.split("# Answer A\n")[1].split("\n\n# Answer B\n")[0]
        second = text.split("# Answer B\n")[1].split("\n\n# Task")[0]
        return "A" if len(first) >= len(second) else "B."


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server = self.server
        if server.broken_after is not None and len(server.asked) >= server.broken_after:
            return self.answer(401, b"gone")
        if server.script:
            return self.answer(*server.script.pop(0))
        server.asked.append(body)
        server.tokens.append(self.headers.get("Authorization"))
        assert self.path == "/v1/chat/completions"
        text = server.say(json.loads(body)["messages"][0]["content"])
        message = {"choices": [{"message": {"role": "assistant", "content": text}}]}
        return self.answer(200, json.dumps({**message, "usage": {"prompt_tokens": 7, "completion_tokens": 1}}).encode())

    def answer(self, status, content, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    fake = Fake()
    yield fake
    fake.shutdown()
    fake.server_close()


def remote(server, folder, **fields):
    where = JudgeUrl.model_validate({"base": server.base, "model": "m", "maxRequestsPerMinute": 6000, **fields})
    waits = []
    return Remote(where, folder, clock=lambda: 0.0, sleep=waits.append), waits


def test_a_question_is_asked_once_and_counted(server, tmp_path):
    judge, _ = remote(server, tmp_path)
    text = "# Answer A\nlong\n\n# Answer B\nx\n\n# Task\nSay."
    assert judge.reply(text) == judge.reply(text) == remote(server, tmp_path)[0].reply(text) == "A"
    assert len(server.asked) == 1 and judge.usage == Usage(2, 14, 2)
    request = json.loads(server.asked[0])
    assert (request["model"], request["temperature"]) == ("m", 0) and server.tokens == [None]


def test_the_token_comes_from_the_environment(server, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="JUDGE_API_KEY is not set"):
        remote(server, tmp_path, tokenKey="JUDGE_API_KEY")
    monkeypatch.setenv("JUDGE_API_KEY", "secret")
    judge, _ = remote(server, tmp_path, tokenKey="JUDGE_API_KEY")
    judge.reply("# Answer\na\n\n# Task\n")
    assert server.tokens == ["Bearer secret"]
    assert all(b"secret" not in path.read_bytes() for path in tmp_path.rglob("*.json"))


def test_a_busy_server_is_asked_again_later(server, tmp_path):
    server.script = [(429, b"", (("Retry-After", "9"),)), (503, b""), (500, b"")]
    judge, waits = remote(server, tmp_path)
    assert judge.reply("# Answer\na\n\n# Task\n") == "2"
    assert [wait for wait in waits if wait >= 1] == [9.0, 2.0, 4.0]


def test_a_server_that_never_answers_fails_so_that_trying_again_may_help(server, tmp_path):
    server.script = [(502, b"")] * TRIES
    judge, waits = remote(server, tmp_path)
    with pytest.raises(Unanswered, match=rf"{TRIES} tries; the last ended with status 502"):
        judge.reply("# Answer\na\n\n# Task\n")
    assert max(waits) == 60.0 and not list(tmp_path.rglob("*.json"))
    server.server_close()
    server.shutdown()
    with pytest.raises(Unanswered, match="ConnectError"):
        remote(server, tmp_path)[0].reply("again")


@pytest.mark.parametrize(
    ("status", "content", "words"),
    [
        (401, b"who are you", "status 401.*who are you"),
        (302, b"", "status 302"),
        (200, b"<html>", "expected a chat completion"),
        (200, b'{"choices": []}', "expected a chat completion"),
        (200, b"x" * (MOST_BYTES + 1), "above"),
    ],
)
def test_what_is_no_completion_is_refused(server, tmp_path, status, content, words):
    server.script = [(status, content)]
    with pytest.raises(InputError, match=words):
        remote(server, tmp_path)[0].reply("a")


def test_requests_keep_below_the_rate(server, tmp_path):
    judge, _ = remote(server, tmp_path, maxRequestsPerMinute=30)
    now, starts = [0.0], []
    judge.clock, judge.sleep = lambda: now[0], lambda seconds: now.__setitem__(0, now[0] + seconds)
    post = judge._post
    judge._post = lambda body: (starts.append(now[0]), post(body))[1]
    for number in range(4):
        judge.reply(f"# Answer\n{number}\n\n# Task\n")
    assert starts == [0.0, 2.0, 4.0, 6.0]


def test_replies_are_read_at_their_start():
    assert [letter(text) for text in ("A", " b.", "**A**", "(B) is", "Answer A", "Both", "I say A", "")] == [
        *(True, False, True, False, True, None, None, None)
    ]
    assert [digit(text) for text in ("7", "8/8", "(3)", "9", "12", "4.5", "seven", "")] == [7, 8, 3, *[None] * 5]
    counts = {"prompt_tokens": -1, "completion_tokens": "many"}
    message = {"choices": [{"message": {"content": None}}], "usage": counts}
    assert parsed(json.dumps(message).encode()) == {"text": "", "prompt_tokens": 0, "completion_tokens": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("urls")
    for seed, name in enumerate(("sft", "ppo"), 1):
        tiny_policy(root / name, seed=seed)
    rows = [{"prompt": f"How do I stop a fire {index}?"} for index in range(PROMPTS)]
    (root / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def case(folder, storage, server):
    url = {"base": server.base, "model": "m", "maxRequestsPerMinute": 1000000}
    spec = {
        "candidates": [{"stage": "ppo"}],
        "baseline": {"stage": "sft"},
        "prompts": [{"input": "prompts"}],
        "generation": {"maxNewTokens": 6},
        "resamples": 200,
        "judges": [{"name": "far", "asks": "pairs", "url": url}, {"name": "grade", "asks": "scale", "url": url}],
    }
    inputs = {f"stage:{name}": str(folder / name) for name in ("sft", "ppo")}
    inputs["input:prompts"] = str(folder / "prompts.jsonl")
    storage.mkdir()
    return Case(storage=str(storage), type="evaluate", spec=spec, inputs=inputs)


def test_the_stage_asks_each_question_once_though_it_was_killed_or_has_two_ranks(folder, server):
    done, broken, both = (case(folder, folder / name, server) for name in ("done", "broken", "both"))
    alone(done)
    evaluation = json.loads((done.product / "evaluation.json").read_text())
    samples = [json.loads(line) for line in (done.product / "samples.jsonl").read_text().splitlines()]
    far, grade = evaluation["further_judges"]
    lengths = {(row["model"], row["prompt"]): len(row["answer"]) for row in samples}
    texts = {(row["model"], row["prompt"]): row["answer"] for row in samples}
    won = [
        0.5 + 0.5 * ((lengths["ppo", index] > lengths["sft", index]) - (lengths["ppo", index] < lengths["sft", index]))
        for index in range(PROMPTS)
    ]
    (_, ppo) = evaluation["models"]
    assert ppo["metrics"]["judge.far.win_rate"]["value"] == pytest.approx(sum(won) / PROMPTS)
    rated = [1 + lengths["ppo", index] % 8 for index in range(PROMPTS)]
    assert ppo["metrics"]["judge.grade.score"]["value"] == pytest.approx(sum(rated) / PROMPTS)
    different = sum(texts["sft", index] != texts["ppo", index] for index in range(PROMPTS))
    assert far["requests"] == 2 * different and far["prompt_tokens"] == 14 * different and far["label_mass"] is None
    assert grade["requests"] == 2 * PROMPTS and far["source"] == f"url:{server.base} m"
    asked = sorted(server.asked)
    assert len(asked) == len(set(asked))

    server.asked, server.broken_after = [], 30
    with pytest.raises(InputError, match="401"):
        alone(broken)
    server.broken_after = None
    alone(broken)
    assert sorted(server.asked) == asked  # none twice, none missing

    server.asked = []
    gang(2, [both], folder)
    assert sorted(server.asked) == asked
    for finished in (broken, both):
        for name in ("evaluation.json", "samples.jsonl"):
            assert (finished.product / name).read_bytes() == (done.product / name).read_bytes()
