"""What is sent to a served store on purpose to harm it or its users: each is tried and refused, and leaves nothing behind."""
import io
import socket
import threading
import time
from urllib.parse import unquote

import httpx
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.store.made import make_run
from tests.store.web import PASSWORD, Site, csrf_of, files_of, submit
from tfgpt.serving.http_server import http_server
from tfgpt.store import catalog
from tfgpt.store.access import keys
from tfgpt.store.access.audit import audit
from tfgpt.store.errors import StoreError
from tfgpt.store.reference import Reference
from tfgpt.store.search import Query, search
from tfgpt.store.web.guard import address_of, counted_as
from tfgpt.store.web.rendering import card_html
from tfgpt.store.web.settings import WebSettings

SCRIPT = "<script>alert(1)</script>"
SQL = "'; DROP TABLE models; --"


@pytest.fixture
def site(tmp_path, monkeypatch):
    return Site(tmp_path, monkeypatch)


@pytest.fixture
def served(site):
    """The address of the site on a socket of this machine."""
    listener = socket.create_server(("127.0.0.1", 0))
    with http_server(site.app, listener, 5.0):
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def published(site):
    return [entry.name for entry in search(site.store.database, Query())]


def upload(site, files, who="jane", **data):
    return site.program(who).post("/api/v1/models/tickets/versions", files=files, data=data)


def run_of(site):
    make_run(site.folder / "run")
    return site.folder / "run"


@pytest.mark.parametrize("name", ["../model/config.json", "model/../../config.json", "/model/config.json", "model//config.json", "model/./config.json",
                                  "..\\model\\config.json", "C:\\model\\config.json", "model/" + "x" * 256, "~/.ssh/../model/config.json"])
def test_a_path_that_leads_out_is_refused(site, name):
    answer = upload(site, [("files", (name, b"{}")), *files_of(run_of(site), leave_out=("config.json",))])

    assert answer.status_code == 400 and published(site) == []
    assert not [path for path in site.folder.rglob("config.json") if "run" not in path.parts]


@pytest.mark.parametrize(("name", "content", "message"), [
    ("model/pytorch_model.bin", b"\x80\x02}q\x00.", "may hold a pickle"), ("model/x.safetensors", b"\x80\x04}\x94.", "is a pickle"),
    ("model/model.safetensors", b"\x00" * 100, "stands there twice"), ("model/run.py", b"import os", "is of no kind that is published"),
    ("tokenizer/x.json", b"{", "is no JSON"), ("model/config.json/x.json", b"{}", "as a file and a folder"),
    ("export/tickets/1/fingerprint.pb", b"\x00changed", "manifest")])  # fmt: skip
def test_a_file_that_is_not_what_it_should_be_is_refused(site, name, content, message):
    answer = upload(site, [*files_of(run_of(site)), ("files", (name, content))])

    assert answer.status_code in (400, 500) and message in answer.json()["error"] and published(site) == []


@pytest.mark.parametrize(("data", "message"), [({"version": "7"}, "version: 7"), ({"version": "1e9"}, "is no number"), ({"version": "-1"}, "is no number"),
                                               ({"version": "²"}, "is no number"), ({"version": "9" * 5000}, "is no number"),
                                               ({"stage": "archived"}, "archived"), ({"stage": "live"}, "live")])  # fmt: skip
def test_a_forged_version_is_refused(site, data, message):
    answer = upload(site, files_of(run_of(site)), **data)
    assert answer.status_code == 400 and message in answer.json()["error"] and published(site) == []


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefghi", "bcdefghij"))


@pytest.mark.parametrize(("name", "content"), [
    ("README.md", f"---\n{BOMB}tags: *j\n---\n# x"), ("recipe.yaml", BOMB), ("recipe.yaml", f"{BOMB}model: {{init: *j}}\ntask: {{kind: x}}\n"),
    ("recipe.yaml", "[" * 5000), ("recipe.yaml", "a: b\n" * 300_000), ("recipe.yaml", "model: {init: [1]}\ntask: {kind: x}\nadapt: {head: {kind: none}}\n"),
    ("evaluation.json", "[" * 100_000), ("evaluation.json", '{"loss": 1e400}'), ("evaluation.json", '{"metrics": {"a": 3}}')])  # fmt: skip
