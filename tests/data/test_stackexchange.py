"""Posts.xml as documents: hand-written rows, real sites, and memory that does not grow."""

import bz2
import hashlib
import io
import sys
from collections import Counter
from xml.sax.saxutils import quoteattr

import pytest
from peak_memory import peak_of
from public_samples import SAMPLES, needs_samples

from puna.data.document import DAMAGED, Document, Dropped
from puna.data.sources.stackexchange import LARGEST_SITES, Settings, read

SITE = "stackoverflow.com"


def row(**attributes: object) -> str:
    given = {"CreationDate": "2015-01-01T00:00:00.000", "Score": 0, **attributes}
    return "  <row " + " ".join(f"{k}={quoteattr(str(v))}" for k, v in given.items()) + " />\n"


def question(number: int, body: str = "<p>Why?</p>", **others: object) -> str:
    return row(Id=number, PostTypeId=1, **{"Title": f"T{number}", "Body": body, **others})


def answer(number: int, to: int, body: str, score: int = 0, **others: object) -> str:
    return row(Id=number, PostTypeId=2, ParentId=to, Body=body, Score=score, **others)


def documents(*rows: str, settings: Settings | None = None, path: str = f"{SITE}/Posts.xml"):
    data = '\ufeff<?xml version="1.0"?>\n<posts>\n' + "".join(rows) + "</posts>"
    return list(read(io.BytesIO(data.encode()), path, settings or Settings()))


def test_answers_stand_by_score_as_numbers_and_then_by_id():
    found = documents(
        question(1, AcceptedAnswerId=5),
        answer(2, 1, "nine", 9),
        answer(4, 1, "ten", 10),
        answer(3, 1, "nine too", 9),
        answer(5, 1, "bad", -1),
    )
    assert found == [
        Document(
            text="Q: T1\n\nWhy?\n\nA: ten\n\nA: nine\n\nA: nine too\n\nA: bad",
            source="stackexchange",
            licence="CC BY-SA 3.0",
            id=f"{SITE}:1",
            url=f"https://{SITE}/questions/1",
        )
    ]


@pytest.mark.parametrize(
    "body", ["<pre><code>  a = 1\n  b = 2\n</code></pre>", "<blockquote>a</blockquote>"]
)
def test_code_and_quotes_begin_on_a_line_of_their_own(body: str):
    (found,) = documents(question(1), answer(2, 1, body))
    assert found.text.endswith(("A:\n  a = 1\n  b = 2", "A:\n> a"))


def test_the_accepted_answer_can_come_first():
    rows = (question(1, AcceptedAnswerId=3), answer(2, 1, "high", 9), answer(3, 1, "taken", 1))
    (found,) = documents(*rows, settings=Settings(is_accepted_first=True))
    assert found.text == "Q: T1\n\nWhy?\n\nA: taken\n\nA: high"


@pytest.mark.parametrize("memory_bytes", [1, 3000, 1 << 20])
def test_questions_come_by_id_whatever_fits_in_memory(memory_bytes: int):
    numbers = [*range(1, 300, 2)]
    rows = [question(number) for number in reversed(numbers)]
    rows += [answer(n + 1, n, f"to {n}", n % 7) for n in numbers]
    found = documents(*rows, settings=Settings(memory_bytes=memory_bytes))
    assert [item.text for item in found] == [f"Q: T{n}\n\nWhy?\n\nA: to {n}" for n in numbers]


@pytest.mark.parametrize(
    ("rows", "settings", "reasons"),
    [
        ([row(Id=1, PostTypeId=5, Body="wiki")], Settings(), ["post type"]),
        ([question(1, "<p> </p>")], Settings(), ["empty"]),
        ([answer(2, 1, "lost")], Settings(), ["no question"]),
        ([question(1), question(1)], Settings(), ["repeated id", "kept"]),
        ([question(1), answer(2, 1, "a"), answer(2, 1, "b", 3)], Settings(),
         ["repeated id", "kept"]),
        ([question(1)], Settings(least_answers=1), ["few answers"]),
        ([question(1), answer(2, 1, "a", -3)], Settings(least_score=0), ["low score", "kept"]),
        (["<row Id='x' PostTypeId='1' />"], Settings(), [DAMAGED]),
        (["<row PostTypeId='1' Body='a' />"], Settings(), [DAMAGED]),
        (["<row Id='1' PostTypeId='1' Body='a\n", question(2)], Settings(), [DAMAGED, "kept"]),
        (["<row Id='1' Body='&lol;' />", question(2)], Settings(), [DAMAGED, "kept"]),
        ([], Settings(), [DAMAGED]),
    ],
)  # fmt: skip
def test_what_is_dropped_has_a_reason(rows: list[str], settings: Settings, reasons: list[str]):
    found = documents(*rows, settings=settings)
    assert [one.reason if isinstance(one, Dropped) else "kept" for one in found] == reasons


@pytest.mark.parametrize(
    ("attributes", "licence"),
    [
        ({"CreationDate": "2011-04-07T23:59:59.999"}, "CC BY-SA 2.5"),
        ({"CreationDate": "2011-04-08T00:00:00.000"}, "CC BY-SA 3.0"),
        ({"CreationDate": "2018-05-01T23:59:59.999"}, "CC BY-SA 3.0"),
        ({"CreationDate": "2018-05-02T00:00:00.000"}, "CC BY-SA 4.0"),
        ({"CreationDate": "2010-01-01", "LastEditDate": "2019-01-01"}, "CC BY-SA 4.0"),
        ({"CreationDate": "2019-01-01", "ContentLicense": "CC BY-SA 3.0"}, "CC BY-SA 3.0"),
        ({"CreationDate": ""}, "CC BY-SA"),
    ],
)
def test_the_licence_goes_by_the_day(attributes: dict[str, str], licence: str):
    (found,) = documents(question(1, **attributes))
    assert found.licence == licence


