"""`tfgpt store user`, `group`, `key`, `access` and `audit`: who may do what with `tfgpt store serve`."""
from __future__ import annotations

import dataclasses
import getpass
import json
import sys

from tfgpt.cli_support import DONE, UsageError, parse, parser_of
from tfgpt.store.errors import StoreError
from tfgpt.store.place import DEFAULT, VARIABLE, open_store, user_of
from tfgpt.store.reference import check_name


def user(arguments: list[str]) -> int:
    """Make somebody known to `tfgpt store serve`, change a role or password, or list all. The password is asked for, or the first line of standard input."""
    parser = _parser("user", user.__doc__)
    parser.add_argument("action", choices=["add", "change", "list"], help="What is done.")
    parser.add_argument("name", type=str, nargs="?", default="", help="The user; models of this owner that are there already are then theirs.")
    parser.add_argument("--role", default="", choices=["", "reader", "publisher", "admin"], help="What they may do; default of a new one reader.")
    parser.add_argument("--password", action="store_true", help="With change: ask for a new password, which signs the user out everywhere.")
    parser.add_argument("--disable", action="store_true", help="With change: refuse the user's password and keys.")
    parser.add_argument("--enable", action="store_true", help="With change: accept them again.")
    given = parse(parser, arguments)
    from tfgpt.store.access import users

    database = open_store(given.store).database
    if given.action == "list":
        known = [dataclasses.asdict(one) for one in users.users(database)]
        return _print_rows(given, known, ("name", "role", "disabled", "groups", "created_at"))
    _need(given.name, "user", given.action)
    if given.action == "add":
        users.add_user(database, given.name, _password(given.name), given.role or "reader", user_of(given.by))
        return _print(given, {"user": given.name, "role": given.role or "reader"}, f"{given.name} is a {given.role or 'reader'}")
    if (given.disable and given.enable) or not (given.disable or given.enable or given.role or given.password):
        raise UsageError("tfgpt store user change: give one or more of --role ROLE, --password, and --disable or --enable")
    disabled = True if given.disable else False if given.enable else None
    users.change_user(database, given.name, user_of(given.by), given.role or None, disabled, _password(given.name) if given.password else None)
    return _print(given, {"user": given.name, "changed": True}, f"{given.name} is changed")


def group(arguments: list[str]) -> int:
    """Make or remove a group of users, put users into it or out of it, or list all."""
    parser = _parser("group", group.__doc__)
    parser.add_argument("action", choices=["add", "remove", "list"], help="What is done.")
    parser.add_argument("name", type=str, nargs="?", default="", help="The group; made by add if there is none.")
    parser.add_argument("--user", action="append", default=[], metavar="NAME",
                        help="Put this user into it, or out of it; may be given again. Without: the group.")
    given = parse(parser, arguments)
    from tfgpt.store.access import groups

    database, actor = open_store(given.store).database, user_of(given.by)
    if given.action == "list":
        rows = [{"name": name, "users": members} for name, members in groups.groups(database).items()]
        return _print_rows(given, rows, ("name", "users"))
    _need(given.name, "group", given.action)
    if given.action == "add" and given.name not in groups.groups(database):
        groups.add_group(database, given.name, actor)
    for name in given.user:
        groups.set_member(database, given.name, name, given.action == "add", actor)
    if given.action == "remove" and not given.user:
        groups.remove_group(database, given.name, actor)
    members = groups.groups(database).get(given.name)
    said = "is removed" if members is None else f"has {', '.join(members) or 'nobody'}"
    return _print(given, {"group": given.name, "users": members}, f"{given.name} {said}")


def key(arguments: list[str]) -> int:
    """Make an API key of a user, list them or revoke one. A new key is printed this once."""
    parser = _parser("key", key.__doc__)
    parser.add_argument("action", choices=["add", "list", "revoke"], help="What is done.")
    parser.add_argument("user", type=str, help="The user that it acts for.")
    parser.add_argument("--name", type=str, default="", help="With add and revoke: what the key is called.")
    parser.add_argument("--scope", action="append", default=[], help="read, try, rate, publish, metrics or admin, of the user's role; may be given again.")
    parser.add_argument("--days", type=int, default=90, help="After so many it is refused.")
    given = parse(parser, arguments)
    from tfgpt.store.access import keys

    database, actor = open_store(given.store).database, user_of(given.by)
    if given.action == "add":
        made = keys.make_key(database, given.user, given.name, tuple(given.scope), given.days, actor)
        return _print(given, {"key": made}, made)
    known = keys.keys_of(database, given.user)
    if given.action == "list":
        return _print_rows(given, [dataclasses.asdict(one) for one in known], ("name", "scopes", "state", "expires_at", "used_at"))
    valid = [one for one in known if one.name == given.name and one.state == "valid"]
    if not valid:
        raise StoreError(f"name: {given.user} has no valid key {given.name!r}; tfgpt store key list {given.user} shows them")
    keys.revoke_key(database, given.user, valid[0].id, actor)
    return _print(given, {"revoked": given.name}, f"the key {given.name} is revoked")


