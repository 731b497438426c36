"""A folder of documents: text, Markdown, reStructuredText, HTML, PDF and Word files, by well-kept parsers.

One file is held in memory at a time. Parsers are imported when the first file of their kind comes.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tokay.corpus.document import Block, Outline, RawDocument, Report, clean_text, lay_out, one_line
from tokay.corpus.rows import decode_utf8
from tokay.errors import MissingExtra, TokayError
from tokay.records import Skipped

SUFFIXES = (".txt", ".md", ".rst", ".html", ".htm", ".pdf", ".docx")


class Unusable(Exception):
    """A file cannot be used; the message is the reason that stands in the table of skipped input."""


def read_folder(folder: Path, report: Report) -> Iterator[RawDocument]:
    """The files below ``folder`` in the order of their relative paths; hidden ones are left out.

    A document's id and source are its relative path; its title is what the format calls so, else its first
    heading, else the name of the file.

    Raises:
        MissingExtra: a parser is not installed.
    """
    for path in _files(folder, report):
        name = clean_text(path.relative_to(folder).as_posix())
        try:
            title, blocks = read_file(path)
        except Unusable as reason:
            report(Skipped(name, 0, one_line(str(reason))))
            continue
        yield RawDocument(name, one_line(title) or clean_text(path.stem), name, blocks)


def _files(folder: Path, report: Report) -> list[Path]:
    found = []

    def unreadable(error: OSError) -> None:
        where = clean_text(Path(error.filename).relative_to(folder).as_posix())
        report(Skipped(where, 0, one_line(f"folder cannot be read: {error.strerror or error}")))

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def read_file(path: Path) -> tuple[str, list[Block]]:
    """Title (may be empty) and blocks (at least one) of a file.

    Raises:
        Unusable: it cannot be read, or has no text.
        MissingExtra: its parser is not installed.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise Unusable(f"unsupported file type {path.suffix.lower() or '(none)'}; expected {' '.join(SUFFIXES)}")
    if not path.is_file():
        raise Unusable("not a regular file, or a link to nothing")
    try:
        data = path.read_bytes()
        with warnings.catch_warnings(action="ignore"):  # parsers give advice to programmers
            title, blocks = read(data) if data else ("", [])
    except (Unusable, TokayError):
        raise
    except OSError as error:
        raise Unusable(f"cannot be read: {error.strerror or error}") from error
    except Exception as error:  # parsers raise anything on a broken file
        raise Unusable(f"broken {path.suffix[1:].lower()} file: {type(error).__name__}: {error}") from error
    if not blocks:
        raise Unusable("empty file" if not data else "no text in it")
    return title, blocks


# -- text ---------------------------------------------------------------------------------------------------


def _text(data: bytes) -> str:
    data = data.removeprefix(b"\xef\xbb\xbf")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Unusable(f"not UTF-8: byte 0x{data[0]:02x} at offset 0 (UTF-16?); save the file as UTF-8")
    if b"\0" in data:
        raise Unusable(f"binary file: NUL byte at offset {data.index(0)}")
    text, reason = decode_utf8(data)
    if reason:
        raise Unusable(reason)
    return text


def _read_txt(data: bytes) -> tuple[str, list[Block]]:
    return "", lay_out(Block(part) for part in re.split(r"\n[^\S\n]*\n", clean_text(_text(data))))


_FRONT_MATTER = re.compile(r"\A---[^\S\n]*\n(.*?\n)?(?:---|\.\.\.)[^\S\n]*(?:\n|\Z)", re.DOTALL)


