"""The store's pages and its API: what each shows and does, and for whom."""
import hashlib
import json
import re

import pytest

from tests.store.made import make_run
from tests.store.web import PASSWORD, Site, csrf_of, files_of, submit
from tfgpt.store import catalog, lifecycle
from tfgpt.store.access import groups
from tfgpt.store.access.audit import audit
from tfgpt.store.reference import Reference
from tfgpt.store.web.rendering import card_html


@pytest.fixture
def site(tmp_path, monkeypatch):
    return Site(tmp_path, monkeypatch)


def stage_of(site, name="tickets", version=1):
    return catalog.details_of(site.store.database, Reference(name, version)).entry.stage


def test_a_model_is_found_by_words_and_filters_and_shown_with_all_that_is_known_of_it(site):
    site.publish("tickets", said={"tags": ("support",), "languages": ("de",), "licence": "mit", "card": ""}, card="# Tickets\n\nSorts *letters*.")
    site.publish("poems", said={"tags": ("verse",), "languages": ("en",)})
    browser = site.browser("rita")

    both, found, none = browser.get("/"), browser.get("/?q=letters&language=de&tag=support&sort=loss"), browser.get("/?q=letters&language=en")
    assert ("tickets" in both.text, "poems" in both.text) == (True, True)
    assert ("tickets</a>" in found.text, "poems</a>" in found.text) == (True, False) and "Nothing found" in none.text
    page = browser.get("/models/tickets")
    assert page.url.path == "/models/tickets/1"
    for part in ("Sorts <em>letters</em>", "store://tickets:1", "text-classification", "baseline/loss", "3.49", "model/model.safetensors", "sha256",
                 "docker run", "tfgpt serve --model tickets=store://tickets@production", "curl", "load_text_model"):  # fmt: skip
        assert part in page.text, part
    assert "Promote" not in page.text and "Promote to production" in site.browser("jane").get("/models/tickets").text


def test_what_a_version_came_of_and_what_came_of_it_is_drawn(site):
    site.publish("base", said={"base_model": "gpt2"})
    site.publish("middle", seed=2, said={"base_model": "store://base:1"})
    site.publish("top", seed=3, said={"base_model": "store://middle:1"})
    site.publish("other", seed=4, said={"base_model": "store://other2:1"})
    page = site.browser("rita").get("/models/middle/1").text

    drawn = re.search(r'aria-label="Lineage.*?</svg>', page, re.DOTALL)[0]
    assert re.findall(r'<a href="(/models/[^"]+)">\s*<rect', drawn) == ["/models/base/1", "/models/top/1"]
    assert "gpt2" in drawn and "recipe" in drawn and drawn.count("<path") == 5  # gpt2, base, data and recipe to it, and on to top
    assert "store://other2:1" in site.browser("rita").get("/models/other/1").text


def test_several_versions_are_compared_in_a_table(site):
    site.publish()
    run = site.folder / "run-tickets-2"
    make_run(run, seed=2)
    evaluation = json.loads((run / "evaluation.json").read_text())
    (run / "evaluation.json").write_text(json.dumps(evaluation | {"loss": 1.125}))
    site.store.publish(run, "tickets", "jane", {"licence": "mit"})
    site.publish("third", seed=3)

    page = site.browser("rita").get("/compare?reference=tickets:1&reference=store://tickets:2&reference=third")
    two = site.browser("rita").get("/compare?reference=tickets:1&reference=tickets:2")
    assert [re.findall(rf"<td[^>]*>{value} \(best\)", page.text) != [] for value in ("1.125", "1.25")] == [True, False]
    assert "model/model.safetensors" in two.text and "Try both side by side" in two.text and "mit" in two.text
    assert site.browser("rita").get("/compare?" + "&".join(["reference=third"] * 9)).status_code == 400


