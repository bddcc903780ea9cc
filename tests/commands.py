"""The `tfgpt` command as tests call it: in their own process, which has TensorFlow loaded already, or, where that is the point, in a fresh one."""
import contextlib
import io
import subprocess
import sys

from tfgpt import cli


def called(*arguments):
    """Run the command in this process; what it printed and its exit code come as of a process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([str(argument) for argument in arguments])
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def command(*arguments):
    return [sys.executable, "-m", "tfgpt", *map(str, arguments)]


def in_a_process(*arguments, **options):
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False, **options)
