"""Versions that come and go. The loader is a stand-in, since what is tested is when versions are loaded, given out and closed."""
import threading

import pytest

from tfgpt.serving.catalog import Catalog
from tfgpt.serving.config import ServableConfig, VersionPolicy, read_config
from tfgpt.serving.errors import BadRequestError, NotServedError, PreconditionError, UnavailableError
from tfgpt.serving.metrics import Metrics
from tfgpt.serving.server import config_watcher


class Loaded:
    """What a version's file says, and whether it was closed."""

    def __init__(self, folder):
        self.text = (folder / "saved_model.pb").read_text()
        self.closed = False
        if self.text == "damaged":
            raise RuntimeError("it is damaged")

    def close(self):
        self.closed = True


def write(base, number, text=""):
    (base / str(number)).mkdir(parents=True, exist_ok=True)
    (base / str(number) / "saved_model.pb").write_text(text or f"{base.name} {number}")


def catalog_of(*configs, poll_seconds=0.0, **options):
    return Catalog(configs, poll_seconds, load=Loaded, **options)


def until_ended(catalog, number, name="m"):
    """Wait for the thread that unloads a version when its last lease has ended."""
    with catalog._state:
        assert catalog._state.wait_for(lambda: catalog._models[name][number].state == "END", 10)


def states(catalog, name="m"):
    return {status.version: status.state for status in catalog.status(name)}


@pytest.fixture
def base(tmp_path):
    write(tmp_path / "m", 1)
    write(tmp_path / "m", 2)
    return tmp_path / "m"


@pytest.mark.parametrize(
    ("policy", "served"),
    [(VersionPolicy(), {10}), (VersionPolicy(latest=2), {2, 10}), (VersionPolicy(latest=0), {1, 2, 10}), (VersionPolicy(specific=(1, 2)), {1, 2})],
)
def test_a_policy_chooses_versions_by_number(base, policy, served):
    write(base, 10)
    (base / "notes").mkdir()
    (base / "11").mkdir()  # without a SavedModel: a copy that has just begun

    catalog = catalog_of(ServableConfig("m", base, policy))

    assert {version for version, state in states(catalog).items() if state == "AVAILABLE"} == served
    with catalog.lease("m") as held:
        assert (held.version, held.loaded.text) == (max(served), f"m {max(served)}")
    with catalog.lease("m", 0) as held:  # how OpenVINO's clients ask for the newest
        assert held.version == max(served)


def test_a_lease_keeps_a_version_that_is_replaced_until_it_ends(base):
    catalog = catalog_of(ServableConfig("m", base))

    with catalog.lease("m") as old:
        write(base, 3)
        catalog.poll()
        while_held = states(catalog)
        with catalog.lease("m") as new:
            assert new.version == 3
        with pytest.raises(NotServedError, match=r"Servable not found for request: Specific\(m, 2\)"), catalog.lease("m", 2):
            pass
        assert not old.loaded.closed

    until_ended(catalog, 2)
    assert while_held == {3: "AVAILABLE", 2: "UNLOADING"}
    assert states(catalog) == {3: "AVAILABLE", 2: "END"} and old.loaded.closed


def test_the_old_version_answers_while_the_new_one_is_loaded(base):
    begun, go_on = threading.Event(), threading.Event()

    def load(folder):
        if folder.name == "3":
            begun.set()
            assert go_on.wait(10)
        return Loaded(folder)

    catalog = Catalog([ServableConfig("m", base)], poll_seconds=0.01, load=load)
    write(base, 3)
    assert begun.wait(10)
    during = states(catalog)
    with catalog.lease("m") as held:
        assert held.version == 2
    go_on.set()
    until_ended(catalog, 2)

    assert during == {3: "LOADING", 2: "AVAILABLE"}
    with catalog.lease("m") as held:
        assert held.version == 3
    assert catalog.close(5)


def test_closing_does_not_wait_longer_than_it_is_told_for_a_version_that_is_being_loaded(base):
    begun, go_on = threading.Event(), threading.Event()

    def load(folder):
        if folder.name == "3":
            begun.set()
            assert go_on.wait(10)
        return Loaded(folder)

    catalog = Catalog([ServableConfig("m", base)], poll_seconds=0.01, load=load)
    write(base, 3)
    assert begun.wait(10)

    assert not catalog.close(0.01)
    with pytest.raises(UnavailableError, match="closing"), catalog.lease("m"):
        pass
    go_on.set()
    assert catalog.close(10)
    assert set(states(catalog).values()) == {"END"}