def test_a_text_that_would_take_all_memory_or_time_is_refused(site, name, content):
    started = time.process_time()
    answer = upload(site, [*files_of(run_of(site), leave_out=(name,)), ("files", (name, content.encode()))])
    assert answer.status_code == 400 and len(answer.json()["error"]) < 1000 and published(site) == [] and time.process_time() - started < 20


def test_what_a_recipe_of_another_machine_started_from_is_not_looked_for_here(site):
    for number, (start, told) in enumerate([("/etc/passwd", "local"), ("../x", "local"), ("runs/tiny/model", "local"), ("openai-community/gpt2", None)]):
        recipe = f"model: {{init: '{start}'}}\ntask: {{kind: generation}}\nadapt: {{head: {{kind: none}}}}\n# {number}"
        answer = upload(site, [*files_of(run_of(site), leave_out=("recipe.yaml",)), ("files", ("recipe.yaml", recipe.encode()))])
        assert answer.status_code == 201, answer.text
        assert catalog.details_of(site.store.database, Reference("tickets", number + 1)).entry.base_model == (told or start)


@pytest.mark.parametrize("key", ["task", "licence", "base_model", "languages", "tags", "card"])
@pytest.mark.parametrize("value", [SCRIPT, SQL, "\x00", "<img src=x onerror=alert(1)>", "[x](javascript:alert(1))"])
def test_html_and_sql_in_a_field_are_refused_or_are_text(site, key, value):
    answer = upload(site, files_of(run_of(site)), **{key: value})

    if answer.status_code == 201:
        assert key == "card" and value == SQL  # which a card may say
        page = site.browser("rita").get("/models/tickets/1")
        assert "DROP TABLE models" in page.text and published(site) == ["tickets"]
    else:
        assert answer.status_code == 400 and answer.json()["error"].startswith(key) and published(site) == []


PAGES = ["/?q={}", "/?tag={}", "/?task={}", "/?owner={}", "/?sort={}", "/models/{}", "/models/tickets/{}", "/compare?reference={}", "/try?reference={}",
         "/sign-in?then={}", "/admin/audit?actor={}", "/{}", "/?page={}", "/?language={}&licence={}"]  # fmt: skip
FORMS = [("/sign-in", "name password then"), ("/admin/users", "name password role"), ("/admin/groups", "name"), ("/admin/users/root", "role state password"),
         ("/admin/groups/none", "user action"), ("/account/keys", "name scopes days"), ("/account/password", "old new again"),
         ("/models/tickets/access", "visibility group right"), ("/models/tickets/1/rate", "stars review"), ("/models/tickets/1/promote", "stage")]  # fmt: skip


HOSTILE = [SCRIPT, SQL, "\"><script>alert(1)</script>", "%00", "..%2f..%2fetc%2fpasswd", "%F0%28%8C%BC", "x" * 3000]


def test_what_an_address_or_form_holds_is_never_a_tag_and_never_an_error_of_ours(tmp_path, monkeypatch, database_url):
    site = Site(tmp_path, monkeypatch, database_url, sign_ins_per_minute=1000)
    site.publish()
    root = site.browser("root")
    for value in HOSTILE:
        answers = [root.get(path.replace("{}", value)) for path in PAGES]
        plain = unquote(value)
        answers += [submit(root, path, dict.fromkeys(keys.split(), plain)) for path, keys in FORMS]
        for answer in answers:
            assert answer.status_code < 500 and "<script>alert" not in answer.text and "onerror" not in answer.text, answer.url
    assert published(site) == ["tickets"]


@pytest.mark.parametrize("path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd",
                                  "/api/v1/models/tickets/versions/1/files/../../../store.json", "/api/v1/models/tickets/versions/1/files/%2e%2e/store.json",
                                  "/api/v1/models/tickets/versions/1/files//etc/passwd"])  # fmt: skip
def test_no_file_beside_those_that_were_published_is_served(site, served, path):
    site.publish()
    key = site.program("root").headers["Authorization"]
    with socket.create_connection(tuple(served.removeprefix("http://").split(":"))) as raw:  # since httpx would tidy the path up
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.split(b" ", 2)[1] in (b"404", b"400") and b"root:" not in answer and b"max_file_bytes" not in answer


