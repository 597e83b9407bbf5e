"""The client of an OpenAI-compatible endpoint against a server on this machine: failures, a resumed run, and the secrecy of the key."""

import base64
import io
import json
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from PIL import Image

from fashiongen.errors import UserError
from fashiongen.preference import preference_text
from fashiongen.providers import Blank, Endpoint, History, ModelAugmentation, ModelCaptions, ModelImageJudge, ModelJudge, ModelPreferences

KEY = "sk-very-secret-0123456789"
RED = {"Color": "red", "Material": "cotton", "Design features": "solid", "Clothing Fashion Style": "casual"}
BLUE = RED | {"Color": "blue"}
IMAGES = [torch.full((3, 4, 5), value, dtype=torch.uint8) for value in (10, 20, 30)]
OUTFIT = Blank(id="u1/o1", category="skirt", given=(preference_text(RED),), preference=preference_text(BLUE))


class Server:
    """Answers by `reply`: a text, a status, bytes as they are, seconds of silence, or headers of a redirect."""

    def __init__(self):
        self.requests, self.reply, lock = [], lambda body, number: json.dumps(RED), threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler):
                raw = handler.rfile.read(int(handler.headers["Content-Length"]))
                with lock:
                    self.requests.append((handler.path, dict(handler.headers), json.loads(raw)))
                    number = len(self.requests)
                reply = self.reply(json.loads(raw), number)
                status, headers, content = 200, {}, reply
                if isinstance(reply, float):
                    time.sleep(reply)
                    content = b""
                elif isinstance(reply, tuple):
                    status, headers, content = reply
                elif isinstance(reply, str):
                    content = json.dumps({"choices": [{"message": {"content": reply}}]}).encode()
                try:
                    handler.send_response(status)
                    for name, value in headers.items():
                        handler.send_header(name, value)
                    handler.send_header("Content-Length", str(len(content)))
                    handler.end_headers()
                    handler.wfile.write(content)
                except OSError:
                    pass  # the client has given up

            do_GET = do_POST

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def prompts(self):
        return [body["messages"][0]["content"] for _, _, body in self.requests]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("MY_KEY", KEY)
    served = Server()
    yield served
    served.server.shutdown()
    served.server.server_close()


def endpoint(server, **options):
    return Endpoint(server.url, "some-model", "MY_KEY", **({"backoff": 0.01, "retries": 2, "timeout": 5.0} | options))


def test_all_jobs_ask_and_read(server):
    model = endpoint(server)
    assert ModelCaptions(model).describe(["a"], IMAGES[:1]) == [preference_text(RED)]
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}" and body["model"] == "some-model"
    image, text = body["messages"][0]["content"]
    sent = Image.open(io.BytesIO(base64.b64decode(image["image_url"]["url"].removeprefix("data:image/png;base64,"))))
    assert sent.size == (5, 4) and sent.getpixel((0, 0)) == (10, 10, 10)
    assert all(name in text["text"] for name in RED)

    assert ModelPreferences(model).prefer([History(user="u", category="skirt", captions=("c1", "c2"))]) == [preference_text(RED)]
    assert "c1" in server.prompts()[-1] and "skirt" in server.prompts()[-1]

    server.reply = lambda body, number: f"```json\n{json.dumps([RED, BLUE, RED])}\n```"
    assert ModelAugmentation(model).augment([OUTFIT], 2) == [[preference_text(RED), preference_text(BLUE)]]
    assert all(part in server.prompts()[-1] for part in ("skirt", *OUTFIT.given, OUTFIT.preference))

    server.reply = lambda body, number: "Score: 8/10"
    scores = ModelJudge(model).judge([preference_text(BLUE)] * 2, [OUTFIT, Blank(id="empty", category="skirt")])
    assert scores[0] == 8 and scores[1] != scores[1]  # nothing given: undefined, and not asked
    assert preference_text(BLUE) in server.prompts()[-1]
    assert ModelImageJudge(model).judge_images(["a/0"], IMAGES[:1], ["skirt"]) == [8]


