"""The page: driven in a real headless Chromium, on a real server process."""

import csv
import http.server
import io
import json
import re
import shutil
import threading
from pathlib import Path

import httpx
import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright

import llm_server
from conftest import PHOTOS
from crossalign.features.adaptive import Rounds
from server import serving

CHROMIUM = shutil.which("chromium")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
AUTH = ("anna", "correct-horse")
ADAPTIVE = "Only as many views as the answer takes"
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    serve = llm_server.serving(tmp_path_factory.mktemp("llm"))
    yield next(serve)()
    serve.close()


@pytest.fixture(scope="module")
def server(llm):
    options = ("--model", "made-up", "--base-url", llm.url, "--max-images", 4, "--auth", f"{AUTH[0]}:WORD")
    with serving(*options, WORD=AUTH[1]) as running:
        yield running
    assert running.process.returncode == 0


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def visitor(chromium):
    """A visitor whose browser keeps the page's scripts, as everybody's does."""
    login = {"username": AUTH[0], "password": AUTH[1]}
    with chromium.new_context(viewport={"width": 1440, "height": 900}, http_credentials=login) as context:
        yield context


@pytest.fixture
def page(visitor, server):
    """The page at desktop width, which must ask no other server and raise no error."""
    page = visitor.new_page()
    page.set_default_timeout(30_000)
    expect.set_options(timeout=30_000)
    wrong = []
    page.on("request", lambda r: None if r.url.startswith((server.url, "data:", "blob:")) else wrong.append(r.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    page.goto(server.url)
    page.locator("#labels textarea").wait_for()
    page.get_by_role("button", name="Method").click()
    page.get_by_label(ADAPTIVE).uncheck()
    # A field that has just been unfolded takes back its first value once.
    expect(page.get_by_label("range slider for Local views")).to_have_value("60")
    page.wait_for_timeout(500)
    page.get_by_label("number input for Local views").fill("6")
    expect(page.get_by_label("range slider for Local views")).to_have_value("6")
    yield page
    page.close()
    assert not wrong


def upload(page, *files):
    page.set_input_files("#images input[type=file]", files)
    page.locator("#images .grid-container img").nth(len(files) - 1).wait_for()


def label(page, labels):
    page.locator("#labels textarea").fill(labels)
    page.get_by_role("button", name="Label the images").click()


def shown_image(page, selector):
    """The address of an image that is really there."""
    image = page.locator(f"{selector} img").first
    image.wait_for()
    page.wait_for_function("image => image.complete && image.naturalWidth > 100", arg=image.element_handle())
    return image.get_attribute("src")


def downloaded(page, name):
    with page.expect_download() as download:
        page.get_by_role("link", name=name).click()
    return Path(download.value.path()).read_text(encoding="utf-8"), download.value.suggested_filename


@pytest.mark.browser
def test_a_photo_gets_its_label_the_reasons_and_files(page):
    upload(page, PHOTOS / "chelsea.png")
    label(page, "dog, cat, cup of coffee")
    page.locator("#answer strong").get_by_text("cat", exact=True).wait_for()
    expect(page.locator("#bars meter").first).to_have_attribute("aria-label", "cat")
    expect(page.locator("#overview")).to_be_hidden()
    expect(page.locator("#reasons")).to_contain_text("a photo of a cat.")
    heat = shown_image(page, "#heat")
    text, name = downloaded(page, "Download JSON")
    (result,) = json.loads(text)
    assert name == "labels.json"
    assert result["image"] == "chelsea.png"
    assert result["predictions"][0]["label"] == "cat"
    text, _ = downloaded(page, "Download CSV")
    assert next(csv.DictReader(io.StringIO(text)))["label"] == "cat"
    expect(page.locator("#views button.thumbnail-item")).to_have_count(6)

    page.locator("#views button.thumbnail-item").nth(2).click()
    page.wait_for_function("old => document.querySelector('#heat img').src != old", arg=heat)
    framed = shown_image(page, "#heat")
    page.get_by_role("radio", name="dog").click()
    page.locator("#reasons").get_by_text("a photo of a dog.").wait_for()
    assert shown_image(page, "#heat") not in (heat, framed)


@pytest.mark.browser
def test_adaptive_views_say_how_many_they_were(page):
    upload(page, PHOTOS / "chelsea.png")
    page.get_by_label(ADAPTIVE).check()
    expect(page.get_by_label("range slider for Local views")).to_be_hidden()
    label(page, "dog, cat, cup of coffee")
    page.locator("#answer strong").get_by_text("cat", exact=True).wait_for()
    text, _ = downloaded(page, "Download JSON")
    (result,) = json.loads(text)
    assert result["views"] in Rounds().counts[:-1]
    expect(page.locator("#answer")).to_contain_text(f"after {result['views']} views")
    shown_image(page, "#heat")


def add_class(page, name, *paths):
    page.locator("#example-class input, #example-class textarea").first.fill(name)
    page.set_input_files("#example-files input[type=file]", paths)
    page.locator("#example-files").get_by_text(Path(paths[-1]).stem).first.wait_for()
    page.locator("#add-class").click()
    page.locator("#example-images .caption-label").get_by_text(name, exact=True).nth(len(paths) - 1).wait_for()


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Two parts of each of two photos."""
    folder = tmp_path_factory.mktemp("parts")
    for name in ("chelsea.png", "coffee.png"):
        for number, left in enumerate((0, 100)):
            Image.open(PHOTOS / name).crop((left, 0, left + 300, 300)).save(folder / f"{number}-{name}")
    return lambda name: [folder / f"{number}-{name}" for number in range(2)]


@pytest.mark.browser
def test_examples_alone_give_a_label_and_pairs_are_shown(page, parts):
    page.get_by_role("button", name="Classes by examples").click()
    add_class(page, "tom", *parts("chelsea.png"))
    add_class(page, "mug", *parts("coffee.png"))
    expect(page.locator("#example-images .thumbnail-item")).to_have_count(4)
    upload(page, PHOTOS / "chelsea.png")
    label(page, "")
    page.locator("#answer strong").get_by_text("tom", exact=True).wait_for()
    expect(page.locator("#reasons")).to_contain_text("example 0-chelsea.png")
    pairs = page.locator("#views.pairs button.thumbnail-item")
    expect(pairs).to_have_count(6)
    expect(pairs.first.locator(".caption-label")).to_have_text(re.compile(r"^0\.\d\d [01]-chelsea\.png$"))
    size = pairs.first.locator("img").evaluate("image => [image.naturalWidth, image.naturalHeight]")
    assert size[0] > 2 * size[1] > 200
    box = pairs.first.bounding_box()
    assert box["width"] == pytest.approx(2 * box["height"], abs=2), "the whole pair is seen"
    page.get_by_role("radio", name="mug").click()
    expect(pairs.first.locator(".caption-label")).to_have_text(re.compile(r"coffee\.png$"))

    page.locator("#remove input").click()
    page.get_by_role("option", name="mug").click()
    expect(page.locator("#example-images .thumbnail-item")).to_have_count(2)
    page.get_by_role("button", name="Label the images").click()
    page.get_by_text("1 label given, but classifying takes two or more").wait_for()


@pytest.mark.browser
def test_bad_examples_are_refused_when_they_are_added(page, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"%PDF-1.4")
    page.get_by_role("button", name="Classes by examples").click()
    page.locator("#add-class").click()
    page.get_by_text("A class needs a name and at least one image").wait_for()
    page.locator("#example-class input, #example-class textarea").first.fill("cat")
    page.set_input_files("#example-files input[type=file]", broken)
    page.locator("#example-files").get_by_text("broken").first.wait_for()
    page.locator("#add-class").click()
    page.get_by_text("Image 'broken.jpg' cannot be read").wait_for()
    expect(page.locator("#example-images")).to_be_hidden()


@pytest.mark.browser
def test_unsure_and_none_of_these_are_said_and_name_the_nearest_labels(page):
    upload(page, PHOTOS / "chelsea.png")
    page.get_by_role("button", name="When to give no label").click()
    page.locator("#threshold input").fill("0.99")
    label(page, "dog, wolf, car")
    page.locator("#answer strong").get_by_text("unsure", exact=True).wait_for()
    expect(page.locator("#answer")).to_contain_text(
        re.compile(r"nearest labels: \w+ \d+ %, \w+ \d+ %, \w+ \d+ %, after 6 views")
    )
    text, _ = downloaded(page, "Download JSON")
    (result,) = json.loads(text)
    assert (result["label"], result["reason"]) == (None, "unsure")

    page.locator("#threshold input").fill("")
    page.locator("#other input, #other textarea").first.fill("cat")
    page.get_by_role("button", name="Label the images").click()
    page.locator("#answer strong").get_by_text("none of these", exact=True).wait_for()
    expect(page.locator("#answer")).to_contain_text("it looks most like cat, which is no answer; nearest labels: ")
    shown_image(page, "#heat")


@pytest.mark.browser
def test_many_images_one_of_them_broken(page, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"%PDF-1.4")
    upload(page, broken, PHOTOS / "coffee.png", PHOTOS / "rocket.jpg")
    label(page, "rocket, cup of coffee")
    page.locator("#answer strong").get_by_text("cup of coffee").wait_for()
    page.locator("#overview button.thumbnail-item").nth(2).click()
    page.locator("#answer strong").get_by_text("rocket").wait_for()
    page.locator("#overview button.thumbnail-item").nth(0).click()
    page.locator("#answer").get_by_text("'broken.jpg' cannot be read").wait_for()
    expect(page.locator("#heat")).to_be_hidden()
    text, _ = downloaded(page, "Download JSON")
    assert [bool(result["error"]) for result in json.loads(text)] == [True, False, False]


@pytest.mark.browser
def test_errors_are_words(page):
    page.get_by_role("button", name="Label the images").click()
    page.get_by_text("There are no images yet").wait_for()
    upload(page, PHOTOS / "chelsea.png")
    label(page, "cat")
    page.get_by_text("classifying takes two or more").wait_for()
    upload_more = [PHOTOS / "chelsea.png"] * 4
    page.set_input_files("#images input[type=file]", upload_more)
    page.locator("#images .grid-container img").nth(4).wait_for()
    label(page, "cat, dog")
    page.get_by_text("5 images were chosen, but 4 are the limit").wait_for()


@pytest.mark.browser
def test_a_photo_to_try_with_a_datasets_labels_and_descriptions(page):
    page.locator("#photos button").nth(1).click()
    page.wait_for_function("document.querySelector('#labels textarea').value.startsWith('cup of coffee, ')")
    page.get_by_role("button", name="Labels of a dataset").click()
    page.get_by_label("Take the labels of a dataset").click()
    page.get_by_role("option", name="EuroSAT").click()
    page.wait_for_function("document.querySelector('#labels textarea').value.includes('forest')")
    page.get_by_role("button", name="Take the dataset's descriptions").click()
    page.wait_for_function("document.querySelector('#descriptions textarea').value.includes('forest: has')")
    page.get_by_role("button", name="Label the images").click()
    page.locator("#reasons li").first.wait_for()
    expect(page.locator("#reasons")).to_contain_text(", which has")


@pytest.mark.browser
def test_a_method_without_views_shows_reasons_and_no_map(page):
    page.locator("#photos button").first.click()
    page.wait_for_function("document.querySelector('#labels textarea').value.startsWith('cat, ')")
    page.locator("#method input").click()
    page.get_by_role("option", name="clip: ").click()
    page.get_by_role("button", name="Label the images").click()
    page.locator("#reasons").get_by_text("a photo of a cat.").wait_for()
    expect(page.locator("#heat")).to_be_hidden()
    expect(page.locator("#views")).to_be_hidden()


@pytest.mark.browser
def test_descriptions_by_an_llm(page, llm):
    page.locator("#labels textarea").fill("cat, dog")
    page.get_by_role("button", name="Labels of a dataset").click()
    page.get_by_role("button", name="Have the LLM write some").click()
    page.wait_for_function("document.querySelector('#descriptions textarea').value.includes('dog: has')")
    first = page.locator("#descriptions textarea").input_value().split("\n")[0]
    assert first == "cat: " + "; ".join(f"has {text}" for text in llm_server.texts("cat", 10))


@pytest.mark.browser
def test_labels_are_text_not_markup(page):
    upload(page, PHOTOS / "chelsea.png")
    label(page, f"cat, {EVIL}, b <b>old</b>")
    page.locator("#answer strong").get_by_text("cat", exact=True).wait_for()
    page.get_by_role("radio", name=EVIL).click()
    page.locator("#reasons").get_by_text(f"a photo of a {EVIL}.").wait_for()
    assert page.locator("#answer img, #reasons img, #reasons b, #files img").count() == 0


@pytest.mark.browser
def test_the_keyboard_is_enough(page):
    upload(page, PHOTOS / "chelsea.png")
    page.locator("#labels textarea").focus()
    page.keyboard.type("dog, cat")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "go"
    page.keyboard.press("Enter")
    shown_image(page, "#heat")
    page.locator("#label input").first.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    page.locator("#reasons").get_by_text("a photo of a dog.").wait_for()
    page.locator("#views button.thumbnail-item").first.focus()
    before = shown_image(page, "#heat")
    page.keyboard.press("Enter")
    page.wait_for_function("old => document.querySelector('#heat img').src != old", arg=before)
    page.get_by_role("link", name="Download JSON").focus()
    with page.expect_download():
        page.keyboard.press("Enter")


@pytest.mark.browser
def test_a_phone_is_wide_enough(page):
    page.set_viewport_size({"width": 390, "height": 844})
    upload(page, PHOTOS / "chelsea.png", PHOTOS / "coffee.png")
    label(page, "cat, cup of coffee with a very long name that goes on and on, dog")
    shown_image(page, "#heat")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    columns = page.locator("#columns > div")
    first, second = columns.nth(0).bounding_box(), columns.nth(1).bounding_box()
    assert second["y"] >= first["y"] + first["height"]
    for selector in ("#images", "#labels", "#go", "#bars", "#heat", "#reasons", "#views"):
        box = page.locator(selector).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390


@pytest.mark.browser
def test_the_apis_documentation_is_shown(page, server):
    page.goto(f"{server.url}/docs")
    page.get_by_text("/v1/classify").first.click()
    page.get_by_role("button", name="Try it out").wait_for()


# Strangers who ask the page's server without the page


@pytest.fixture
def elsewhere():
    """Another server, and what it was asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_):
            pass

    listener = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listener.server_port}/photo.png", asked
    listener.shutdown()
    listener.server_close()