def test_a_version_is_promoted_rolled_back_archived_rated_and_shared_by_forms(site):
    site.publish()
    site.publish(seed=2)
    jane, page = site.browser("jane"), "/models/tickets/1"
    assert submit(jane, f"{page}/promote", {"stage": "production"}).url.path == page and stage_of(site) == "production"
    submit(jane, "/models/tickets/2/promote", {"stage": "production"})
    assert submit(jane, "/models/tickets/rollback").url.path == page and (stage_of(site), stage_of(site, version=2)) == ("production", "archived")
    submit(jane, "/models/tickets/2/promote", {"stage": "staging"})
    assert submit(jane, "/models/tickets/2/archive").status_code == 200 and stage_of(site, version=2) == "archived"
    rated = submit(site.browser("rita"), f"{page}/rate", {"stars": "4", "review": "Good with\r\nletters & <letters>"})
    assert rated.status_code == 400 and "HTML" in rated.text
    rated = submit(site.browser("rita"), f"{page}/rate", {"stars": "4", "review": "Good with\r\nletters & more"})
    assert "4 of 5" in rated.text and "letters &amp; more" in rated.text

    assert "private" in submit(jane, "/models/tickets/access", {"visibility": "private"}).text
    assert site.browser("bob").get(page).status_code == 404
    root = site.browser("root")
    submit(root, "/admin/groups", {"name": "team"})
    submit(root, "/admin/groups/team", {"user": "bob", "action": "join"})
    submit(jane, "/models/tickets/access", {"group": "team", "right": "read"})
    assert site.browser("bob").get(page).status_code == 200


@pytest.mark.parametrize("prefix", ["", "my run/"])
def test_a_run_is_published_from_the_page_and_by_a_program_as_by_the_command(site, prefix):
    run = site.folder / "run"
    make_run(run)
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "step.bin").write_bytes(b"no part of it")
    jane = site.browser("jane")

    page = jane.post("/publish", data={"csrf": csrf_of(jane.get("/publish")), "name": "by-page", "licence": "mit", "tags": "a, b", "private": "on"},
                     files=files_of(run, prefix))  # fmt: skip
    program = site.program("jane").post("/api/v1/models/by-program/versions", data={"stage": "staging"}, files=files_of(run, prefix))
    again = site.program("jane").post("/api/v1/models/by-program/versions", files=files_of(run, prefix))
    command = site.store.publish(run, "by-command", "jane", {}, run / "export" / "tickets" / "1").reference

    assert (page.url.path, program.status_code, program.json()) == ("/models/by-page/1", 201, {"reference": "store://by-program:1", "is_new": True})
    assert (again.status_code, again.json()) == (200, {"reference": "store://by-program:1", "is_new": False})
    every = [catalog.details_of(site.store.database, Reference(name)) for name in ("by-page", "by-program", command.name)]
    assert len({frozenset((file.path, file.sha256) for file in details.files if file.path != "README.md") for details in every}) == 1
    assert (every[0].entry.tags, every[0].entry.licence, every[0].entry.private, every[1].entry.stage) == (["a", "b"], "mit", True, "staging")
    assert every[0].figures == every[2].figures and every[0].data_sha256 == every[2].data_sha256 != ""


@pytest.mark.parametrize(("said", "private"), [("True", True), ("YES", True), ("1", True), ("false", False), ("Off", False)])
def test_a_form_says_private_in_any_usual_way(site, said, private):
    make_run(site.folder / "run")

    done = site.program("jane").post("/api/v1/models/tickets/versions", data={"private": said}, files=files_of(site.folder / "run"))

    assert done.status_code == 201 and catalog.details_of(site.store.database, Reference("tickets")).entry.private is private


@pytest.mark.parametrize(("data", "told"), [({"private": "maybe"}, "private: 'maybe' is none of on, true"), ({"privat": "true"}, "privat: a form has no such"),
                                            ({"private": ""}, "private: ''"), ({"stage": "production", "stagee": "draft"}, "stagee")])  # fmt: skip
def test_what_a_form_says_is_never_passed_over(site, data, told):
    make_run(site.folder / "run")

    refused = site.program("jane").post("/api/v1/models/tickets/versions", data=data, files=files_of(site.folder / "run"))

    assert refused.status_code == 400 and told in refused.json()["error"]
    assert site.program("jane").get("/api/v1/models").json() == []


