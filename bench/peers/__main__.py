"""streamq beside its peers: pickup latency, throughput and drain, in one run on one machine.

    make bench-peers [ARGS='--only "floor;streamq;pgqueuer" --rounds 1']

A peer whose server or environment is not there is skipped with a sentence. The last line names the files: the run as
JSON, its plot. With `--page` they are the kept ones; bench/README.md takes in the tables, README.md the plot.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.peers.contender import CACHE, CONTENDERS, ROOT, Contender
from bench.peers.plot import draw
from bench.peers.result import load, store
from bench.peers.run import Asked, measure
from bench.peers.table import markdown, placed, summary

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "README.md"
README = ROOT / "README.md"
KEPT = HERE / "latest"


def chosen(names: str | None) -> list[Contender]:
    """Return the contenders that are named; without names, all."""
    if names is None:
        return list(CONTENDERS)
    wanted = [name.strip() for name in names.split(";")]
    unknown = set(wanted) - {one.name for one in CONTENDERS}
    if unknown:
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}. Known: {'; '.join(one.name for one in CONTENDERS)}")
    return [one for one in CONTENDERS if one.name in wanted]


def main() -> None:
    """Measure, or read a stored run; write the files."""
    parser = argparse.ArgumentParser(prog="bench.peers", description="streamq beside its peers")
    parser.add_argument("--uri", help="a MongoDB replica set on this machine; default: an embedded one")
    parser.add_argument("--only", help="names of who takes part, with ; between them", metavar="NAMES")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="about what each scenario of a round takes")
    parser.add_argument("--rate", type=float, default=100.0, help="puts a second, for pickup latency")
    parser.add_argument(
        "--tasks", type=int, help="tasks of a throughput or drain round; default: what fits the seconds"
    )
    parser.add_argument("--minutes", type=float, default=9.5, help="begin no round that would end later")
    parser.add_argument("--out", type=Path, help="path of the files, without their endings; default: .peers/run")
    parser.add_argument("--png", action="store_true", help="draw a PNG besides the SVG")
    parser.add_argument("--page", action="store_true", help="keep the run: bench/peers/latest.*, the two READMEs")
    parser.add_argument("--from-json", type=Path, help="measure nothing: write tables and plot of a stored run")
    asked = parser.parse_args()
    out: Path = asked.out or (KEPT if asked.page else CACHE / "run")
    if asked.from_json is None:
        wanted = Asked(asked.rounds, asked.seconds, asked.rate, asked.tasks, asked.minutes * 60)
        run = measure(chosen(asked.only), wanted, uri=asked.uri, say=lambda line: print(line, flush=True))
        out.parent.mkdir(parents=True, exist_ok=True)
        store(run, out.with_suffix(".json"))
    else:
        run = load(asked.from_json)
    tables = markdown(run)
    draw(run, out.with_suffix(".svg"))
    if asked.png:
        draw(run, out.with_suffix(".png"))
    if asked.page:
        PAGE.write_text(placed(PAGE.read_text(), tables))
        README.write_text(placed(README.read_text(), summary(run)))
    print(tables)
    print(f"{out}.json, {out}.svg: measured in {run.took_s:.0f} s")


if __name__ == "__main__":
    main()