def test_a_form_of_another_site_is_refused(site):
    site.publish()
    jane = site.browser("jane")
    token = csrf_of(jane.get("/account"))
    others = csrf_of(site.browser("bob").get("/account"))
    path, stage = "/models/tickets/1/promote", {"stage": "production"}
    forged = [(stage, {}), (stage | {"csrf": ""}, {}), (stage | {"csrf": others}, {}), (stage | {"csrf": token}, {"Origin": "https://evil.example"}),
              (stage | {"csrf": token}, {"Sec-Fetch-Site": "cross-site"}), (stage | {"csrf": token}, {"Origin": "null"})]  # fmt: skip
    assert {jane.post(path, data=data, headers=headers).status_code for data, headers in forged} == {403}
    assert jane.post("/publish", data={"csrf": others, "name": "x"}, files=files_of(run_of(site))).status_code == 403
    assert jane.post("/sign-in", data={"name": "bob", "password": PASSWORD}).status_code == 403  # nor may one be signed in as somebody else
    assert catalog.details_of(site.store.database, Reference("tickets", 1)).entry.stage == "draft" and published(site) == ["tickets"]
    assert jane.post(path, data=stage | {"csrf": token}, headers={"Origin": "http://testserver", "Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_a_token_that_somebody_else_has_put_into_a_browser_is_worth_nothing_after_signing_in(site):
    browser = site.browser()
    browser.cookies.set("tfgpt_store", "known-to-the-attacker")
    submit(browser, "/sign-in", {"name": "rita", "password": PASSWORD})
    stranger = site.browser()
    stranger.cookies.set("tfgpt_store", "known-to-the-attacker")
    assert browser.get("/account").url.path == "/account" and stranger.get("/account").url.path == "/sign-in"


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites_and_unencrypted_pages(site):
    from fastapi.testclient import TestClient

    plain, safe = site.browser().get("/sign-in"), TestClient(site.app, base_url="https://testserver").get("/sign-in")
    assert "HttpOnly" in plain.headers["set-cookie"] and "SameSite=lax" in plain.headers["set-cookie"] and "Secure" not in plain.headers["set-cookie"]
    assert "Secure" in safe.headers["set-cookie"] and safe.headers["strict-transport-security"] == "max-age=31536000"


@pytest.mark.parametrize("path", ["/", "/sign-in", "/nowhere", "/api/v1/models", "/static/store.css", "/api/v1/nowhere", "/models/tickets/1"])
def test_every_answer_has_the_headers_that_make_a_browser_careful(site, path):
    site.publish()
    headers = site.browser("rita").get(path).headers
    assert "script-src 'self'" in headers["content-security-policy"] and "unsafe-inline" not in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"] and headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cache-control"] == ("max-age=600" if path == "/static/store.css" else "no-store")  # pages are somebody's, the style is everybody's


def test_passwords_cannot_be_guessed_by_trying_many(tmp_path, monkeypatch):
    site = Site(tmp_path, monkeypatch, sign_ins_per_minute=3)
    browser = site.browser()
    tried = [submit(browser, "/sign-in", {"name": "jane", "password": f"guess number {number}"}) for number in range(5)]

    assert [answer.status_code for answer in tried] == [403, 403, 403, 429, 429] and 0 < int(tried[-1].headers["retry-after"]) <= 60
    assert submit(browser, "/sign-in", {"name": "jane", "password": PASSWORD}).status_code == 429
    assert len(audit(site.store.database, action="sign-in refused")) == 3


def test_an_address_that_asks_too_often_is_told_when_it_may_again(tmp_path, monkeypatch):
    site = Site(tmp_path, monkeypatch, requests_per_minute=20)
    browser = site.browser()
    answers = [browser.get(path) for path in ["/health"] * 15 + ["/api/v1/models"] * 10]

    assert [answer.status_code for answer in answers] == [200] * 15 + [401] * 5 + [429] * 5
    assert "Too many requests" in answers[-1].json()["error"] and int(answers[-1].headers["retry-after"]) <= 60


def test_publishes_of_one_user_are_counted(tmp_path, monkeypatch):
    site = Site(tmp_path, monkeypatch, publishes_per_hour=2)
    jane = site.program("jane")
    files = files_of(run_of(site))
    codes = [jane.post(f"/api/v1/models/m{number}/versions", files=files).status_code for number in range(3)]
    assert codes == [201, 201, 429]


def test_addresses_of_one_network_of_ipv6_are_one_and_those_of_ipv4_are_not():
    asked = {host: counted_as(address_of({"client": (host, 1)}))
             for host in ("2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1", "203.0.113.7", "::ffff:203.0.113.7", "testclient")}  # fmt: skip
    assert asked == {"2001:db8::1": "2001:db8::/64", "2001:db8::ffff:2": "2001:db8::/64", "2001:db8:0:1::1": "2001:db8:0:1::/64",
                     "203.0.113.7": "203.0.113.7", "::ffff:203.0.113.7": "203.0.113.7", "testclient": "testclient"}


def test_a_key_that_is_revoked_while_a_model_is_uploaded_publishes_nothing(site, served):
    make_run(site.folder / "run")
    key = site.program("jane").headers["Authorization"]
    form = httpx.Request("POST", f"{served}/api/v1/models/tickets/versions", files=files_of(site.folder / "run"), headers={"Authorization": key})
    body = form.read()

    def parts():
        yield body[:1000]
        keys.revoke_key(site.store.database, "jane", keys.keys_of(site.store.database, "jane")[0].id, "jane")
        yield body[1000:]

    headers = {"Authorization": key, "Content-Type": form.headers["Content-Type"]}
    assert httpx.post(f"{served}/api/v1/models/tickets/versions", content=parts(), headers=headers).status_code == 401 and published(site) == []


def test_downloads_that_nobody_reads_take_little_memory(site, served):
    size = 48 * 2**20
    run = run_of(site)
    save_file({"wte.weight": np.zeros(size // 4, np.float32)}, run / "model" / "model.safetensors")
    site.store.publish(run, "tickets", "jane")
    key, before, waiting = site.program("rita").headers["Authorization"], resident_bytes(), []
    for _ in range(40):
        waiting.append(socket.create_connection(tuple(served.removeprefix("http://").split(":"))))
        waiting[-1].sendall(f"GET /api/v1/models/tickets/versions/1/files/model/model.safetensors HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n\r\n".encode())
    time.sleep(3)  # while they are served as far as anybody reads
    grown = resident_bytes() - before
    for connection in waiting:
        connection.close()
    assert grown < 6 * size  # not 40 times
    damaged = next(path for path in (site.folder / "store" / "artifacts").rglob("*") if path.is_file() and path.stat().st_size > size)
    with open(damaged, "r+b") as content:
        content.seek(size // 2)
        content.write(b"x")
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{served}/api/v1/models/tickets/versions/1/files/model/model.safetensors", headers={"Authorization": key}, timeout=60)


def resident_bytes():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) * 1024


@pytest.mark.parametrize("mark", ["![", "[", "*a_", "`", "<a", "~~", "> ", "|a\n-|-\n", "![a](b", "\\"])
def test_no_card_takes_long_to_show(mark):
    started = time.process_time()
    card_html(mark * (200_000 // len(mark)))
    assert time.process_time() - started < 5


def test_what_is_no_origin_or_half_a_character_is_refused(site):
    assert site.browser("jane").post("/models/tickets/rollback", headers={"Origin": "http://["}).status_code == 403
    site.publish()
    root = site.program("root")
    for method, path, body in (("PUT", "/models/tickets/access", '{"grants": {"\\ud800": "read"}}'),
                               ("POST", "/users", '{"name": "eve", "password": "\\ud800aaaabcdefgh"}')):  # fmt: skip
        assert root.request(method, f"/api/v1{path}", content=body, headers={"Content-Type": "application/json"}).status_code == 400
    jane = site.browser("jane")
    assert submit(jane, "/account/keys/99999999999999999999999/revoke").status_code == 400
    assert site.browser().post("/api/v1/models/tickets/rollback").status_code == 401


def test_signing_in_again_ends_what_the_browser_was_signed_in_as(site):
    browser = site.browser("jane")
    before = browser.cookies["tfgpt_store"]
    submit(browser, "/sign-in", {"name": "bob", "password": PASSWORD})
    browser.cookies.clear()
    browser.cookies.set("tfgpt_store", before)
    assert browser.get("/account").url.path == "/sign-in"


@pytest.mark.parametrize("declared", [True, False])
def test_an_oversized_upload_ends_early_and_leaves_nothing(tmp_path, monkeypatch, declared):
    site = Site(tmp_path, monkeypatch, max_upload_bytes=200_000)
    key = site.program("jane").headers["Authorization"]
    sent = 0

    def parts():
        nonlocal sent
        yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="model/model.safetensors"\r\n\r\n'
        for _ in range(2000):
            sent += 10_000
            yield bytes(10_000)

    headers = {"Authorization": key, "Content-Type": "multipart/form-data; boundary=b"} | ({"Content-Length": "20000100"} if declared else {})
    listener = socket.create_server(("127.0.0.1", 0))
    with http_server(site.app, listener, 5.0), httpx.Client() as client:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api/v1/models/tickets/versions"
        try:
            answer = client.post(url, content=parts(), headers=headers)
            assert answer.status_code == 413 and "--max-upload-bytes" in answer.json()["error"]
        except (httpx.WriteError, httpx.RemoteProtocolError, httpx.ReadError):
            pass  # the connection was closed while the rest was on its way
        health = client.get(url.replace("/api/v1/models/tickets/versions", "/health"))
    assert health.status_code == 200 and sent < 20_000_000 and published(site) == []
    small = site.program("jane").post("/api/v1/models/tickets/promote", content=b"x" * 2_000_000)
    assert small.status_code == 413 and "--max-form-bytes" in small.json()["error"]


def test_an_oversized_file_and_too_many_files_are_refused(site):
    site.store.config = type(site.store.config)(max_file_bytes=1000, max_files=15)
    run = run_of(site)
    large = upload(site, [*files_of(run, leave_out=("model.safetensors",)), ("files", ("model/model.safetensors", bytes(2000)))])
    assert large.json()["error"].startswith("model/model.safetensors: 2,000 bytes are more than a file may have here (1,000)")
    many = upload(site, [("files", (f"model/{number}.json", b"{}")) for number in range(16)])
    assert many.status_code == 400 and "Too many files" in many.json()["error"] and published(site) == []


def test_a_body_that_does_not_come_is_given_up(tmp_path, monkeypatch):
    site = Site(tmp_path, monkeypatch, body_seconds=1)
    key = site.program("jane").headers["Authorization"]
    listener = socket.create_server(("127.0.0.1", 0))
    with http_server(site.app, listener, 5.0), socket.create_connection(listener.getsockname()) as raw:
        raw.settimeout(20)
        raw.sendall(f"POST /api/v1/models/x/promote HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nContent-Length: 100\r\n\r\n{{".encode())
        started = time.monotonic()
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 408") and time.monotonic() - started < 15


@pytest.mark.parametrize("authorization", ["Bearer wrong", "Bearer ", "Basic amFuZTpwYXNz", "bearer", "", "Bearer " + "x" * 5000])
def test_a_key_that_is_not_one_is_refused_even_where_all_may_read(tmp_path, monkeypatch, authorization):
    site = Site(tmp_path, monkeypatch, anonymous_read=True)
    answer = site.browser().get("/api/v1/models", headers={"Authorization": authorization})
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"reference": 1}', b'{"reference": "tickets", "prompt": "x", "other": 1}', b"[" * 100_000,
                                  b'{"reference": "tickets", "prompt": "x", "temperature": NaN}', b'{"reference": "tickets", "prompt": "x", "seed": 1e400}',
                                  b'{"reference": "tickets", "prompt": "\\ud800", "max_new_tokens": 99999999999999999999}'])  # fmt: skip
def test_a_try_that_is_not_understood_is_refused_with_why(site, body):
    site.publish()
    answer = site.program("rita").post("/api/v1/try", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]


def test_twenty_publishers_over_http_lose_nothing(site, served):
    make_run(site.folder / "run")
    files, key = files_of(site.folder / "run", leave_out=("evaluation.json",)), site.program("jane").headers["Authorization"]
    answers = []

    def publish(number):
        own = [*files, ("files", ("evaluation.json", io.BytesIO(f'{{"loss": {number + 1}}}'.encode())))]
        answers.append(httpx.post(f"{served}/api/v1/models/tickets/versions", files=own, headers={"Authorization": key}, timeout=120))

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {201}
    assert {answer.json()["reference"] for answer in answers} == {f"store://tickets:{number}" for number in range(1, 21)}
    assert sorted(entry.loss for entry in catalog.versions_of(site.store.database, "tickets")) == list(range(1, 21))


def test_settings_that_let_nothing_through_are_refused():
    for name, value in (("requests_per_minute", 0), ("try_seconds", float("nan")), ("try_models", -1), ("max_upload_bytes", 0)):
        with pytest.raises(StoreError, match=f"^{name}: "):
            WebSettings(**{name: value})