@pytest.mark.parametrize(
    "failure",
    [
        (429, {"Retry-After": "0"}, b"slow down"),
        (500, {}, b"oops"),
        b"<html>",
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": null}}]}',
        b"[" * 5000,
        0.6,
    ],
    ids=str,
)
def test_passing_failures_are_tried_again(server, failure):
    server.reply = lambda body, number: failure if number <= 2 else json.dumps(RED)
    assert ModelCaptions(endpoint(server, timeout=0.3)).describe(["a"], IMAGES[:1]) == [preference_text(RED)]
    assert len(server.requests) == 3


def test_lasting_failures_end_in_one_line(server):
    server.reply = lambda body, number: (503, {}, b"busy\n\nnow")
    with pytest.raises(UserError, match=r"asked about a: 3 tries failed, the last with: status 503 \(busy now\); run again") as caught:
        ModelCaptions(endpoint(server)).describe(["a"], IMAGES[:1])
    assert "\n" not in str(caught.value) and len(server.requests) == 3
    closed = Endpoint("http://127.0.0.1:1/v1", "m", retries=1, backoff=0.01)
    with pytest.raises(UserError, match=r"127.0.0.1:1/v1.*asked about x/c: 2 tries failed, the last with: .*refused"):
        ModelPreferences(closed).prefer([History(user="x", category="c", captions=("c",))])


def test_waits_grow_and_obey_the_server(server, monkeypatch):
    waits = []
    monkeypatch.setattr(threading.Event, "wait", lambda self, seconds=None: waits.append(seconds) if seconds else True)
    retry = iter([(500, {}, b""), (429, {"Retry-After": "7"}, b""), (429, {"Retry-After": "9999"}, b""), (500, {}, b"")])
    server.reply = lambda body, number: next(retry, json.dumps(RED))
    model = endpoint(server, backoff=1.0, retries=4, workers=1)
    request = urllib.request.Request(server.url, data=b"{}", method="POST")
    assert json.loads(model._send(request, "a", None, threading.Event())) == RED
    assert [wait for wait in waits if wait] == [1.0, 7.0, 60.0, 8.0]


def test_refusals_are_told_at_once_without_the_key(server):
    server.reply = lambda body, number: (401, {}, f"invalid key {KEY}".encode())
    with pytest.raises(UserError, match=r"refused with status 401 \(invalid key \*\*\*\): check the URL, the model and the key"):
        ModelCaptions(endpoint(server, workers=1)).describe(["a"], IMAGES[:1])
    assert len(server.requests) == 1


def test_a_redirect_does_not_carry_the_key_away(server):
    other = Server()
    server.reply = lambda body, number: (302, {"Location": f"{other.url}/chat/completions"}, b"")
    with pytest.raises(UserError, match="refused with status 302"):
        ModelCaptions(endpoint(server)).describe(["a"], IMAGES[:1])
    assert other.requests == []
    other.server.shutdown()
    other.server.server_close()


def test_bad_answers_are_asked_for_again_and_then_told(server, tmp_path):
    server.reply = lambda body, number: "I cannot" if number == 1 else json.dumps(RED)
    assert ModelCaptions(endpoint(server)).describe(["a"], IMAGES[:1]) == [preference_text(RED)]
    first, second = (body for _, _, body in server.requests)
    assert first["temperature"] == 0 and second["temperature"] > 0 and second["seed"] == 1  # or it would answer the same

    server.requests.clear()
    bad = {"image a": "I\ncannot"}
    server.reply = lambda body, number: (
        next(iter(bad.values())) if "AAoKC" not in json.dumps(body) and number % 2 else json.dumps({"Color": "red"})
    )
    with pytest.raises(
        UserError, match=r"caption of a \(and 2 more\): 2 answers of some-model .* have not the four attributes Color, .*"
    ) as caught:
        ModelCaptions(endpoint(server), attempts=2, cache=tmp_path / "c.jsonl").describe(["a", "b", "c"], IMAGES)
    assert "\n" not in str(caught.value) and len(server.requests) == 6
    assert not (tmp_path / "c.jsonl").exists()  # bad answers are not cached


