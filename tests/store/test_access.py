"""Users, groups, keys, and who sees and changes what, in both databases."""
import time

import pytest
from argon2 import PasswordHasher

from tests.store.made import published
from tfgpt.store import catalog, lifecycle, ratings
from tfgpt.store.access import audit, groups, keys, users
from tfgpt.store.access.rights import ROLES, Caller
from tfgpt.store.errors import ForbiddenError, NotFoundError, StoreError
from tfgpt.store.reference import Reference
from tfgpt.store.schema import ApiKey, SignIn, User, stamp
from tfgpt.store.search import Query, facets_of, search

PASSWORD = "correct horse battery"
ORIGIN = {"address": "203.0.113.7"}


@pytest.fixture(scope="module", autouse=True)
def quick_hashes():
    """Argon2 as it is, with less memory and time: what a hash costs, test_a_password_is_kept_as_argon2id looks at."""
    import tfgpt.store.access.passwords as passwords

    before = passwords.HASHER
    passwords.HASHER = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
    yield before
    passwords.HASHER = before


@pytest.fixture
def people(database):
    """Two publishers, a reader and an administrator."""
    for name, role in (("root", "admin"), ("jane", "publisher"), ("bob", "publisher"), ("rita", "reader")):
        users.add_user(database, name, PASSWORD, role, "setup")
    return {name: Caller(name, frozenset(ROLES[role])) for name, role in (("root", "admin"), ("jane", "publisher"), ("bob", "publisher"), ("rita", "reader"))}


ANYBODY = Caller("", frozenset(["read"]))


def names(database, reader):
    return [entry.name for entry in search(database, Query(sort="name"), reader)]


def test_a_password_is_kept_as_argon2id_of_64_mib_and_never_as_it_is(database, quick_hashes, monkeypatch):
    monkeypatch.setattr("tfgpt.store.access.passwords.HASHER", quick_hashes)
    users.add_user(database, "jane", PASSWORD, "reader", "setup")

    with database.reading() as session:
        kept = session.query(User).one().password_hash
    assert kept.startswith("$argon2id$v=19$m=65536,t=3,p=4$") and PASSWORD not in kept


@pytest.mark.parametrize(("name", "password", "role", "message"), [
    ("jane", "short", "reader", "5 characters; give 10 to 256"), ("jane", "x" * 257, "reader", "257 characters"),
    ("jane.doe.long", "Jane.Doe.Long", "reader", "is the user's name"), ("jane", "ababababababab", "reader", "fewer than 4 different"),
    ("jane", PASSWORD, "king", "'king' is none of reader"), ("<b>", PASSWORD, "reader", "owner: '<b>' is not allowed"),
    ("Anonymous", PASSWORD, "reader", "have not signed in"), ("JANE", PASSWORD, "reader", None)])  # fmt: skip
def test_users_who_cannot_be(database, name, password, role, message):
    if message is None:
        users.add_user(database, "jane", PASSWORD, "reader", "setup")

    with pytest.raises(StoreError, match=message or "there is a user jane already"):
        users.add_user(database, name, password, role, "setup")


def test_a_browser_is_signed_in_until_it_signs_out_or_the_password_changes_or_the_time_is_over(database, people):
    tokens = [users.sign_in(database, "jane", PASSWORD, ORIGIN) for _ in range(4)]
    assert [users.signed_in(database, token, ORIGIN) for token in tokens] == [Caller("jane", frozenset(ROLES["publisher"]), ORIGIN)] * 4

    users.sign_out(database, tokens[0])
    with database.writing() as session:
        session.get(SignIn, users.digest_of(tokens[1])).expires_at = stamp(time.time() - 1)
    assert [users.signed_in(database, token, ORIGIN) is None for token in tokens] == [True, True, False, False]

    with pytest.raises(ForbiddenError, match="the old one is wrong"):
        users.change_password(database, people["jane"], "not the old one", "another password")
    users.change_password(database, people["jane"], PASSWORD, "another password")
    assert all(users.signed_in(database, token, ORIGIN) is None for token in tokens)
    assert users.signed_in(database, users.sign_in(database, "jane", "another password", ORIGIN), ORIGIN).name == "jane"


@pytest.mark.parametrize(("name", "password"), [("jane", "wrong"), ("nobody", PASSWORD), ("jane", ""), ("' OR 1=1 --", "x"), ("disabled", PASSWORD)])
def test_who_is_refused_is_told_the_same_whoever_it_is(database, people, name, password):
    users.add_user(database, "disabled", PASSWORD, "reader", "setup")
    users.change_user(database, "disabled", "setup", disabled=True)

    with pytest.raises(ForbiddenError, match=r"^name, password: are not those of a user here; try again, or ask an administrator$"):
        users.sign_in(database, name, password, ORIGIN)
    [line] = audit.audit(database, action="sign-in refused")
    assert (line.actor, line.details) == ("anonymous", {"user": name} | ORIGIN)


