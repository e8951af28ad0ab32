"What tools/ does, on small examples"
import base64
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from tools import blank, data_cards, glossary, links, npm, readme, sidebar
from tools.notebook import NBS, body, notebooks, options, outside_code, read


def cell(source, kind='code', outputs=()):
    base = dict(cell_type=kind, id=str(abs(hash(source)))[:8], metadata={}, source=source)
    return base | (dict(execution_count=None, outputs=list(outputs)) if kind == 'code' else {})


def md(source): return cell(source, 'markdown')
def notebook(*cells): return dict(cells=list(cells), metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python')), nbformat=4, nbformat_minor=5)
def shown(**data): return dict(output_type='display_data', data={k.replace('_', '/'): v for k, v in data.items()}, metadata={})
def said(text, name='stdout'): return dict(output_type='stream', name=name, text=text)


def png(size=(20, 10), noise=False):
    import numpy as np
    from PIL import Image
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (*size[::-1], 3)) if noise else np.zeros((*size[::-1], 3))
    out = io.BytesIO()
    Image.fromarray(pixels.astype('uint8')).save(out, 'PNG')
    return base64.b64encode(out.getvalue()).decode()


def save(path, nb):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(nb), encoding='utf-8')
    return path


# ---- notebook

def test_options_and_body():
    source = '#| label: fig-a\n#| fig-cap: "A cap: with colon"\n#| hide\n#| export\nx = 1'
    assert options(source) == {'label': 'fig-a', 'fig-cap': 'A cap: with colon', 'hide': '', 'export': ''}
    assert body(source.splitlines(True)) == 'x = 1'


def test_outside_code():
    assert outside_code('a `a`\n```\na\n```\na', str.upper) == 'A `a`\n```\na\n```\nA'
    assert outside_code('[`a`](b), [`c`](d) `e`', str.upper) == '[`A`](B), [`C`](D) `e`', 'linked code is a link first'


def test_notebooks_leaves_out_scratch(tmp_path):
    for name in ('a.ipynb', '_x.ipynb', '.ipynb_checkpoints/a.ipynb', 'sub/b.ipynb'): save(tmp_path/name, notebook())
    assert [p.name for p in notebooks(tmp_path)] == ['a.ipynb', 'b.ipynb']


# ---- readme

def test_readme():
    nb = notebook(md('# T\n\n> what'), md('See [x](lessons/x.ipynb), [y](../LICENSE), [z](https://z.org)'), cell('#| hide\nsecret'), cell('1 + 1', outputs=[shown(text_plain='2')]),
                  cell('#| echo: false\ntable', outputs=[shown(text_markdown='| a |', text_plain='no')]))
    page, files = readme.render(nb)
    assert page.startswith('# T\n\n> what\n\n<!-- Made from') and files == {}
    assert '[x](nbs/lessons/x.ipynb), [y](LICENSE), [z](https://z.org)' in page
    assert '``` python\n1 + 1\n```\n\n    2\n\n| a |\n' in page
    assert 'secret' not in page and 'table' not in page


def test_readme_pictures_and_callouts():
    nb = notebook(md('# T'), md('::: {.callout-note}\nmind\nthis\n:::'), cell('#| echo: false\n#| fig-alt: A plot\nplot', outputs=[shown(image_png=png())]))
    page, files = readme.render(nb)
    assert '> [!NOTE]\n> mind\n> this' in page
    assert '![A plot](nbs/images/readme-1.png)' in page and base64.b64decode(png()) == files['images/readme-1.png']


def test_readme_check_notices(tmp_path, monkeypatch):
    monkeypatch.setattr(readme, 'ROOT', tmp_path)
    monkeypatch.setattr(readme, 'NBS', tmp_path/'nbs')
    save(tmp_path/'nbs'/'index.ipynb', notebook(md('# T')))
    assert 'out of date' in readme.main(['--check'])
    readme.main()
    assert not readme.main(['--check'])


def test_readme_commands():
    install, test = readme.commands(Path(readme.ROOT/'README.md').read_text(encoding='utf-8'))
    assert install.endswith('captcha-lab quickstart') and test.endswith('pytest -q')


# ---- blank copies, sidebar

