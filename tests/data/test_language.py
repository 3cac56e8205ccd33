"""lid.176 on the first articles of the declaration of human rights, and CCNet's settings."""

import pytest

from puna.data.document import Document
from puna.data.language import Settings, apply, language_of
from puna.data.sources.wikipedia import LANGUAGES
from puna.errors import ConfigError

pytest.importorskip("fasttext", reason="the extra `data` is not installed")

# Article 3 (United Nations, 1948), of Croatian, Danish and Serbian article 1: short texts of theirs
# are taken for Serbian, Norwegian and Macedonian.
ARTICLES = {
    "bg": "Всеки човек има право на живот, свобода и лична сигурност.",
    "ca": "Tot individu té dret a la vida, a la llibertat i a la seva seguretat.",
    "cs": "Každý má právo na život, svobodu a osobní bezpečnost.",
    "da": "Alle mennesker er født frie og lige i værdighed og rettigheder. De er udstyret med "
    "fornuft og samvittighed, og de bør handle mod hverandre i en broderskabets ånd.",
    "de": "Jeder hat das Recht auf Leben, Freiheit und Sicherheit der Person.",
    "en": "Everyone has the right to life, liberty and security of person.",
    "es": "Todo individuo tiene derecho a la vida, a la libertad y a la seguridad de su persona.",
    "fr": "Tout individu a droit à la vie, à la liberté et à la sûreté de sa personne.",
    "hr": "Sva ljudska bića rađaju se slobodna i jednaka u dostojanstvu i pravima. Ona su obdarena "
    "razumom i sviješću i trebaju jedna prema drugima postupati u duhu bratstva.",
    "hu": "Minden személynek joga van az élethez, a szabadsághoz és a személyi biztonsághoz.",
    "it": "Ogni individuo ha diritto alla vita, alla libertà ed alla sicurezza della persona.",
    "nl": "Een ieder heeft het recht op leven, vrijheid en onschendbaarheid van zijn persoon.",
    "pl": "Każdy człowiek ma prawo do życia, wolności i bezpieczeństwa swej osoby.",
    "pt": "Todo indivíduo tem direito à vida, à liberdade e à segurança pessoal.",
    "ro": "Orice ființă umană are dreptul la viață, la libertate și la securitatea sa.",
    "ru": "Каждый человек имеет право на жизнь, на свободу и на личную неприкосновенность.",
    "sl": "Vsakdo ima pravico do življenja, do prostosti in do osebne varnosti.",
    "sr": "Сва људска бића рађају се слободна и једнака у достојанству и правима. Она су "  # noqa: RUF001
    "обдарена разумом и свешћу и треба једни према другима да поступају у духу братства.",  # noqa: RUF001
    "sv": "Envar har rätt till liv, frihet och personlig säkerhet.",
    "uk": "Кожна людина має право на життя, на свободу і на особисту недоторканність.",  # noqa: RUF001
}


def document(text: str) -> Document:
    return Document(text, "test", "none", "1")


@pytest.mark.parametrize("code", sorted(ARTICLES))
def test_languages_of_the_paper_are_told_apart(code: str):
    assert code in LANGUAGES.split()
    assert language_of(ARTICLES[code], Settings())[0] == code


def test_every_language_of_the_paper_is_tried():
    assert set(ARTICLES) == set(LANGUAGES.split())
    assert len(ARTICLES) == 20


def test_a_kept_document_knows_its_language():
    kept, dropped = apply([document(ARTICLES["en"]), document(ARTICLES["de"])], Settings())
    assert kept.language == "en"
    assert (dropped.reason, dropped.detail[:2]) == ("other language", "de")


def test_no_language_is_dropped_when_all_are_kept():
    (kept,) = apply([document(ARTICLES["pl"])], Settings(languages=()))
    assert kept.language == "pl"


@pytest.mark.parametrize("text", ["", "\n", "1 2 3", "\0"])
def test_what_is_hardly_text_is_uncertain(text: str):
    (dropped,) = apply([document(text)], Settings())
    assert dropped.reason == "language uncertain"


def test_line_feeds_are_deleted_as_in_ccnet_or_become_spaces():
    lines = ARTICLES["de"].replace(" ", "\n")
    joined = ARTICLES["de"].replace(" ", "")
    assert language_of(lines, Settings()) == language_of(joined, Settings())
    spaced = Settings(line_feeds="spaces")
    assert language_of(lines, spaced) == language_of(ARTICLES["de"], Settings())
    with pytest.raises(ConfigError, match="found 'kept'"):
        Settings(line_feeds="kept")


def test_only_the_beginning_counts_unless_the_whole_is_asked_for():
    text = ARTICLES["en"] + ARTICLES["ru"] * 20
    assert language_of(text, Settings(max_characters=60))[0] == "en"
    assert language_of(text, Settings(max_characters=0))[0] == "ru"