def test_a_damaged_version_replaces_nothing_and_is_tried_again_when_it_is_mended(base):
    tried = []

    def load(folder):
        tried.append(folder.name)
        return Loaded(folder)

    catalog = Catalog([ServableConfig("m", base)], 0, load=load)
    write(base, 3, "damaged")

    catalog.poll()
    failed = catalog.status("m", 3)[0]
    catalog.poll()

    assert tried == ["2", "3"]  # and not again while its files are the same
    assert (failed.state, failed.error_code) == ("END", "UNKNOWN") and failed.error_message.endswith("it is damaged")
    assert states(catalog) == {3: "END", 2: "AVAILABLE"}
    write(base, 3, "whole now")
    catalog.poll()
    assert states(catalog) == {3: "AVAILABLE", 2: "END"}
    assert catalog.status("m", 3)[0].error_code == "OK"


def test_verification_may_refuse_a_version(base):
    def verify(folder):
        if folder.name == "3":
            raise RuntimeError(f"{folder}: not what its manifest says")

    catalog = catalog_of(ServableConfig("m", base), verify=verify)
    write(base, 3)
    catalog.poll()

    assert states(catalog) == {3: "END", 2: "AVAILABLE"}
    with pytest.raises(RuntimeError, match="model m: no version became available: .*manifest"):
        catalog_of(ServableConfig("m", base), verify=verify)


def test_labels_name_versions_that_are_available(base):
    config = ServableConfig("m", base, VersionPolicy(latest=2), {"stable": 1, "canary": 2})
    catalog = catalog_of(config)

    with catalog.lease("m", label="stable") as stable, catalog.lease("m", label="canary") as canary:
        assert (stable.version, canary.version) == (1, 2)
    assert [status.version for status in catalog.status("m", label="stable")] == [1]
    with pytest.raises(BadRequestError, match="Unrecognized servable version label: beta"), catalog.lease("m", label="beta"):
        pass
    with pytest.raises(PreconditionError, match="assign label stable to version 7 of model m"):
        catalog.reload([ServableConfig("m", base, VersionPolicy(latest=2), {"stable": 7})])
    assert catalog.labels("m") == {"stable": 1, "canary": 2}


def test_reload_replaces_the_models_and_an_error_leaves_them_as_they_were(base, tmp_path):
    write(tmp_path / "n", 5)
    catalog = catalog_of(ServableConfig("m", base))

    with pytest.raises(FileNotFoundError, match="nowhere holds no version"):
        catalog.reload([ServableConfig("n", tmp_path / "n"), ServableConfig("x", tmp_path / "nowhere")])
    assert catalog.names() == ["m"] and states(catalog) == {2: "AVAILABLE"} and states(catalog, "n") == {5: "END"}
    with pytest.raises(BadRequestError, match="Two models have one name"):
        catalog.reload([ServableConfig("m", base), ServableConfig("m", tmp_path / "n")])

    catalog.reload([ServableConfig("n", tmp_path / "n")])
    assert states(catalog) == {2: "END"} and states(catalog, "n") == {5: "AVAILABLE"}
    with pytest.raises(NotServedError, match=r"Latest\(m\)"), catalog.lease("m"):
        pass


def test_another_base_path_replaces_the_same_version_number(base, tmp_path):
    write(tmp_path / "other", 2)
    catalog = catalog_of(ServableConfig("m", base))

    catalog.reload([ServableConfig("m", tmp_path / "other")])

    with catalog.lease("m") as held:
        assert held.loaded.text == "other 2"


def test_another_base_path_whose_version_is_damaged_is_an_error_that_is_not_tried_again_until_it_is_mended(base, tmp_path, caplog):
    catalog = catalog_of(ServableConfig("m", base))
    write(tmp_path / "other", 2, "damaged")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="model m: no version became available: .*it is damaged"):
            catalog.reload([ServableConfig("m", tmp_path / "other")])
    catalog.poll()

    assert sum("cannot be loaded" in record.message for record in caplog.records) == 1
    with catalog.lease("m") as held:
        assert held.loaded.text == "m 2"
    write(tmp_path / "other", 2, "mended")
    catalog.reload([ServableConfig("m", tmp_path / "other")])
    with catalog.lease("m") as held:
        assert held.loaded.text == "mended"


