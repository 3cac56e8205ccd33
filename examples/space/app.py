"""A Hugging Face Space in front of `puna serve`: Gradio draws, the server's API answers.

The server listens on loopback alone, under a key that only this process knows.
"""

import atexit
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import gradio
from openai import OpenAI

MODEL = os.environ.get("PUNA_SPACE_MODEL", "smollm2")
PORT = int(os.environ.get("PORT", "7860"))


def started_server(model: str) -> OpenAI:
    """A client of a server of `model`, as soon as it is loaded; the server ends with this one."""
    if not os.path.exists(model):
        subprocess.run([sys.executable, "-m", "puna", "pull", model], check=True)
    key = secrets.token_urlsafe(32)
    with tempfile.NamedTemporaryFile("w", suffix=".key", delete=False) as file:
        file.write(key)  # a command line could be read by others
    command = [sys.executable, "-m", "puna", "serve", model, "--port", "0", "--json"]
    command += ["--api-key-file", file.name]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    atexit.register(server.terminate)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # which does not run atexit by itself
    for line in server.stdout:
        event = json.loads(line)
        if event["event"] == "listening":
            url = event["url"]
        if event["event"] == "ready":
            os.unlink(file.name)
            return OpenAI(base_url=f"{url}/v1", api_key=key)
    raise SystemExit(f"puna serve {model} ended: its messages are above")


def app(client: OpenAI) -> gradio.Blocks:
    """Two tabs: a chat, and a text to go on with."""

    def chat(message: str, history: list[dict], temperature: float, most: int) -> Iterator[str]:
        before = [{"role": one["role"], "content": text_of(one)} for one in history]
        messages = [*before, {"role": "user", "content": message}]
        asked = {"messages": messages, "temperature": temperature, "max_tokens": int(most)}
        answer = ""
        with client.chat.completions.create(model=MODEL, stream=True, **asked) as stream:
            for chunk in stream:
                answer += chunk.choices[0].delta.content or "" if chunk.choices else ""
                yield answer

    def complete(text: str, temperature: float, most: int) -> Iterator[str]:
        asked = {"prompt": text, "temperature": temperature, "max_tokens": int(most)}
        with client.completions.create(model=MODEL, stream=True, **asked) as stream:
            for chunk in stream:
                text += chunk.choices[0].text if chunk.choices else ""
                yield text

    def sliders() -> list[gradio.Slider]:
        return [
            gradio.Slider(0, 2, 0.8, step=0.05, label="Temperature"),
            gradio.Slider(1, 512, 128, step=1, label="Most tokens"),
        ]

    beginning = gradio.Textbox("Once upon a time,", lines=6, label="Text")
    return gradio.TabbedInterface(
        [
            gradio.ChatInterface(chat, additional_inputs=sliders()),
            gradio.Interface(complete, [beginning, *sliders()], gradio.Textbox(lines=12)),
        ],
        ["Chat", "Complete"],
        title=f"Puna: {MODEL}",
    )


def text_of(message: dict) -> str:
    """The text of a message of Gradio's, which may be in parts."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


if __name__ == "__main__":
    app(started_server(MODEL)).launch(server_name="0.0.0.0", server_port=PORT)
