"""The whole way of a model in a real browser: Debian's Chromium, driven by Playwright, on a store that is served by a process of its own."""
import contextlib
import json
import re
import shutil
import subprocess
import sys

import pytest

from tests.serving.served import serving
from tests.store.made import make_run
from tests.store.test_whole_way import RECIPE, asked, tfgpt, until_version
from tests.store.web import PASSWORD

__all__ = ["tfgpt"]  # a fixture
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
PROMPT = "The with statement"


@pytest.fixture
def browser():
    """Chromium; what a page's scripts could not do is an error of the test."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield chromium
        chromium.close()


@contextlib.contextmanager
def store_served(*options):
    """Serve the store of this machine; give its address."""
    process = subprocess.Popen([sys.executable, "-m", "tfgpt", "store", "serve", "--port", "0", *options], stderr=subprocess.PIPE, text=True)
    line = process.stderr.readline()
    try:
        yield re.search(r"serving (http://\S+[^/\s])/?$", line)[1]
    finally:
        process.terminate()
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 0 and "Traceback" not in rest, rest


@pytest.fixture
def people(tmp_path, monkeypatch, tfgpt):
    """A store that an administrator, a publisher and a reader may use."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFGPT_STORE", "store")
    tfgpt("store", "init")
    for name, role in (("root", "admin"), ("jane", "publisher"), ("rita", "reader")):
        subprocess.run([sys.executable, "-m", "tfgpt", "store", "user", "add", name, "--role", role], input=PASSWORD, text=True, check=True)


@pytest.fixture
def trained(tmp_path, documents, people, tfgpt):
    """Two runs, the second trained on from the first."""
    (tmp_path / "corpus").mkdir()
    for number, text in enumerate(documents[20:50]):
        (tmp_path / "corpus" / f"{number:02}.txt").write_text(text, "utf-8")
    (tmp_path / "tiny.yaml").write_text(RECIPE.format(corpus="corpus", steps=20))
    tfgpt("run", "tiny.yaml")
    tfgpt("run", "tiny.yaml", "--name", "next", "--model.init", "runs/tiny/model", "--tokenizer.init", "runs/tiny/tokenizer")
    return tmp_path / "runs"


def signed_in(browser, address, name, **options):
    """Return a page of somebody, and what its console has told of errors."""
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(120_000)
    errors = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Models").wait_for()
    return page, errors


def publish(page, folder):
    page.get_by_role("link", name="Publish").click()
    page.get_by_label("Name", exact=True).fill("tiny")
    page.get_by_label("Folder").set_input_files(folder)
    page.get_by_role("button", name="Publish").click()
    page.get_by_role("heading", name="tiny version").wait_for()


@pytest.mark.slow
def test_a_model_is_published_found_tried_promoted_pulled_served_and_rolled_back_in_a_browser(trained, browser, tfgpt):
    expect = playwright.expect
    with store_served() as address:
        page, errors = signed_in(browser, address, "jane")
        publish(page, trained / "tiny")
        assert page.url == f"{address}/models/tiny/1"
        publish(page, trained / "next")
        assert page.url == f"{address}/models/tiny/2"

        page.get_by_role("link", name="Browse").click()
        page.get_by_label("Words in names").fill("nowhere")
        page.get_by_role("button", name="Search").click()
        expect(page.get_by_text("Nothing found")).to_be_visible()
        page.get_by_label("Words in names").fill("tin")
        page.get_by_role("button", name="Search").click()
        page.get_by_role("link", name="tiny").click()

        page.get_by_role("link", name="Try it").click()
        page.get_by_label("Beside it").fill("tiny:1")
        page.get_by_label("Prompt").fill(PROMPT)
        page.get_by_label("Tokens at most").fill("16")
        page.get_by_label("Temperature").fill("0")
        page.get_by_label("Top p").fill("1")
        page.get_by_role("button", name="Write").click()
        for number, folder in enumerate(("next", "tiny")):
            expect(page.locator(".state").nth(number)).to_contain_text("ended by", timeout=120_000)
            written = json.loads(tfgpt("generate", "--model", trained / folder, "--prompt", PROMPT, "--max-new-tokens", 16, "--json"))
            assert page.locator(".answer").nth(number).text_content() == written["text"]

        page.goto(f"{address}/models/tiny/1")
        page.get_by_role("button", name="Promote to production").click()
        expect(page.locator(".label").first).to_have_text("production")
        with serving("--model", "tiny=store://tiny@production") as server:
            assert asked(server)[0] == 1
            page.get_by_role("link", name="2", exact=True).click()
            page.get_by_role("button", name="Promote to production").click()
            promoted = until_version(server, 2)
            page.get_by_role("button", name="Roll back production").click()
            assert until_version(server, 1) < promoted
        tfgpt("store", "pull", "tiny@production", "elsewhere/tiny")
        here, there = (tfgpt("generate", "--model", folder, "--prompt", PROMPT, "--max-new-tokens", 8) for folder in (trained / "tiny", "elsewhere/tiny"))
        assert here == there

        page.goto(f"{address}/models/tiny/1")
        page.get_by_role("button", name="Show the differences").click()
        expect(page.get_by_role("heading", name="Differences")).to_be_visible()
        assert errors == []


@pytest.mark.slow
def test_pages_are_used_by_keyboard_and_fit_a_telephone_and_show_no_markup_of_others(tmp_path, people, browser, tfgpt):
    make_run(tmp_path / "run")
    tfgpt("store", "publish", tmp_path / "run", "--name", "tiny", "--by", "jane", "--tag", "a", "--language", "en")
    expect = playwright.expect
    with store_served() as address:
        page, errors = signed_in(browser, address, "rita", viewport={"width": 360, "height": 740})
        for path in ("/", "/models/tiny/1", "/compare?reference=tiny", "/try?reference=tiny", "/account"):
            page.goto(address + path)
            assert page.evaluate("() => document.documentElement.scrollWidth") <= 360, path
            assert page.evaluate("() => performance.getEntriesByType('navigation')[0].transferSize") < 60_000, path
            unnamed = page.locator("input:visible:not([aria-label]), select:visible:not([aria-label]), textarea:visible")
            assert all(unnamed.nth(number).evaluate("field => field.labels.length > 0") for number in range(unnamed.count())), path

        page.goto(address)
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="To the content")).to_be_focused()
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("() => document.activeElement.textContent") == "tiny":
                break
        page.keyboard.press("Enter")
        expect(page).to_have_url(f"{address}/models/tiny/1")

        page.get_by_role("textbox", name="Review").fill("good & <b>bold</b>")
        page.get_by_role("button", name="Rate it").click()
        expect(page.get_by_role("alert")).to_contain_text("is HTML")
        page.goto(f"{address}/models/tiny/1")
        page.get_by_role("textbox", name="Review").fill("1 < 2 & more")
        page.get_by_role("button", name="Rate it").click()
        expect(page.locator("section", has=page.locator("#reviews"))).to_contain_text("5 of 5 by rita")
        expect(page.locator("section", has=page.locator("#reviews"))).to_contain_text("1 < 2 & more")
        page.goto(f"{address}/?q=<img src=x onerror=document.title='taken'>")
        assert page.title().startswith("<img") and page.locator("img").count() == 0
        assert [error for error in errors if "status of 400" not in error] == []
