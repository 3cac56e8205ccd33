"""PDFs written by hand; what should come out is what was put in."""

import io
import random
import sys
import textwrap
import tracemalloc
from pathlib import Path

import pytest
from pdf_files import assembled, pdf, stream, text_of

from puna.data.document import DAMAGED, Document, Dropped
from puna.data.sources import own
from puna.data.sources import pdf as source
from puna.data.sources.pdf import joined
from puna.errors import MachineError

pypdf = pytest.importorskip("pypdf", reason="the extra `data` is not installed")

PARAGRAPHS = [
    "The harbour town of Ilmar lies where two rivers meet. Its (old) bridges were built by the "
    "fishermen's guild, and each carries the mark of who paid for it.",
    "In winter the ferries stop, and whoever wants to cross has to wait for the ice. The café on "
    "the north bank stays open all night then, as the law of the guild demands.",
    "Nobody remembers a year without ice.",
]


def read(content: bytes) -> list:
    return list(own.read(io.BytesIO(content), "folder/a.pdf", own.Settings()))


def only(content: bytes):
    (item,) = read(content)
    return item


def wrapped(paragraphs: list[str]) -> list[str]:
    return [line for one in paragraphs for line in textwrap.wrap(one, 60)]


def pages_of(lines: list[str], each: int = 4) -> list[bytes]:
    parts = [lines[at : at + each] for at in range(0, len(lines), each)]
    return [
        text_of([f"Tales of Ilmar {at}", *part, str(at)]) for at, part in enumerate(parts, start=7)
    ]


def test_paragraphs_are_whole_again_over_lines_and_pages_without_headers_and_numbers():
    pages = pages_of(wrapped(PARAGRAPHS * 3))
    assert len(pages) > 4
    document = only(pdf(pages))
    assert document == Document("\n".join(PARAGRAPHS * 3), "own", "unknown", "folder/a.pdf")


def test_a_word_broken_at_a_lines_end_is_joined_unless_its_hyphen_is_seen_elsewhere():
    lines = ["A well-known fact of the harbour is told by who-", "ever passes; it is a well-"]
    lines += ["known one, which goes on", "North of B-", "12 is another."]
    assert joined(["\n".join(lines)]) == (
        "A well-known fact of the harbour is told by whoever passes; it is a well-known one, "
        "which goes on\nNorth of B-\n12 is another."
    )


def test_headers_that_change_by_chapter_or_alternate_go_and_what_comes_twice_stays():
    pages = [
        f"{'Ilmar' if at % 2 else 'Winter'} {at}\nText of its own, {word}\niv"
        for at, word in enumerate(
            ["stone", "water", "ice", "wood", "iron", "salt", "wool", "fish", "rye"]
        )
    ]
    text = joined(pages) + joined(["Twice the same\nb"] * 2)
    assert "Ilmar" not in text
    assert "iv" not in text.splitlines()
    assert text.count("Text of its own") == 9
    assert text.count("Twice the same") == 2


def test_a_table_of_numbers_and_lists_stay_lines():
    table = "\n".join(f"{at} {at * 7} {at * 13}" for at in range(5))
    contents = "\n".join(f"{at} Chapter {'. ' * 30}{at}" for at in range(5))
    bullets = "\n".join(f"• an item of the list that fills the line {at}" for at in range(5))
    for text in (table, contents, bullets):
        assert joined([text]) == text
    assert joined([table] * 9) == "\n".join([table] * 9)
    assert joined([]) == joined(["", " \n"]) == ""


def test_text_inside_of_forms_is_read_and_a_form_within_itself_ends():
    form = stream(
        text_of(["inside"]) + b" /X Do", b"/Subtype/Form/Resources<</Font<</F1 3 0 R>>"
        b"/XObject<</X 4 0 R>>>>",
    )  # fmt: skip
    document = only(pdf([text_of(["outside"]) + b" /X Do"], form, b"/XObject<</X 4 0 R>>"))
    assert document.text == "outside\ninside"


def test_a_file_of_pictures_is_no_text():
    picture = stream(b"\xff" * 300, b"/Subtype/Image/Width 10/Height 10/ColorSpace/DeviceRGB")
    dropped = only(pdf([b"q 600 0 0 800 0 0 cm /X Do Q"] * 3, picture, b"/XObject<</X 4 0 R>>"))
    assert (dropped.id, dropped.reason) == ("folder/a.pdf", "no text")
    assert dropped.detail.startswith("3 pages of pictures")