def test_blank():
    nb = notebook(md('# T\n\nprose'), md('prose'), cell('x = 1', outputs=[said('1')]), md('## Questionnaire\n\n1. Why?'), md('more questions'), md('## After\n\nprose'))
    cells = blank.blank(nb)['cells']
    assert [c['source'] for c in cells] == ['# T', 'x = 1', '## Questionnaire\n\n1. Why?', 'more questions', '## After']
    assert cells[1]['outputs'] == []


def test_blank_writes_every_lesson(tmp_path):
    save(tmp_path/'lessons'/'01_a.ipynb', notebook(md('# A\n\nprose')))
    blank.main(['--lessons', str(tmp_path/'lessons'), '--out', str(tmp_path/'out')])
    assert read(tmp_path/'out'/'01_a.ipynb')['cells'][0]['source'] == '# A'


def test_sidebar(tmp_path):
    save(tmp_path/'index.ipynb', notebook(md('# Home')))
    save(tmp_path/'00_core.ipynb', notebook(cell('#| default_exp core'), md('# Core')))
    for p in ('lessons/00_b.ipynb', 'lessons/01_b.ipynb', 'lessons/01a_b.ipynb', 'lessons/02_b.ipynb', 'lessons/solutions/02_b.ipynb'): save(tmp_path/p, notebook(md('# B\n\n> b')))
    for p in ('try.qmd', 'about.qmd'): (tmp_path/p).touch()
    first, trying, lessons, solutions, library, about = sidebar.contents(tmp_path)
    assert (first['href'], trying['href']) == ('index.ipynb', 'try.qmd')
    assert about == {'section': 'About', 'contents': [{'text': 'About', 'href': 'about.qmd'}]}
    assert [o['text'] for o in lessons['contents']] == ['0. B', '1. B', '1a. B', '2. B']
    assert lessons['contents'][-1] == {'text': '2. B', 'href': 'lessons/02_b.ipynb'}
    assert solutions['contents'][0]['href'] == 'lessons/solutions/02_b.ipynb'
    assert library['contents'] == [{'text': 'core', 'href': '00_core.ipynb'}]


# ---- links

@pytest.mark.parametrize('page, trouble', [
    ('<a href="b.html#x">', None), ('<a href="b.html#y">', 'no anchor'), ('<a href="c.html">', 'no file'), ('<a href="https://x.org">', None), ('<a href="#here"><p id="here">', None),
    ('<img alt="x" src="https://x.org/a.png">', 'loads'), ('<script src="//x.org/a.js">', 'loads'), ('<link rel="canonical" href="https://x.org">', None), ('<a href="mailto:a@b.c">', None),
    ('<img alt="x" src="no.png">', 'no file'), ('<img src="b.html">', 'no alt text'), ('<img alt="" src="b.html">', 'no alt text'), ('<a href="sub/">', None), ('<a data-href="no.html">', None)])
def test_bad_links(tmp_path, page, trouble):
    (tmp_path/'sub').mkdir()
    (tmp_path/'sub'/'index.html').write_text('')
    (tmp_path/'b.html').write_text('<h1 id="x">')
    (tmp_path/'a.html').write_text(page)
    found = links.bad_links(tmp_path)
    assert found == [] if trouble is None else trouble in found[0]


# ---- run notebooks

def test_last_state():
    from tools.run_nbs import last_state
    assert last_state('a\rb\rc\nd\n') == 'c\nd\n'
    assert last_state('|\u2588\u2588----| 40.00% [2/5 00:01<00:02]\n') == ''
    assert last_state('epoch 1\n') == 'epoch 1\n'


def test_tidy():
    from tools.run_nbs import tidy
    outs = [said('warn', 'stderr'), said('\n'), said('kept\n'), shown(text_markdown='x', text_plain='y')]
    kept = tidy(outs)
    assert [o['output_type'] for o in kept] == ['stream', 'display_data'] and 'text/plain' not in kept[1]['data']


def test_big_pictures_get_lighter():
    from tools.run_nbs import MOST, small_picture
    out = shown(image_png=png((400, 200), noise=True))
    small_picture(out)
    assert set(out['data']) == {'image/jpeg'} and out['metadata']['image/jpeg'] == dict(width=400, height=200)
    assert len(base64.b64decode(out['data']['image/jpeg'])) <= MOST
    plain = shown(image_png=png())
    small_picture(plain)
    assert plain['data'] == {'image/png': png()}


def test_wanted():
    from tools.run_nbs import wanted
    assert wanted('x = 1', {'slow'}) and wanted('#| slow\nx', set())
    assert not wanted('#| slow\nx', {'slow'}) and not wanted('#| eval: false\nx', set()) and not wanted('import nbdev; nbdev.nbdev_export()', set())


