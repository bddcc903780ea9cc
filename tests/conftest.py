"""What holds for every test process; its models are in `tests.small_models`."""
import gc
import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
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
