"""The table: `python -m tests.faults [--markdown FILE] [--only WORDS]`; exits 1 if a row is wrong."""
import argparse
import sys
import time

from . import runner

HEADINGS = ["group", "fault", "dialect", "mode", "outcome", "status", "requests", "time (s)", "over (s)",
            "calls/attempts/unknown/failed", "open", "left", "threads", "next call", "verdict"]


def as_text(table):
    """Columns as wide as their widest cell."""
    widths = [max(len(str(row[at])) for row in table) for at in range(len(table[0]) - 1)]
    for row in table:
        yield "  ".join([str(cell).ljust(width) for cell, width in zip(row, widths)] + [str(row[-1])])


def as_markdown(table):
    for at, row in enumerate(table):
        yield "| {} |".format(" | ".join(str(cell).replace("|", "\\|") for cell in row))
        if not at:
            yield "|" + " --- |" * len(row)


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--markdown", metavar="FILE", help="write the table there as well")
    parser.add_argument("--only", metavar="WORDS", default="", help="rows whose name holds these words")
    args = parser.parse_args()
    started = time.monotonic()
    rows = [row for row in runner.ROWS if args.only in row.name]
    found = runner.played(rows)
    outcomes = [found[row.name] for row in rows]
    table = [HEADINGS, *(runner.as_cells(*pair) for pair in zip(rows, outcomes))]
    wrong = sum(bool(outcome.wrong) for outcome in outcomes)
    print("\n".join(as_text(table)))
    over, requests = max((found.over for found in outcomes), default=0.0), sum(found.requests for found in outcomes)
    print(f"\n{len(rows)} rows, {wrong} wrong; {over:.2f} s over the deadline at most; {requests} requests; "
          f"{time.monotonic() - started:.1f} s")
    if args.markdown:
        with open(args.markdown, "w", encoding="utf-8") as file:
            file.write("\n".join(as_markdown(table)) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