@pytest.mark.nbdev
def test_run_keeps_outputs_and_stops_at_an_error(tmp_path):
    pytest.importorskip('nbdev', reason='needs nbdev, which the development set has')
    from tools.run_nbs import timed
    good = save(tmp_path/'good.ipynb', notebook(cell('import sys\nprint("out"); print("err", file=sys.stderr)'), cell('6 * 7'), cell('#| slow\n1/0', outputs=[said('old')])))
    _, seconds, error = timed((good, {'slow'}))
    outs = [c['outputs'] for c in read(good)['cells']]
    assert error == '' and seconds < 60
    assert [o.get('name') for o in outs[0]] == ['stdout'] and outs[1][0]['data']['text/plain'] == ['42'] and outs[2][0]['text'] in ('old', ['old'])
    bad = save(tmp_path/'bad.ipynb', notebook(cell('1/0')))
    before = bad.read_text()
    assert 'ZeroDivisionError' in timed((bad, set()))[2] and bad.read_text() == before


# ---- site

@pytest.fixture
def site():
    pytest.importorskip('yaml')
    from tools import site
    return site


def test_figure_numbers(site):
    nb = notebook(cell('#| label: fig-a\nx'), cell('#| label: tbl-b\nx'), cell('#| label: fig-c\nx'), cell('#| label: other\nx'))
    assert site.numbers(nb) == {'fig-a': 'Figure 1', 'tbl-b': 'Table 1', 'fig-c': 'Figure 2'}


def test_links_are_mended(site):
    page = site.Page(Path('lessons/02_b.ipynb'), Path('lessons/02_b.ipynb'), {})
    links = site.Links('https://x.org/lab', {Path('00_core.ipynb'): Path('core.ipynb')}, {'core.html': {'f'}, 'cli.html': {'train'}})
    fix = lambda s: links.mend(s, page, {'fig-a': 'Figure 1'})
    assert fix('[c](../00_core.ipynb#Run-Cards)') == '[c](../core.ipynb#run-cards)'
    assert fix('[`F`](https://x.org/lab/core.html#F)') == '[`F`](../core.html#f)'
    assert fix('[`_g`](https://x.org/lab/core.html#_g)') == '`_g`', 'a name without a heading is not linked'
    assert fix('[`train`](https://x.org/lab/cli.html#train)') == '`train`', 'nor is the name of a command'
    assert fix('see @fig-a, not @fig-b') == 'see [Figure 1](#fig-a), not @fig-b'


def test_shown_names(site):
    nb = notebook(md('## Run cards'), cell('show_doc(f)', outputs=[shown(text_markdown='---\n\n### run_card\n\nx')]), md('text # no'))
    assert site.shown_names(nb) == {'run-cards', 'run_card'}


def test_stage(site, tmp_path):
    source = tmp_path/'proc'
    picture = shown(image_png=png())
    picture['metadata'] = {'image/png': dict(width=10, height=5)}
    front = cell('---\ntitle: Core\noutput-file: core.html\n---', 'raw')
    save(source/'00_core.ipynb', notebook(front, md('See @fig-a and `@fig-a`'), cell('#| label: fig-a\n#| fig-cap: \'A "cap"\'\nplot', outputs=[picture, said('1\r2\n')])))
    (source/'sidebar.yml').write_text('href: 00_core.ipynb')
    site.stage(source, tmp_path/'out', 'https://x.org/lab')
    nb = read(tmp_path/'out'/'core.ipynb')
    assert 'output-file' not in nb['cells'][0]['source']
    assert nb['cells'][1]['source'] == 'See [Figure 1](#fig-a) and `@fig-a`'
    html = nb['cells'][2]['outputs'][0]['data']['text/html']
    assert 'width="10" height="5"' in html and 'Figure 1: A &quot;cap&quot;' in html
    assert len(list((tmp_path/'out'/'core_files').glob('*.png'))) == 1
    assert nb['cells'][2]['outputs'][1]['text'] == '2\n'
    assert (tmp_path/'out'/'sidebar.yml').read_text() == 'href: core.ipynb'


TERMS = '<dfn id="blank" data-forms="blank,blanks">Blank</dfn> <dfn id="rate" data-forms="learning rate">Rate</dfn> <dfn id="map" data-forms="mAP">mAP</dfn> <dfn id="body" data-forms="">Body</dfn>'


