"Commands run in this process, and what they print"
import contextlib
import io
import json

from captcha_lab import cli


def run(*args):
    "A command in this process: exit code, standard output, standard error"
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err): code = cli.main([str(a) for a in args])
    return code, out.getvalue(), err.getvalue()


def rows(out): return [json.loads(l) for l in out.splitlines()]


def one(*args):
    "The one JSON object that a command prints"
    code, out, err = run(*args, '--json')
    assert code == 0, err
    row, = rows(out)
    return row
