"""What holds for every test process; its models are in `tests.small_models`."""
import gc
import os

import pytest

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # errors
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that asks the hub for something fails instead of waiting
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["USE_TORCH"] = "AUTO"  # tests compare with PyTorch in this process; the command by itself does without


def pytest_configure(config):
    """Import TensorFlow, PyTorch and the fixtures, but not in a process that only hands tests out to others: it would be done last of all."""
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        return
    gc.disable()  # which takes a fifth of the time, and finds nothing in what modules define
    config.pluginmanager.import_plugin("tests.small_models")
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Let a test fail in which TensorFlow ran a graph as it was written, since its own changes had made it go in a circle; it only logs so."""
    report = yield
    if report.passed and "couldn't be sorted in topological order" in report.capstderr:
        report.outcome, report.longrepr = "failed", "TensorFlow made a circle of this graph, and runs it without its optimizers: see the log on stderr"
    return report