@pytest.mark.parametrize('text, linked', [
    ('Two blanks, one blank.', 'Two [blanks](g.html#blank), one blank.'), ('# Title\n\n*Blank* or blankets', '# Title\n\n*[Blank](g.html#blank)* or blankets'),
    ('the learning\nrate', 'the [learning\nrate](g.html#rate)'), ('a map, a non-blank, the body, mAP', 'a map, a non-blank, the body, [mAP](g.html#map)'),
    ('# Blank\n\n## A blank\n\n`blank` [a blank](x) ![blank](x) $blank$ <b id="blank"> {.blank} https://blank.org', None), ('```\nblank\n```', None), ('[`f`](x.html#blank) blank', '[`f`](x.html#blank) [blank](g.html#blank)')])
def test_terms_are_linked(text, linked):
    assert glossary.linker(glossary.word_forms(TERMS), 'g.html')(text) == (linked or text)


def test_terms_are_linked_once_a_page():
    link = glossary.linker(glossary.word_forms(TERMS), 'g.html')
    assert [link('a blank'), link('a blank'), link('mAP')] == ['a [blank](g.html#blank)', 'a blank', '[mAP](g.html#map)']


def test_lessons_are_linked_to_the_glossary(site, tmp_path):
    for name in ('lessons/01_a.ipynb', '00_b.ipynb'): save(tmp_path/'proc'/name, notebook(md('# A'), md('a blank'), cell('blank')))
    (tmp_path/'proc'/'glossary.qmd').write_text(TERMS)
    site.stage(tmp_path/'proc', tmp_path/'out', 'https://x.org')
    lesson, other = ([read(p)['cells'][i]['source'] for i in (1, 2)] for p in (tmp_path/'out'/'lessons'/'01_a.ipynb', tmp_path/'out'/'00_b.ipynb'))
    assert lesson == ['a [blank](../glossary.html#blank)', 'blank'] and other == ['a blank', 'blank']


def test_glossary():
    "In the order of the alphabet; each form belongs to one term; each term is told and leads to its lesson"
    page = (NBS/'glossary.qmd').read_text(encoding='utf-8')
    terms = glossary.TERM.findall(page)
    names, forms = [name.lower() for *_, name in terms], [f for _, fs, _ in terms for f in fs.split(',') if f]
    assert len(terms) >= 40 and names == sorted(names) and len({id for id, *_ in terms}) == len(terms) and len(set(forms)) == len(forms)
    entries = [l for l in page.split('\n') if l.startswith('**')]
    assert len(entries) == len(terms) and [l for l in entries if '](lessons/' not in l] == []
    lessons = '\n'.join(p.read_text(encoding='utf-8') for p in NBS.glob('lessons/*.ipynb'))
    assert [id for id, forms, _ in terms if forms and not any(f in lessons for f in forms.split(','))] == [], 'no lesson has them'


def test_two_notebooks_one_page(site, tmp_path):
    for name in ('00_core.ipynb', '01_core.ipynb'): save(tmp_path/name, notebook(cell('---\noutput-file: core.html\n---', 'raw')))
    with pytest.raises(ValueError, match='one page'): site.load_pages(tmp_path)


def test_finish_needs_no_other_site(site, tmp_path):
    (tmp_path/'site_libs').mkdir()
    (tmp_path/'sub').mkdir()
    (tmp_path/'sub'/'a.html').write_text('<script src="https://cdn.jsdelivr.net/npm/katex@0.16.11/dist/contrib/auto-render.min.js">')
    (tmp_path/'b.css').write_text('@import url("https://fonts.googleapis.com/x");p{}')
    site.finish(tmp_path)
    assert (tmp_path/'sub'/'a.html').read_text() == '<script src="../site_libs/katex/auto-render.min.js">' and (tmp_path/'b.css').read_text() == 'p{}'
    assert (tmp_path/'site_libs'/'katex'/'katex.min.js').exists() and (tmp_path/'.nojekyll').exists()


def test_figure_without_alt_text_is_noticed(site, tmp_path):
    (tmp_path/'a.png').touch()
    (tmp_path/'a.html').write_text(site.figure('a.png', {}, None, {}))
    assert 'no alt text' in links.bad_links(tmp_path)[0]


