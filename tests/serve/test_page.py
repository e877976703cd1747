"""The page in a real browser: Chromium as the system has it, driven by Playwright."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from openglm.serve.settings import Settings

from .conftest import Live

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

WIDTHS = (360, 768, 1440)
CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
# Where everything is to be tested, a missing browser fails the tests instead of skipping them.
REQUIRED = bool(os.environ.get("CI"))
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and not REQUIRED, reason="no Chromium on this system (CHROMIUM names one)"
)
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
THREE = "the [MASK] bridge, the [MASK] river and the [MASK] garden"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    assert CHROMIUM is not None, "no Chromium: install one, or name it in CHROMIUM"
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, live: Live) -> Iterator[Any]:
    """The page, in English; whatever the browser complains about fails the test."""
    context = browser.new_context(locale="en-US", viewport={"width": 900, "height": 800})
    page, complaints = context.new_page(), []
    page.set_default_timeout(10_000)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(live.url)
    page.wait_for_selector("#model:not(:empty)")
    page.complaints = complaints
    yield page
    context.close()
    assert complaints == []


def fill(page: Any, text: str) -> list[str]:
    """Fill a text; what is in its blanks."""
    page.fill("#text", text)
    page.keyboard.press("Control+Enter")
    settled(page)
    return page.locator("#filled .fill").all_inner_texts()


def settled(page: Any) -> None:
    page.wait_for_selector("#filled .fill.done")
    page.wait_for_selector("#stop", state="hidden")
    page.wait_for_selector(".fill.waiting, .fill.writing", state="detached")


def test_fills_choose_and_fill_again_around_it(page: Any, live: Live) -> None:
    page.click("summary")
    page.fill("#max-tokens", "4")
    fill(page, THREE)
    direct = live.service.infiller.fill(THREE, max_new_tokens=4, truncate="around")
    assert page.locator("#filled").evaluate("e => e.textContent") == direct.text
    colours = page.locator("#filled .fill").evaluate_all("all => all.map(e => getComputedStyle(e).backgroundColor)")
    assert len(set(colours)) == 3
    # alternatives: the most probable ones with everything else as it stands
    page.locator("#filled .fill").nth(1).click()
    page.wait_for_selector(".option")
    around = [blank.text for blank in direct.blanks]
    pieces = re.split(r"(\[MASK\])", THREE)
    pieces[1], pieces[5] = around[0], around[2]
    best = live.service.infiller.fill("".join(pieces), max_new_tokens=4, num_beams=6, num_return_sequences=6)
    words = page.locator(".option .words").all_inner_texts()
    assert words[0] == best.blanks[0].text.strip()
    shares = page.locator(".option .share").all_inner_texts()
    assert all("%" in share for share in shares)
    number = next(i for i, word in enumerate(words) if word != around[1].strip())
    page.locator(".option").nth(number).click()
    settled(page)
    fills = page.locator("#filled .fill")
    assert fills.nth(1).evaluate("e => e.textContent").strip() == words[number]
    assert "pinned" in fills.nth(1).get_attribute("class")
    # the others were filled again around it
    pieces = re.split(r"(\[MASK\])", THREE)
    pieces[3] = fills.nth(1).evaluate("e => e.textContent")
    again = live.service.infiller.fill("".join(pieces), max_new_tokens=4)
    assert page.locator("#filled").evaluate("e => e.textContent") == again.text


def test_fills_appear_while_they_are_written(page: Any) -> None:
    """Every text that was on the screen is the beginning of the next one."""
    page.evaluate(
        """() => {
            window.seen = [];
            const now = () => [...document.querySelectorAll('.fill')].map(e => e.textContent);
            new MutationObserver(() => window.seen.push(now())).observe(
                document.getElementById('filled'), {childList: true, subtree: true, characterData: true}
            );
        }"""
    )
    fills = fill(page, "the [MASK] bridge [sMASK]")
    seen = page.evaluate("window.seen")
    for blank in range(2):
        texts = [now[blank] for now in seen if len(now) == 2]
        assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
        assert texts[-1] == fills[blank]
    assert len({tuple(now) for now in seen}) > 2


def test_nothing_becomes_markup(page: Any) -> None:
    evil = "<img src=x>&lt;"
    fill(page, f"{evil} the [MASK] bridge")
    assert evil in page.locator("#filled").evaluate("e => e.textContent")
    page.locator("#filled .fill").click()
    page.wait_for_selector(".option")
    page.fill(".panel input", evil)
    page.press(".panel input", "Enter")
    settled(page)
    assert page.locator("#filled").evaluate("e => e.textContent").count(evil) == 2
    page.click("#tab-choose")
    page.fill("#question", f"{evil} [MASK]")
    page.fill("#choices", f"{evil}\nold")
    page.click("#choose-form .main")
    page.wait_for_selector("#bars li")
    assert evil in page.locator("#bars .words").all_inner_texts()
    assert page.locator("main img").count() == 0


def test_by_keyboard(page: Any) -> None:
    page.fill("#text", "the ")
    page.press("#text", "End")
    page.keyboard.press("Alt+Digit1")
    page.keyboard.type(" and ")
    page.keyboard.press("Alt+Digit2")
    assert page.input_value("#text") == "the [MASK] and [sMASK]"
    page.keyboard.press("Control+Enter")
    settled(page)
    page.locator("#filled .fill").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".option:focus")
    page.keyboard.press("ArrowDown")
    assert page.locator(".option").nth(1).evaluate("e => e === document.activeElement")
    page.keyboard.press("Escape")
    assert page.locator("#panel").is_hidden()
    assert page.locator("#filled .fill").first.evaluate("e => e === document.activeElement")
    page.locator("#tab-fill").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#choose").is_visible()
    assert page.locator("#fill").is_hidden()


def test_languages(page: Any) -> None:
    assert page.inner_text("#tab-fill") == "Fill"
    page.click("#language")
    assert page.inner_text("#tab-fill") == "填空"
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    untold = page.locator("[data-text]").evaluate_all("all => all.filter(e => !e.textContent).length")
    assert untold == 0
    page.reload()
    assert page.inner_text("#tab-fill") == "填空"


def test_dark_and_narrow(page: Any) -> None:
    def paper() -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light = paper()
    page.emulate_media(color_scheme="dark")
    assert paper() != light
    page.click("#theme")
    assert paper() == light
    page.set_viewport_size({"width": 340, "height": 700})
    fill(page, "the [MASK] " + "verylong" * 5 + " bridge [MASK]")
    page.locator("#filled .fill").first.click()
    page.wait_for_selector(".option")
    assert page.evaluate("document.documentElement.scrollWidth") <= 340


@pytest.mark.parametrize("language", ["en-US", "zh-CN"])
def test_every_width(browser: Any, live: Live, language: str) -> None:
    """Labels stay on one line, nothing sticks out, and bars are as long as their share."""
    context = browser.new_context(locale=language)
    page = context.new_page()
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(live.url)
        page.wait_for_selector("#model:not(:empty)")
        page.click("summary")
        one_line = ".options label > span, nav a, nav button, .tabs button, #blanks button, #go"
        for height, text in page.locator(one_line).evaluate_all("all => all.map(e => [e.offsetHeight, e.innerText])"):
            assert height < 46, (width, text)
        fill(page, "the [MASK] bridge")
        page.locator("#filled .fill").click()
        page.wait_for_selector(".option")
        page.wait_for_timeout(400)  # bars grow
        shares = page.locator(".option .share").all_inner_texts()
        bars = page.locator(".option .track").evaluate_all(
            "all => all.map(e => [e.offsetWidth, e.firstChild.getBoundingClientRect().width])"
        )
        assert len(bars) == len(shares) > 1
        for (track, inner), share in zip(bars, shares, strict=True):
            assert track > 50
            percent = 0.05 if "<" in share else float(share.split()[0])
            assert abs(inner - max(2, track * percent / 100)) <= 2 + track * 0.005
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


def test_what_blanks_and_temperature_mean_is_said(page: Any) -> None:
    for element, words in (("blanks", "Sentences"), ("temperature", "most probable")):
        described = page.locator(f"#{element}").get_attribute("aria-describedby")
        page.click("summary") if element == "temperature" else None
        assert words in page.inner_text(f"#{described}")
        assert page.locator(f"#{described}").is_visible()


def test_errors_are_said(page: Any) -> None:
    """And what stood there before is gone, as it belongs to another text."""
    for wrong, words in (("no blank", "blank"), ("[MASK]" * 70, "70 blanks")):
        fill(page, "the [MASK] bridge")
        page.fill("#text", wrong)
        page.click("#go")
        page.wait_for_selector("#status.bad")
        assert words in page.inner_text("#status")
        assert page.locator("#go").is_visible()
        assert page.locator("#result").is_hidden()
    page.click("#tab-choose")
    for choices, words in (("one", "two answers"), ("one | two\nthree", "fills")):
        page.fill("#question", "the [MASK] bridge")
        page.fill("#choices", "old\nwooden")
        page.click("#choose-form .main")
        page.wait_for_selector("#bars li")
        page.fill("#question", "the [MASK] bridge" if words == "two answers" else "the [MASK] bridge [MASK]")
        page.fill("#choices", choices)
        page.click("#choose-form .main")
        page.wait_for_selector("#status.bad")
        assert words in page.inner_text("#status")
        assert page.locator("#bars li").count() == 0
    page.complaints.clear()  # the browser notes the 400s


def test_a_chosen_fill_stays_when_filling_again_fails(page: Any) -> None:
    fill(page, THREE)
    page.locator("#filled .fill").first.click()
    page.wait_for_selector(".option")
    page.route("**/v1/fill", lambda route: route.fulfill(status=429, json={"error": {"message": "full"}}))
    page.locator(".option").nth(1).click()
    page.wait_for_selector("#status.bad")
    assert page.inner_text("#status") == "full"
    assert page.locator("#filled .fill.pinned").count() == 1
    page.complaints.clear()


def test_a_key_is_asked_for(browser: Any, serving: Callable[[Settings], Any]) -> None:
    with serving(Settings(key="s3cret")) as live:
        page = browser.new_page(locale="en-US")
        page.goto(live.url)
        page.wait_for_selector("#key-form", state="visible")
        page.fill("#key", "s3cret")
        page.press("#key", "Enter")
        page.wait_for_selector("#key-form", state="hidden")
        assert fill(page, "the [MASK] bridge")
        page.close()


def test_documentation_page(page: Any, live: Live) -> None:
    page.goto(f"{live.url}/docs#fill")
    page.wait_for_selector("#fill[open]")
    text = page.inner_text("main")
    for words in ("/v1/completions", "num_beams", "429", "curl"):
        assert words in text
