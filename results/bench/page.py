"""Fill the tables of README.md from the JSON beside it: ``python results/bench/page.py``."""

import json
import re
from pathlib import Path

from kneeclip.laps import rows

HERE = Path(__file__).parent


def filled(text: str) -> str:
    """The page with the text between ``<!-- NAME -->`` and ``<!-- end of NAME -->`` made of NAME.json."""

    def block(match: re.Match) -> str:
        numbers = json.loads((HERE / f"{match[1]}.json").read_text(encoding="utf-8"))
        return f"<!-- {match[1]} -->\n{table(numbers)}\n<!-- end of {match[1]} -->"

    return re.sub(r"(?s)<!-- (\w+) -->\n.*?<!-- end of \1 -->", block, text)


def table(numbers: dict) -> str:
    setting = f"{numbers['machine']}, {numbers['environment']['threads']} threads, {numbers['world']}"
    counts = "; ".join(
        f"{name}: {part.get('repeats', numbers['repeats'])} rounds of {part['steps']} step{'s' * (part['steps'] > 1)}, "
        f"{part['batch_size']} images a step"
        for name, part in numbers["models"].items()
    )
    busy = f"load at the start {numbers['load_at_start']} (a quiet machine has about 0)"
    films = f"{numbers['images']:,} images; " if "images" in numbers else ""
    lines = [
        f"*{setting}; {films}{counts}; {busy}.*",
        "",
        "| | median | lowest | highest |",
        "|---|---|---|---|",
    ]
    lines += [f"| {row['what']} | {row['median']} | {row['min']} | {row['max']} |" for row in rows(numbers)]
    return "\n".join(lines)


if __name__ == "__main__":
    page = HERE / "README.md"
    page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