def test_frame_is_accessible(site):
    page = site.accessible('<body class="nav"><a data-bs-target="#part-1" role="navigation"></a><i class="bi" role="img"></i></body>', '../')
    assert '<body class="nav"><a class="visually-hidden-focusable" href="#quarto-document-content">' in page
    assert 'href="#part-1" data-bs-target="#part-1" role="button"' in page and '<i class="bi" aria-hidden="true"></i>' in page
    assert page.endswith('<script src="../scroll.js"></script></body>')


# ---- cards, packages from npm, the page that reads

def test_data_cards_are_up_to_date():
    assert not data_cards.main(['--check'])
    assert '| images | as many as you ask for |' in data_cards.page()


def archive(path, **files):
    "An archive as npm makes it, and the package that describes it"
    with tarfile.open(path, 'w:gz') as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f'package/{name}')
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return npm.Package('1', base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode(), ('a',))


def test_npm_unpacks_what_it_knows(tmp_path):
    package = archive(tmp_path/'p.tgz', a=b'kept', b=b'left')
    (tmp_path/'to').mkdir()
    npm.unpack(tmp_path/'p.tgz', package, tmp_path/'to')
    assert {p.name: p.read_bytes() for p in (tmp_path/'to').iterdir()} == {'a': b'kept'}
    with pytest.raises(ValueError, match='checksum'): npm.unpack(tmp_path/'p.tgz', package._replace(integrity='x'), tmp_path/'to')


def test_npm_says_what_is_missing(own_data, monkeypatch, capsys):
    monkeypatch.setattr(npm.shutil, 'which', lambda name: None)
    assert npm.fetch('axe-core') is None
    assert capsys.readouterr().out == 'no axe-core: npm is not installed\n'


def test_try_page(tmp_path, monkeypatch):
    from tools import try_page
    (tmp_path/'ort').mkdir()
    (tmp_path/'ort'/'ort.mjs').touch()
    monkeypatch.setattr(try_page, 'MANY', 2)
    monkeypatch.setattr(try_page.npm, 'fetch', lambda name: tmp_path/'ort')
    assert try_page.build(tmp_path)
    page = json.loads((tmp_path/'try'/'readers.json').read_text(encoding='utf-8'))
    assert [r['name'] for r in page['readers']] == ['ctc_rendered', 'ctc_captcha_v2'] and page['readers'][0]['input']['height'] == 50
    assert {s['reader'] for s in page['sets']} == {r['name'] for r in page['readers']}
    assert all((tmp_path/'try'/f).exists() for f in ['onnxruntime-web/ort.mjs', *(r['file'] for r in page['readers']), *(i['file'] for s in page['sets'] for i in s['images'])])
    monkeypatch.setattr(try_page.npm, 'fetch', lambda name: None)
    assert not try_page.build(tmp_path/'without')


@pytest.mark.nbdev
def test_colab_badge():
    pytest.importorskip('nbdev', reason='needs nbdev, which the development set has')
    from types import SimpleNamespace
    from tools.docproc import colab_badge
    cfg = SimpleNamespace(git_url='https://github.com/u/r', branch='main', nbs_path=Path('nbs'))
    badge = colab_badge(Path('lessons/02_b.ipynb'), cfg)
    assert badge == '[![Open in Colab](../images/colab-badge.svg)](https://colab.research.google.com/github/u/r/blob/main/nbs/lessons/02_b.ipynb)'


@pytest.mark.nbdev
def test_lesson_note_has_the_time_of_the_card(tmp_path):
    pytest.importorskip('nbdev', reason='needs nbdev, which the development set has')
    from types import SimpleNamespace
    from tools.docproc import colab_badge, lesson_note
    cfg = SimpleNamespace(git_url='https://github.com/u/r', branch='main', nbs_path=Path('nbs'), config_path=tmp_path)
    lesson, solutions = Path('lessons/02_b.ipynb'), Path('lessons/solutions/02_b.ipynb')
    assert lesson_note(lesson, cfg) == colab_badge(lesson, cfg)
    (tmp_path/'data'/'results').mkdir(parents=True)
    (tmp_path/'data'/'results'/'lesson_02.json').write_text('{"seconds": 90, "hardware": {"cores": 2, "cpu": "Some CPU"}}')
    assert lesson_note(lesson, cfg).endswith('Measured: 1.5 minutes in small mode, on 2 cores of Some CPU; no GPU needed.')
    assert lesson_note(solutions, cfg) == colab_badge(solutions, cfg)
