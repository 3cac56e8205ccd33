# ruff: noqa: RUF001, RUF002
"""Templates that stand for words inside a sentence, as those words; all others leave a HOLE.

A dump holds the definitions of its templates, but expanding them runs thousands of pages of wiki
code for boxes that are dropped anyway. So the few hundred names that carry words are listed here,
by what they do, for the wikis whose pages were read.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from puna.data.sources.wikitext_lines import HOLE

Render = Callable[[list[str], dict[str, str]], str]
_POSITION = re.compile(r"\s*([1-9])\s*")
_NAME = re.compile(r"[^\[\]<>{}|=/\n\x7f]{1,40}")
_NUMBER = re.compile(r"[-+−]?[\d.,/ ]*\d[\d.,/ ]*")
_MONTHS = """January February March April May June July August September October November
    December"""


def render_template(arguments: list[str], title: str, language: str) -> str:
    """The words of `{{name|argument|key=value}}`, given as its parts; HOLE where there are none."""
    name = arguments[0].replace("_", " ").strip().lower()
    if ":" in name:
        return _function(name, arguments)
    if name in ("pagename", "fullpagename", "subpagename", "basepagename"):
        return title
    own = _OF_LANGUAGE.get(language, {})
    render = own.get(name) or _TEMPLATES.get(name) or _by_prefix(name)
    if render is None:
        return HOLE
    if render is _nothing:
        return ""
    positional, named = _sorted(arguments[1:])
    return render(positional, named).strip("\n") or HOLE


def _sorted(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """The arguments by position and by name; `2=x` is the second."""
    positional: list[str] = []
    named: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not (_NAME.fullmatch(key) or not key.strip()):
            positional.append(argument.strip())
        elif position := _POSITION.fullmatch(key):
            place = int(position[1])
            positional += [""] * (place - len(positional))
            positional[place - 1] = value.strip()
        else:
            named[key.strip().lower()] = value.strip()
    return positional, named


def _function(name: str, arguments: list[str]) -> str:
    """`{{formatnum:1234}}`, `{{lc:Word}}`; the others (#if, DEFAULTSORT) leave a hole."""
    function, _, _ = name.partition(":")
    value = arguments[0].partition(":")[2].strip()
    if function in ("formatnum", "lc", "uc", "lcfirst", "ucfirst", "nowrap", "plural", "grammar"):
        return value or HOLE
    return HOLE


def _by_prefix(name: str) -> Render | None:
    """Families: {{lang-fr|mot}}, {{ipa-fr|...}}, {{script/Hebrew|...}}."""
    head, dash, _ = name.partition("-")
    if dash and head in ("lang", "langx", "język", "јез"):
        return _first
    if dash and head in ("ipa", "ipac"):
        return _sounds if head == "ipac" else _in_brackets
    if name.startswith(("script/", "font/", "nihongo")):
        return _nihongo if name.startswith("nihongo") else _first
    return None


def _first(positional: list[str], named: dict[str, str]) -> str:
    for key in ("text", "texto", "texte", "testo", "tekst", "citat", "quote"):
        if not positional and key in named:
            return named[key]
    return positional[0] if positional else ""


def _second(positional: list[str], named: dict[str, str]) -> str:
    """{{lang|fr|mot}}; a code alone says nothing."""
    if len(positional) > 1:
        return positional[1]
    return named.get("text", "") or ("" if len("".join(positional)) < 4 else positional[0])


def _last(positional: list[str], named: dict[str, str]) -> str:
    return positional[-1] if positional else named.get("text", "")


def _second_or_first(positional: list[str], named: dict[str, str]) -> str:
    return (positional[1] if len(positional) > 1 else "") or _first(positional, named)


def _nothing(_positional: list[str], _named: dict[str, str]) -> str:
    return ""


def _all(separator: str) -> Render:
    return lambda positional, _named: separator.join(part for part in positional if part)


def _says(words: str) -> Render:
    return lambda _positional, _named: words


def _around(before: str, after: str = "") -> Render:
    def render(positional: list[str], named: dict[str, str]) -> str:
        content = _first(positional, named)
        return f"{before}{content}{after}" if content else ""

    return render


_in_brackets = _around("[", "]")


def _sounds(positional: list[str], _named: dict[str, str]) -> str:
    """{{IPAc-en|lang|ˈ|s|aʊ|n|d}}: /ˈsaʊnd/."""
    words = ("lang", "local", "pron", "also", "uk", "us", "icon", "audio", "en")
    sounds = "".join(part for part in positional if part.lower() not in words)
    return f"/{sounds}/" if sounds else ""


def _measure(positional: list[str], named: dict[str, str]) -> str:
    """{{convert|5|to|10|km|mi}}: 5 to 10 km, as the writer gave it."""
    words: list[str] = []
    for part in positional:
        is_number = bool(_NUMBER.fullmatch(part))
        if words and not is_number and part not in _RANGES:
            words.append(_UNITS.get(part, part))
            break
        words.append(_RANGES.get(part, part))
    text = " ".join(words).replace(" – ", "–")
    return text if words and len(words) > 1 else f"{text} {named.get('u', '')}".strip()


_RANGES = {"to": "to", "-": "–", "–": "–", "and": "and", "or": "or", "x": "×", "by": "by"} | {
    "&": "and",
    "×": "×",
    "to(-)": "to",
    "+/-": "±",
    "±": "±",
    "—": "–",
    "do": "do",
    "til": "til",
    "bis": "bis",
}
_UNITS = {"sqmi": "sq mi", "sqft": "sq ft", "sqkm": "km²", "km2": "km²", "m2": "m²", "m3": "m³"} | {
    "ha": "ha",
    "acre": "acres",
    "F": "°F",
    "C": "°C",
    "lb": "lb",
    "in": "in",
    "ft": "ft",
    "mi": "mi",
    "impgal": "imp gal",
    "USgal": "US gal",
    "cuft": "cu ft",
    "cuin": "cu in",
    "nmi": "nmi",
    "ftin": "ft",
    "long ton": "long tons",
    "short ton": "short tons",
    "tonne": "tonnes",
    "/km2": "/km²",
    "/sqmi": "/sq mi",
    "PD/sqkm": "/km²",
    "PD/sqmi": "/sq mi",
    "cm3": "cm³",
    "km3": "km³",
    "m/s": "m/s",
}


def _as_of(positional: list[str], named: dict[str, str]) -> str:
    """{{as of|2010|5}}: As of May 2010."""
    if alternative := named.get("alt"):
        return alternative
    start = "as of" if named.get("lc", "").lower() in ("y", "yes", "on") else "As of"
    year, month, day = (*positional, "", "", "")[:3]
    number = int(month) if month.isdecimal() and len(month) < 3 else 0
    named_month = _MONTHS.split()[number - 1] if 1 <= number <= 12 else month
    return " ".join(part for part in (start, day, named_month, year) if part)


def _nihongo(positional: list[str], _named: dict[str, str]) -> str:
    """{{nihongo|English|kanji|romaji}}: English (kanji, romaji)."""
    others = ", ".join(part for part in positional[1:3] if part)
    english = positional[0] if positional else ""
    return f"{english} ({others})" if english and others else english or others


def _chinese(positional: list[str], named: dict[str, str]) -> str:
    names = ("c", "t", "s", "p", "tp", "w", "j", "poj")
    return ", ".join([*positional, *(named[name] for name in names if named.get(name))])


def _chemistry(positional: list[str], _named: dict[str, str]) -> str:
    low = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
    return "".join(part.translate(low) for part in positional)


def _fraction(positional: list[str], _named: dict[str, str]) -> str:
    if len(positional) == 3:
        return f"{positional[0]} {positional[1]}/{positional[2]}"
    return "/".join(positional) if len(positional) > 1 else "".join(f"1/{x}" for x in positional)


def _ship(positional: list[str], _named: dict[str, str]) -> str:
    """{{ship|HMS|Victory|1765}}: HMS Victory."""
    return " ".join(part for part in positional[:2] if part)


def _ship_of(prefix: str) -> Render:
    def render(positional: list[str], _named: dict[str, str]) -> str:
        name, number = (*positional, "", "")[:2]
        return f"{prefix} {name} ({number})" if number else f"{prefix} {name}"

    return render


def _other_language(positional: list[str], named: dict[str, str]) -> str:
    """{{ill|Title|de|lt=words}}, {{lien|trad=Title|texte=words}}: the words, or the title."""
    for key in ("lt", "texte", "text", "fr"):
        if named.get(key):
            return named[key]
    return _first(positional, named) or named.get("trad", "")


def _number(positional: list[str], named: dict[str, str]) -> str:
    """{{val|5.3|u=m}}, {{unité|5|km|2}}: the number and its unit."""
    units = [_UNITS.get(part, part) for part in positional[1:2]]
    raised = positional[2:3]
    power = raised[0].translate(str.maketrans("23-", "²³⁻")) if raised else ""
    given = [named[key] for key in ("u", "ul", "up", "unité") if named.get(key)]
    return " ".join([*positional[:1], *(unit + power for unit in units), *given])


def _century(after: str, joint: str = "") -> Render:
    """{{s|XX|e}}: XXe siècle; {{sp|XVI|e|au|XVII|e}}."""

    def render(positional: list[str], _named: dict[str, str]) -> str:
        if joint and len(positional) >= 5:
            first, second = "".join(positional[:2]), "".join(positional[3:5])
            return f"{first} {positional[2]} {second}{after}"
        return "".join(positional[:2]) + after

    return render


def _date(positional: list[str], _named: dict[str, str]) -> str:
    return " ".join(part for part in positional[:3] if part)


def _named_templates(table: dict[str, Render]) -> dict[str, Render]:
    """One entry a name, from "name, other name" keys."""
    return {name: render for names, render in table.items() for name in names.split(", ")}


_TEMPLATES = _named_templates(
    {
        "nowrap, nobr, nobreak, nowrap1, j, nowiki, small, smaller, large, big, huge": _last,
        "abbr, abbrlink, abbreviation, tooltip, h:title, em, strong, bold, italic, smallcaps, sc": (
            _first
        ),
        "small caps, smcaps, smallcaps2, unicode, unicode fonts, polytonic, heb, hebrew, ipa": (
            _first
        ),
        "api, audio-ipa, grec ancien, asiantitle, noitalic, normal, mono, tt, code, kbd, mvar": (
            _first
        ),
        "math, mathcal, var, varserif, bigmath, texhtml, music note, nts, no wrap": _first,
        "flag, flagcountry, flagu, flagicon2, flaglist, fb, nft, land, flagge": _first,
        "visible anchor, anchored, vanchor, anchor text, plainlist, flatlist, longlink": _first,
        "columns-list, div col2, block indent, indent, poem, poemquote, verse": _last,
        "quote, blockquote, quotation, cquote, quote box, rquote, zitat, cytat, citat": _first,
        "citation bloc, début citation, citazione, cita, cita-ta, citace, cituj, centered": _first,
        "lang, langue, language, cizojazyčně, foreign, lingua, llengua, nyelv, ipa-all": _second,
        "wikt-lang, wt, wikt-en, script, ipalink, rtl-lang, język, jazyk, langnf, tlx": _second,
        "transl, transliteration, translit, trans, audio, listen2, iastn": _last,
        "color, font color, colored text, cor, farbe, background color": _last,
        "convert, cvt, konvert, convertir, converti, átváltás, converter, m to ft": _measure,
        "pretvori, omregn, omvandla, conversion, conversie, konvertera, tmp": _measure,
        "as of, since": _as_of,
        "circa, c., ca., ca, vers, около, коло": _around("c. "),
        "floruit, fl., fl": _around("fl. "),
        "nihongo, nihongo2, nihongo3, nihongo krt, japonais, giapponese, japonés": _nihongo,
        "zh, chinese, lang-zh, zh-cn, zh-tw": _chinese,
        "chem, chem2, chemistry, fchim, formula química, chemf": _chemistry,
        "frac, fraction, sfrac, fract, 分数": _fraction,
        "ship, barco, schiff": _ship,
        "hms": _ship_of("HMS"),
        "uss": _ship_of("USS"),
        "ss": _ship_of("SS"),
        "mv": _ship_of("MV"),
        "hmas": _ship_of("HMAS"),
        "sms": _ship_of("SMS"),
        "ill, ill2, ill-wd2, interlanguage link, interlanguage link multi, link-interwiki": (
            _other_language
        ),
        "lien, iwpl, illm, enllaç interlingüístic, redlink-interwiki": _other_language,
        "val, unité, unite, nombre, numero, nb, quantity, num, unidad, ndash number": _number,
        "formatnum, gaps, numera, números, plainlink, gapnum": _all(""),
        "число, szám, fmtn, számok, kronologie, chiarire, nobr begin, comment": _first,
        "segle": _around("segle "),
        "séc": _around("século "),
        '"': _around("„", "“"),
        "мфа-всі, мфа": _in_brackets,
        "höhe": _around("", " m"),
        "nowrap begin, nowrap end, nobold, 0, nowrap/end": _nothing,
        "hlist, ubl, unbulleted list, plain list, unbulleted": _all(", "),
        "respell, pronunciation respelling": _all("-"),
        "bibleverse, bibleref, bibelvers": _all(" "),
        "rtgs, mongol, tamil, angbr, angle bracket": _first,
        "iw, не переведено, не переведено 2, не переведено 3, не переведено 4": _second_or_first,
        "не переведено 5, нп, нп2, нп3, нп4, нп5, iw2, li, не перекладено": _second_or_first,
        "sup, exp, exposant, up": _around("^"),
        "sub, ind, indice": _around(""),
        "us$, usd, us dollar": _around("US$"),
        "gbp, pound sterling, £": _around("£"),
        "eur, euro, €": _around("€"),
        "inr, indian rupee, ₹, indianrupee": _around("₹"),
        "jpy, yen": _around("¥"),
        "aud, a$": _around("A$"),
        "sic": _says("[sic]"),
        "!": _says("|"),
        "=": _says("="),
        "'": _says("'"),
        "'s": _says("'s"),
        "\" '": _says("\"'"),
        "' \"": _says("'\""),
        "okina, ʻokina": _says("ʻ"),
        "ndash, –, en dash": _says("–"),
        "mdash, —, em dash": _says("—"),
        "snd, spnd, sndash, spaced ndash, spaced en dash, dash": _says(" – "),
        "spaced mdash, smd": _says(" — "),
        "nbsp, space, spaces, thin space, thinsp, hair space, nnbsp, esp, zwnj, wbr, pad": (
            _says(" ")
        ),
        "dot, ·, •, bold middot, middot": _says(" · "),
        "times, x": _says("×"),
        "minus": _says("−"),
        "degree, deg": _says("°"),
        "sharp": _says("♯"),
        "flat": _says("♭"),
    }
)

_ROMAN = "I II III IV V VI VII VIII IX X XI XII XIII XIV XV XVI XVII XVIII XIX XX XXI"


def _french() -> dict[str, Render]:
    fixed = {f"{roman.lower()}e siècle": _says(f"{roman}e siècle") for roman in _ROMAN.split()}
    return fixed | _named_templates(
        {
            "s, siècle": _century(" siècle"),
            "s-, -s, -s-": _century(""),
            "sp, sp-": _century(" siècle", "au"),
            "ier siècle": _says("Ier siècle"),
            "date, date de naissance, date-, date de décès, jour": _date,
            "1er, er": _around("1er "),
            "citation, cita, guillemets, «": _around("« ", " »"),
            "citation étrangère, langue écrite": _second,
            "p., page": _around("p. "),
            "n°, numéro, n": _around("no "),
            "m., mme, mlle, dr, pr": _first,
            "terme défini, souligner, incise, petites capitales, pc": _first,
            "heure": _all(" h "),
            "ier": _says("Ier"),
            ",": _nothing,
            "msapi, api-fr": _first,
            "av jc, av. j.-c.": _says("av. J.-C."),
            "ap jc, ap. j.-c.": _says("apr. J.-C."),
        }
    )


_OF_LANGUAGE: dict[str, dict[str, Render]] = {
    "fr": _french(),
    "it": _named_templates({"m": _number, "ta": _first, "sp": _says(" ")}),
    "ru": _named_templates({"подсказка, comment": _first}),
    "es": _named_templates({"siglo": _around("siglo "), "esd": _says(" ")}),
}
