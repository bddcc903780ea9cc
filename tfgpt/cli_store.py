"""`tfgpt store`: a catalog of published models, and their files."""
from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from tfgpt import cli_store_access, cli_store_serve
from tfgpt.cli_support import DONE, UsageError, parse, parser_of
from tfgpt.store.errors import StoreError
from tfgpt.store.place import DEFAULT, VARIABLE, open_store, place_of, user_of
from tfgpt.store.reference import STAGES, check_name, parse_reference

REFERENCE = "NAME, NAME:VERSION or NAME@STAGE; NAME alone is the version in production, or else the newest that is not archived."
STAGES_TO = STAGES[:-1]


def init(arguments: list[str]) -> int:
    """Make a store, or bring the schema of one that is there up to date. Another machine joins it by the same --artifacts and --database."""
    parser = _parser("init", init.__doc__)
    parser.add_argument("--artifacts", type=str, default=None, metavar="DIR|URL",
                        help="Where files are kept: a folder, or a URL such as s3://BUCKET/FOLDER (extra s3) or gs://BUCKET/FOLDER (package gcsfs); default "
                             "artifacts in the store's folder.")
    parser.add_argument("--database", type=str, default=None, metavar="URL",
                        help="sqlite:///FILE, or postgresql://USER@HOST/NAME (extra postgresql), its password in ~/.pgpass; default catalog.db in the store's "
                             "folder.")
    for key, text in (("max-file-bytes", "The largest file that is taken, in bytes; default 16 GiB."),
                      ("max-model-bytes", "The most that a version's files may have together, in bytes; default 64 GiB."),
                      ("max-files", "The most files of a version; default 2000.")):  # fmt: skip
        parser.add_argument(f"--{key}", type=int, default=None, help=text)
    given = parse(parser, arguments)
    from tfgpt.store.store import Store, StoreConfig

    keys = ("artifacts", "database", "max_file_bytes", "max_model_bytes", "max_files")
    asked = {key: given[key] for key in keys if given[key] is not None}
    if "artifacts" in asked and "://" not in asked["artifacts"]:
        asked["artifacts"] = str(Path(asked["artifacts"]).resolve())  # of the folder where this is said, and not of the store's
    store = Store.create(place_of(given.store), StoreConfig(**asked) if asked else None)
    _print(given, dataclasses.asdict(store.config) | {"store": str(store.folder)}, f"The store is in {store.folder}.")
    return DONE


def publish(arguments: list[str]) -> int:
    """Publish a run's folder, or one with a model and its tokenizer, as the next version of a name: model, tokenizer, SavedModel, recipe, figures, card.

    Prints the version. Where the model has one of the same content, that one is printed and nothing is added.
    """
    parser = _parser("publish", publish.__doc__, by="Who publishes, and owns the name if it is new")
    parser.add_argument("folder", type=str, help="A run's folder, or one with a model and its tokenizer.")
    parser.add_argument("--name", type=str, required=True, help="Of the model: small letters, digits, '.', '_' and '-'.")
    parser.add_argument("--version", type=int, default=None, help="The number that is expected; any other is refused. Default: whichever is next.")
    parser.add_argument("--stage", default="draft", choices=STAGES_TO, help="The stage that it has from the beginning.")
    parser.add_argument("--private", action="store_true", help="A new model is private from the beginning; see tfgpt store access.")
    parser.add_argument("--export", type=str, default="", metavar="DIR",
                        help="The version folder of the SavedModel; none = publish none; default the newest of the run's export/.")
    parser.add_argument("--card", type=str, default="", metavar="FILE", help="Markdown; default README.md of the folder, or else a page is written.")
    _add_description(parser)
    given = parse(parser, arguments)
    from tfgpt.store.packages import newest_export

    card = _text_of(given.card) if given.card else None
    export = None if given.export == "none" else Path(given.export) if given.export else newest_export(Path(given.folder))
    done = open_store(given.store).publish(given.folder, given.name, user_of(given.by), _said(given), export, card, given.version, given.stage,
                                           given.private)
    return _tell_published(given, done)


