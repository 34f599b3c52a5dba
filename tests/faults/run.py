"""The long fault matrix: `python -m tests.faults.run [COMMAND ...] --kills 200 --json FILE`.

Every command is run with failing system calls, killed at random moments, run with small limits, and
with inputs that vanish or change. A table counts the faults by class and outcome; exit code 1 if
anything but the documented outcomes was seen.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.faults.commands import COMMANDS
from tests.faults.disturb import changes, kills, limits
from tests.faults.harness import Result, Server
from tests.faults.matrix import SPOTS, faults_of, injected

Case = tuple[str, str, Result]  # class of fault, description, result
KILLED = ("run", "export", "train", "eval")  # share the kills


def cases(name: str, home: Path, *, most: int, kill_count: int) -> Iterator[Case]:
    """Yield all cases of a command."""
    with Server(name, home) as server:
        server.done()
        for spot in SPOTS[name]:
            for i, fault in enumerate(faults_of(server, spot, most)):
                result = injected(server, fault, spot.named, old=i % 2 == 1)
                yield f"{fault.call} {fault.error}", str(fault), result
        if name in KILLED:
            for kind, result in kills(server, kill_count // len(KILLED)):
                yield f"kill {kind}", kind, result
            for kind, result in limits(server, 4):
                yield kind, kind, result
            for kind, result in changes(server, 2):
                yield f"input {kind}", kind, result


def table(counts: dict[str, Counter[str]]) -> str:
    """Return a line per class of fault, with a column per outcome."""
    outcomes = sorted({outcome for counter in counts.values() for outcome in counter})
    widths = [max(len(outcome), 6) for outcome in outcomes]
    lines = [f"{'':<24}" + "".join(f"  {o:>{w}}" for o, w in zip(outcomes, widths, strict=True))]
    total: Counter[str] = sum(counts.values(), Counter())
    for kind, counter in [*sorted(counts.items()), ("all", total)]:
        cells = (f"  {counter[o] or '':>{w}}" for o, w in zip(outcomes, widths, strict=True))
        lines.append(f"{kind:<24}{''.join(cells)}")
    return "\n".join(lines)


def main() -> None:
    """Run the matrix of the commands that are named, or of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help=", ".join(COMMANDS))
    parser.add_argument("--most", type=int, default=6, help="calls that fail, of each kind")
    parser.add_argument("--kills", type=int, default=200, help="in sum over the commands")
    parser.add_argument("--json", type=Path, help="write counts and violations to this file")
    given = parser.parse_args()
    if unknown := set(given.commands) - set(COMMANDS):
        parser.error(f"no such command: {', '.join(sorted(unknown))}")
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    violations = []
    with tempfile.TemporaryDirectory(prefix="numclip-faults-") as folder:
        for name in given.commands or COMMANDS:
            print(name, flush=True)
            for kind, what, result in cases(
                name, Path(folder), most=given.most, kill_count=given.kills
            ):
                counts[kind][result.outcome] += 1
                if result.problems:
                    said = result.stderr.strip()[-300:]
                    violations.append({"command": name, "fault": what, "said": said})
                    violations[-1]["problems"] = "; ".join(result.problems)
                    print(f"  {what}: {'; '.join(result.problems)}\n    {said}", flush=True)
    print(f"\n{table(counts)}\n{len(violations)} violations")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        plain = {kind: dict(counter) for kind, counter in sorted(counts.items())}
        given.json.write_text(json.dumps({"counts": plain, "violations": violations}, indent=1))
    sys.exit(bool(violations))


if __name__ == "__main__":
    main()
