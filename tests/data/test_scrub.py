"""What is masked, and what only looks like it."""

import time

import pytest

from puna.data.document import Document, Dropped
from puna.data.scrub import Settings, apply, scrub

# Built from parts, so that no scanner takes this file for a leak.
AWS = "AKIA" + "ABCDEFGHIJKLMNOP"
GITHUB = "ghp_" + "a1B2" * 9
BLOCK = f"-----BEGIN RSA {'PRIVATE'} KEY-----\nMIIE\nabcd\n-----END RSA {'PRIVATE'} KEY-----"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Write to ann.lee+x@mail.puna.org, please.", "Write to |||EMAIL_ADDRESS|||, please."),
        ("mail: <a@b.co>", "mail: <|||EMAIL_ADDRESS|||>"),
        ("from 93.184.215.14:80", "from |||IP_ADDRESS|||:80"),
        ("http://93.184.215.14/x", "http://|||IP_ADDRESS|||/x"),
        ("at 2606:4700:4700::1111.", "at |||IP_ADDRESS|||."),
        (f"key {AWS}", "key |||SECRET|||"),
        (f"git clone https://{GITHUB}@host/x", "git clone https://|||SECRET|||@host/x"),
        (f"a\n{BLOCK}\nb", "a\n|||SECRET|||\nb"),
        ("api_key = 'q8Zr41LmPx07TbWc9Y'", "api_key = '|||SECRET|||'"),
    ],
)
def test_masks(text: str, wanted: str):
    found, counts = scrub(text, Settings())
    assert found == wanted
    assert counts.total() == 1


@pytest.mark.parametrize(
    "text",
    [
        "me@example.com and you@mail.example.org",
        "@decorator, a @ b, user@localhost",
        "version 93.184.215.14, v93.18.215.14",
        "1.2.3.4 and 10.0.0.1, 127.0.0.1, 192.168.0.7, 999.1.1.250, 203.0.113.9",
        "section 3.4.12.9 of 12.30.1999.1, 93.184.215.14.2",
        "std::vector::size, image[1::3], be::, 2012:10:11, 12:30:45:10, ::1, fe80::1",
        "token = get_the_next_token_of_it, password: correcthorsebatterystaple",
        "555-123-4567",
        "ASIAN and sk- and ghost_",
    ],
)
def test_leaves_alone(text: str):
    assert scrub(text, Settings()) == (text, {})


def test_phones_are_an_option():
    text = "(415) 555-2671, +1 415-555-2671, 1415-555-26711"
    masked, counts = scrub(text, Settings(phones=True))
    assert masked == "|||PHONE_NUMBER|||, |||PHONE_NUMBER|||, 1415-555-26711"
    assert counts == {"PHONE_NUMBER": 2}
    off = Settings(emails=False, addresses=False, secrets=False)
    assert scrub(f"a@b.co 93.184.215.14 {AWS}", off)[1] == {}


def test_a_document_with_more_than_5_is_dropped():
    texts = ["a@b.co " * 5, "a@b.co " * 6, "nothing"]
    documents = [Document(text, "test", "CC0-1.0", text[:3]) for text in texts]
    masked, dropped, same = apply(documents, Settings())
    assert isinstance(masked, Document)
    assert masked.text.count("|||EMAIL_ADDRESS|||") == 5
    assert isinstance(dropped, Dropped)
    assert (dropped.reason, dropped.detail) == ("personal data", "6 EMAIL_ADDRESS")
    assert "@" not in dropped.excerpt
    assert same is documents[2]


def test_a_key_without_an_end_reaches_to_the_end():
    assert scrub(BLOCK[:40], Settings())[0] == "|||SECRET|||"


@pytest.mark.parametrize("part", ["a", "a.", "1.", "a:", "@a.", "token=", "-----BEGIN ", "sk-"])
def test_time_is_linear_in_the_text(part: str):
    text = "@:: token AKIA " + part * (400_000 // len(part))
    began = time.process_time()
    scrub(text, Settings(phones=True))
    assert time.process_time() - began < 4
