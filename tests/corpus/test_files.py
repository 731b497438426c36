"""Readers of single documents, on files made here."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import pytest

from tokay.corpus import RawDocument
from tokay.errors import MissingExtra


def pdf(*pages: str, title: str = "") -> bytes:
    """A PDF file by hand: one line of text per page."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b""]
    font = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
    kids = []
    for text in pages:
        stream = b"BT /F1 12 Tf 72 720 Td (" + text.encode("latin-1") + b") Tj ET" if text else b""
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
        content = len(objects)
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R "
            b"/Resources << /Font << /F1 %s >> >> >>" % (content, font)
        )
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(kids), b" ".join(kids))
    objects.append(b"<< /Title (" + title.encode() + b") >>")
    data, offsets = b"%PDF-1.4\n", []
    for number, content_bytes in enumerate(objects, start=1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, content_bytes)
    where = len(data)
    data += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    data += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = b"<< /Size %d /Root 1 0 R /Info %d 0 R >>" % (len(objects) + 1, len(objects))
    return data + b"trailer\n%s\nstartxref\n%d\n%%%%EOF\n" % (trailer, where)


def only(read, folder: Path, name: str, data: bytes | str) -> RawDocument:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    documents, skipped = read(folder)
    assert skipped == []
    (document,) = documents
    for block in document.blocks:
        assert document.text[block.start : block.start + len(block.text)] == block.text
    return document


def outline(document: RawDocument) -> list[tuple[str, str]]:
    return [(block.heading, block.text) for block in document.blocks]


def test_text(tmp_path, read):
    document = only(read, tmp_path, "Notes.TXT", b"\xef\xbb\xbfOne\r\ntwo\r\n \r\nThree\x00".replace(b"\0", b"\x0c"))
    assert (document.document_id, document.title, document.source) == ("Notes.TXT", "Notes", "Notes.TXT")
    assert outline(document) == [("", "One\ntwo"), ("", "Three")]


MARKDOWN = """---
title: "From the front"
---
Before.

# A

## B

One *two*
three.

- item

      code

| x | y |
|---|---|
| 1 | 2 |

C
=

```python
# no heading
```
"""


def test_markdown(tmp_path, read):
    document = only(read, tmp_path, "a.md", MARKDOWN)
    assert document.title == "From the front"
    assert outline(document) == [
        ("", "Before."),
        ("A > B", "A\n\nB\n\nOne *two*\nthree."),
        ("A > B", "- item\n\n      code"),
        ("A > B", "| x | y |\n|---|---|\n| 1 | 2 |"),
        ("C", "C\n\n```python\n# no heading\n```"),
    ]
    assert only(read, tmp_path / "b", "b.md", "Intro\n\n# Head").title == "Head"


RST = """
:mod:`A`
========

One :func:`two` three.

.. note:: Careful.

.. py:function:: f(x)

   Does it.

.. comment

B
-

* item
* other

.. include:: /etc/passwd
"""


def test_restructuredtext(tmp_path, read):
    document = only(read, tmp_path, "a.rst", RST)
    assert document.title == "A"
    assert outline(document)[0][1].startswith("A\n\n")
    assert "One two three." in document.text
    assert "Careful." in document.text
    assert "Does it." in document.text  # the source of a directive that docutils does not know
    assert "comment" not in document.text
    assert "root:" not in document.text
    item = next(block for block in document.blocks if "item" in block.text)
    assert "item\nother" in item.text
    assert item.heading.endswith("B")


HTML = """<!doctype html><html><head><title>The
 title</title><style>p {}</style></head><body><nav>Menu</nav>
<h1>A</h1><p>One <b>two</b> <a href="#">three</a>.<br>Four<script>x()</script></p><!-- no -->
<h3>B<a href="#b">¶</a></h3><div>bare<div>inner</div>tail</div><ul><li>item</li></ul>
<table><tr><th>x</th><th>y</th></tr><tr><td>1</td><td>2</td></tr></table><pre>a
  b</pre></body></html>"""


def test_html(tmp_path, read):
    document = only(read, tmp_path, "a.HTML", HTML)
    assert document.title == "The title"
    assert outline(document) == [
        ("", "Menu"),
        ("A", "A\n\nOne two three.\nFour"),
        ("A > B", "B\n\nbare"),
        ("A > B", "inner"),
        ("A > B", "tail"),
        ("A > B", "item"),
        ("A > B", "x\ty"),
        ("A > B", "1\t2"),
        ("A > B", "a\n  b"),
    ]


def test_html_in_the_charset_that_it_declares(tmp_path, read):
    page = '<html><head><meta charset="windows-1252"></head><body>café “x”</body></html>'
    assert only(read, tmp_path, "a.htm", page.encode("cp1252")).text == "café “x”"


def test_deeply_nested_html_is_read(tmp_path, read):
    assert "deep" in only(read, tmp_path, "a.html", "<div>" * 5000 + "deep").text


def test_pdf_pages(tmp_path, read, caplog):
    document = only(read, tmp_path, "a.pdf", pdf("Page one", "", "Page three", title="My PDF"))
    assert document.title == "My PDF"
    assert [(block.page, block.text) for block in document.blocks] == [(1, "Page one"), (3, "Page three")]
    assert caplog.records == []
    assert only(read, tmp_path / "b", "b.pdf", pdf("x")).title == "b"