def list_(arguments: list[str]) -> int:
    """List the models of a store, the newest first, or the versions of one."""
    parser = _parser("list", list_.__doc__)
    parser.add_argument("name", type=str, nargs="?", default="", help="A model, whose versions are listed.")
    parser.add_argument("--limit", type=int, default=100, help="Rows at most.")
    given = parse(parser, arguments)
    from tfgpt.store.catalog import versions_of
    from tfgpt.store.search import Query, search

    store = open_store(given.store)
    query = Query(limit=given.limit)  # which refuses a limit that is none
    entries = versions_of(store.database, given.name)[: query.limit] if given.name else search(store.database, query)
    return _print_entries(given, entries)


def search_(arguments: list[str]) -> int:
    """Find models by words in names, tasks, owners, tags and cards; all words must occur, each also as the beginning of a longer one."""
    from tfgpt.store.orders import ORDERS

    parser = _parser("search", search_.__doc__)
    parser.add_argument("words", type=str, nargs="*", default=[], help="Words; none = all models.")
    for key, text in (("task", "Of this task, such as text-classification."), ("licence", "Under this licence."), ("owner", "Of this owner."),
                      ("base-model", "That were trained from this one.")):  # fmt: skip
        parser.add_argument(f"--{key}", type=str, default="", help=text)
    parser.add_argument("--language", action="append", default=[], help="For this language; may be given again, then for all of them.")
    parser.add_argument("--tag", action="append", default=[], help="With this tag; may be given again, then with all of them.")
    parser.add_argument("--stage", default="", choices=["", *STAGES], help="Versions in this stage, and not one of each model.")
    parser.add_argument("--max-size-bytes", type=int, default=0, help="No larger than this; 0 = of any size.")
    parser.add_argument("--sort", default="", choices=["", *ORDERS], help="Best first by this; default relevance with words, else newest.")
    parser.add_argument("--limit", type=int, default=20, help="Rows at most.")
    parser.add_argument("--offset", type=int, default=0, help="Rows left out at the beginning.")
    given = parse(parser, arguments)
    from tfgpt.store.search import Query, search

    query = Query(" ".join(given.words), given.task, tuple(given.language), tuple(given.tag), given.licence, given.owner, given.base_model, given.stage,
                  given.max_size_bytes, given.sort, given.limit, given.offset)
    return _print_entries(given, search(open_store(given.store).database, query))


def show(arguments: list[str]) -> int:
    """Show all that is known of a version: fields, figures, files, card, reviews, the model's log."""
    given = _with_reference("show", show.__doc__, arguments)
    from tfgpt.cli_store_text import print_details
    from tfgpt.store.catalog import details_of, entry_as_dict

    details = details_of(open_store(given.store).database, parse_reference(given.reference))
    if given.json:
        plain = dataclasses.asdict(details)
        print(json.dumps(entry_as_dict(details.entry) | {key: value for key, value in plain.items() if key != "entry"}, ensure_ascii=False))
    else:
        print_details(details)
    return DONE


def pull(arguments: list[str]) -> int:
    """Write a version's files to a folder, each compared with what was published; the folder can be used as a run's. Prints the version."""
    parser = _parser("pull", pull.__doc__)
    parser.add_argument("reference", type=str, help=REFERENCE)
    parser.add_argument("target", type=str, nargs="?", default="", metavar="DIR", help="A folder that is not there, or empty; default NAME.")
    parser.add_argument("--server", type=str, default="", metavar="URL",
                        help="From the store that tfgpt store serve shows there, with the key that the environment's TFGPT_STORE_KEY holds.")
    given = parse(parser, arguments)
    reference = parse_reference(given.reference)
    target = given.target or reference.name
    if given.server:
        from tfgpt.store import remote

        exact = remote.pull(given.server, reference, target)
    else:
        exact = open_store(given.store).pull(reference, target)
    _print(given, {"reference": str(exact), "folder": target}, str(exact))
    return DONE