def _read_markdown(data: bytes) -> tuple[str, list[Block]]:
    """Blocks are the source lines of top-level Markdown blocks: lists, tables and code stay as written."""
    with _needs("Markdown", "markdown-it-py"):
        from markdown_it import MarkdownIt
    text = clean_text(_text(data))
    front = _FRONT_MATTER.match(text)
    named = re.search(r"^title:[^\S\n]*(.+)$", front.group(1) or "", re.MULTILINE) if front else None
    text = text[front.end() :] if front else text
    lines, outline = text.split("\n"), Outline()
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.level != 0 or token.map is None or token.type == "hr":
            continue
        if token.type == "heading_open" and following is not None:
            outline.heading(int(token.tag[1]), following.content)
        else:
            outline.body("\n".join(lines[token.map[0] : token.map[1]]))
    return (named.group(1).strip().strip("'\"") if named else outline.first_heading), outline.blocks()


_ROLE = re.compile(r":[\w:+.-]+:`([^`]*)`\Z")


def _read_rst(data: bytes) -> tuple[str, list[Block]]:
    """Plain text of docutils' nodes; a directive that docutils does not know is kept as it is written."""
    with _needs("reStructuredText", "docutils"):
        from docutils import core, nodes
    settings = {
        "_disable_config": True,
        "file_insertion_enabled": False,
        "raw_enabled": False,
        "report_level": 5,
        "halt_level": 5,
        "warning_stream": io.StringIO(),
    }
    tree = core.publish_doctree(clean_text(_text(data)), settings_overrides=settings)
    outline = Outline()
    for node in tree.findall(nodes.problematic):  # such as :func:`name`, a role of Sphinx
        role = _ROLE.match(node.astext())
        if role:
            node.children = [nodes.Text(role.group(1))]
    title = tree.next_node(nodes.title) if tree.get("title") else None
    if title is not None:
        outline.heading(1, title.astext())
    _rst_children(tree, 2, outline, nodes)
    return outline.first_heading, outline.blocks()


def _rst_children(parent: Any, level: int, outline: Outline, nodes: Any) -> None:
    for node in parent.children:
        if isinstance(node, nodes.section):
            _rst_children(node, level + 1, outline, nodes)
        elif isinstance(node, nodes.title):
            if isinstance(parent, nodes.section):
                outline.heading(level - 1, node.astext())
        elif isinstance(node, nodes.subtitle):
            outline.heading(2, node.astext())
        elif isinstance(node, nodes.system_message):
            for source in node.findall(nodes.literal_block):
                outline.body(source.astext())
        elif not isinstance(node, nodes.Invisible):
            outline.body(_rst_text(node, nodes))


def _rst_text(node: Any, nodes: Any) -> str:
    """Like ``astext``, with the rows of tables and items of lists on lines of their own."""
    if isinstance(node, nodes.system_message | nodes.Invisible):
        return ""
    if isinstance(node, nodes.TextElement | nodes.Text):
        return str(node.astext())
    parts = [_rst_text(child, nodes) for child in node.children]
    between = "\t" if isinstance(node, nodes.row) else "\n"
    return between.join(part for part in parts if part)


# -- HTML ---------------------------------------------------------------------------------------------------

_NOT_TEXT = frozenset({"script", "style", "template", "noscript", "head", "svg", "iframe", "object", "select"})
_INLINE = frozenset(
    "a abbr acronym b bdi bdo big cite code data del dfn em font i ins kbd label mark q s samp small span "
    "strike strong sub sup time tt u var wbr img".split()
)


_PERMALINK = re.compile(r"\s*\u00b6\Z|\s[#\u00a7]\Z")  # the sign that documentation tools put behind a heading


def _read_html(data: bytes) -> tuple[str, list[Block]]:
    with _needs("HTML", "beautifulsoup4"):
        from bs4 import BeautifulSoup
    with _needs("HTML", "lxml"):
        importlib.import_module("lxml")  # the parser that BeautifulSoup is told to use
    soup = BeautifulSoup(_html_text(data), "lxml")
    outline = Outline()
    _html_walk(soup.body or soup, outline)
    title = soup.title.get_text() if soup.title else ""
    return one_line(title) or outline.first_heading, outline.blocks()


