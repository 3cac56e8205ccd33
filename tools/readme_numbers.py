"""Write the README's measured numbers from bench/history.jsonl, between its two markers.

python tools/readme_numbers.py           write them
python tools/readme_numbers.py --check   only say whether they are up to date
"""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- numbers from bench/history.jsonl -->", "<!-- end of numbers -->"

INFERENCE = {
    "decode": "one sequence",
    "prefill": "a prompt of {tokens}",
    "batch": "16 sequences at once",
    "context": "one sequence after 4,096 tokens",
}
OTHERS = {
    "roofline": "what reading the file's weights takes",
    "gemm": "the bare bf16 matrix products",
    "bytes": "what its bytes make of the speed after 64",
    "transformers": "transformers in bf16",
}


def latest() -> dict[tuple[str, str, str, str], dict[str, Any]]:
    """The newest row of each bench, case, shape and device."""
    rows = {}
    for line in (ROOT / "bench" / "history.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        key = (row.get(name, "") for name in ("bench", "case", "shape", "device"))
        rows[tuple(key)] = row
    return rows


def rendered() -> str:
    """The table in Markdown."""
    lines = ["| what | Puna | beside | measured on |", "| --- | --- | --- | --- |"]
    for (bench, case, shape, _), row in sorted(latest().items()):
        if bench == "train":
            lines.append(training(shape, row))
        elif bench == "compression":
            lines.append(compression(row))
        elif bench == "cpu_engine" and row["kind"] in INFERENCE:
            lines.append(inference(row))
        elif (bench, case) in TEXT:
            lines += TEXT[bench, case](row)
    return "\n".join(lines)


def training(shape: str, row: dict[str, Any]) -> str:
    """One line: training speed and memory at a shape."""
    ours, peer = row["results"]["puna"], row["results"][row["peer"]]
    return (
        f"| training, {shape} shape | {ours['tokens_per_second']:,.0f} tokens/s, "
        f"{ours['peak_bytes'] / 2**20:,.0f} MiB | {row['speed_ratio']:.2f} times the speed, "
        f"{row['memory_ratio']:.2f} times the memory of {row['peer']} {row['peer_version']} "
        f"({peer['tokens_per_second']:,.0f} tokens/s) | {machine(row)}, {row['dtype']} |"
    )


def compression(row: dict[str, Any]) -> str:
    """One line: the demo's bits per byte."""
    primed = row["bits_per_byte"] / row["ratio_to_primed_xz"]
    return (
        f"| held-out bits per byte, demo | {row['bits_per_byte']:.3f} | "
        f"{primed:.3f}: xz -9e primed with the training text | {machine(row)} |"
    )


def inference(row: dict[str, Any]) -> str:
    """One line: a speed of the CPU engine, and how often it is each of the others'."""
    speed = row["values"]["puna"]["median"]
    beside = [
        f"{ratio['median']:.2f} times {OTHERS.get(name, name)} "
        f"({row['values'][name]['median']:,.0f})"
        for name, ratio in row["ratios"].items()
    ]
    what = INFERENCE[row["kind"]].format(**row)
    return (
        f"| {what}, {row['shape']} | {speed:,.0f} tokens/s | {', '.join(beside)} | "
        f"{machine(row)}, {row['threads']} threads |"
    )


def text_build(row: dict[str, Any]) -> list[str]:
    """One line: documents to shards, beside the plain way and datatrove's."""
    whole, values = row["whole"], row["values"]
    beside = [
        f"{ratio:.1f} times {name} ({values[name]['megabytes_per_second']['median']:.2f})"
        for name, ratio in row["ratios"].items()
    ]
    speed = values["puna"]["megabytes_per_second"]["median"]
    return [
        f"| text: rules, language, near duplicates, tokens, shards | {speed:.1f} MB/s on "
        f"{values['puna']['megabytes']:.0f} MB, {whole['megabytes_per_second']:.1f} on "
        f"{whole['megabytes']:.0f} in {whole['resident_bytes'] / 1e6:.0f} MB of memory | "
        f"{', '.join(beside)} | {machine(row)} |"
    ]


def text_growth(row: dict[str, Any]) -> list[str]:
    """One line: the memory of builds of different sizes."""
    sizes = row["sizes"]
    megabytes = ", ".join(f"{one['megabytes']:.0f}" for one in sizes)
    memory = ", ".join(f"{one['resident_bytes'] / 1e6:.0f}" for one in sizes)
    return [f"| memory of the same on {megabytes} MB of text | {memory} MB | | {machine(row)} |"]


def text_of_web(row: dict[str, Any]) -> list[str]:
    """Two lines: web pages to text, and the rules, on one core."""
    values = {name: one["median"] for name, one in row["values"].items()}
    ours, peer = (values.get(f"{name}, pages/s") for name in ("WARC to text", WARC_PEER))
    rules, plain = values["Gopher's rules, MB/s"], values["Gopher's, plain twin, MB/s"]
    lines = [
        f"| text: C4's and Gopher's rules | {values['both, MB/s']:.1f} MB/s a core | Gopher's "
        f"{rules / plain:.1f} times plain loops ({plain:.1f}) | {machine(row)} |"
    ]
    if ours and peer:
        lines.append(
            f"| text: WARC to main content | {ours:.0f} pages/s a core | {ours / peer:.1f} times "
            f"{WARC_PEER} ({peer:.0f}) | {machine(row)} |"
        )
    return lines


def text_of_wikipedia(row: dict[str, Any]) -> list[str]:
    """One line: wikitext to text, on one core."""
    speeds = row["megabytes_per_second"]
    beside = [
        f"{ratio:.1f} times {name} ({speeds[name]['median']:.1f})"
        for name, ratio in row["ratio"].items()
    ]
    return [
        f"| text: Wikipedia's markup to text | {speeds['puna']['median']:.1f} MB/s a core | "
        f"{', '.join(beside)} | {machine(row)} |"
    ]


def near_duplicates(row: dict[str, Any]) -> list[str]:
    """One line: which injected near duplicates are found."""
    found = row["sizes"][-1]
    return [
        f"| text: copies with 2 % of the words replaced | {found['recall']:.1%} found | "
        f"{found['below 0.7']} of {found['removed']} removed are less alike than 0.7, "
        f"{found['below 0.5']} than 0.5 | {machine(row)} |"
    ]


WARC_PEER = "datatrove and trafilatura"
TEXT = {
    ("data", "build"): text_build,
    ("data", "scale"): text_growth,
    ("data_web", ""): text_of_web,
    ("data_wikipedia", ""): text_of_wikipedia,
    ("data_dedup", ""): near_duplicates,
}


def machine(row: dict[str, Any]) -> str:
    """The hardware of a row."""
    return f"{row['machine']['cpu']}, {row['machine']['cores']} cores"


def main() -> int:
    """Write or check; 1 when a check finds old numbers."""
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    new = f"{before}{BEGIN}\n{rendered()}\n{END}{after}"
    if "--check" in sys.argv:
        print("up to date" if new == text else "README.md is behind bench/history.jsonl: make docs")
        return int(new != text)
    path.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