def test_a_document_of_several_days_names_each_licence():
    late = answer(2, 1, "late", CreationDate="2020-01-01")
    (found,) = documents(question(1, CreationDate="2010-01-01"), late)
    assert found.licence == "CC BY-SA 2.5, CC BY-SA 4.0"


@pytest.mark.parametrize(
    ("path", "identifier", "url", "language"),
    [
        ("d/beer.stackexchange.com/Posts.xml", "beer.stackexchange.com:1",
         "https://beer.stackexchange.com/questions/1", ""),
        ("d/ru.stackoverflow.com.7z/Posts.xml", "ru.stackoverflow.com:1",
         "https://ru.stackoverflow.com/questions/1", "ru"),
        ("stackoverflow.com-Posts.xml", "stackoverflow.com:1",
         "https://stackoverflow.com/questions/1", ""),
        ("data/beer/Posts.xml", "beer:1", "", ""),
        ("Posts.xml", "site:1", "", ""),
    ],
)  # fmt: skip
def test_the_path_names_the_site(path: str, identifier: str, url: str, language: str):
    (found,) = documents(question(1), path=path)
    assert (found.id, found.url, found.language) == (identifier, url, language)


def test_packed_posts_are_the_same():
    data = f"<posts>{question(1)}{answer(2, 1, 'a')}</posts>".encode()
    plain = list(read(io.BytesIO(data), "Posts.xml", Settings()))
    assert list(read(io.BytesIO(bz2.compress(data)), "Posts.xml", Settings())) == plain
    assert len(plain) == 1


def test_a_seven_zip_is_read_and_nothing_else_in_it():
    py7zr = pytest.importorskip("py7zr", reason="comes with the extra data")
    data = f"<posts>{question(1)}</posts>".encode()
    packed = io.BytesIO()
    filters = [{"id": py7zr.FILTER_BZIP2}]  # as the dumps are
    with py7zr.SevenZipFile(packed, "w", filters=filters) as archive:
        archive.writestr("no posts", "Users.xml")
        archive.writestr(data, "Posts.xml")
    (found,) = read(io.BytesIO(packed.getvalue()), f"{SITE}.7z", Settings())
    assert found.url == f"https://{SITE}/questions/1"
    for broken in (b"no archive", packed.getvalue()[:-9], packed.getvalue()[:40]):
        (item,) = read(io.BytesIO(broken), f"{SITE}.7z", Settings())
        assert item.reason == DAMAGED


def test_a_row_may_have_an_end_tag():
    found = documents(question(1).replace("/>", "></row>"), question(2))
    assert [item.id for item in found] == [f"{SITE}:1", f"{SITE}:2"]


# Folder, what became of its rows, the beginning of the SHA-256 over ids and texts, and words of the
# last document. Rows 1 and 2 of nyu have end tags.
REAL = [
    (
        "TP-XML",
        {"kept": 556, "post type": 6},
        "8ccc71aa9cba206a",
        "a guide for adding appropriate tags",
    ),
    (
        "beer",
        {"kept": 663, "post type": 119},
        "cc3c075670f77a8e",
        "Citra is a registered trademark since 2007",
    ),
    (
        "coffee",
        {"kept": 225, "post type": 40},
        "7dca013cd9594320",
        "What variables in brewing have the biggest",
    ),
    ("nyu", {"kept": 264, "post type": 107}, "1ecb3f0165850f10", "    if n % x == 0:"),
]


@needs_samples
@pytest.mark.parametrize(("folder", "counts", "digest", "words"), REAL)
def test_real_sites(folder: str, counts: dict[str, int], digest: str, words: str):
    path = SAMPLES / "stackexchange" / folder / "Posts.xml"
    with path.open("rb") as file:
        found = list(read(file, f"{folder}/Posts.xml", Settings()))
    kept = [item for item in found if isinstance(item, Document)]
    reasons = Counter(item.reason if isinstance(item, Dropped) else "kept" for item in found)
    text = "".join(f"{item.id}\t{item.text}\n" for item in kept)
    assert reasons == counts
    assert any(words in item.text for item in kept)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest


def test_the_paper_names_28_sites():
    assert len(set(LARGEST_SITES.split())) == 28


MEMORY = """
import io, sys
from puna.data.sources.stackexchange import Settings, read

class Posts(io.RawIOBase):
    def __init__(self, count):
        self.rows, self.left = self.make(count), b"<posts>"
    def make(self, count):
        body = " ".join(map(str, range(200)))
        for n in range(count):
            yield f'<row Id="{n}" PostTypeId="1" Body="{body}" />'.encode()
        for n in range(count):
            yield f'<row Id="{n + count}" PostTypeId="2" ParentId="{n}" Body="{body}" />'.encode()
    def readable(self):
        return True
    def read(self, size=-1):
        while len(self.left) < size and (more := next(self.rows, b"")):
            self.left += more
        taken, self.left = self.left[:size], self.left[size:]
        return taken

count = int(sys.argv[1])
settings = Settings(memory_bytes=2 << 20)
assert sum(1 for _ in read(Posts(count), "Posts.xml", settings)) == count
from peak_memory import peak_bytes
print(peak_bytes())
"""


def test_memory_does_not_grow_with_the_dump():
    small, large = (
        peak_of([sys.executable, "-c", MEMORY, str(count)]) for count in (4_000, 16_000)
    )
    assert large < 1.2 * small
    assert large < 64 << 20
