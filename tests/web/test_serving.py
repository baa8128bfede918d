"""The engine with the real encoder, and the command that needs no running server."""

import asyncio
import base64
import io
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from conftest import PHOTOS
from crossalign.classifier import Classifier
from crossalign.errors import InputError
from crossalign.features.adaptive import Rounds
from crossalign.features.pipeline import encode_views
from crossalign.web.api import create_app
from crossalign.web.engine import LONGEST, Busy, Engine, Limits, Unavailable, encode_rounds
from crossalign.web.label_sets import CACHED_BYTES, Defaults, Question, size_of
from server import SCRIPT, wait_for

LABELS = ("cat", "cup of coffee", "rocket")


class Watched:
    """The real encoder, and what it was asked for."""

    def __init__(self, encoder):
        self._encoder = encoder
        self.batches, self.texts = [], []
        self.began, self.may_go = threading.Event(), threading.Event()
        self.may_go.set()
        self.broken = False

    def __getattr__(self, name):
        return getattr(self._encoder, name)

    def encode_images(self, pixels):
        self.began.set()
        self.may_go.wait(20)
        if self.broken:
            raise RuntimeError("out of memory")
        self.batches.append(len(pixels))
        return self._encoder.encode_images(pixels)

    def encode_texts(self, texts):
        self.texts.append(list(texts))
        return self._encoder.encode_texts(texts)


@pytest.fixture
def watched(builtin):
    return Watched(builtin)


@pytest.fixture
def engine(watched):
    engine = Engine(watched, Limits(seconds=60))
    yield engine
    watched.may_go.set()
    engine.close()


def opened(name):
    return name, open(PHOTOS / name, "rb")


def scores(engine, name, question):
    classify = engine.classifier(question)
    (features,) = engine.encode([opened(name)], classify)
    return classify.scores(features)


def test_clients_share_batches_and_get_what_each_would_alone(watched, monkeypatch):
    batches = []

    def counted(encoder, views):
        batches.append((len(views), len(views[0])))
        return encode_views(encoder, views)

    # Where there is no GPU the encoder says that it is one, and computes where it can.
    watched.device = torch.device("cuda")
    monkeypatch.setattr("crossalign.features.pipeline.GPU_PASS_VIEWS", 32)
    engine = Engine(watched)
    monkeypatch.setattr("crossalign.web.engine.encode_views", counted)
    names = ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png")
    questions = (
        Question.of(LABELS, views=3),
        Question.of(["dog", "astronaut"], views=3),
        Question.of(LABELS, method="clip"),
    )
    asked = [(name, question) for name in names for question in questions]
    alone = [scores(engine, name, question) for name, question in asked]
    assert {images for images, _ in batches} == {1}
    batches.clear()
    watched.began.clear()
    watched.may_go.clear()
    with ThreadPoolExecutor(len(asked)) as clients:
        together = [clients.submit(scores, engine, *asked[0])]
        assert watched.began.wait(20)
        together += [clients.submit(scores, engine, name, question) for name, question in asked[1:]]
        wait_for(lambda: len(engine._jobs) == len(asked) - 1)
        watched.may_go.set()
        for one, other in zip(alone, together, strict=True):
            torch.testing.assert_close(other.result(), one, atol=1e-5, rtol=0)
    engine.close()
    assert sum(images for images, _ in batches) == len(asked)
    assert len(batches) == 3, "the first alone, then all of four views and all of one, whoever sent them"
    assert max(images for images, _ in batches) >= 7


def test_on_a_cpu_answers_are_the_same_bit_for_bit_however_busy_it_is(engine):
    question = Question.of(LABELS, views=3)
    alone = [scores(engine, name, question) for name in ("chelsea.png", "coffee.png")]
    with ThreadPoolExecutor(6) as clients:
        together = list(clients.map(lambda name: scores(engine, name, question), ["chelsea.png", "coffee.png"] * 3))
    for one, other in zip(alone * 3, together, strict=True):
        assert torch.equal(one, other)


IMAGES = ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png", "page.png")


def test_adaptive_views_are_the_librarys_bit_for_bit_whoever_else_asks(engine, builtin):
    # Half of the adaptive ones are asked for twice, and among them some of a fixed number of views.
    asked = [(name, "adaptive") for name in (*IMAGES, *IMAGES[:3])] + [(name, 12) for name in IMAGES[:3]]

    def features(name, views):
        (encoded,) = engine.encode([opened(name)], engine.classifier(Question.of(LABELS, views=views)))
        return encoded

    with ThreadPoolExecutor(len(asked)) as clients:
        answers = list(clients.map(lambda one: features(*one), asked))
    library = {}
    for views in ("adaptive", 12):
        names = [name for name in IMAGES if (name, views) in asked]
        classify = Classifier(LABELS, encoder=builtin, views=views)
        encoded = classify.encode([PHOTOS / name for name in names])
        library |= {(name, views): theirs for name, (_, theirs) in zip(names, encoded, strict=True)}
    for one, ours in zip(asked, answers, strict=True):
        assert torch.equal(ours, library[one]), one
    counts = {len(ours) - 1 for (_, views), ours in zip(asked, answers, strict=True) if views == "adaptive"}
    assert len(counts) > 1
    assert counts <= set(Rounds().counts)
    assert engine.label_sets == 1, "the texts are the same, however many views are taken"


