"""What mkdocs cannot take from docs/ as it stands: pages that are no files, files beside docs/, search, two languages.

A hook of mkdocs, named in mkdocs.yml. In a page, ``<!-- hyperparameters: NAME -->`` becomes the table of what a name
takes, and a link to a file of the repository outside docs/ leads to a copy of it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page
from mkdocs.utils.templates import TemplateContext
from site_commands import commands_page
from site_evidence import of_name, picture
from site_languages import ALTERNATE, alternates, language, navigation
from site_matrix import with_filters
from site_names import hyperparameters, index_page, name_page, names
from site_search import boost

from anyoptim.names.lookup import optimizer_info

ROOT = Path(__file__).parent.parent
_MARKER = re.compile(r"<!-- hyperparameters: (\S+) -->")
_LINK = re.compile(r"\]\(([^)#:]+)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are generated, and the files that pages link to outside docs/."""
    pages = {f"names/{name}.md": name_page(name) for name in names()}
    pages["names/index.md"] = index_page()
    pages["commands.md"] = commands_page()
    pages["changelog.md"] = (ROOT / "CHANGELOG.md").read_text()
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    for name in names():
        found = of_name(name)
        if found:
            files.append(File.generated(config, f"names/pictures/{name}.svg", content=picture(found)))
    waiting = [(each.src_uri, each.content_string) for each in files.documentation_pages()]
    while waiting:
        uri, text = waiting.pop()
        for path in filter(None, (outside(uri, match[1]) for match in _LINK.finditer(text))):
            copy = f"repo/{path}"
            if files.get_file_from_path(copy) is None:
                added = File.generated(config, copy, content=(ROOT / path).read_bytes())
                files.append(added)
                if path.endswith(".md"):
                    waiting.append((copy, (ROOT / path).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put tables of hyperparameters and links to copies into the places for them, and say how search ranks the page."""
    uri = page.file.src_uri
    page.meta["search"] = {"boost": boost(uri)}

    def to_copy(match: re.Match[str]) -> str:
        path = outside(uri, match[1])
        if path is None:
            return match[0]
        return f"]({posixpath.relpath(f'repo/{path}', posixpath.dirname(uri) or '.')}{match[2] or ''})"

    markdown = _LINK.sub(to_copy, markdown)
    korean = language(uri) == "ko"
    return _MARKER.sub(lambda match: hyperparameters(optimizer_info(match[1]), korean=korean), markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make the matrix a table that can be filtered, as wide as the page."""
    if page.file.src_uri != "matrix.md":
        return html
    page.meta["hide"] = ["toc"]
    return with_filters(html)


def on_page_context(context: TemplateContext, page: Page, config: MkDocsConfig, nav: Navigation) -> TemplateContext:
    """Give a page the theme's words and the navigation in its language, and a link to the other one."""
    uri = page.file.src_uri
    config.theme["language"] = language(uri)
    config.extra["alternate"] = alternates(uri, {each.file.src_uri: each.url for each in nav.pages})
    context["nav"] = navigation(nav, uri)
    return context


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Leave out what makes the theme's script ask for a sitemap in each language's folder."""
    return ALTERNATE.sub("", output)


def outside(uri: str, target: str) -> str | None:
    """Return the path from the repository's root of a link that leaves docs/, or ``None``.

    Args:
        uri: of the page that it is in; below ``repo/`` it stands for a file of the repository.
        target: what the link says.

    Raises:
        PluginError: there is no such file.
    """
    where = uri.removeprefix("repo/") if uri.startswith("repo/") else f"docs/{uri}"
    if uri.startswith("names/") or not posixpath.splitext(target)[1]:
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(where), target))
    if path.startswith("docs/") and not uri.startswith("repo/"):
        return None
    if not (ROOT / path).is_file():
        raise PluginError(f"{uri} links to {target}, and there is no file {path}")
    return path
