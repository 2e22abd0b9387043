"""The page that eval --report writes, in a real browser: it loads nothing, fits a phone, reads well in light and dark."""

import re
import shutil

import pytest
from chromium import Chromium


@pytest.fixture(scope="module")
def page(pointsman, model, built_memory, off_domain, corpus, tmp_path_factory):
    """The page, and the JSON of the same run."""
    folder = tmp_path_factory.mktemp("report")
    memory = shutil.copytree(built_memory, folder / "memory")
    path = folder / "report.html"
    report = pointsman.json("eval", "--model", model, "--memory", memory, "--corpus", corpus, "--off-domain", off_domain,
                            "--variants", "frozen,bias,memory", "--report", path, "--threads", "1", schema="eval")
    return path, report


@pytest.fixture(scope="module")
def browser():
    if not shutil.which("chromium"):
        pytest.fail("chromium is not installed: tools/setup test")
    browser = Chromium()
    yield browser
    browser.close()


# Elements that stick out to the right of the window and do not scroll by themselves.
OVERFLOW = """(() => { const wide = document.documentElement.clientWidth;
  return [...document.body.querySelectorAll('*')].filter(e => !e.closest('.scroll') && !e.closest('svg.mark') && !e.closest('.hidden')
    && e.getBoundingClientRect().right > wide + 1).map(e => e.tagName + '.' + e.className.toString()); })()"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_loads_nothing_and_fits(browser, page, width, dark):
    browser.open(page[0].as_uri(), width, dark)
    asked = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert asked == [page[0].as_uri()]
    complaints = [e for e in browser.events if e.get("method") in
                  ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Network.loadingFailed")]
    assert complaints == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(OVERFLOW) == []
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(18, 22, 28)" if dark else "rgb(255, 255, 255)")


def test_keyboard_and_screen_reader_find_their_way(browser, page):
    browser.open(page[0].as_uri(), 1280)
    levels = browser.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:])), levels
    assert browser.evaluate("[...document.querySelectorAll('table')].every(t => t.caption && t.tHead && t.querySelector('th[scope=row]'))")
    assert browser.evaluate("[...document.querySelectorAll('.scroll')].every(s => s.tabIndex === 0 && s.getAttribute('aria-labelledby'))")
    plots = browser.evaluate("""[...document.querySelectorAll('figure > svg')].map(s => s.getAttribute('role') + ':' +
        s.getAttribute('aria-labelledby').split(' ').map(i => document.getElementById(i).textContent.length > 10))""")
    assert len(plots) >= 5 and set(plots) == {"img:true,true"}, plots
    assert browser.evaluate("new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size === "
                            "document.querySelectorAll('[id]').length")
    assert browser.evaluate("[...document.querySelectorAll('nav a')].every(a => document.querySelector(a.getAttribute('href')))")


def test_the_page_says_what_the_json_says(browser, page):
    path, report = page
    browser.open(path.as_uri(), 1280)
    text = browser.evaluate("document.body.innerText")
    assert f"Verdict: {report['verdict']}" in text
    memory = next(v for v in report["variants"] if v["name"] == "memory")
    assert f"{memory['gain']:+.4f}".replace("-", "\u2212") in text
    rows = browser.evaluate("document.querySelectorAll('#where tbody tr').length")
    assert rows == sum(len(report["breakdown"][group]) for group in ("kinds", "classes", "positions", "layers"))
    assert str(report["breakdown"]["kinds"][0]["name"]) in text
    assert "The unrelated document that was harmed most" in text
    assert "pointsman eval --model" in text  # the command that repeats it
    assert path.stat().st_size < 1_000_000


def luminance(color):
    channels = [int(color[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colors_have_the_contrast_that_wcag_asks_for(page, theme):
    style = re.search(r"<style>(.*?)</style>", page[0].read_text(), re.S).group(1)
    blocks = re.findall(r":root\{(.*?)\}", style, re.S)
    assert len(blocks) == 2
    color = dict(re.findall(r"--(\w+):(#[0-9a-f]{6})", blocks[theme]))
    for background in ("paper", "panel"):
        for text in ("ink", "soft", "accent", "adopt", "reject", "inconclusive"):
            assert contrast(color[text], color[background]) >= 4.5, (text, background)
    for tint in ("b1", "b2", "b3", "b4", "w1", "w2", "w3", "w4"):
        assert contrast(color["ink"], color[tint]) >= 4.5, tint
    for line in ("better", "worse", "soft", "accent", "reject"):  # marks and lines
        assert contrast(color[line], color["paper"]) >= 3, line


def test_without_text_no_text_is_shown(pointsman, model, memory, off_domain, corpus, tmp_path):
    path = tmp_path / "report.html"
    pointsman.ok("eval", "--model", model, "--memory", memory, "--corpus", corpus, "--off-domain", off_domain,
                 "--variants", "memory", "--report", path, "--no-text", "--threads", "1")
    html = path.read_text()
    assert "No text is shown: --no-text was given." in html
    assert "<pre" not in html and "<code>" not in html