def test_adaptive_rounds_of_several_images_share_batches_on_a_gpu(watched, builtin, monkeypatch):
    batches = []

    def counted(encoder, views):
        batches.append((len(views), len(views[0])))
        return encode_rounds(encoder, views)

    monkeypatch.setattr("crossalign.web.engine.encode_rounds", counted)
    monkeypatch.setattr("crossalign.features.pipeline.GPU_PASS_VIEWS", 32)
    watched.device = torch.device("cuda")
    engine = Engine(watched, num_workers=4)
    classify = engine.classifier(Question.of(LABELS, views="adaptive"))
    watched.began.clear()
    watched.may_go.clear()
    with ThreadPoolExecutor(2) as clients:
        first = clients.submit(scores, engine, "page.png", Question.of(LABELS, method="clip"))
        assert watched.began.wait(20)
        together = clients.submit(lambda: list(engine.encode([opened(name) for name in IMAGES[:4]], classify)))
        wait_for(lambda: len(engine._jobs) == 4)
        watched.may_go.set()
        first.result()
        library = Classifier(LABELS, encoder=builtin, views="adaptive")
        for ours, (_, theirs) in zip(together.result(), library.encode([PHOTOS / n for n in IMAGES[:4]]), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    engine.close()
    assert batches[0] == (4, 1 + Rounds().counts[0])


def test_methods_without_adaptive_views_say_so_as_the_library_does(engine, builtin):
    for method in ("clip", "awt"):
        with pytest.raises(InputError) as library:
            Classifier(LABELS, encoder=builtin, method=method, views="adaptive")
        with pytest.raises(InputError, match=f"method {method} has no adaptive views") as ours:
            engine.classifier(Question.of(LABELS, method=method, views="adaptive"))
        assert str(ours.value) == str(library.value)


def test_adaptive_views_keep_to_the_limit_of_views(builtin):
    engine = Engine(builtin, Limits(views=59))
    with pytest.raises(InputError, match="up to 60 per image, but 59 are the limit"):
        engine.classifier(Question.of(LABELS, views="adaptive"))
    engine.close()


def test_a_label_set_is_encoded_once_also_for_many_at_a_time(engine, watched):
    question = Question.of(LABELS, views=2)
    with ThreadPoolExecutor(8) as clients:
        classifiers = list(clients.map(engine.classifier, [question] * 8))
    assert len({id(classify.scorer.texts) for classify in classifiers}) == 1
    spoken = len(watched.texts)
    assert engine.classifier(Question.of(LABELS, views=5)).scorer.texts is classifiers[0].scorer.texts
    assert len(watched.texts) == spoken
    assert (
        engine.classifier(Question.of(LABELS, domain="pet", method="clip")).scorer.texts is not classifiers[0].scorer.texts
    )
    assert engine.label_sets == 2


def test_the_least_recently_used_label_sets_are_dropped(engine, monkeypatch):
    first, second, third = (Question.of([name, "dog"], method="clip") for name in ("cat", "fox", "owl"))
    cached = engine.classifier(first)
    monkeypatch.setattr("crossalign.web.label_sets.CACHED_BYTES", int(2.5 * size_of(cached)))
    engine.classifier(second)
    assert engine.classifier(first).scorer.texts is cached.scorer.texts
    engine.classifier(third)
    assert engine.label_sets == 2
    assert engine.classifier(first).scorer.texts is cached.scorer.texts


def test_a_question_that_cannot_be_asked_is_not_cached(engine):
    for _ in range(2):
        with pytest.raises(InputError, match="more than once"):
            engine.classifier(Question.of(["cat", "cat"]))
    assert engine.label_sets == 0


def test_one_bad_image_does_not_hurt_its_neighbours(engine):
    classify = engine.classifier(Question.of(LABELS, views=2))
    bad = ("bad.jpg", io.BytesIO(b"no image"))
    first, second, third = engine.encode([opened("chelsea.png"), bad, opened("coffee.png")], classify)
    assert isinstance(second, InputError)
    assert first.shape == third.shape == (3, 384)


def test_a_failing_encoder_fails_one_batch_and_goes_on(engine, watched):
    classify = engine.classifier(Question.of(LABELS, views=2))
    adaptive = engine.classifier(Question.of(LABELS, views="adaptive"))
    for one in (classify, adaptive):
        watched.broken = True
        with pytest.raises(RuntimeError, match="out of memory"):
            list(engine.encode([opened("chelsea.png")], one))
        watched.broken = False
        (features,) = engine.encode([opened("chelsea.png")], one)
        assert np.isfinite(features.numpy()).all()


@pytest.mark.parametrize("views", [2, "adaptive"])
def test_waiting_clients_are_told_when_it_closes(builtin, views):
    watched = Watched(builtin)
    engine = Engine(watched)
    classify = engine.classifier(Question.of(LABELS, views=views))
    watched.may_go.clear()
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(lambda: list(engine.encode([opened("chelsea.png") for _ in range(30)], classify)))
        wait_for(lambda: engine._jobs)
        pool.submit(engine.close)
        with pytest.raises(Unavailable, match="shutting down"):
            waiting.result(10)
        watched.may_go.set()
    wait_for(lambda: not any(thread.name.startswith("crop") and thread.is_alive() for thread in engine._croppers._threads))


def test_more_images_than_places_are_refused(builtin):
    engine = Engine(builtin, Limits(queue=3, images=3))
    with engine.admit(2):
        assert engine.waiting == 2
        with pytest.raises(Busy, match="2 images are waiting and 3 are the limit"), engine.admit(2):
            pass
        with engine.admit(1):
            assert engine.waiting == 3
    assert engine.waiting == 0
    with pytest.raises(InputError, match="queue holds 3"):
        Limits(queue=3, images=4)


# The command


class Impatient(Engine):
    """An engine that gives a request all the time that its reading and its labels take, and its images none."""

    def encode(self, *asked):
        self.limits = Limits(seconds=0.3)
        return super().encode(*asked)


def test_a_slow_body_and_a_slow_answer_are_given_up(watched):
    photo = base64.b64encode((PHOTOS / "chelsea.png").read_bytes()).decode()
    watched.may_go.clear()

    async def slowly():
        yield b"{"
        await asyncio.sleep(60)

    async def answer(engine, **request):
        transport = httpx.ASGITransport(create_app(engine))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.post("/v1/classify", **request)

    slow_reader, slow_encoder = Engine(watched, Limits(seconds=0.3)), Impatient(watched, None, Defaults(LABELS))
    slow_body = asyncio.run(answer(slow_reader, content=slowly(), headers={"content-type": "application/json"}))
    slow_answer = asyncio.run(answer(slow_encoder, json={"images": [photo], "views": 2}))
    assert (slow_body.status_code, slow_answer.status_code) == (408, 503)
    for refused in (slow_body, slow_answer):
        assert "within 0.3 s" in refused.json()["reason"]
    watched.may_go.set()
    for engine in (slow_reader, slow_encoder):
        wait_for(lambda engine=engine: engine.waiting == 0)
        engine.close()


def test_the_documents_limits_are_the_programs():
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    limits = Limits()
    for words in (
        f"larger than {limits.megabytes} MB",
        f"more than {limits.megapixels} million pixels",
        f"more than {limits.images} images, {limits.examples} example images, {limits.labels} labels, "
        f"{limits.texts:,} descriptions or {limits.views} views",
        f"{limits.queue} images of all clients",
        f"no answer within {limits.seconds} s",
        f"{CACHED_BYTES // 10**6} MB in all",
        f"{LONGEST} times longer",
    ):
        assert words in page


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--auth", "anna"], "USER:VARIABLE"),
        (["--auth", "anna:NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE"),
        (["--labels-file", "no/such/file"], "no/such/file"),
        (["--host", "no.such.host.invalid"], "cannot listen"),
        (["--encoder", "magic", "--port", "0"], "magic"),
        (["--model", "some-llm", "--port", "0"], "OPENAI_API_KEY"),
        (["--calibration", "cal.json"], "--calibration cal.json is for one set of labels"),
        (["--examples", "no/such/folder", "--port", "0"], "examples 'no/such/folder' cannot be read"),
        (["--examples", "sorted", "--executor", "ray"], "--examples sorted is read on this machine only"),
        (["--threshold", "2"], "2.0 is not in the range"),
    ],
)
def test_wrong_options_end_with_a_sentence(options, words, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    done = subprocess.run([SCRIPT, "serve", *options], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_told_before_anything_slow_is_done():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [SCRIPT, "serve", "--port", port, "--encoder", "magic"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert f"port {port}" in done.stderr


def test_others_are_let_in_with_a_warning():
    command = [SCRIPT, "serve", "--port", "0", "--host", "0.0.0.0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        warning = process.stderr.readline()
        process.terminate()
    assert "other machines reach 0.0.0.0" in warning
    assert process.returncode == 0


def test_missing_packages_are_named():
    program = "import sys; sys.modules['gradio'] = None; from crossalign.cli import main; main(['serve'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "serving needs gradio too; run `pip install 'crossalign[serve]'`" in done.stderr
