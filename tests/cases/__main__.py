"""`python -m tests.cases DIR`: run a folder of cases and print what held."""

import argparse
import sys
from pathlib import Path

from tests.cases.runner import find_cases, run_case


def main(arguments: list[str] | None = None) -> int:
    """Run the cases; return 1 if one did not hold, 2 if there is none."""
    parser = argparse.ArgumentParser(prog="python -m tests.cases", description=__doc__)
    parser.add_argument("folder", type=Path, help="folders of cases, each with a README.md")
    parser.add_argument(
        "--expect",
        type=Path,
        metavar="DIR",
        help="NAME.json, NAME.py and NAME.sh that go before the cases' own",
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="run the cases with this in their names")
    parser.add_argument("--show", action="store_true", help="print the output of those that do not hold")
    given = parser.parse_args(arguments)
    cases = [case for case in find_cases(given.folder) if given.only in case.name]
    if not cases:
        print(
            f"{given.folder} has no folder with a README.md whose name holds {given.only!r}", file=sys.stderr
        )
        return 2
    broken = 0
    for case in cases:
        verdict = run_case(case, given.expect)
        broken += not verdict.held
        print(verdict.row(), flush=True)
        if given.show and not verdict.held:
            print(verdict.output)
    print(f"{len(cases) - broken} of {len(cases)} held")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
