// One answer as it comes: its speed, its stop, and its words for screen readers.

import { announce, find, written } from "./dom.js";
import { ApiError } from "./api.js";

/** Reads `pieces(signal)` and calls `onPiece` for each. `finished` resolves to the stats
 * {tokens, promptTokens, cachedTokens, firstSeconds, tokensPerSecond, finish}, also after `stop()`
 * (finish "stopped"), and rejects with an ApiError. */
export class Answer {
  constructor(pieces, onPiece) {
    this.control = new AbortController();
    this.begin = performance.now();
    this.first = null;
    this.last = null;
    this.count = 0;
    this.finish = null;
    this.usage = null;
    this.timings = null;
    this.speech = new Speech();
    this.finished = this.read(pieces, onPiece);
  }

  stop() {
    this.finish = "stopped";
    this.control.abort();
  }

  async read(pieces, onPiece) {
    try {
      for await (const piece of pieces(this.control.signal)) {
        if (this.finish === "stopped") break;
        if (piece.text) this.timed(piece);
        this.finish = piece.finish ?? this.finish;
        this.usage = piece.usage ?? this.usage;
        this.timings = piece.timings ?? this.timings;
        onPiece(piece);
      }
    } catch (error) {
      if (this.finish !== "stopped") {
        this.speech.end();
        throw error instanceof ApiError ? error : new ApiError(String(error));
      }
    }
    this.speech.end();
    if (this.finish === "stopped") announce("Stopped");
    return this.stats();
  }

  timed(piece) {
    this.last = performance.now();
    this.first ??= this.last;
    this.count += 1;
    this.speech.say(piece.text);
  }

  stats() {
    const tokens = this.usage?.completion_tokens ?? this.count;
    const seconds = (this.last - this.first) / 1000;
    return {
      tokens,
      promptTokens: this.usage?.prompt_tokens ?? null,
      cachedTokens: this.usage?.prompt_tokens_details?.cached_tokens ?? null,
      firstSeconds: this.first === null ? null : (this.first - this.begin) / 1000,
      // The server's own rate, where it came: pieces that travel together look faster here.
      tokensPerSecond: this.timings?.predicted_per_second || (tokens > 1 && seconds > 0
        ? (tokens - 1) / seconds : null),
      finish: this.finish,
    };
  }
}

/** The stats in words: "43 tokens · 31.2 tokens/s · first after 0.21 s". */
export function statsText(stats) {
  const parts = [`${written(stats.tokens)} token${stats.tokens === 1 ? "" : "s"}`];
  if (stats.tokensPerSecond) parts.push(`${written(stats.tokensPerSecond)} tokens/s`);
  if (stats.firstSeconds !== null) parts.push(`first after ${stats.firstSeconds.toFixed(2)} s`);
  if (stats.finish === "length") parts.push("ended at the token limit");
  if (stats.finish === "stopped") parts.push("stopped");
  return parts.join(" · ");
}

const longestSentence = 400;
const sentenceEnd = /[.!?:]\s[^.!?:]*$|\n[^\n]*$/;

/** Gives a stream to screen readers sentence by sentence: word by word it cannot be followed. */
class Speech {
  constructor() {
    this.waiting = "";
    this.place = find("#spoken");
    this.place.replaceChildren();
  }

  say(text) {
    this.waiting += text;
    const isLong = this.waiting.length > longestSentence;
    const end = isLong ? this.waiting.length : this.waiting.search(sentenceEnd);
    if (end < 0) return;
    this.speak(this.waiting.slice(0, end + 1));
    this.waiting = this.waiting.slice(end + 1);
  }

  end() {
    this.speak(this.waiting);
    this.waiting = "";
  }

  speak(text) {
    if (!text.trim()) return;
    const line = document.createElement("p");
    line.textContent = text.trim();
    this.place.append(line);
  }
}
