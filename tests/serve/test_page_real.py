"""The page in a browser on `puna serve` with real models: what is shown is what the engine says."""

import json
import urllib.request
from pathlib import Path

import pytest
from serve.browser_page import Open, wait_for
from serve.puna_serve import puna_serve
from small_vocabulary import smollm2_gguf

from puna.infer.engine import load_engine
from puna.infer.sampling_params import SamplingParams

pytestmark = pytest.mark.browser

PROMPT = "The llama lives"


def test_a_text_goes_on_as_offline_each_token_where_it_stands(open_page: Open, tiny_run: Path):
    engine = load_engine(tiny_run, "numpy")
    params = SamplingParams(max_tokens=24, temperature=0)
    (expected,) = engine.generate([PROMPT], params)
    with puna_serve(tiny_run, "--backend", "numpy") as url:
        page = open_page(url, "#complete")
        page.get_by_role("spinbutton", name="Temperature").fill("0")
        page.get_by_role("spinbutton", name="Most tokens").fill("24")
        text = page.get_by_label("The text to go on with")
        text.fill(PROMPT)
        page.get_by_role("button", name="Continue").click()
        page.locator("#complete .stats", has_text=f"{expected.generated_tokens} tokens").wait_for()
        wanted = expected.text.replace("\r\n", "\n").replace("\r", "\n")
        assert text.input_value() == PROMPT + wanted
        tokens = page.locator("#complete .shades .token")
        wait_for(page, lambda: "".join(tokens.all_text_contents()) == wanted)
        page.goto(f"{url}/#inside")
        page.locator("#inside .next p").wait_for()
        page.watch.forgive("400")  # the example is longer than this model's context of 64
        page.get_by_label("Text to look into").fill(PROMPT)
        ids = engine.tokenizer.encode(PROMPT, bos=True)
        page.get_by_text(f"{len(ids)} tokens · {len(PROMPT)} characters").wait_for()
        assert page.locator(".piece-id").all_inner_texts() == [str(one) for one in ids]


def test_a_chat_model_answers_and_remembers(open_page: Open):
    sampling = {"temperature": 0, "max_tokens": 24}
    with puna_serve(smollm2_gguf(), "--name", "smollm2") as url:
        page = open_page(url)
        page.get_by_role("spinbutton", name="Temperature").fill("0")
        page.get_by_role("spinbutton", name="Most tokens").fill("24")
        messages = []
        for number, question in enumerate(("What is a llama?", "Where does it live?")):
            messages.append({"role": "user", "content": question})
            page.get_by_label("Message", exact=True).fill(question)
            page.keyboard.press("Enter")
            page.locator(".message.assistant .stats").nth(number).wait_for()
            body = json.dumps({"messages": messages, "top_p": 0.95, **sampling}).encode()
            request = urllib.request.Request(f"{url}/v1/chat/completions", body)
            request.add_header("Content-Type", "application/json")
            with urllib.request.urlopen(request) as response:
                answer = json.load(response)["choices"][0]["message"]["content"]
            messages.append({"role": "assistant", "content": answer})
            shown = page.locator(".message.assistant").nth(number)
            shown.get_by_label("The text as it is").click()
            assert shown.locator("pre.raw").text_content() == answer