def test_a_base_path_that_is_away_for_a_while_unloads_nothing_and_is_told_once(base, caplog):
    catalog = catalog_of(ServableConfig("m", base))
    base.rename(base.parent / "away")

    for _ in range(3):
        catalog.poll()

    assert states(catalog) == {2: "AVAILABLE"}
    assert sum("cannot be looked up" in record.message for record in caplog.records) == 1
    (base.parent / "away").rename(base)
    write(base, 3)
    catalog.poll()
    assert states(catalog) == {3: "AVAILABLE", 2: "END"}


def test_what_ends_with_the_last_lease_is_not_unloaded_by_whoever_held_it(base):
    catalog, closed_by = catalog_of(ServableConfig("m", base)), []
    with catalog.lease("m") as held:
        held.loaded.close = lambda: closed_by.append(threading.current_thread())
        write(base, 3)
        catalog.poll()

    until_ended(catalog, 2)
    assert closed_by and closed_by[0] is not threading.current_thread()


def test_closing_gives_no_lease_and_waits_for_those_given(base):
    catalog = catalog_of(ServableConfig("m", base))

    with catalog.lease("m") as held:
        assert not catalog.close(0.05)
        assert not held.loaded.closed
        with pytest.raises(UnavailableError), catalog.lease("m"):
            pass

    assert held.loaded.closed and catalog.close(5)


def test_a_config_file_in_tensorflow_servings_format_is_read(tmp_path):
    file = tmp_path / "models.config"
    file.write_text("""model_config_list {
      config { name: "a" base_path: "/a" model_platform: "tensorflow" model_version_policy { specific { versions: 1 versions: 3 } }
               version_labels { key: "stable" value: 1 } }
      config { name: "b" base_path: "/b" model_version_policy { latest { num_versions: 2 } } }
      config { name: "c" base_path: "/c" model_version_policy { all {} } }
      config { name: "d" base_path: "/d" } }""")

    a, b, c, d = read_config(file)

    assert (a.name, str(a.base_path), a.policy, a.labels) == ("a", "/a", VersionPolicy(specific=(1, 3)), {"stable": 1})
    assert (b.policy, c.policy, d.policy) == (VersionPolicy(latest=2), VersionPolicy(latest=0), VersionPolicy(latest=1))
    for text, message in (("model_config_list { config { nam: 1 } }", "models.config: .*nam"), ("", "give a model_config_list"),
                          ('model_config_list { config { name: "a" } }', "base_path: is missing for a")):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_config(file)


def test_a_config_file_that_changes_is_followed_and_a_wrong_one_is_not(base, tmp_path):
    file = tmp_path / "models.config"

    def listed(*names):
        return "model_config_list {" + " ".join(f'config {{ name: "{name}" base_path: "{base}" }}' for name in names) + "}"

    file.write_text(listed("m"))
    catalog = Catalog(read_config(file), 0, load=Loaded)
    tries, served = threading.Event(), catalog.reload

    def reload(configs):
        served(configs)
        tries.set()

    catalog.reload = reload
    with config_watcher(catalog, file, 0.01, file.read_bytes()):
        file.write_text("model_config_list { config { nam")
        assert not tries.wait(0.2) and catalog.names() == ["m"]
        file.write_text(listed("m", "n"))
        assert tries.wait(10)

    assert catalog.names() == ["m", "n"]


def test_requests_are_counted_by_code_and_only_names_that_are_served(base):
    catalog = catalog_of(ServableConfig("m", base))
    metrics = Metrics(catalog)
    for name, label in (("m", None), ("m", "beta"), ("random", None)):
        try:
            with metrics.request(name, "Predict", "GRPC"), catalog.lease(name, label=label):
                pass
        except (BadRequestError, NotServedError):
            continue

    lines = metrics.page().decode().splitlines()

    count = ':tensorflow:serving:request_count{model_name="%s",status="%s"} 1.0'
    assert {count % one for one in (("m", "OK"), ("m", "INVALID_ARGUMENT"), ("", "NOT_FOUND"))} <= set(lines)
    assert not any("random" in line for line in lines)