def test_a_program_fetches_what_was_published_byte_for_byte_and_it_counts(site):
    site.publish()
    program = site.program("rita")
    details = program.get("/api/v1/models/tickets/versions/1").json()

    for file in details["files"]:
        answer = program.get(f"/api/v1/models/tickets/versions/1/files/{file['path']}")
        assert hashlib.sha256(answer.content).hexdigest() == file["sha256"] == answer.headers["x-sha256"] and len(answer.content) == file["size_bytes"]
    assert program.get("/api/v1/resolve?reference=tickets").json()["downloads"] == 1
    assert program.get("/api/v1/compare?first=tickets:1&second=tickets").json()["same_data"] is True
    assert [entry["reference"] for entry in program.get("/api/v1/models?q=tick&sort=loss").json()] == ["store://tickets:1"]


def test_a_program_does_what_its_key_and_user_may(site):
    site.publish()
    jane, reading = site.program("jane"), site.program("jane", ["read"])

    assert jane.post("/api/v1/models/tickets/promote", json={"version": 1}).json() == {"reference": "store://tickets:1", "stage": "production"}
    assert jane.put("/api/v1/models/tickets/access", json={"private": True}).json() == {"private": True, "grants": {}}
    refused = reading.post("/api/v1/models/tickets/rollback")
    assert refused.status_code == 403 and "jane may not publish models" in refused.json()["error"]
    asked = {"name": "more", "scopes": ["read"], "old": PASSWORD, "new": "another password", "again": "another password"}
    for path in ("/account", "/account/keys", "/account/password"):  # a key that has leaked is not a way to another one
        answer = jane.get(path) if path == "/account" else jane.post(path, data=asked)
        assert answer.status_code == 403 and "not for keys" in answer.text
    assert reading.get("/api/v1/models/tickets").json()[0]["private"] is True


ADMINISTRATION = [("GET", "/admin", {}), ("GET", "/admin/audit", {}), ("POST", "/admin/users", {"name": "eve", "password": "correct horse", "role": "admin"}),
                  ("POST", "/admin/users/jane", {"role": "admin"}), ("POST", "/admin/groups", {"name": "team"}), ("GET", "/metrics", {}),
                  ("GET", "/api/v1/users", {}), ("GET", "/api/v1/audit", {})]  # fmt: skip
CHANGES = [("POST", "/models/tickets/1/promote", {"stage": "production"}), ("POST", "/models/tickets/1/archive", {}), ("POST", "/models/tickets/rollback", {}),
           ("POST", "/models/tickets/access", {"visibility": "private"})]  # fmt: skip


@pytest.mark.parametrize("name", ["", "rita", "bob"])
@pytest.mark.parametrize(("method", "path", "data"), [*ADMINISTRATION, *CHANGES])
def test_who_has_no_right_changes_nothing(site, name, method, path, data):
    site.publish()
    browser = site.browser(name)
    before = len(audit(site.store.database))

    answer = submit(browser, path, data) if method == "POST" else browser.get(path)
    is_refused = answer.status_code in (401, 403) or (name == "" and answer.url.path == "/sign-in")
    assert is_refused and len(audit(site.store.database)) == before and stage_of(site) == "draft"


def test_nothing_is_shown_to_those_who_have_not_signed_in_unless_it_is_wanted(site, tmp_path, monkeypatch):
    site.publish()
    asked = ["/", "/models/tickets/1", "/compare?reference=tickets", "/try", "/publish", "/account"]
    assert {site.browser().get(path).url.path for path in asked} == {"/sign-in"}
    assert {site.browser().get(path).status_code for path in ("/api/v1/models", "/api/v1/models/tickets/versions/1/files/README.md")} == {401}

    (tmp_path / "open").mkdir()
    open_site = Site(tmp_path / "open", monkeypatch, anonymous_read=True)
    open_site.publish()
    open_site.publish("secret", seed=2, private=True)
    seen = open_site.browser().get("/")
    assert "tickets</a>" in seen.text and "secret" not in seen.text and open_site.browser().get("/models/tickets/1").status_code == 200
    assert open_site.browser().get("/models/secret/1").status_code == 404 and open_site.browser().get("/try").url.path == "/sign-in"
    assert open_site.browser().get("/api/v1/models/tickets/versions/1/files/README.md").status_code == 200


