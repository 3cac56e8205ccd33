"""Small PDFs, written by hand: pages of lines at their places."""

import zlib
from collections.abc import Sequence

FONT = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>"
CATALOG = b"<</Type/Catalog/Pages 2 0 R>>"
FIRST_PAGE = 5  # the objects before: catalogue, pages, font, and one of the test's own


def text_of(lines: Sequence[str]) -> bytes:
    """The drawing of lines, one below the other."""
    shown = b"".join(
        b"(" + line.encode("cp1252").replace(b"(", rb"\(").replace(b")", rb"\)") + b") Tj T*\n"
        for line in lines
    )
    return b"BT /F1 11 Tf 14 TL 50 780 Td\n" + shown + b"ET"


def stream(data: bytes, extra: bytes = b"") -> bytes:
    """An object that holds packed data."""
    packed = zlib.compress(data, 9)
    head = b"<</Length %d/Filter/FlateDecode%s>>stream\n" % (len(packed), extra)
    return head + packed + b"\nendstream"


def pdf(drawings: Sequence[bytes], special: bytes = b"null", resources: bytes = b"") -> bytes:
    """A PDF with a page for each drawing; `special` is object 4, which `resources` may name."""
    places = [FIRST_PAGE + 2 * number for number in range(len(drawings))]
    kids = b" ".join(b"%d 0 R" % place for place in places)
    objects = [CATALOG, b"<</Type/Pages/Count %d/Kids[%s]>>" % (len(drawings), kids), FONT, special]
    for place, drawing in zip(places, drawings, strict=True):
        objects.append(
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Contents %d 0 R"
            b"/Resources<</Font<</F1 3 0 R>>%s>>>>" % (place + 1, resources)
        )
        objects.append(stream(drawing))
    return assembled(objects)


def assembled(objects: Sequence[bytes]) -> bytes:
    """A whole file of these objects, numbered from 1; the first is the catalogue."""
    content, table = b"%PDF-1.4\n", b"0000000000 65535 f \n"
    for number, one in enumerate(objects, start=1):
        table += b"%010d 00000 n \n" % len(content)
        content += b"%d 0 obj\n%s\nendobj\n" % (number, one)
    count = len(objects) + 1
    end = b"xref\n0 %d\n%strailer<</Size %d/Root 1 0 R>>\n" % (count, table, count)
    return content + end + b"startxref\n%d\n%%%%EOF\n" % len(content)