@pytest.mark.parametrize("password", ["", "secret"])
def test_an_encrypted_file_is_counted_and_never_opened(password: str):
    writer = pypdf.PdfWriter(io.BytesIO(pdf([text_of(["hidden"])])))
    writer.encrypt(password, "owner", algorithm="RC4-128")
    packed = io.BytesIO()
    writer.write(packed)
    dropped = only(packed.getvalue())
    assert (dropped.id, dropped.reason) == ("folder/a.pdf", DAMAGED)
    assert dropped.detail == "folder/a.pdf is encrypted"


@pytest.mark.parametrize("content", [b"", b"%PDF-1.4", b"\0" * 999, b"%PDF-1.4\n" + b"<<" * 9999])
def test_what_is_no_pdf_is_counted(content: bytes):
    dropped = only(content)
    assert (dropped.reason, dropped.id) == (DAMAGED, "folder/a.pdf")
    assert dropped.detail.startswith("folder/a.pdf is damaged: ")


def test_a_cut_file_gives_what_is_left_or_is_counted():
    whole = pdf(pages_of(wrapped(PARAGRAPHS * 3)))
    for end in range(0, len(whole), 97):
        assert 1 <= len(read(whole[:end])) <= 20


def test_a_damaged_page_is_counted_and_the_others_are_read():
    content = pdf([text_of(["first"]), text_of(["second"]), text_of(["third"])])
    packed = stream(text_of(["second"]))
    damage, document = read(content.replace(packed, packed.replace(b"FlateDecode", b"NoSuchCode!")))
    assert damage.detail.startswith("folder/a.pdf page 2 is damaged: ")
    assert document.text == "first\nthird"


def test_what_unpacks_to_too_much_is_refused_in_bounded_time(monkeypatch):
    bomb = pdf([b" " * (source._MOST_STREAM_BYTES + 1)])
    assert len(bomb) < 50_000
    assert "page 1 is damaged: LimitReachedError" in only(bomb).detail
    monkeypatch.setattr(source, "MOST_OPERATORS", 1000)
    form = stream(b"/X Do " * 99, b"/Subtype/Form/Resources<</XObject<</X 4 0 R>>>>")
    busy = b"BT (a) Tj ET " * 99 + b"/X Do " * 99
    cut, document = read(pdf([text_of(["fine"]), busy * 9, busy], form, b"/XObject<</X 4 0 R>>"))
    assert "is cut before page 2: it unpacks to too much" in cut.detail
    assert document.text == "fine"


def test_many_pages_of_much_nothing_take_bounded_memory_and_time(tmp_path, monkeypatch):
    page = 256 << 10
    for pages in (8, 40):
        drawings = [b"%d " % number + b" " * page + b"BT ET" for number in range(pages)]
        (tmp_path / f"{pages}.pdf").write_bytes(pdf(drawings))
    monkeypatch.setattr(source, "_STREAMS_HELD", 4)
    small, large = (_peak_bytes(tmp_path / f"{pages}.pdf") for pages in (8, 40))
    assert large - small < 8 * page
    monkeypatch.setattr(source, "MOST_CORE_SECONDS", 0)
    assert "is cut before page 1" in read((tmp_path / "40.pdf").read_bytes())[0].detail


def _peak_bytes(path: Path) -> int:
    """The most that Python held while it read the pages."""
    tracemalloc.start()
    with path.open("rb") as file:
        assert len(source.read_pages(file, "a.pdf")) == int(path.stem)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_limits_of_pages_letters_and_bytes(monkeypatch):
    many = pdf([text_of(["a word"])] * 9)
    monkeypatch.setattr(source, "MOST_CHARACTERS", 30)
    assert "is cut before page 5" in read(many)[0].detail
    monkeypatch.setattr(source, "MOST_PAGES", 8)
    assert only(many).detail == "folder/a.pdf has more than 8 pages"
    monkeypatch.setattr(source, "MOST_BYTES", 999)
    assert "is longer than 0 MiB" in only(many).detail


def test_flipped_bytes_are_read_or_counted_and_nothing_else():
    rng = random.Random(6)
    whole = pdf(pages_of(wrapped(PARAGRAPHS)), stream(b"<</A 1>>"), b"/XObject<</X 4 0 R>>")
    for _ in range(300):
        flipped = bytearray(whole)
        for _ in range(rng.randrange(1, 9)):
            flipped[rng.randrange(len(flipped))] = rng.randrange(256)
        assert all(isinstance(item, Document | Dropped) for item in read(bytes(flipped)))


def test_pages_that_go_round_in_a_circle_end():
    catalog, circle = b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Count 9/Kids[2 0 R 2 0 R]>>"
    dropped = only(assembled([catalog, circle]))
    assert dropped.reason == DAMAGED


def test_without_pypdf_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pypdf", None)
    with pytest.raises(MachineError, match=r"a\.pdf needs(?s:.*)pip install 'puna\[data\]'"):
        only(pdf([text_of(["x"])]))