def test_a_private_model_is_nowhere_for_others(site):
    site.publish("open", said={"base_model": "store://secret:1"})
    site.publish("secret", seed=2, private=True, said={"tags": ("hush",)})
    bob, program = site.browser("bob"), site.program("bob")

    pages = ["/", "/?q=secret", "/?tag=hush", "/models/open/1"]
    assert not any("hush" in bob.get(path).text.replace('value="hush"', "").replace("<option selected>hush", "") for path in pages[:1] + pages[3:])
    assert "not for you to see" in bob.get("/models/open/1").text and 'href="/models/secret' not in bob.get("/models/open/1").text
    assert {bob.get(path).status_code for path in ("/models/secret", "/models/secret/1", "/compare?reference=secret")} == {404}
    for path in ("/models/secret", "/models/secret/versions/1", "/models/secret/versions/1/files/README.md", "/resolve?reference=secret",
                 "/compare?first=open&second=secret", "/models/secret/access"):  # fmt: skip
        assert program.get(f"/api/v1{path}").status_code == 404, path
    assert program.post("/api/v1/try", json={"reference": "secret", "prompt": "x"}).status_code == 404
    taken = program.post("/api/v1/models/secret/versions", files=files_of(site.folder / "run-open-1"))
    assert taken.status_code == 403 and taken.json()["error"] == "name: secret is taken; choose another name"


def test_an_administrator_sees_and_changes_all_and_finds_it_in_the_audit_log(site):
    site.publish("secret", private=True)
    root = site.browser("root")
    submit(root, "/models/secret/1/promote", {"stage": "production"})
    submit(root, "/admin/users", {"name": "eve", "password": "correct horse", "role": "reader"})
    submit(root, "/admin/users/eve", {"state": "disabled"})

    log = root.get("/admin/audit").text
    assert [part in log for part in ("promote", "change user", "user eve", "disabled True", "address testclient", "secret:1")] == [True] * 6
    assert root.get("/admin/audit?action=promote&model=secret").text.count("<tr><td>") == 1
    assert "requests_total" in root.get("/metrics").text and 'route="/models/{name}/{version}/promote"' in root.get("/metrics").text
    assert "eve" in root.get("/admin").text and "address" not in site.program("bob").get("/api/v1/models").text


def test_one_signs_in_changes_ones_password_and_makes_keys_on_ones_page(site):
    jane = site.browser("jane")
    page = submit(jane, "/account/keys", {"name": "ci", "scopes": ["read", "publish"], "days": "30"}, of="/account")
    key = re.search(r'id="new-key">(tfgpt_[\w-]+)<', page.text)[1]
    assert key not in jane.get("/account").text
    ask = {"Authorization": f"Bearer {key}"}
    assert site.browser().get("/api/v1/models", headers=ask).status_code == 200
    submit(jane, re.search(r'action="(/account/keys/\d+/revoke)"', page.text)[1], of="/account")
    assert site.browser().get("/api/v1/models", headers=ask).status_code == 401

    wrong = submit(jane, "/account/password", {"old": "no", "new": "another password", "again": "another password"}, of="/account")
    assert wrong.status_code == 403 and jane.get("/account").url.path == "/account"
    done = submit(jane, "/account/password", {"old": "correct horse battery", "new": "another password", "again": "another password"}, of="/account")
    assert done.url.path == "/sign-in" and jane.get("/account").url.path == "/sign-in"


def test_after_signing_in_one_is_where_one_wanted_to_be_and_nowhere_else(site):
    site.publish()
    browser = site.browser()
    asked = browser.get("/models/tickets/1?x=1")
    assert asked.url.path == "/sign-in" and 'name="then" value="/models/tickets/1?x=1"' in asked.text
    for then, leads_to in (("/models/tickets/1?x=1", "/models/tickets/1"), ("//example.org/", "/"), ("https://example.org/", "/"), ("/\\example.org", "/")):
        data = {"csrf": csrf_of(browser.get("/sign-in")), "name": "rita", "password": "correct horse battery", "then": then}
        answer = browser.post("/sign-in", data=data)
        assert (answer.url.host, answer.url.path) == ("testserver", leads_to)


