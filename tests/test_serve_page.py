"""The daemon's dashboard in a real browser, on a real server with a real memory."""

import http.client
import json
import pathlib
import re
import shutil
import signal
import time

import pytest
from chromium import Chromium

from conftest import ROOT, SMALL_BUILD
from test_report_page import contrast
from serving import PROMPT, Server

WEB = ROOT / "daemon/web"
VIEWS = ("health", "memories/headers", "sessions", "jobs", "playground")
HOSTILE = "<script>document.title='owned'<!-- <img src=x onerror=alert(1)>.h"  # a file's name has no slash


@pytest.fixture(scope="module")
def hostile_memory(pointsman, model, corpus, off_domain, tmp_path_factory):
    """Every document's name would be markup if the page took it for that."""
    folder = tmp_path_factory.mktemp("hostile")
    for number, path in enumerate(sorted(corpus.rglob("*.h"))):
        shutil.copy(path, folder / f"{number:03} {HOSTILE}")
    out = tmp_path_factory.mktemp("hostile_memory") / "memory"
    pointsman.json("build", "--model", model, "--corpus", folder, "--off-domain", off_domain,
                   "--out", out, "--kind", "entries", *SMALL_BUILD)
    return out


@pytest.fixture(scope="module")
def server(pointsman, model, built_memory, hostile_memory, tmp_path_factory):
    running = Server(pointsman, "--model", model, "--memory", f"headers={built_memory}", "--memory", f"hostile={hostile_memory}",
                     "--snapshots", tmp_path_factory.mktemp("snapshots"),
                     "--threads", "1", "--allow-rejected")
    yield running
    running.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def browser():
    if not shutil.which("chromium"):
        pytest.fail("chromium is not installed: tools/setup test")
    browser = Chromium()
    yield browser
    browser.close()


def visit(browser, server, view="health", width=1280, dark=False):
    browser.open("about:blank", width, dark)  # another hash alone would not load the page again
    browser.open(f"http://127.0.0.1:{server.port}/#{view}", width, dark)
    browser.wait_until("document.querySelector('#state').textContent === 'ready'")
    browser.wait_until(READY[view.split("/")[0]])


READY = {
    "health": "document.querySelectorAll('#view-health .tiles dd').length > 0 && "
              "document.querySelectorAll('#view-health [role=switch]').length === 2",
    "memories": "[...document.querySelectorAll('#view-memories article section')]"
                ".filter(s => s.querySelector('h4 ~ div table, h4 ~ div .soft, .empty')).length === 4",
    "sessions": "document.querySelectorAll('#view-sessions .empty, #view-sessions article').length > 0",
    "jobs": "document.querySelectorAll('#view-jobs .empty, #view-jobs article').length > 0",
    "playground": "document.querySelector('#view-playground select').value !== ''",
}


def complaints(browser):
    """What the browser's console holds; not that a resource of another version of the server was not found."""
    browser.evaluate("0")  # takes in the events that have arrived
    found = []
    for event in browser.events:
        if event.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Security.violation"):
            entry = event["params"].get("entry", {})
            if not (entry.get("source") == "network" and "404" in entry.get("text", "")):
                found.append(event["params"])
    return found


def click(browser, selector):
    browser.evaluate(f"(e => {{ e.focus(); e.click(); }})(document.querySelector({json.dumps(selector)}))")


def text(browser, selector):
    return browser.evaluate(f"document.querySelector({json.dumps(selector)}).textContent")


def answer_both(browser, prompt=PROMPT, tokens=12):
    browser.evaluate(f"""(() => {{ const form = document.querySelector('.playground-form');
        form.querySelector('textarea').value = {json.dumps(prompt)};
        form.querySelectorAll('input[type=number]')[0].value = {tokens}; form.requestSubmit(); }})()""")
    browser.wait_until("document.querySelector('.comparison').textContent", timeout=60)


# --- The files ---

