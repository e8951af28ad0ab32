"""The docs site without Quarto: `python -m tools.site [--fast]`

nbdev processes the notebooks (into `_proc`), `stage` makes them plain (`_site_src`), smalldocs renders them, `finish` makes the result
self-contained (`_docs`), and a dead link or a picture without alt text fails the build. `--fast` keeps what nbdev processed before, if a notebook didn't change."""
import base64
import html
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from tools import glossary, sidebar, try_page
from tools.links import bad_links
from tools.notebook import NBS, ROOT, options, outside_code, read, text
from tools.run_nbs import last_state

KATEX_CDN = re.compile(r'https://cdn\.jsdelivr\.net/npm/katex@[\d.]+/dist/(?:contrib/)?')
FONT_IMPORT = re.compile(r'@import\s+url\(["\']?https?:[^)]*\)[^;]*;')
FRAME = {  # of every page, as smalldocs makes it: what to write in its place
    ' role="img"></i>': ' aria-hidden="true"></i>',
    '<nav class="navbar ': '<nav aria-label="Site" class="navbar ',
    '<nav id="quarto-sidebar" ': '<nav id="quarto-sidebar" aria-label="Pages" ',
    '<nav class="quarto-secondary-nav">': '<nav class="quarto-secondary-nav" aria-label="Where you are">',
    '<div id="quarto-margin-sidebar" ': '<div id="quarto-margin-sidebar" role="complementary" aria-label="This page" '}
KINDS = dict(fig='Figure', tbl='Table')


@dataclass
class Page:
    "One processed notebook on its way to the site"
    source: Path  # where it is below nbs/
    target: Path  # what the site calls it, still as .ipynb
    nb: dict

    @property
    def up(self): return '../' * (len(self.source.parts) - 1)


def front_matter(nb):
    "The YAML that nbdev put at the top of a processed notebook"
    first = nb['cells'][0]
    return yaml.safe_load(text(first['source']).strip().strip('-')) or {} if first['cell_type'] == 'raw' else {}


def process(cfg, force=True):
    "Let nbdev process the notebooks, exactly as for Quarto; returns the folder with the result"
    from nbdev.doclinks import _build_modidx
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs
    (NBS/'sidebar.yml').write_text(sidebar.render(), encoding='utf-8')
    refresh_quarto_yml()
    _build_modidx()
    return proc_nbs(str(cfg.nbs_path), n_workers=2, force=force)


def load_pages(folder):
    "All processed notebooks; raises `ValueError` if two of them would become the same page"
    pages = []
    for p in sorted(folder.rglob('*.ipynb')):
        nb, rel = read(p), p.relative_to(folder)
        pages.append(Page(rel, rel.with_name(Path(front_matter(nb).get('output-file') or rel).stem + '.ipynb'), nb))
    if len({p.target for p in pages}) < len(pages): raise ValueError(f'two notebooks become one page: {[str(p.target) for p in pages]}')
    return pages


def numbers(nb):
    "Labels of a page's figures and tables with their numbers: {'fig-loss': 'Figure 1'}"
    found, count = {}, dict.fromkeys(KINDS, 0)
    for label in (options(c['source']).get('label', '') for c in nb['cells'] if c['cell_type'] == 'code'):
        if (kind := label.split('-')[0]) not in KINDS: continue
        count[kind] += 1
        found[label] = f'{KINDS[kind]} {count[kind]}'
    return found


def tidy_path(path):
    "A relative path without `..` in the middle"
    parts = []
    for p in path.parts: parts.pop() if p == '..' and parts and parts[-1] != '..' else parts.append(p)
    return Path(*parts)


def shown_names(nb):
    "What a page has headings for: those of its texts, and those that nbdev made for definitions"
    texts = [text(c['source']) for c in nb['cells'] if c['cell_type'] == 'markdown']
    texts += [text(o['data']['text/markdown']) for c in nb['cells'] for o in c.get('outputs', []) if 'text/markdown' in o.get('data', {})]
    return {h.lower().replace(' ', '-') for t in texts for h in re.findall(r'^#+ +(.+?)\s*(?:\{.*)?$', t, flags=re.M)}


@dataclass
class Links:
    "What is needed to mend the links of all pages"
    base: str  # where the site will be
    targets: dict  # notebook -> its name on the site
    names: dict  # page (.html) -> names that have a heading there

    def mend(self, markdown, page, labels):
        "Links to our own pages made relative, `.ipynb` links to the page's name on the site, `@fig-x` to 'Figure 1'"
        def own(m):  # nbdev links every name it knows: not those without a heading, nor commands, whose names (`train`) are mostly meant as words
            if m[2].endswith('cli.html') and m[2] != page.target.with_suffix('.html').as_posix(): return m[1]
            if m[3] and m[3][1:].lower() not in self.names.get(m[2], ()): return m[1]
            return f'[{m[1]}]({page.up}{m[2]}{(m[3] or "").lower()})'
        def notebook(m):
            new = self.targets.get(tidy_path(page.source.parent/m[1]))
            return f']({Path(m[1]).with_name(new.name).as_posix()}{(m[2] or "").lower()})' if new else m[0]
        def label(m): return f'[{labels[m[1]]}](#{m[1]})' if m[1] in labels else m[0]
        markdown = re.sub(r'\[(`[^`\n]+`)\]\(' + re.escape(self.base) + r'/([\w./-]+\.html)(#[^)\s"]*)?\)', own, markdown)
        markdown = re.sub(r'\]\(([^)#:\s]+\.ipynb)(#[^)]*)?\)', notebook, markdown)
        return re.sub(r'(?<![\w.@])@((?:fig|tbl)-[\w-]+)', label, markdown)