def test_the_api_is_described_and_each_route_says_what_it_does(site):
    described = site.browser().get("/api/openapi.json").json()

    operations = {(method, path): operation for path, methods in described["paths"].items() for method, operation in methods.items()}
    assert len(operations) >= 17 and all(path.startswith("/api/v1/") for _, path in operations)
    assert all(operation["description"] and operation["security"] and "422" not in operation["responses"] for operation in operations.values())
    assert "multipart/form-data" in operations["post", "/api/v1/models/{name}/versions"]["requestBody"]["content"]
    assert set(operations["post", "/api/v1/try"]["responses"]) >= {"200", "400", "401", "403", "404", "429"}


def test_the_store_is_shown_and_searched_with_many_pages(site):
    for number in range(30):
        catalog.publish(site.store.database, f"m{number:02}", "jane", catalog.Description(), [], {})
    browser = site.browser("rita")

    first, second = browser.get("/?sort=name"), browser.get("/?sort=name&page=2")
    assert first.text.count('class="card"') == 24 and second.text.count('class="card"') == 6 and "/?sort=name&amp;page=2" in first.text
    assert browser.get("/?page=0").status_code == 400 and "Nothing found" in browser.get("/?page=9").text


def test_what_one_can_filter_by_is_ones_own_and_new_within_a_minute(site, monkeypatch):
    site.publish("open", said={"tags": ("first",)})
    site.publish("secret", seed=2, private=True, said={"tags": ("hush",)})
    jane, bob = site.browser("jane"), site.browser("bob")
    assert [">hush<" in browser.get("/").text for browser in (jane, bob, jane)] == [True, False, True]

    site.publish("third", seed=3, said={"tags": ("later",)})
    monkeypatch.setattr("tfgpt.store.web.remembered.SECONDS", 0.0)
    assert [">later</option>" in browser.get("/").text for browser in (jane, bob)] == [True, True]


def test_somebody_whose_role_is_taken_has_lost_it_at_once(site):
    from tfgpt.store.access import users

    site.publish()
    jane = site.browser("jane")
    users.change_user(site.store.database, "jane", "root", role="reader")
    assert submit(jane, "/models/tickets/1/promote", {"stage": "production"}).status_code == 403
    users.change_user(site.store.database, "jane", "root", disabled=True)
    assert jane.get("/").url.path == "/sign-in"


def test_what_a_group_may_publish_is_published_in_the_owners_name(site):
    site.publish(private=True)
    groups.add_group(site.store.database, "team", "root")
    groups.set_member(site.store.database, "team", "bob", True, "root")
    groups.set_access(site.store.database, "tickets", "jane", grants={"team": "publish"})
    make_run(site.folder / "next", seed=9)

    done = site.program("bob").post("/api/v1/models/tickets/versions", files=files_of(site.folder / "next"))
    entry = catalog.details_of(site.store.database, Reference("tickets", 2)).entry
    assert done.status_code == 201 and (entry.owner, entry.publisher, entry.private) == ("jane", "bob", True)
    lifecycle.promote(site.store.database, Reference("tickets", 2), "bob")


@pytest.mark.parametrize(("markdown", "never"), [
    ("[x](javascript:alert(1))", "href=\"javascript"), ("[x](data:text/html;base64,AA)", "href=\"data"), ("<script>alert(1)</script>", "<script"),
    ("![x](https://example.org/pixel.png)", "<img"), ("<img src=x onerror=alert(1)>", "<img"), ("[x](vbscript:x)", "href=\"vbscript")])  # fmt: skip
def test_a_card_is_markdown_without_html_scripts_or_remote_pictures(markdown, never):
    assert never not in card_html(f"# Card\n\n{markdown}") and "<h1>Card</h1>" in card_html(f"# Card\n\n{markdown}")