def access(arguments: list[str]) -> int:
    """Make a model private or public, and grant a private one to groups; without options, show who sees it."""
    parser = _parser("access", access.__doc__)
    parser.add_argument("name", type=str, help="The model.")
    parser.add_argument("--private", action="store_true", help="Shown over the network to its owner, its groups and administrators alone.")
    parser.add_argument("--public", action="store_true", help="Shown to all who may read.")
    parser.add_argument("--grant", action="append", default=[], metavar="GROUP[:RIGHT]", help="RIGHT is read, the default, or publish; may be given again.")
    parser.add_argument("--take-back", action="append", default=[], metavar="GROUP", help="Grant it to this group no longer; may be given again.")
    given = parse(parser, arguments)
    from tfgpt.store.access import groups

    if given.private and given.public:
        raise UsageError("tfgpt store access: --private and --public exclude each other; give one")
    check_name(given.name)
    database, actor = open_store(given.store).database, user_of(given.by)
    grants = {name: right or "read" for name, _, right in (text.partition(":") for text in given.grant)} | dict.fromkeys(given.take_back, "")
    private = True if given.private else False if given.public else None
    now = groups.set_access(database, given.name, actor, private, grants) if grants or private is not None else groups.access_of(database, given.name, actor)
    granted = ", ".join(f"{name} ({right})" for name, right in now.grants.items()) or "no group"
    return _print(given, dataclasses.asdict(now), f"{given.name} is {'private' if now.private else 'public'}, granted to {granted}")


def audit(arguments: list[str]) -> int:
    """Show the log of all changes, the newest first."""
    parser = _parser("audit", audit.__doc__)
    for name, text in (("actor", "Of this one alone."), ("action", "Such as publish, alone."), ("model", "Of this one alone.")):
        parser.add_argument(f"--{name}", type=str, default="", help=text)
    parser.add_argument("--limit", type=int, default=100, help="Lines at most.")
    given = parse(parser, arguments)
    from tfgpt.store.access.audit import audit as lines

    rows = [dataclasses.asdict(line) for line in lines(open_store(given.store).database, given.actor, given.action, given.model, limit=given.limit)]
    return _print_rows(given, rows, ("at", "actor", "action", "model", "version", "details"))


ACTIONS = {"user": user, "group": group, "key": key, "access": access, "audit": audit}


def _parser(action, description):
    parser = parser_of(f"store {action}", description)
    parser.add_argument("--store", type=str, default="", metavar="DIR", help=f"The store's folder; default the environment's {VARIABLE}, else {DEFAULT}.")
    parser.add_argument("--json", action="store_true", help="Print the result as JSON.")
    parser.add_argument("--by", type=str, default="", metavar="NAME", help="Who does it, for the log; default the machine's user.")
    return parser


def _need(name, what, action):
    if not name:
        raise UsageError(f"tfgpt store {what} {action}: NAME is missing; write tfgpt store {what} {action} NAME")


def _password(name):
    """Return a password: typed twice at a terminal, or the first line of standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    first = getpass.getpass(f"password of {name}: ")
    if getpass.getpass("once more: ") != first:
        raise StoreError("password: the two are not the same; try again")
    return first


def _print(given, plain, line):
    print(json.dumps(plain, ensure_ascii=False) if given.json else line)
    return DONE


def _print_rows(given, rows, columns):
    if given.json:
        print(json.dumps(rows, ensure_ascii=False))
        return DONE
    from tfgpt.cli_store_text import print_table

    print_table([columns, *(tuple(_cell(row[column]) for column in columns) for row in rows)])
    return DONE


def _cell(value):
    if isinstance(value, dict):
        return " ".join(f"{key}={part}" for key, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else "-" if value is None else str(value)
