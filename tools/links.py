"What is wrong with the links and pictures of a built site: `bad_links`"
import html
import re

TAG = re.compile(r'<(\w+)\b([^>]*)>')
ATTR = re.compile(r'(?<![\w-])(src|href|rel|id|alt)="([^"]*)"')
LOADS = {'script', 'link', 'img', 'source', 'iframe'}  # tags that make a browser fetch something


def page_ids(path, cache):
    "All ids on a page"
    if path not in cache: cache[path] = {a['id'] for _, a in tags(path.read_text(encoding='utf-8')) if 'id' in a}
    return cache[path]


def tags(page):
    "Each tag of a page with those of its attributes that matter here"
    return [(m[1].lower(), {k: html.unescape(v) for k, v in ATTR.findall(m[2])}) for m in TAG.finditer(page)]


def trouble(path, tag, attrs, ids):
    "What is wrong with one link, or nothing"
    url = attrs.get('src', attrs.get('href'))
    if tag == 'img' and not attrs.get('alt'): return f'no alt text {url:.80}'
    if url is None or re.match(r'(mailto|data|javascript):', url): return None
    if re.match(r'(https?:)?//', url): return f'{tag} loads {url}' if tag in LOADS and attrs.get('rel') != 'canonical' else None
    file, _, anchor = url.partition('#')
    target = (path.parent/file.split('?')[0]).resolve() if file else path
    if target.is_dir(): target = target/'index.html'
    if not target.exists(): return f'no file {url}'
    if anchor and target.suffix == '.html' and anchor not in page_ids(target, ids): return f'no anchor {url}'


def bad_links(site):
    "Links of a built site that go nowhere, pictures without alt text, and things a page would load from another site"
    ids, bad = {}, []
    for path in sorted(site.rglob('*.html')):
        found = (trouble(path, tag, attrs, ids) for tag, attrs in tags(path.read_text(encoding='utf-8')))
        bad += [f'{path.relative_to(site)}: {t}' for t in found if t]
    return list(dict.fromkeys(bad))
