"""The page, the API and its documentation below a proxy's path, in a real browser."""

import shutil

import httpx
import pytest
from playwright.sync_api import expect, sync_playwright
from proxy import proxied

from conftest import PHOTOS
from server import serving

PREFIX = "/tools/crossalign"
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def server():
    with serving("--root-path", f"{PREFIX}/") as running:
        yield running


@pytest.mark.parametrize("cut", [True, False], ids=["removed", "passed on"])
def test_the_api_answers_below_a_prefix(server, cut):
    with proxied(server.url, PREFIX, cut) as url, httpx.Client(timeout=60) as client:
        files = {"images": (PHOTOS / "chelsea.png").read_bytes()}
        answer = client.post(f"{url}/v1/classify", files=files, data={"labels": "cat,dog", "method": "clip"})
        assert answer.json()["results"][0]["predictions"][0]["label"] == "cat"
        assert client.get(f"{url}/v1/health").json()["status"] == "ok"
        assert client.get(f"{url}/v1/nothing").json() == {"reason": "there is nothing at /v1/nothing; see /docs"}
        assert client.get(f"{url}/v1/classify").json() == {"reason": "/v1/classify answers only POST"}
        assert client.get(f"{url}/openapi.json").json()["servers"] == [{"url": PREFIX}]
        docs = client.get(f"{url}/docs").text
        assert f"{PREFIX}/static-offline-docs/swagger-ui-bundle.js" in docs
        assert client.get(f"{url}/static-offline-docs/swagger-ui-bundle.js").status_code == 200


def test_without_a_proxy_it_answers_at_the_root_too(server):
    assert httpx.get(f"{server.url}/v1/health", timeout=60).json()["status"] == "ok"


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")
@pytest.mark.parametrize("cut", [True, False], ids=["removed", "passed on"])
def test_the_page_labels_an_image_below_a_prefix(server, cut):
    lost, outside = [], []
    with proxied(server.url, PREFIX, cut) as url, sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = browser.new_page()
        page.set_default_timeout(30_000)
        page.on("response", lambda r: lost.append((r.status, r.url)) if r.status >= 400 else None)
        page.on("request", lambda r: None if r.url.startswith((url, "data:", "blob:")) else outside.append(r.url))
        page.goto(f"{url}/")
        page.locator("#labels textarea").fill("dog, cat, cup of coffee")
        page.locator("#photos img").first.wait_for()
        page.set_input_files("#images input[type=file]", PHOTOS / "chelsea.png")
        page.locator("#images .grid-container img").first.wait_for()
        page.get_by_role("button", name="Label the images").click()
        page.locator("#answer strong").get_by_text("cat", exact=True).wait_for()
        heat = page.locator("#heat img").first
        heat.wait_for()
        page.wait_for_function("image => image.complete && image.naturalWidth > 100", arg=heat.element_handle())
        page.goto(f"{url}/docs")
        expect(page.get_by_text("/v1/classify").first).to_be_visible(timeout=30_000)
        browser.close()
    assert (lost, outside) == ([], [])