def get(server, path, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", path, headers=headers or {})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


def test_the_files_come_from_the_binary_under_a_strict_policy(server):
    types = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
             ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
    files = [path for path in sorted(WEB.iterdir()) if path.suffix in types]
    assert len(files) > 10
    for path in files:
        status, headers, body = get(server, "/" if path.name == "index.html" else f"/web/{path.name}")
        assert (status, body) == (200, path.read_bytes())
        assert headers["Content-Type"] == types[path.suffix] and headers["X-Content-Type-Options"] == "nosniff"
        policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert {policy[kind] for kind in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
        assert policy["require-trusted-types-for"] == "'script'"
        assert headers["Referrer-Policy"] == "no-referrer"
        tag = headers["ETag"]
        status, headers, body = get(server, f"/web/{path.name}", {"If-None-Match": tag})
        assert (status, body, headers["ETag"]) == (304, b"", tag) and headers["Content-Length"] is None
        assert get(server, f"/web/{path.name}", {"If-None-Match": '"other"'})[0] == 200
    for path in ("/web/", "/web/absent.js", "/web/README.md", "/web/web_files.h", "/web/..%2fserver.cc"):
        assert get(server, path)[0] in (400, 404), path
    status, headers, body = server.ask("HEAD", "/")
    assert status == 200 and body == b"" and int(headers["Content-Length"]) == len((WEB / "index.html").read_bytes())


def test_no_file_names_another_machine_or_makes_markup_of_text():
    for path in WEB.iterdir():
        if path.suffix in (".html", ".css", ".js"):
            content = path.read_text()
            assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|url\(|@import", content), path
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|"
                                 r"new Function|localStorage|\bstyle=", content), path
    html = (WEB / "index.html").read_text()
    assert not re.search(r"<style|\son\w+=|<script(?![^>]*\ssrc=)", html)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colors_have_the_contrast_that_wcag_asks_for(theme):
    blocks = re.findall(r":root \{(.*?)\}", (WEB / "style.css").read_text(), re.S)
    assert len(blocks) == 2
    color = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[theme]))
    for background in ("paper", "panel"):
        for ink in ("ink", "soft", "accent", "second", "adopt", "reject", "inconclusive"):
            assert contrast(color[ink], color[background]) >= 4.5, (ink, background)
        assert contrast(color["edge"], color[background]) >= 3
    for tint in ("b1", "b2", "b3", "b4"):
        assert contrast(color["ink"], color[tint]) >= 4.5, tint
    assert contrast(color["on-accent"], color["accent"]) >= 4.5


# --- The page ---

