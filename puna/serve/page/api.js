// The server's public API. Every address is relative: nothing is ever asked of another origin.

import { recall, remember } from "./store.js";

/** What the server answered instead of what was asked for; `status` 0: it did not answer. */
export class ApiError extends Error {
  constructor(message, status = 0, code = null) {
    super(message.charAt(0).toUpperCase() + message.slice(1)); // the server's begin small
    this.status = status;
    this.code = code;
  }
}

export function apiKey() {
  return recall("apiKey") ?? "";
}

export function keepApiKey(key) {
  remember("apiKey", key);
}

async function ask(path, { body, signal } = {}) {
  const headers = {};
  if (apiKey()) headers.Authorization = `Bearer ${apiKey()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const options = { method: body === undefined ? "GET" : "POST", headers, signal };
  if (body !== undefined) options.body = JSON.stringify(body);
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer. Is `puna serve` still running?");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const { status } = response;
  const text = await response.text();
  try {
    const { error } = JSON.parse(text);
    return new ApiError(error.message ?? String(error), status, error.code);
  } catch {
    return new ApiError(text.slice(0, 300) || `The server answered ${status}`, status);
  }
}

export async function getJson(path, signal) {
  return (await ask(path, { signal })).json();
}

export async function postJson(path, body, signal) {
  return (await ask(path, { body, signal })).json();
}

/** The response itself, for its text and headers. */
export function get(path, signal) {
  return ask(path, { signal });
}

/** The JSON events of a stream, until its [DONE]. Throws ApiError for an event that is an error,
 * and when the stream ends early. */
export async function* events(path, body, signal) {
  const response = await ask(path, { body: { ...body, stream: true }, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  try {
    for (;;) {
      const { value, done } = await next(reader);
      if (done) break;
      waiting += value;
      const lines = waiting.split(/\r?\n/);
      waiting = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue; // comments keep the connection open
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        const event = JSON.parse(data);
        if (event.error) throw new ApiError(event.error.message, 500);
        yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
  throw new ApiError("The connection ended before the answer was complete");
}

async function next(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The connection to the server was lost");
  }
}

/** Pieces {text, finish, usage, timings} of a chat's next message. */
export async function* chatPieces(body, signal) {
  const asked = { ...body, stream_options: { include_usage: true } };
  for await (const { choices, usage, timings } of events("v1/chat/completions", asked, signal)) {
    const choice = choices[0];
    const text = choice?.delta.content ?? "";
    yield { text, finish: choice?.finish_reason ?? null, usage, timings };
  }
}

/** Pieces {text, tokens, finish, usage, timings} of how a text goes on. A token is {text, logprob,
 * others}, where others are [text, logprob] by descending probability. */
export async function* completionPieces(body, signal) {
  const asked = { ...body, stream_options: { include_usage: true } };
  for await (const { choices, usage, timings } of events("v1/completions", asked, signal)) {
    const choice = choices[0];
    const text = choice?.text ?? "";
    const tokens = choice?.logprobs ? tokensOf(text, choice.logprobs) : [];
    yield { text, tokens, finish: choice?.finish_reason ?? null, usage, timings };
  }
}

/** The tokens of `text` as a completion's logprobs tell them; their texts joined are `text`. */
export function tokensOf(text, logprobs) {
  const tokens = [];
  let rest = text;
  logprobs.tokens.forEach((name, index) => {
    // Parts of a character have no text of their own: theirs comes with the next whole token.
    const place = name.includes("\ufffd") ? 0 : rest.slice(0, name.length + 8).indexOf(name);
    const isOwn = place >= 0 && !name.includes("\ufffd");
    if (isOwn && place && tokens.length) tokens.at(-1).text += rest.slice(0, place);
    const own = isOwn ? rest.slice(tokens.length ? place : 0, place + name.length) : "";
    if (isOwn) rest = rest.slice(place + name.length);
    const others = Object.entries(logprobs.top_logprobs?.[index] ?? {});
    others.sort((one, other) => other[1] - one[1]);
    tokens.push({ text: own, logprob: logprobs.token_logprobs[index], others });
  });
  if (rest && tokens.length) tokens.at(-1).text += rest;
  return tokens;
}
