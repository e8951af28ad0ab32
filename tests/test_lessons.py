"Students' copies of the lessons: stubs that fail with a hint, the checks of the solutions, no answers"
import ast
import json
import re

import nbformat
import pytest

from captcha_lab.lessons import lessons_folder, student_copy
from commands import refused, run
from tools.notebook import NBS, options, read, text

LESSONS = [pytest.param(p, id=p.stem) for p in sorted(NBS.glob('lessons/*.ipynb'))]
HINT = re.compile(r'Exercise (\d+): \S.{9,}')


def code(nb): return [text(c['source']) for c in nb['cells'] if c['cell_type'] == 'code']
def page(nb): return '\n'.join(text(c['source']) for c in nb['cells'] if c['cell_type'] == 'markdown')
def dense(source): return '\n'.join(l for l in source.split('\n') if l.strip()) + '\n'
def stubs(path): return [s for s in code(student_copy(read(path))) if 'NotImplementedError(\'Exercise' in s or 'NotImplementedError("Exercise' in s]


def parts(stub):
    "An exercise's function, and its checks"
    first, *rest = ast.parse(stub).body
    return first, '\n'.join(stub.split('\n')[first.end_lineno:])


def failure(call, *args):
    "What `call` says is not implemented"
    with pytest.raises(NotImplementedError) as e: call(*args)
    return str(e.value)


@pytest.mark.parametrize('path', LESSONS)
def test_each_exercise_is_a_stub_that_fails_with_a_hint(path):
    left = [s for s in code(read(path)) if options(s).get('eval') == 'false' and 'NotImplementedError' in s]
    found = stubs(path)
    assert len(found) == len(left) >= 3
    assert [s for s in found if 'eval' in options(s)] == []
    for n, stub in enumerate(found, 1):
        (f, checks), names = parts(stub), {}
        f.args.defaults = []
        exec(ast.unparse(f), names)
        said = failure(names[f.name], *f.args.args)
        assert HINT.fullmatch(said)[1] == str(n), said
        assert f.name in {n.id for n in ast.walk(ast.parse(checks)) if isinstance(n, ast.Name)}, 'the checks call it'


@pytest.mark.parametrize('path', LESSONS)
def test_solutions_pass_the_same_checks(path):
    "Word for word, so that running the solutions, as CI does, runs these"
    solved = dense('\n'.join(code(read(path.parent/'solutions'/path.name))))
    assert [s for s in stubs(path) if dense(parts(s)[1]) not in solved] == []


@pytest.mark.slow
@pytest.mark.parametrize('path', LESSONS)
def test_where_a_solution_passes_the_stub_fails(path, monkeypatch):
    "Solutions are run cell by cell; as soon as the checks have passed, the stub meets them"
    pytest.importorskip('fastai')
    monkeypatch.chdir(path.parent/'solutions')
    names, done, waiting = {}, '', stubs(path)
    for source in code(read(path.parent/'solutions'/path.name)):
        exec(source, names)
        done += dense(source)
        for stub in [s for s in waiting if dense(parts(s)[1]) in done]:
            assert HINT.fullmatch(failure(exec, stub, dict(names)))
            waiting.remove(stub)
    assert waiting == []


@pytest.mark.parametrize('path', LESSONS)
def test_copies_have_no_answers(path):
    nb, copy = read(path), student_copy(read(path))
    assert '<summary>Answers</summary>' in page(nb) and '](solutions/' in page(nb)
    assert [w for w in ('<details', '<summary', '</details', 'solutions/', '**1** ') if w in page(copy)] == []
    assert 8 <= len(re.findall(r'^\d+\. ', page(copy), flags=re.M)) and '## Further research' in page(copy)
    assert [c for c in copy['cells'] if c.get('outputs') or c.get('execution_count')] == []
    assert len(copy['cells']) == len(nb['cells']) and copy['metadata'] == nb['metadata']


def test_a_folder_for_students(tmp_path):
    out = tmp_path/'class'
    code, said, err = run('lessons', '--student', out)
    assert (code, said) == (0, '') and err == f'{len(LESSONS)} lessons in {out}\n'
    assert sorted(p.name for p in out.iterdir()) == [p.values[0].name for p in LESSONS]
    for p in out.iterdir(): nbformat.validate(nbformat.read(p, 4))


def test_an_existing_folder_stays(tmp_path):
    mine = tmp_path/'class'/'mine.ipynb'
    mine.parent.mkdir()
    mine.write_text('solved')
    refused('lessons', '--student', mine.parent, says=('already exists', '--force'))
    assert mine.read_text() == 'solved' and list(tmp_path.rglob('*')) == [mine.parent, mine]
    assert run('lessons', '--student', mine.parent, '--force')[0] == 0 and not mine.exists()
    refused('lessons', '--student', NBS/'lessons', '--force', says='themselves')
    refused('lessons', '--student', NBS.parent, '--force', says='themselves')
    assert (NBS/'lessons'/'01_letters.ipynb').exists()


def test_needs_a_checkout(tmp_path, monkeypatch):
    "As in a wheel, whose data lie beside the modules"
    assert lessons_folder() == NBS/'lessons'
    monkeypatch.setattr('captcha_lab.lessons.share_path', lambda: tmp_path/'captcha_lab'/'_share')
    refused('lessons', '--student', tmp_path/'class', says=('no lessons', 'git clone'))
    assert not (tmp_path/'class').exists()


def test_a_copy_leaves_the_lesson_as_it_is():
    nb = read(NBS/'lessons'/'00_start.ipynb')
    before = json.dumps(nb)
    student_copy(nb)
    assert json.dumps(nb) == before


def test_needs_a_folder(): refused('lessons', says='--student')
