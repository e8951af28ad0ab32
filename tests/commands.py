"Commands run in this process, and what they print"
import contextlib
import io
import json
import re

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


def one_line(err, says=''):
    "An error is one short line with all of `says` in it"
    assert err.startswith('captcha-lab: ') and err.count('\n') == 1 and 'mistake in captcha_lab' not in err and len(err) < 500, err
    for s in [says] if isinstance(says, str) else says: assert s in err, err


def refused(*args, code=2, says=''):
    "The command ends with `code`, prints nothing, and says `one_line`; what training takes may be told before"
    got, out, err = run(*args)
    one_line(re.sub('^(tiles|photos) of .*\n', '', err), says)
    assert (got, out) == (code, ''), err
    return err