def compare(arguments: list[str]) -> int:
    """Compare two versions: fields, figures, data, files."""
    parser = _parser("compare", compare.__doc__)
    parser.add_argument("references", type=str, nargs="+", metavar="REFERENCE", help=f"Two of them. {REFERENCE}")
    given = parse(parser, arguments)
    if len(given.references) != 2:
        raise UsageError(f"tfgpt store compare: {len(given.references)} references ({' '.join(given.references)}); give two")
    from tfgpt.cli_store_text import print_comparison
    from tfgpt.store.catalog import details_of
    from tfgpt.store.compare import compare as compared

    database = open_store(given.store).database
    result = compared(*(details_of(database, parse_reference(text)) for text in given.references))
    print(json.dumps(result, ensure_ascii=False)) if given.json else print_comparison(result)
    return DONE


def promote(arguments: list[str]) -> int:
    """Put a version into a stage. One at most of a model is in production; the one that was is archived."""
    parser = _parser("promote", promote.__doc__, by="Who promotes: the model's owner")
    parser.add_argument("reference", type=str, help="NAME:VERSION, or NAME for the newest that is not archived.")
    parser.add_argument("--to", default="production", choices=STAGES_TO, help="The stage.")
    given = parse(parser, arguments)
    from tfgpt.store import lifecycle

    exact = lifecycle.promote(open_store(given.store).database, parse_reference(given.reference), user_of(given.by), given.to)
    _print(given, {"reference": str(exact), "stage": given.to}, f"{exact} is in {given.to}")
    return DONE


def rollback(arguments: list[str]) -> int:
    """Put back into production what was there before the last promotion; given again, what was there before that."""
    parser = _parser("rollback", rollback.__doc__, by="Who rolls back: the model's owner")
    parser.add_argument("name", type=str, help="The model.")
    given = parse(parser, arguments)
    from tfgpt.store import lifecycle

    check_name(given.name)
    exact, before = lifecycle.roll_back(open_store(given.store).database, given.name, user_of(given.by))
    _print(given, {"reference": str(exact), "instead_of": before}, f"{exact} is in production" + (f", version {before} is archived" if before else ""))
    return DONE


def rate(arguments: list[str]) -> int:
    """Rate a model, in place of what the same person said of it before."""
    parser = _parser("rate", rate.__doc__, by="Who rates")
    parser.add_argument("reference", type=str, help=REFERENCE)
    parser.add_argument("--stars", type=int, required=True, help="1 to 5.")
    parser.add_argument("--review", type=str, default="", help="What is to be said of it, in up to 2,000 characters.")
    given = parse(parser, arguments)
    from tfgpt.store import ratings

    exact = ratings.rate(open_store(given.store).database, parse_reference(given.reference), user_of(given.by), given.stars, given.review)
    _print(given, {"reference": str(exact), "stars": given.stars}, f"{exact} has {given.stars} of 5 stars from {user_of(given.by)}")
    return DONE


def archive(arguments: list[str]) -> int:
    """Put a version out of use: it is no longer found, and can still be pulled by its number."""
    given = _with_reference("archive", archive.__doc__, arguments, by="Who archives: the model's owner")
    from tfgpt.store import lifecycle

    exact = lifecycle.archive(open_store(given.store).database, parse_reference(given.reference), user_of(given.by))
    _print(given, {"reference": str(exact), "stage": "archived"}, f"{exact} is archived")
    return DONE


def gc(arguments: list[str]) -> int:
    """Remove stored bytes that no version needs, such as those of publishes that were killed. What was touched lately stays."""
    parser = _parser("gc", gc.__doc__)
    parser.add_argument("--grace-hours", type=float, default=24.0, help="How long bytes stay that a publish may be about to use, in hours.")
    given = parse(parser, arguments)
    done = open_store(given.store).collect(given.grace_hours)
    _print(given, dataclasses.asdict(done), f"removed {done.blobs:,} blobs of {done.bytes:,} bytes and {done.uploads:,} unfinished uploads")
    return DONE