def test_the_only_administrator_stays_one(database, people):
    for change in ({"role": "reader"}, {"disabled": True}):
        with pytest.raises(StoreError, match="root is the only administrator"):
            users.change_user(database, "root", "root", **change)
    users.change_user(database, "jane", "root", role="admin")
    users.change_user(database, "root", "jane", role="reader")

    assert {user.name: user.role for user in users.users(database)} == {"bob": "publisher", "jane": "admin", "rita": "reader", "root": "reader"}


def test_a_key_has_what_both_it_and_its_user_may(database, people):
    key = keys.make_key(database, "jane", "ci", ("read", "publish"), 30, people["jane"])

    assert key.startswith("tfgpt_") and len(key) > 40
    assert keys.caller_of(database, key, ORIGIN) == Caller("jane", frozenset(["read", "publish"]), ORIGIN | {"by_key": "ci"})
    [info] = keys.keys_of(database, "jane")
    assert info.state == "valid" and info.used_at is not None
    with database.reading() as session:
        assert key not in str(vars(session.query(ApiKey).one()))

    users.change_user(database, "jane", "root", role="reader")
    users.change_user(database, "jane", "root", role="publisher")
    assert keys.caller_of(database, key, ORIGIN).scopes == {"read"}  # what was taken away does not come back by itself


def test_a_key_that_is_not_valid_any_more_is_nobodys(database, people):
    made = {name: keys.make_key(database, "jane", name, ("read",), 1, "setup") for name in ("revoked", "expired", "valid")}
    infos = {info.name: info for info in keys.keys_of(database, "jane")}
    with pytest.raises(NotFoundError):
        keys.revoke_key(database, "bob", infos["revoked"].id, people["bob"])
    keys.revoke_key(database, "jane", infos["revoked"].id, people["jane"])
    with database.writing() as session:
        session.get(ApiKey, infos["expired"].id).expires_at = stamp(time.time() - 1)

    assert {name: keys.caller_of(database, key, ORIGIN) is not None for name, key in made.items()} == {"revoked": False, "expired": False, "valid": True}
    assert {info.name: info.state for info in keys.keys_of(database, "jane")} == {name: name for name in made}
    assert keys.caller_of(database, made["valid"][:-1], ORIGIN) is None and keys.caller_of(database, "", ORIGIN) is None
    users.change_user(database, "jane", "root", disabled=True)
    assert keys.caller_of(database, made["valid"], ORIGIN) is None


def test_a_key_is_not_a_way_to_more_than_one_has(database, people):
    narrow = Caller("jane", frozenset(["read"]), {"by_key": "narrow"})
    for caller, scopes, message in ((narrow, ("publish",), r"jane may not publish models"), (people["rita"], ("publish",), "rita may not publish"),
                                    ("setup", ("admin",), "'admin' is not of the role publisher"), ("setup", (), "none is given")):  # fmt: skip
        with pytest.raises(StoreError, match=message):
            keys.make_key(database, "jane", "more", scopes, 30, caller)
    for days in (0, 367, True):
        with pytest.raises(StoreError, match="lasts for 1 to 366"):
            keys.make_key(database, "jane", "more", ("read",), days, "setup")
    assert keys.keys_of(database, "jane") == []


def test_a_private_model_is_there_for_its_owner_its_groups_and_administrators_alone(database, people):
    published(database, "open", "jane", task="open-task", tags=("open",))
    published(database, "secret", "jane", task="secret-task", tags=("secret",), languages=("de",))
    groups.set_access(database, "secret", people["jane"], private=True)

    for name, seen in (("jane", True), ("root", True), ("bob", False), ("rita", False)):
        assert names(database, people[name]) == ["open", "secret"] if seen else ["open"], name
    assert names(database, ANYBODY) == ["open"] and names(database, None) == ["open", "secret"]
    assert facets_of(database, people["bob"]).tasks == ["open-task"] and facets_of(database, people["bob"]).tags == ["open"]
    assert facets_of(database, people["jane"]).tasks == ["open-task", "secret-task"]

    for ask in (lambda name: catalog.details_of(database, Reference(name), people["bob"]), lambda name: catalog.versions_of(database, name, people["bob"]),
                lambda name: catalog.resolve(database, Reference(name, 1), people["bob"]),
                lambda name: lifecycle.promote(database, Reference(name, 1), people["bob"]), lambda name: lifecycle.roll_back(database, name, people["bob"]),
                lambda name: lifecycle.archive(database, Reference(name, 1), people["bob"]),
                lambda name: ratings.rate(database, Reference(name), people["bob"], 1),
                lambda name: groups.set_access(database, name, people["bob"], private=False)):  # fmt: skip
        told = []
        for name in ("secret", "nowhere"):
            with pytest.raises(NotFoundError) as error:
                ask(name)
            told.append(str(error.value).replace(name, "NAME"))
        assert told[0] == told[1]  # nothing tells it from one that is not there

    assert search(database, Query("secret"), people["bob"]) == []
    with pytest.raises(ForbiddenError, match="name: secret is taken; choose another name"):
        published(database, "secret", people["bob"], text="other")