def test_docx(tmp_path, read):
    docx = pytest.importorskip("docx")
    made = docx.Document()
    made.add_heading("A", 1)
    made.add_paragraph("One.")
    made.add_heading("B", 2)
    table = made.add_table(1, 2)
    table.cell(0, 0).text, table.cell(0, 1).text = "x", "y"
    made.add_paragraph("Two.")
    made.save(tmp_path / "a.docx")
    documents, skipped = read(tmp_path)
    assert skipped == []
    assert documents[0].title == "A"
    assert outline(documents[0]) == [("A", "A\n\nOne."), ("A > B", "B\n\nx\ty"), ("A > B", "Two.")]
    made.core_properties.title = "Core"
    made.save(tmp_path / "a.docx")
    assert read(tmp_path)[0][0].title == "Core"


def encrypted_pdf(folder: Path) -> bytes:
    import pypdf

    writer = pypdf.PdfWriter()
    writer.add_blank_page(100, 100)
    writer.encrypt("secret", algorithm="RC4-128")
    with (folder / "made").open("wb") as file:
        writer.write(file)
    data = (folder / "made").read_bytes()
    (folder / "made").unlink()
    return data


def test_every_file_that_cannot_be_used_is_told_of(tmp_path, read, caplog):
    caplog.set_level(logging.DEBUG)
    bad = {
        "binary.txt": b"\x7fELF\0\1",
        "broken.docx": b"PK no zip",
        "broken.pdf": b"%PDF-1.4 nothing else",
        "empty.md": b"",
        "encrypted.pdf": encrypted_pdf(tmp_path),
        "headless.html": b"<html><head><title>t</title></head></html>",
        "image.PNG": b"\x89PNG",
        "latin.txt": "café".encode("latin-1"),
        "makefile": b"all:",
        "scanned.pdf": pdf("", ""),
        "undeclared.html": "<p>café".encode("latin-1"),
        "utf16.txt": "hello".encode("utf-16"),
        "white.rst": b" \n\t\n",
    }
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "link.txt").symlink_to("nowhere.txt")
    documents, skipped = read(tmp_path)
    assert documents == []
    reasons = {s.source: s.reason for s in skipped}
    assert list(reasons) == sorted([*bad, "link.txt"])
    assert {s.line for s in skipped} == {0}
    assert reasons["binary.txt"] == "binary file: NUL byte at offset 4"
    assert reasons["broken.docx"].startswith("broken docx file: ")
    assert reasons["broken.pdf"].startswith("broken pdf file: ")
    assert reasons["empty.md"] == "empty file"
    assert reasons["encrypted.pdf"] == "encrypted PDF; save it without a password"
    assert reasons["headless.html"] == reasons["white.rst"] == "no text in it"
    assert reasons["image.PNG"].startswith("unsupported file type .png; expected .txt .md")
    assert reasons["makefile"].startswith("unsupported file type (none)")
    assert reasons["latin.txt"] == "not UTF-8: byte 0xe9 at offset 3; save the file as UTF-8"
    assert reasons["undeclared.html"].startswith("not UTF-8: byte 0xe9 at offset 6")
    assert reasons["utf16.txt"] == "not UTF-8: byte 0xff at offset 0 (UTF-16?); save the file as UTF-8"
    assert reasons["scanned.pdf"] == "no text in any page; scanned? run OCR first"
    assert reasons["link.txt"] == "not a regular file, or a link to nothing"
    assert [r for r in caplog.records if r.name.startswith("pypdf")] == []


def test_folders_are_walked_in_order_without_hidden_files(tmp_path, read):
    for name in ("b.txt", "a/z.txt", "a.txt", "a/.hidden.txt", ".git/c.txt", "B.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    documents, skipped = read(tmp_path)
    assert [d.document_id for d in documents] == ["B.txt", "a.txt", "a/z.txt", "b.txt"]
    assert skipped == []


def test_parsers_do_not_warn(tmp_path, read, recwarn):
    (tmp_path / "a.html").write_text('<?xml version="1.0"?><html xmlns="x"><body>text</body></html>')
    assert len(read(tmp_path)[0]) == 1
    assert len(recwarn) == 0


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("a.md", "markdown_it", "markdown-it-py"),
        ("a.rst", "docutils", "docutils"),
        ("a.html", "bs4", "beautifulsoup4"),
        ("a.html", "lxml", "lxml"),
        ("a.pdf", "pypdf", "pypdf"),
        ("a.docx", "docx", "python-docx"),
    ],
)
def test_parsers_need_their_extra(tmp_path, read, monkeypatch, name, module, package):
    (tmp_path / name).write_text("x")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"needs the package '{package}': pip install 'tokay\[readers\]'"):
        read(tmp_path)


def test_a_folder_that_may_not_be_read_is_told_of(tmp_path, read, monkeypatch):
    (tmp_path / "a.txt").write_text("text of a")
    (tmp_path / "secret").mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    documents, skipped = read(tmp_path)
    assert [d.document_id for d in documents] == ["a.txt"]
    assert [(s.source, s.reason) for s in skipped] == [("secret", "folder cannot be read: Permission denied")]


def test_a_binary_file_is_no_web_page(tmp_path, read):
    (tmp_path / "a.html").write_bytes(b"<p>text\0\0\0")
    assert read(tmp_path)[1][0].reason == "binary file: NUL byte at offset 7"