OVERFLOW = """(() => { const wide = document.documentElement.clientWidth;
  return [...document.body.querySelectorAll('*')].filter(e => e.checkVisibility() && !e.closest('.hidden') && !e.closest('thead')
    && e.getBoundingClientRect().right > wide + 1).map(e => e.tagName + '.' + e.getAttribute('class')); })()"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_section_fits_and_asks_nobody_else(browser, server, width, dark):
    for view in VIEWS:
        visit(browser, server, view, width, dark)
        if view == "playground":
            answer_both(browser)
            click(browser, ".tokens .token")
        urls = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
        assert urls and all(url.startswith(f"http://127.0.0.1:{server.port}/") for url in urls), urls
        assert complaints(browser) == [], view
        assert browser.evaluate("document.documentElement.scrollWidth") <= width, view
        assert browser.evaluate(OVERFLOW) == [], view
        assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == ("rgb(18, 22, 28)" if dark else "rgb(255, 255, 255)")


def test_headings_landmarks_and_names(browser, server):
    for view in VIEWS:
        visit(browser, server, view)
        seen = "[...document.querySelectorAll('h1,h2,h3,h4')].filter(h => h.checkVisibility())"
        levels = browser.evaluate(f"{seen}.map(h => +h.tagName[1])")
        assert levels[0] == 1 and levels.count(1) == 1, (view, levels)
        assert all(after - before <= 1 for before, after in zip(levels, levels[1:])), (view, levels)
        assert browser.evaluate("document.querySelectorAll('header, nav, main').length") == 3
        assert browser.evaluate("[...document.querySelectorAll('nav a')]"
                                ".filter(a => a.getAttribute('aria-current') === 'page').length") == 1
        nameless = browser.evaluate("""[...document.querySelectorAll('button, input, select, textarea, [role=button]')]
            .filter(e => e.checkVisibility() && !(e.textContent.trim() && e.tagName === 'BUTTON') && !e.labels?.length
            && !e.getAttribute('aria-label')).map(e => e.outerHTML)""")
        assert nameless == [], view
        assert browser.evaluate("[...document.querySelectorAll('table')].every(t => t.caption && t.tHead && "
                                "(!t.tBodies[0].rows.length || t.querySelector('th[scope=row]')))")
        assert browser.evaluate("new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size === "
                                "document.querySelectorAll('[id]').length"), view


def test_every_control_is_reached_with_the_tab_key(browser, server):
    for view in VIEWS:
        visit(browser, server, view)
        if view == "playground":
            answer_both(browser)
        # Disabled ones and the tokens that the arrow keys reach are no stops of their own.
        expected = browser.evaluate("""(() => { let n = 0;
            return [...document.querySelectorAll('a, button, input, select, textarea, summary, [tabindex="0"]')]
            .filter(e => e.checkVisibility() && !e.disabled && e.tabIndex >= 0)
            .map(e => { e.dataset.stop = n; return String(n++); }); })()""")
        assert len(expected) >= 7
        browser.evaluate("document.activeElement.blur(); getSelection().removeAllRanges(); scrollTo(0, 0)")
        reached = set()
        for _ in range(len(expected) + 12):
            browser.press("Tab")
            stop = browser.evaluate("document.activeElement?.dataset.stop ?? ''")
            if stop:
                reached.add(stop)
                assert browser.evaluate("""(() => { const style = getComputedStyle(document.activeElement);
                    return style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2; })()"""), "no focus ring"
        missed = browser.evaluate(f"""[...document.querySelectorAll('[data-stop]')]
            .filter(e => e.checkVisibility() && !{json.dumps(sorted(reached))}.includes(e.dataset.stop))
            .map(e => e.outerHTML.slice(0, 120))""")
        assert missed == [], view


def test_health_draws_what_the_metrics_say(browser, server):
    visit(browser, server)
    server.ok("POST", "/v1/completions", {"prompt": PROMPT, "max_tokens": 16, "temperature": 0})
    browser.wait_until("[...document.querySelectorAll('.chart path.line')].some("
                       "path => (path.getAttribute('d').match(/L/g) ?? []).length >= 1)", timeout=40)
    browser.wait_until("[...document.querySelectorAll('.chart')].find(c => c.textContent.includes('Request latency'))"
                       ".querySelectorAll('path.line, circle').length >= 2", timeout=40)
    tiles = browser.evaluate("Object.fromEntries([...document.querySelectorAll('.tiles div')]"
                             ".map(d => [d.querySelector('dt').textContent, d.querySelector('dd').textContent]))")
    metrics = server.ask("GET", "/metrics")[2].decode()
    generated = float(re.search(r"^pointsman_engine_generated_tokens_total (\S+)", metrics, re.M).group(1))
    assert tiles["State"] == "ready" and int(tiles["Tokens generated"].replace(",", "")) == generated
    assert "/v1/completions" in text(browser, "#view-health tbody")
    drawn = browser.evaluate("""[...document.querySelectorAll('figure.chart > svg')].map(s => s.getAttribute('role') + ':' +
        s.getAttribute('aria-labelledby').split(' ').every(i => document.getElementById(i).textContent.length > 5))""")
    assert drawn == ["img:true"] * 4
    assert complaints(browser) == []


def test_quantiles_and_labels_are_prometheus(browser, server):
    visit(browser, server)
    expression = """import('/web/metrics.js').then(m => {
      const before = m.parse('h_bucket{route="/a",le="1"} 0\\nh_bucket{route="/a",le="2"} 0\\nh_bucket{route="/a",le="+Inf"} 0\\n');
      const after = m.parse('# HELP h x\\nh_bucket{route="/a",le="1"} 50\\nh_bucket{route="/a",le="2"} 90\\n' +
        'h_bucket{route="/a",le="+Inf"} 100\\nplain 2.5e3\\nodd{x="a\\\\"b}\\\\\\\\",y="c"} +Inf\\n');
      return JSON.stringify([m.quantile(.5, before, after, 'h'), m.quantile(.7, null, after, 'h'), m.quantile(.99, null, after, 'h'),
        m.quantile(.5, after, after, 'h'), m.sum(after, 'plain'), after.get('odd')[0].labels,
        m.sum(after, 'h_bucket', l => l.le === '1')]); })"""
    result = browser.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)["result"]["value"]
    assert json.loads(result) == [1, 1.5, 2, None, 2500, {"x": 'a"b}\\', "y": "c"}, 50]


def test_switches_ask_first_and_act(browser, server):
    visit(browser, server)
    try:
        click(browser, "#view-health [role=switch]")
        browser.wait_until("!!document.querySelector('dialog[open]')")
        browser.press("Escape")
        browser.wait_until("!document.querySelector('dialog')")
        assert server.ok("GET", "/v1/routing") == {"disabled": False, "shadow": False}
        for on in (True, False):
            click(browser, "#view-health [role=switch]")
            browser.wait_until("!!document.querySelector('dialog[open]')")
            click(browser, "dialog button.primary")
            browser.wait_until(f"document.querySelector('#view-health [role=switch]').getAttribute('aria-checked') === '{str(on).lower()}'")
            assert server.ok("GET", "/v1/routing")["disabled"] is on
            assert browser.evaluate("document.activeElement.getAttribute('role')") == "switch"
        visit(browser, server, "memories/headers")
        click(browser, "#view-memories article [role=switch]")
        browser.wait_until("!!document.querySelector('dialog[open]')")
        click(browser, "dialog button.primary")
        browser.wait_until("document.querySelector('#view-memories article [role=switch]').getAttribute('aria-checked') === 'true'")
        assert server.ok("GET", "/v1/memories/headers")["disabled"]
        browser.wait_until("document.querySelector('#view-memories table').textContent.includes('off')")
    finally:
        server.ok("PATCH", "/v1/routing", {"disabled": False, "shadow": False})
        server.ok("PATCH", "/v1/memories/headers", {"disabled": False})


def test_a_memory_shows_its_verdict_and_sizes(browser, server):
    memory = server.ok("GET", "/v1/memories/headers")
    visit(browser, server, "memories/headers")
    facts = browser.evaluate("Object.fromEntries([...document.querySelectorAll('#view-memories article .facts div')]"
                             ".map(d => [d.querySelector('dt').textContent, d.querySelector('dd').textContent]))")
    assert facts["Verdict"].startswith(memory["verdict"]["verdict"]) and facts["Rows"] == f"{memory['rows']:,}"
    assert facts["Generation"] == str(memory["generation"])
    assert f"{memory['verdict']['gain']:+.4f}".replace("-", "\u2212") in facts["Gain"]
    click(browser, "#view-memories article .actions button")  # reload
    browser.wait_until("document.querySelector('#view-memories article').textContent.includes('is in use.')")
    browser.open("about:blank", 1280)
    visit(browser, server, "memories/headers")
    browser.evaluate("location.hash = '#memories/absent'")
    browser.wait_until("document.querySelector('#view-memories').textContent.includes(\"There is no memory 'absent'\")")


def posted(browser, path):
    """The JSON of the one POST to a path that ends so, which the page is about to send."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        browser.evaluate("0")  # takes in the events that have arrived
        sent = [e["params"]["request"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
        bodies = [json.loads(r["postData"]) for r in sent if r["method"] == "POST" and r["url"].endswith(path)]
        if bodies:
            (body,) = bodies
            return body
        time.sleep(0.05)
    raise AssertionError(f"nothing was posted to {path}")


def test_a_document_is_added_with_tags_and_a_time(browser, server):
    visit(browser, server, "memories/headers")
    browser.evaluate("""(() => { const form = [...document.querySelectorAll('#view-memories details form')].find(f => f.querySelector('textarea'));
        const [name, tags, days] = form.querySelectorAll('input');
        name.value = 'a.h'; form.querySelector('textarea').value = 'int a;'; tags.value = 'new, , two words'; days.value = '0.5'; form.requestSubmit(); })()""")
    assert posted(browser, "/documents") == {"name": "a.h", "text": "int a;", "tags": ["new", "two words"], "ttl_s": 43_200}


def test_an_evaluation_asks_for_what_to_score(browser, server):
    visit(browser, server, "memories/headers")
    for answer, corpus in ((["thread\\n  asio \\n", ""], {"paths": ["thread", "asio"]}),
                           (["", "int a;"], {"test_corpus": [{"name": "pasted text", "text": "int a;"}]})):
        browser.events.clear()
        browser.evaluate("[...document.querySelectorAll('#view-memories article .actions button')].find(b => b.textContent === 'Evaluate').click()")
        browser.wait_until("!!document.querySelector('dialog[open]')")
        browser.evaluate(f"""(() => {{ const [paths, text] = document.querySelectorAll('dialog textarea');
            [paths.value, text.value] = ["{answer[0]}", "{answer[1]}"]; document.querySelector('dialog button.primary').click(); }})()""")
        browser.wait_until("!document.querySelector('dialog')")
        assert posted(browser, "/v1/evals") == {"memory": "headers", **corpus}
        browser.wait_until("document.querySelectorAll('#view-memories .notice.bad').length === 1")  # a server without --jobs


def test_what_rounds_to_nothing_has_no_sign(browser, server):
    visit(browser, server)
    shown = browser.call("Runtime.evaluate", expression="import('/web/format.js').then(f => [-5e-6, 5e-6, -6e-5, 0.1].map(v => f.signed(v)).join())",
                         awaitPromise=True, returnByValue=True)["result"]["value"]
    assert shown == "0.0000,0.0000,\u22120.0001,+0.1000"


def test_sessions_show_their_losses(browser, server):
    session = server.ok("POST", "/v1/sessions", {"memory": "headers"}, status=201)
    try:
        event = server.ok("POST", f"/v1/sessions/{session['id']}/context", {"text": "int a = 1; int b = 2; int c = 3; int d = 4;"})
        visit(browser, server, "sessions")
        browser.wait_until(f"document.querySelector('#view-sessions').textContent.includes('{session['id']}')")
        shown = text(browser, "#view-sessions article")
        assert f"{event['loss_before']:.4f}" in shown and f"{event['loss_after']:.4f}" in shown
        click(browser, "#view-sessions article button")
        browser.wait_until("!!document.querySelector('dialog[open]')")
        click(browser, "dialog button.primary")
        browser.wait_until("!!document.querySelector('#view-sessions .empty')")
        assert server.ok("GET", "/v1/sessions")["data"] == []
    finally:
        server.ask("DELETE", f"/v1/sessions/{session['id']}")


def test_the_playground_answers_both_sides_and_explains_a_token(browser, server, corpus):
    prompt = sorted(corpus.rglob("*.h"))[3].read_text()[:150]
    visit(browser, server, "playground")
    answer_both(browser, prompt)
    body = {"prompt": prompt, "max_tokens": 12, "temperature": 0, "seed": 1}
    expected = {memory: server.ok("POST", "/v1/completions", body | {"memory": memory, "explain": True})["choices"][0]
                for memory in (None, "headers")}
    # What the page shows, without the marks of line breaks.
    answers = browser.evaluate("""[...document.querySelectorAll('.pane .tokens')].map(t => { const copy = t.cloneNode(true);
        copy.querySelectorAll('.break').forEach(b => b.remove()); return copy.textContent.replaceAll('\u25e6', ''); })""")
    assert answers == [expected[None]["text"], expected["headers"]["text"]]
    tokens = browser.evaluate("document.querySelectorAll('.tokens .token').length")
    assert browser.evaluate("[...document.querySelectorAll('.pane .status')].map(s => parseInt(s.textContent))") == [12, 12]
    explained = expected["headers"]["explain"]
    assert tokens == len(explained)
    for index, token in enumerate(explained):
        confidence = token["gate"] * sum(layer["g"] for layer in token["layers"]) / len(token["layers"])
        tint = browser.evaluate(f"document.querySelectorAll('.tokens .token')[{index}].className")
        assert f"t{min(4, 1 + int(confidence * 4)) if confidence > 0 else 0}" in tint.split(), (confidence, tint)
    opened = next(i for i, token in enumerate(explained) if token["gate"] > 0)
    browser.evaluate("document.querySelector('.tokens .token').focus()")
    for _ in range(opened):
        browser.press("ArrowRight")
    browser.press("Enter")
    browser.wait_until("document.querySelector('.explanation h3').checkVisibility()")
    shown = text(browser, ".explanation")
    layer = explained[opened]["layers"][0]
    nearest = layer["neighbours"][0]
    assert f"Token {opened + 1}:" in shown and f"{nearest['document']}:{nearest['position']}" in shown and nearest["excerpt"] in shown
    experts = browser.evaluate("[...document.querySelectorAll('.explanation .layer')]"
                               ".map(l => [...l.querySelectorAll('summary .expert')].map(e => +e.textContent))")
    assert experts == [layer["experts_before"] + layer["experts_after"] for layer in explained[opened]["layers"]]
    changed = sum(bool(set(layer["experts_after"]) - set(layer["experts_before"])) for layer in explained[opened]["layers"])
    assert browser.evaluate("[...document.querySelectorAll('.explanation .layer')]"
                            ".filter(l => l.querySelector('ins') && l.querySelector('del')).length") == changed
    assert browser.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    assert browser.evaluate("document.querySelectorAll('#token-table tbody tr').length") == tokens
    assert complaints(browser) == []


def test_a_refusal_is_shown_in_the_servers_words(browser, server):
    visit(browser, server, "playground")
    browser.evaluate("""(() => { const form = document.querySelector('.playground-form');
        form.querySelector('textarea').value = 'x '.repeat(500); form.requestSubmit(); })()""")
    browser.wait_until("document.querySelectorAll('.pane .notice').length === 2")
    words = server.refused("POST", "/v1/completions", {"prompt": "x " * 500, "max_tokens": 48}, 422, "context_length_exceeded")["message"]
    assert text(browser, ".pane .notice") == words


def test_a_documents_name_stays_text(browser, server, corpus):
    visit(browser, server, "playground")
    browser.evaluate("(() => { const select = document.querySelector('#view-playground select'); select.value = 'hostile'; })()")
    answer_both(browser, sorted(corpus.rglob("*.h"))[3].read_text()[:150])
    browser.evaluate("document.querySelectorAll('.tokens .token').forEach(t => t.click())")
    named = browser.evaluate("[...document.querySelectorAll('.tokens .token')].some(t => { t.click(); "
                             "return document.querySelector('.explanation').textContent.includes('<script>'); })")
    assert named
    assert browser.evaluate("document.querySelectorAll('main script, main img').length") == 0
    assert "owned" not in browser.evaluate("document.title")
    # What the scripts wrote cannot become markup even by mistake: the browser refuses it.
    refused = browser.evaluate("(() => { try { document.body.innerHTML = '<b>x</b>'; return 'written'; } "
                               "catch (error) { return error.name; } })()")
    assert refused == "TypeError"


def test_what_this_server_does_not_have_is_said_quietly(browser, server):
    visit(browser, server, "memories/headers")
    browser.wait_until("document.querySelectorAll('#view-memories h4').length === 4")
    for path, heading in (("drift", "Drift"), ("diagnosis", "Diagnosis"), ("documents", "Documents"), ("snapshots", "Snapshots")):
        there = server.ask("GET", f"/v1/memories/headers/{path}")[0] != 404
        section = f"[...document.querySelectorAll('#view-memories section')].find(s => s.querySelector('h4')?.textContent === '{heading}')"
        browser.wait_until(f"{section}.textContent.includes('Not available on this server.') === {str(not there).lower()}")
    assert browser.evaluate("document.querySelectorAll('#view-memories .notice.bad').length") == 0


def test_a_server_with_keys_asks_for_one_and_keeps_it_in_the_tab(browser, pointsman, model, built_memory, tmp_path):
    keys = tmp_path / "keys"
    reader = pointsman.json("keys", "new", "--keys", keys, "--name", "reader")["key"]
    running = Server(pointsman, "--model", model, "--memory", f"headers={built_memory}", "--threads", "1",
                     "--allow-rejected", "--keys", keys)
    try:
        browser.open("about:blank", 1280)
        browser.open(f"http://127.0.0.1:{running.port}/", 1280)
        browser.wait_until("!!document.querySelector('dialog[open] input[type=password]')")
        browser.evaluate("document.querySelector('#api-key').value = 'pm-wrong'; document.querySelector('dialog button.primary').click()")
        browser.wait_until("!!document.querySelector('dialog[open] input[type=password]') && "
                           "document.querySelector('#api-key').value === ''")
        browser.evaluate("document.querySelector('#api-key').focus()")
        browser.type(reader)
        browser.press("Enter")
        browser.wait_until("document.querySelectorAll('#view-health .tiles dd').length > 0")
        assert browser.evaluate("sessionStorage.getItem('pointsman-key')") == reader
        assert browser.evaluate("localStorage.length + document.cookie.length") == 0
        urls = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
        assert not any(reader in url for url in urls + [browser.evaluate("location.href")])
        # A reader may look but not switch: the server's refusal is shown.
        browser.wait_until("document.querySelectorAll('#view-health [role=switch]').length === 2")
        click(browser, "#view-health [role=switch]")
        browser.wait_until("!!document.querySelector('dialog[open]')")
        click(browser, "dialog button.primary")
        browser.wait_until("document.querySelector('#view-health .notice.bad')?.textContent.includes('admin')")
        assert browser.evaluate("document.querySelector('#view-health [role=switch]').getAttribute('aria-checked')") == "false"
    finally:
        running.stop(signal.SIGKILL)