def test_a_group_sees_what_it_is_granted_and_changes_it_if_it_may(database, people):
    published(database, "secret", "jane")
    groups.add_group(database, "team", people["root"])
    groups.set_member(database, "team", "bob", True, people["root"])
    access = groups.set_access(database, "secret", people["jane"], private=True, grants={"team": "read"})

    assert access == groups.Access(True, {"team": "read"}) and names(database, people["bob"]) == ["secret"]
    with pytest.raises(ForbiddenError, match="secret belongs to jane, and bob is not its owner"):
        lifecycle.promote(database, Reference("secret", 1), people["bob"])

    groups.set_access(database, "secret", people["jane"], grants={"team": "publish"})
    with pytest.raises(ForbiddenError, match="secret belongs to jane, who alone decides who sees it"):
        groups.set_access(database, "secret", people["bob"], private=False)
    assert lifecycle.promote(database, Reference("secret", 1), people["bob"]) == Reference("secret", 1)
    assert published(database, "secret", people["bob"], text="other") == Reference("secret", 2)
    assert catalog.details_of(database, Reference("secret", 2)).entry.owner == "jane"

    groups.set_member(database, "team", "bob", False, people["root"])
    assert names(database, people["bob"]) == []
    groups.set_member(database, "team", "bob", True, people["root"])
    groups.set_access(database, "secret", people["jane"], grants={"team": ""})
    assert names(database, people["bob"]) == []
    groups.set_access(database, "secret", people["jane"], grants={"team": "read"})
    groups.remove_group(database, "team", people["root"])
    assert names(database, people["bob"]) == [] and groups.groups(database) == {}


def test_a_new_model_is_private_from_its_first_moment_and_stays_it(database, people):
    first = catalog.publish(database, "secret", people["jane"], catalog.Description(), [], {}, private=True)
    second = catalog.publish(database, "secret", people["jane"], catalog.Description(tags=("new",)), [], {}, private=False)

    assert (first.reference.version, second.reference.version) == (1, 2) and names(database, ANYBODY) == []
    catalog.publish(database, "open", people["jane"], catalog.Description(), [], {})
    with pytest.raises(StoreError, match="open is there and public.*store access open --private"):
        catalog.publish(database, "open", people["jane"], catalog.Description(tags=("secret",)), [], {}, private=True)
    assert len(catalog.versions_of(database, "open")) == 1


def test_every_change_is_a_line_of_the_log_with_who_and_from_where(database, people):
    jane = Caller("jane", frozenset(ROLES["publisher"]), ORIGIN | {"by_key": "ci"})
    reference = published(database, "tickets", jane)
    lifecycle.promote(database, reference, jane)
    ratings.rate(database, reference, people["rita"], 4)
    groups.set_access(database, "tickets", jane, private=True)
    key = keys.make_key(database, "bob", "ci", ("read",), 1, people["bob"])
    keys.revoke_key(database, "bob", keys.keys_of(database, "bob")[0].id, people["bob"])
    users.change_user(database, "bob", people["root"], password="another password")

    lines = audit.audit(database)
    told = [(line.actor, line.action, line.model, line.version) for line in lines[:7]]
    assert told == [("root", "change user", None, None), ("bob", "revoke key", None, None), ("bob", "make key", None, None),
                    ("jane", "change access", "tickets", None),
                    ("rita", "rate", "tickets", 1), ("jane", "promote", "tickets", 1), ("jane", "publish", "tickets", 1)]  # fmt: skip
    assert all(ORIGIN.items() <= line.details.items() and line.details["by_key"] == "ci" for line in lines if line.actor == "jane")
    assert key not in str(lines) and "another password" not in str(lines)
    assert [line.id for line in audit.audit(database, before=lines[2].id, limit=2)] == [lines[3].id, lines[4].id]
    assert [line.action for line in audit.audit(database, actor="jane", model="tickets", action="promote")] == ["promote"]
