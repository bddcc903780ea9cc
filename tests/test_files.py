import subprocess
import sys

import pytest

from tfgpt.files import remove_partial, sha256_of_parts, whole_folder, write_json, write_text


def test_a_folder_appears_only_when_it_is_whole(tmp_path):
    final = tmp_path / "model"
    with whole_folder(final) as partial:
        (partial / "weights").write_text("new")
        assert not final.exists()

    assert (final / "weights").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_error_keeps_the_old_folder_and_leaves_nothing_else(tmp_path):
    final = tmp_path / "model"
    final.mkdir()
    (final / "weights").write_text("old")

    with pytest.raises(ZeroDivisionError), whole_folder(final) as partial:
        (partial / "weights").write_text("new")
        1 / 0  # noqa: B018

    assert (final / "weights").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    final = tmp_path / "model"
    for name in ("first", "second"):
        with whole_folder(final) as partial:
            (partial / name).write_text(name)

    assert [path.name for path in final.iterdir()] == ["second"]


def test_a_killed_process_leaves_no_final_name_and_its_rest_is_removed(tmp_path):
    code = f"""
import os, pathlib, signal
from tfgpt.files import whole_folder
with whole_folder(pathlib.Path({str(tmp_path)!r}) / "model") as partial:
    (partial / "weights").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    (rest,) = tmp_path.iterdir()
    assert rest.name.startswith(".partial-model-")

    remove_partial(tmp_path)

    assert not list(tmp_path.iterdir())


def test_text_is_replaced_whole(tmp_path):
    write_text(tmp_path / "a" / "x.txt", "one")
    write_text(tmp_path / "a" / "x.txt", "zwei é")
    write_json(tmp_path / "a" / "y.json", {"é": 1})

    assert (tmp_path / "a" / "x.txt").read_text("utf-8") == "zwei é"
    assert (tmp_path / "a" / "y.json").read_text("utf-8") == '{\n  "é": 1\n}\n'
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["x.txt", "y.json"]


def test_the_hash_of_parts_knows_where_they_end():
    assert sha256_of_parts([b"ab", b"c"]) != sha256_of_parts([b"a", b"bc"])
