"""E-prints as documents: hand-made papers of several files, and real author trees."""

import gzip
import hashlib
import io
from itertools import pairwise

import pytest
from archive_files import tar, tar_gz, zip_of
from public_samples import SAMPLES, needs_samples

from puna.data.document import DAMAGED, Document, Dropped
from puna.data.sources.arxiv import LICENCE, Settings, read

HEAD = r"\documentclass{article}\newcommand{\R}{\mathbb{R}}\begin{document}\title{T} front "
PAPER = HEAD + r"\section{One} $\R$ % note" + "\n" + r"\bibliography{b}\end{document}"


def papers(data: bytes, name: str = "2301.00001.tar.gz", settings: Settings | None = None):
    return list(read(io.BytesIO(data), f"folder/{name}", settings or Settings()))


def text(files: dict[str, bytes | str], settings: Settings | None = None) -> str:
    (found,) = papers(tar_gz(files), settings=settings)
    assert isinstance(found, Document), found
    return found.text


def test_a_paper_is_its_text_from_the_first_section_on():
    assert papers(tar_gz({"ms.tex": PAPER})) == [
        Document(
            text=r"\section{One} $\mathbb{R}$",
            source="arxiv",
            licence=LICENCE,
            id="2301.00001",
            url="https://arxiv.org/abs/2301.00001",
        )
    ]


@pytest.mark.parametrize(
    ("name", "identifier", "url"),
    [
        ("2301.00001v2.gz", "2301.00001v2", "https://arxiv.org/abs/2301.00001v2"),
        ("hep-th9901001.gz", "hep-th/9901001", "https://arxiv.org/abs/hep-th/9901001"),
        ("math.GT0309136.gz", "math.GT/0309136", "https://arxiv.org/abs/math.GT/0309136"),
        ("thesis.gz", "folder/thesis", ""),
    ],
)
def test_the_name_says_which_paper_it_is(name: str, identifier: str, url: str):
    (found,) = papers(gzip.compress(PAPER.encode()), name)
    assert (found.id, found.url) == (identifier, url)


@pytest.mark.parametrize(
    "data", [tar({"ms.tex": PAPER}), zip_of({"ms.tex": PAPER}), PAPER.encode()]
)
def test_a_tar_a_zip_and_a_bare_file_are_read(data: bytes):
    (found,) = papers(data)
    assert found.text == r"\section{One} $\mathbb{R}$"


def test_a_monthly_tar_holds_papers():
    month = tar(
        {
            "2301/2301.00001.gz": tar_gz({"ms.tex": PAPER}),
            "2301/2301.00002.gz": gzip.compress(PAPER.encode()),
            "2301/2301.00003.pdf": "%PDF-1.5",
            "2301/2301.00004.gz": gzip.compress(b"%!PS-Adobe"),
            "2301/2301.00005.gz": gzip.compress(b"%auto-ignore"),
            "2301/2301.00006.gz": gzip.compress(HEAD.encode() + b"no section \\end{document}"),
            "2301/2301.00007.gz": tar_gz({"readme.txt": "x"}),
            "2301/2301.00008.gz": gzip.compress(PAPER.encode())[:-9],
            "2301/2301.00009.gz": tar_gz({"ms.tex": PAPER}),
        }
    )
    found = papers(month, "arXiv_src_2301_001.tar")
    assert [(item.id[-1], getattr(item, "reason", "kept")) for item in found] == [
        ("1", "kept"),
        ("2", "kept"),
        ("3", "pdf only"),
        ("4", "postscript only"),
        ("5", "withdrawn"),
        ("6", "no section"),
        ("7", "no LaTeX"),
        ("8", DAMAGED),
        ("9", "kept"),
    ]


def test_included_files_stand_where_they_are_included():
    files = {
        "main.tex": HEAD + r"\include{one}\input two \import{parts/}{three}\subfile{parts/five}"
        r"\input{absent}\end{document}",
        "one.tex": r"\section{A}",
        "two.tex": "B",
        "parts/three.tex": r"C \input{four}",
        "parts/four.tex": "D",
        "parts/five.tex": r"\documentclass[main]{subfiles}\begin{document}E\end{document}",
    }
    assert text(files) == r"\section{A}B C DE\input{absent}"


def test_a_file_around_itself_is_not_joined():
    files = {"a.tex": HEAD + r"\section{A}\input{b}\end{document}", "b.tex": r"B \input{b}"}
    assert text(files) == r"\section{A}B \input{b}"


def test_an_input_in_a_comment_is_not_joined():
    files = {"a.tex": HEAD + "\\section{A}\n% \\input{b}\n\\end{document}", "b.tex": "B"}
    assert text(files) == r"\section{A}"


def test_definitions_of_another_file_count():
    files = {
        "a.tex": r"\documentclass{x}\input{m}\begin{document}\section{A}\v{x}\end{document}",
        "m.tex": r"\newcommand{\v}[1]{\vec{#1}}",
    }
    assert text(files) == r"\section{A}\vec{x}"