def _html_text(data: bytes) -> str:
    """Decoded as UTF-8, else in the charset that the page declares."""
    from bs4.dammit import EncodingDetector

    if b"\0" in data and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Unusable(f"binary file: NUL byte at offset {data.index(0)}")
    text, reason = decode_utf8(data.removeprefix(b"\xef\xbb\xbf"))
    if not reason:
        return text
    declared = EncodingDetector.find_declared_encoding(data, is_html=True)
    with contextlib.suppress(LookupError, UnicodeDecodeError):
        if declared:
            return data.decode(declared)
    raise Unusable(reason)


def _html_walk(body: Any, outline: Outline) -> None:
    """Take text in reading order. No recursion, as pages may be nested deeply."""
    from bs4.element import NavigableString, PreformattedString, Tag

    gathered: list[str] = []  # the paragraph so far
    stack: list[Any] = [body]
    while stack:
        node = stack.pop()
        if node is None:  # the end of a block
            _html_paragraph(gathered, outline)
        elif isinstance(node, PreformattedString):  # comments and the like
            continue
        elif isinstance(node, NavigableString):
            gathered.append(re.sub(r"\s+", " ", node))
        elif not isinstance(node, Tag) or node.name in _NOT_TEXT:
            continue
        elif node.name == "br":
            gathered.append("\n")
        elif node.name in _INLINE:
            stack += reversed(node.contents)
        elif node.name in ("td", "th"):
            gathered.append("\t")
            stack += reversed(node.contents)
        else:
            _html_paragraph(gathered, outline)
            if re.fullmatch("h[1-6]", node.name):
                outline.heading(int(node.name[1]), _PERMALINK.sub("", one_line(node.get_text(" "))))
            elif node.name in ("pre", "textarea"):
                outline.body(node.get_text())
            else:
                stack.append(None)
                stack += reversed(node.contents)


def _html_paragraph(gathered: list[str], outline: Outline) -> None:
    outline.body(re.sub(r" *([\n\t]) *| {2,}", lambda found: found.group(1) or " ", "".join(gathered)))
    gathered.clear()


# -- PDF and Word -------------------------------------------------------------------------------------------


def _read_pdf(data: bytes) -> tuple[str, list[Block]]:
    """One block per page."""
    with _needs("PDF", "pypdf"):
        import pypdf
    with _quiet("pypdf"):
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unusable("encrypted PDF; save it without a password")
        blocks = lay_out(Block(page.extract_text(), page=number) for number, page in enumerate(reader.pages, 1))
        title = str(reader.metadata.title or "") if reader.metadata else ""
    if not blocks:
        raise Unusable("no text in any page; scanned? run OCR first")
    return title, blocks


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep a parser from logging what it repairs."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)  # its children, too
    try:
        yield
    finally:
        logger.disabled = before
        logger.setLevel(level)


def _read_docx(data: bytes) -> tuple[str, list[Block]]:
    with _needs("Word", "python-docx"):
        import docx
    document = docx.Document(io.BytesIO(data))
    outline = Outline()
    for item in document.iter_inner_content():
        if hasattr(item, "rows"):
            for row in item.rows:
                outline.body("\t".join(clean_text(cell.text) for cell in row.cells))
            continue
        style = item.style.name if item.style is not None else ""
        level = re.fullmatch(r"Heading ([1-9])", style or "")
        if level or style == "Title":
            outline.heading(int(level.group(1)) if level else 0, item.text)
        else:
            outline.body(item.text)
    return document.core_properties.title or outline.first_heading, outline.blocks()


@contextlib.contextmanager
def _needs(what: str, package: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise MissingExtra(f"reading {what} files", "readers", package) from error


_READERS: dict[str, Callable[[bytes], tuple[str, list[Block]]]] = {
    ".txt": _read_txt,
    ".md": _read_markdown,
    ".rst": _read_rst,
    ".html": _read_html,
    ".htm": _read_html,
    ".pdf": _read_pdf,
    ".docx": _read_docx,
}