def figure(src, opts, number, size):
    "HTML of a picture with its caption"
    caption = opts.get('fig-cap', '')
    alt = html.escape(opts.get('fig-alt') or caption)
    attrs = ''.join(f' {k}="{size[k]}"' for k in ('width', 'height') if k in size)
    under = f'<figcaption>{number + ": " if number else ""}{html.escape(caption)}</figcaption>' if caption else ''
    return f'<figure class="figure"><img src="{src}"{attrs} alt="{alt}" class="img-fluid figure-img" loading="lazy">{under}</figure>'


def stage_output(out, opts, file, number, fix):
    "Make one output plain: terminal text as last seen, Markdown with our links, a picture as a file of its own"
    data = out.get('data', {})
    if 'text' in out: out['text'] = last_state(text(out['text']))
    if 'text/markdown' in data: data['text/markdown'] = outside_code(text(data['text/markdown']), fix)
    kind = next((k for k in ('image/png', 'image/jpeg') if k in data), None)
    if not kind: return
    file = file.with_suffix('.png' if kind == 'image/png' else '.jpg')
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(base64.b64decode(text(data[kind])))
    size = (out.get('metadata') or {}).get(kind, {})
    out['data'] = {'text/html': figure(f'{file.parent.name}/{file.name}', opts, number, size)}


def stage_page(page, folder, links, terms):
    "Write one page's notebook below `folder`, made plain; a lesson with links to the glossary's `terms`"
    out, labels = folder/page.target, numbers(page.nb)
    fix = lambda md: links.mend(md, page, labels)
    explain = glossary.linker(terms, f'{page.up}glossary.html') if terms and page.source.parent == Path('lessons') else lambda md: md
    for i, c in enumerate(page.nb['cells']):
        source = text(c['source'])
        if c['cell_type'] == 'raw': c['source'] = re.sub(r'^output-file:.*\n', '', source, flags=re.M)
        if c['cell_type'] == 'markdown': c['source'] = explain(outside_code(source, fix))
        if c['cell_type'] != 'code': continue
        opts = options(source)
        for j, o in enumerate(c.get('outputs', [])):
            stage_output(o, opts, out.with_name(f'{out.stem}_files')/f'figure-{i}-{j}', labels.get(opts.get('label')), fix)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(page.nb), encoding='utf-8')


def stage(source, folder, base):
    "All pages, pictures and settings, ready for smalldocs, in a fresh `folder`"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder, ignore=lambda d, names: [n for n in names if n.endswith('.ipynb') or n in ('_docs', '_site')])
    pages = load_pages(source)
    links = Links(base, {p.source: p.target for p in pages}, {p.target.with_suffix('.html').as_posix(): shown_names(p.nb) for p in pages})
    words = source/'glossary.qmd'
    terms = glossary.word_forms(words.read_text(encoding='utf-8')) if words.exists() else {}
    for p in pages: stage_page(p, folder, links, terms)
    rename = lambda m: links.targets.get(Path(m[0]), Path(m[0])).as_posix()
    for y in folder.glob('*.yml'): y.write_text(re.sub(r'[\w./-]+\.ipynb', rename, y.read_text(encoding='utf-8')), encoding='utf-8')


def render(folder, out):
    "smalldocs, and our pictures beside its pages"
    subprocess.run([sys.executable, '-c', 'import sys; from smalldocs.cli import main; sys.exit(main())', 'render', str(folder)], check=True)
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(folder/out.name, out)
    for d in folder.rglob('*_files'): shutil.copytree(d, out/d.relative_to(folder))


def accessible(page, up):
    "A page's frame, mended: a way past the sidebar, names for its parts, buttons that a keyboard reaches, and `scroll.js`"
    for old, new in FRAME.items(): page = page.replace(old, new)
    page = re.sub(r'data-bs-target="(#[\w-]+)" role="navigation"', r'href="\1" data-bs-target="\1" role="button"', page)
    page = re.sub(r'(<body[^>]*>)', r'\1<a class="visually-hidden-focusable" href="#quarto-document-content">Skip to the text</a>', page, count=1)
    return page.replace('</body>', f'<script src="{up}scroll.js"></script></body>')


def finish(out):
    "Nothing from other sites: KaTeX of our own, the system's fonts; pages for all; and `.nojekyll` for GitHub Pages"
    for p in out.rglob('*.html'):
        up = '../' * (len(p.relative_to(out).parts) - 1)
        p.write_text(accessible(KATEX_CDN.sub(f'{up}site_libs/katex/', p.read_text(encoding='utf-8')), up), encoding='utf-8')
    for p in out.rglob('*.css'): p.write_text(FONT_IMPORT.sub('', p.read_text(encoding='utf-8')), encoding='utf-8')
    shutil.copytree(ROOT/'tools'/'vendor'/'katex', out/'site_libs'/'katex')
    (out/'.nojekyll').touch()


def main(args=()):
    from nbdev.config import get_config
    cfg = get_config()
    out, work = ROOT/cfg.doc_path.name, ROOT/'_site_src'
    stage(process(cfg, force='--fast' not in args), work, f'{cfg.doc_host}{cfg.doc_baseurl}')
    render(work, out)
    finish(out)
    if not try_page.build(out): print('the page `try` has no reader in this build')
    bad = bad_links(out)
    for b in bad: print('BAD', b)
    print(f'{len(list(out.rglob("*.html")))} pages in {out.name}/, {len(bad)} bad links or pictures')
    return 1 if bad else 0


if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