def test_several_main_files_are_one_paper_without_versions_of_it():
    words = " ".join(f"word{number}" for number in range(200))
    files = {
        "a.tex": HEAD + rf"\section{{A}} {words} \end{{document}}",
        "journal.tex": HEAD + rf"\section{{A}} {words} more \end{{document}}",
        "supplement.tex": HEAD + r"\section{S} other words of its own here \end{document}",
        "letter.tex": r"\documentclass{letter}\begin{document}\section{Dear}\end{document}",
    }
    assert text(files).count("word7 ") == 1
    assert text(files).endswith("other words of its own here")
    assert "Dear" not in text(files)
    ignored = {**files, "00README.XXX": "supplement.tex ignore\n"}
    assert "other words" not in text(ignored)


def test_plain_tex_has_no_class():
    files = {"a.tex": "\\magnification 1200\n\\beginsection One\n\ntext\n\\bye", "b.txt": "x"}
    assert text(files) == "\\beginsection One\n\ntext"


@pytest.mark.parametrize(
    ("encoding", "declared"), [("utf-8", ""), ("latin-1", "latin1"), ("koi8-r", "koi8-r")]
)
def test_encodings_are_read_as_declared(encoding: str, declared: str):
    word = "Привет" if encoding == "koi8-r" else "Poincaré"
    use = rf"\usepackage[{declared}]{{inputenc}}" if declared else ""
    head = rf"\documentclass{{x}}{use}"
    paper = rf"{head}\begin{{document}}\section{{{word}}}\end{{document}}"
    assert text({"a.tex": paper.encode(encoding)}) == rf"\section{{{word}}}"


def test_windows_quotes_are_read_where_nothing_is_declared():
    assert text({"a.tex": (HEAD + r"\section{A} “a”").encode("cp1252")}) == r"\section{A} “a”"


def test_every_rule_can_be_switched():
    with_appendix = PAPER.replace(r"\bib", r"\appendix B \bib")
    keep = {"ms.tex": with_appendix}
    assert text(keep).endswith(r"\appendix B")
    assert text(keep, Settings(keeps_appendix=False)) == r"\section{One} $\mathbb{R}$"
    assert r"\bibliography{b}" in text(keep, Settings(removes_bibliography=False))
    assert r"$\R$" in text(keep, Settings(expands_macros=False))
    assert text(keep, Settings(removes_front=False)).startswith(r"\title{T} front")
    letter = {"ms.tex": HEAD + r"text\end{document}"}
    kept = text(letter, Settings(keeps_without_section=True))
    assert kept == r"\title{T} front text"


def test_exploding_macros_are_told():
    doubling = "".join(rf"\def\x{a}{{\x{b}\x{b}}}" for a, b in pairwise("abcdefghijklmnopqrstuvw"))
    (found,) = papers(tar_gz({"a.tex": HEAD + doubling + r"\def\xw{lol lol lol}\section{A}\xa"}))
    assert isinstance(found, Dropped)
    assert found.reason == "macros explode"


def test_hostile_members_are_counted_and_the_paper_is_read():
    data = tar_gz({"../../x.tex": PAPER, "ms.tex": PAPER}, links={"l.tex": "/etc/passwd"})
    first, second, third = papers(data)
    assert {first.reason, second.reason} == {DAMAGED}
    assert "leads out" in first.detail
    assert third.text == r"\section{One} $\mathbb{R}$"


@pytest.mark.parametrize("data", [b"", b"\x1f\x8b\x08broken", b"PK\x03\x04", b"BZh9broken"])
def test_a_file_that_is_no_paper_is_told(data: bytes):
    (found,) = papers(data)
    assert isinstance(found, Dropped)
    assert found.reason in (DAMAGED, "no LaTeX")


# Counts, the beginning of the SHA-256, and words from the middle of each real paper: made by this
# test's own sums after the texts had been read by eye.
REAL = [
    ("celerite", 119911, 41, "0665aec32e889ec9", "motivate the kernel choice physically"),
    ("cominuscule", 163743, 84, "e2d44d1be20dcb04", "the image of Aten's rays"),
    ("dekel-sinander", 78580, 28, "211cf201cf9e636e", "no such escape from"),
    ("drop-impact", 14344, 9, "37b6038c6dedcd77", "axisymmetric incompressible drop impacting"),
    ("hott-book", 1892150, 349, "54df205b4238f0c3", r"\ensuremath{\mathsf{refl}_{a}}"),
    ("sherlock", 110285, 30, "8c0a36120fc7971a", "recollecting the (contextual) details"),
    ("wfirst-vnl", 49016, 11, "81556cbd31c3391c", r"the WFIRST\ imager"),
]


@needs_samples
@pytest.mark.parametrize(
    ("name", "characters", "sections", "digest", "words"), REAL, ids=[row[0] for row in REAL]
)
def test_real_papers(name: str, characters: int, sections: int, digest: str, words: str):
    with (SAMPLES / "arxiv" / f"{name}.tar.gz").open("rb") as file:
        (found,) = read(file, f"{name}.tar.gz", Settings())
    assert isinstance(found, Document)
    assert words in found.text
    begins = found.text.startswith((r"\section", r"\chapter"))
    assert (begins, "\n%" in found.text, r"\bibitem" in found.text) == (True, False, False)
    sha256 = hashlib.sha256(found.text.encode()).hexdigest()[:16]
    assert (len(found.text), found.text.count(r"section"), sha256) == (characters, sections, digest)