def import_(arguments: list[str]) -> int:
    """Publish what a repository of a Hugging Face hub holds: safetensors, tokenizer, card. Prints the version."""
    parser = _parser("import", import_.__doc__, by="Who publishes, and owns the name if it is new")
    parser.add_argument("repository", type=str, help="OWNER/NAME on the hub, such as openai-community/gpt2.")
    parser.add_argument("--name", type=str, required=True, help="Of the model here.")
    parser.add_argument("--revision", type=str, default="", help="A branch, tag or commit; default the newest of main.")
    parser.add_argument("--card", type=str, default="", metavar="FILE", help="Markdown in place of the repository's card, such as where that has HTML.")
    _add_description(parser)
    given = parse(parser, arguments)
    from tfgpt.store.hub import import_model

    card = _text_of(given.card) if given.card else None
    done = import_model(open_store(given.store), given.repository, given.name, user_of(given.by), _said(given), given.revision or None, card)
    return _tell_published(given, done)


def export(arguments: list[str]) -> int:
    """Put a version's weights, tokenizer, card, recipe and figures into a repository of a Hugging Face hub. Prints the commit's address.

    Which hub it is and who asks, huggingface_hub knows: by HF_ENDPOINT, and `hf auth login` or HF_TOKEN.
    """
    parser = _parser("export", export.__doc__)
    parser.add_argument("reference", type=str, help=REFERENCE)
    parser.add_argument("repository", type=str, help="OWNER/NAME on the hub; made if there is none.")
    parser.add_argument("--public", action="store_true", help="A new repository is one that everybody reads.")
    given = parse(parser, arguments)
    from tfgpt.store.hub import export_model

    url = export_model(open_store(given.store), parse_reference(given.reference), given.repository, not given.public)
    _print(given, {"commit": url}, url)
    return DONE


ACTIONS = {"init": init, "publish": publish, "list": list_, "search": search_, "show": show, "pull": pull, "compare": compare, "promote": promote,
           "rollback": rollback, "rate": rate, "archive": archive, "gc": gc, "import": import_, "export": export,
           **cli_store_access.ACTIONS, **cli_store_serve.ACTIONS}  # fmt: skip


def _parser(action, description, by=""):
    parser = parser_of(f"store {action}", description)
    parser.add_argument("--store", type=str, default="", metavar="DIR", help=f"The store's folder; default the environment's {VARIABLE}, else {DEFAULT}.")
    parser.add_argument("--json", action="store_true", help="Print the result as JSON.")
    if by:
        parser.add_argument("--by", type=str, default="", metavar="NAME", help=f"{by}; default the machine's user.")
    return parser


def _with_reference(action, description, arguments, by=""):
    parser = _parser(action, description, by)
    parser.add_argument("reference", type=str, help=REFERENCE)
    return parse(parser, arguments)


def _add_description(parser):
    """Add the options that say what a model is; what is not given is read of its card and its run."""
    for key, text in (("task", "Such as text-classification."), ("licence", "Its short name, such as apache-2.0."),
                      ("base-model", "What it was trained from.")):  # fmt: skip
        parser.add_argument(f"--{key}", type=str, default="", help=text)
    parser.add_argument("--language", action="append", default=[], help="A language it is for, such as en; may be given again.")
    parser.add_argument("--tag", action="append", default=[], help="A tag; may be given again.")


def _said(given):
    said = {"task": given.task, "licence": given.licence, "base_model": given.base_model, "languages": tuple(given.language), "tags": tuple(given.tag)}
    return {key: value for key, value in said.items() if value}


def _text_of(path):
    if not Path(path).is_file():
        raise FileNotFoundError(f"tfgpt store publish: --card {path} is not there; give a file in Markdown")
    try:
        return Path(path).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise StoreError(f"card: byte {error.start} of {path} is no UTF-8; save it as UTF-8") from error


def _tell_published(given, done):
    if not done.is_new:
        print(f"{done.reference} has the same content already; nothing was added", file=sys.stderr)
    _print(given, {"reference": str(done.reference), "is_new": done.is_new}, str(done.reference))
    return DONE


def _print(given, plain, line):
    print(json.dumps(plain, ensure_ascii=False) if given.json else line)


def _print_entries(given, entries):
    from tfgpt.cli_store_text import print_entries
    from tfgpt.store.catalog import entry_as_dict

    if given.json:
        print(json.dumps([entry_as_dict(entry) for entry in entries], ensure_ascii=False))
    else:
        print_entries(entries)
    return DONE