def test_a_vocabulary_binds_a_model_that_cannot_choose(server):
    vocabulary = {name: [value, "Other"] for name, value in RED.items()}
    server.reply = lambda body, number: json.dumps(BLUE if number == 1 else RED | {"Color": "RED"})
    assert ModelCaptions(endpoint(server), vocabulary=vocabulary).describe(["a"], IMAGES[:1]) == [preference_text(RED)]
    assert len(server.requests) == 2 and "Color: red, Other" in json.dumps(server.prompts()[0])
    with pytest.raises(UserError, match="vocabulary: has no values for Material"):
        ModelCaptions(endpoint(server), vocabulary=vocabulary | {"Material": []})


def test_a_killed_run_goes_on(server, tmp_path):
    cache = tmp_path / "new" / "answers.jsonl"
    server.reply = lambda body, number: json.dumps(RED) if number < 3 else (400, {}, b"stop")
    with pytest.raises(UserError, match="status 400"):
        ModelCaptions(endpoint(server, workers=1), cache=cache).describe(["a", "b", "c"], IMAGES)
    lines = cache.read_text().splitlines()
    assert len(lines) == 2 and [json.loads(line)["id"] for line in lines] == ["a", "b"]
    cache.write_text(cache.read_text() + lines[0][:20])  # a kill in the middle of a line

    server.requests.clear()
    server.reply = lambda body, number: json.dumps(BLUE)
    found = ModelCaptions(endpoint(server), cache=cache).describe(["a", "b", "c"], IMAGES)
    assert found == [preference_text(RED), preference_text(RED), preference_text(BLUE)] and len(server.requests) == 1
    assert ModelCaptions(endpoint(server), cache=cache).describe(["c", "a"], [IMAGES[2], IMAGES[0]]) == [found[2], found[0]]
    assert len(server.requests) == 1
    for changed in (endpoint(server, temperature=0.1), Endpoint(server.url, "other", "MY_KEY")):  # another model's answers are not its own
        ModelCaptions(changed, cache=cache).describe(["a"], IMAGES[:1])
    ModelCaptions(endpoint(server), cache=cache).describe(["a"], [IMAGES[0] + 1])  # nor are those about another image
    assert len(server.requests) == 4
    assert KEY not in cache.read_text() and "MY_KEY" not in cache.read_text()


def test_equal_questions_are_asked_once(server):
    assert len(set(ModelCaptions(endpoint(server)).describe(["a", "b", "c"], [IMAGES[0]] * 3))) == 1
    assert len(server.requests) == 1


def test_the_key_stays_in_the_header(server, tmp_path, capfd, caplog):
    server.reply = lambda body, number: json.dumps(RED | {"Material": KEY})  # an echo
    model, cache = endpoint(server), tmp_path / "answers.jsonl"
    captions = ModelCaptions(model, cache=cache).describe(["a"], IMAGES[:1])
    shown = [*captions, cache.read_text(), repr(model), str(vars(model)), model.identity, caplog.text, *capfd.readouterr()]
    assert not any(KEY in text for text in shown)
    assert KEY not in json.dumps([body for _, _, body in server.requests])


@pytest.mark.parametrize(
    ("value", "told"), [("", "MY_KEY is empty: set it"), ("sk-\u00e9secret", "no header can hold"), ("sk\nsecret", "no header")]
)
def test_an_unusable_key_is_told_without_it(server, monkeypatch, value, told):
    monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(UserError, match=told) as caught:
        ModelCaptions(endpoint(server)).describe(["a"], IMAGES[:1])
    assert server.requests == [] and "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "localhost:8000", "ftp://host/v1", "http://me:secret@host/v1", "http://host/v1?key=secret"]
)
def test_unsuitable_addresses_are_refused(url):
    with pytest.raises(UserError, match=r"^url") as caught:
        Endpoint(url, "model")
    assert "secret" not in str(caught.value)


def test_images_need_a_model_that_sees(server):
    with pytest.raises(UserError, match="sees no images"):
        ModelCaptions(endpoint(server, sees_images=False)).describe(["a"], IMAGES[:1])
    assert server.requests == []