def ask_behind_the_page(url, images, labels="cat, dog"):
    """Send the page's own request with something else for the images; tell how it ended."""
    texts = dict.fromkeys(("descriptions", "other", "domain"), "")
    fields = texts | {"images": images, "labels": labels, "method": "wca", "adaptive": False, "count": 2}
    return send_behind_the_page(url, "_label_images", fields)


def send_behind_the_page(url, event_name, fields):
    """Send the values of an event's fields, by their ids; those of others are null."""
    with httpx.Client(base_url=url, auth=AUTH, timeout=60) as client:
        config = client.get("/config").json()
        (event,) = [d for d in config["dependencies"] if d["api_name"] == event_name]
        names = {c["id"]: c["props"].get("elem_id") for c in config["components"]}
        data = [fields.get(names[number]) for number in event["inputs"]]
        body = {"data": data, "fn_index": event["id"], "session_hash": "stranger"}
        client.post("/gradio_api/queue/join", json=body).raise_for_status()
        with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": "stranger"}) as lines:
            messages = (json.loads(line.removeprefix("data: ")) for line in lines.iter_lines() if line)
            return next(message for message in messages if message["msg"] == "process_completed")


def as_file(path, **more):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}, "orig_name": "a.png"} | more


def test_paths_and_addresses_are_not_opened(server, tmp_path, elsewhere):
    url, asked = elsewhere
    secret = tmp_path / "secret.png"
    shutil.copy(PHOTOS / "chelsea.png", secret)
    for file in (as_file(secret), as_file(PHOTOS / "chelsea.png"), as_file(url), as_file(url, url=url)):
        done = ask_behind_the_page(server.url, [{"image": file, "caption": None}])
        assert not done["success"]
        assert "upload" in done["output"]["error"]
    for file in (as_file(secret), as_file(url), as_file(PHOTOS / "chelsea.png")):
        done = send_behind_the_page(server.url, "_added", {"example-class": "cat", "example-files": [file]})
        assert not done["success"]
        assert "upload" in done["output"]["error"]
    for file in (as_file(secret), as_file(url)):
        assert not ask_behind_the_page(server.url, [], labels=file)["success"]
    assert not asked
    assert httpx.get(f"{server.url}/gradio_api/file={secret}", auth=AUTH).status_code == 403


def test_only_uploads_that_are_not_too_large_are_taken(server):
    def upload(size):
        files = {"files": ("a.png", b"0" * size)}
        return httpx.post(f"{server.url}/gradio_api/upload", files=files, auth=AUTH).status_code

    assert upload(1000) == 200
    assert upload(33_000_000) == 413
