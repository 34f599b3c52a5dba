"""Fuzz the readers: `python -m tests.fuzz.run [TARGET ...] --seconds 60 --corpus FOLDER`.

Each target is fuzzed by atheris for that long, one after the other. A table tells how often it ran
and what was found; findings are kept in FOLDER/findings/TARGET. Exit code 1 if there are any.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from importlib import import_module
from pathlib import Path

from tests.fuzz.harness import CORPUS, TARGETS

ROOT = Path(__file__).parents[2]
HANG_SECONDS = 10
MEMORY_MIB = 1024
KINDS = {"crash": "crashes", "timeout": "hangs", "slow": "hangs", "oom": "memory"}  # of files
PERIOD = 600  # seconds of one process: a leak of the harness must not count as one of the reader


@dataclass
class Outcome:
    """What fuzzing a target gave."""

    target: str
    seconds: float = 0.0
    executions: int = 0
    places: int = 0  # counters that were reached: coverage
    peak_mib: int = 0
    errors: list[str] = field(default_factory=list)  # one per place in the code
    crashes: int = 0
    hangs: int = 0
    memory: int = 0  # inputs that needed more than MEMORY_MIB

    @property
    def findings(self) -> int:
        return len(self.errors) + self.crashes + self.hangs + self.memory


def fuzz(target: str, seconds: float, corpus: Path) -> Outcome:
    """Fuzz one target, starting again after each input that ends the process."""
    outcome, inputs = Outcome(target), corpus / target
    findings = corpus / "findings" / target
    for folder in (inputs, findings):
        folder.mkdir(parents=True, exist_ok=True)
    write_seeds(target, inputs)
    started = time.monotonic()
    while (left := seconds - (time.monotonic() - started)) > 1:
        _period(target, min(left, PERIOD), inputs, findings, outcome)
    outcome.seconds = time.monotonic() - started
    for kind, name in KINDS.items():
        found = len(list(findings.glob(f"{kind}-*")))
        setattr(outcome, name, getattr(outcome, name) + found)
    notes = [json.loads(path.read_text()) for path in sorted(findings.glob("error-*.json"))]
    outcome.errors = [f"{note['place']}: {note['message']}" for note in notes]
    return outcome


def write_seeds(target: str, folder: Path) -> None:
    """Write a target's seeds and the inputs kept in the repository into a working corpus."""
    kept = [path.read_bytes() for path in (CORPUS / target).glob("*")]
    for data in [*import_module(f"tests.fuzz.targets.{target}").seeds(), *kept]:
        (folder / f"seed-{sha256(data).hexdigest()[:16]}").write_bytes(data)


def _period(target: str, seconds: float, inputs: Path, findings: Path, outcome: Outcome) -> None:
    command = [sys.executable, "-m", "tests.fuzz.child", target, str(findings), str(inputs)]
    command += [f"-max_total_time={max(int(seconds), 1)}", "-print_final_stats=1", "-max_len=65536"]
    command += [f"-timeout={HANG_SECONDS}", f"-rss_limit_mb={MEMORY_MIB}"]
    command += [f"-artifact_prefix={findings}/"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    log = done.stderr.decode(errors="replace")
    (findings / "last.log").write_text(log[-20_000:])
    outcome.executions += _number(r"stat::number_of_executed_units:\s*(\d+)", log)
    outcome.peak_mib = max(outcome.peak_mib, _number(r"stat::peak_rss_mb:\s*(\d+)", log))
    outcome.places = max([outcome.places, *map(int, re.findall(r"\bcov: (\d+)", log))])
    if done.returncode and not re.search(r"Test unit written|BINGO", log):
        raise SystemExit(f"{target}: the fuzzer failed:\n{log[-3000:]}")


def _number(pattern: str, log: str) -> int:
    found = re.findall(pattern, log)
    return int(found[-1]) if found else 0


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a line per target, and one per finding."""
    head = (
        "target",
        "executions",
        "seconds",
        "places",
        "MiB",
        "errors",
        "crashes",
        "hangs",
        "memory",
    )
    rows = [head] + [
        (
            o.target,
            f"{o.executions:,}",
            f"{o.seconds:.0f}",
            str(o.places),
            str(o.peak_mib),
            *map(str, (len(o.errors), o.crashes, o.hangs, o.memory)),
        )
        for o in outcomes
    ]
    lines = ["  ".join(f"{cell:>10}" for cell in row) for row in rows]
    total = sum(o.executions for o in outcomes), sum(o.seconds for o in outcomes) / 3600
    lines.append(f"{total[0]:,} executions in {total[1]:.2f} hours")
    return "\n".join(lines + [f"{o.target}: {error}" for o in outcomes for error in o.errors])


def main() -> None:
    """Fuzz the targets that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=60, help="for each target")
    parser.add_argument("--corpus", type=Path, default=Path("build/fuzz"), help="working folder")
    parser.add_argument("--json", type=Path, help="write the outcomes to this file")
    given = parser.parse_args()
    if unknown := set(given.targets) - set(TARGETS):
        parser.error(
            f"no such target: {', '.join(sorted(unknown))}; known are {', '.join(TARGETS)}"
        )
    outcomes = []
    for target in given.targets or TARGETS:
        outcomes.append(fuzz(target, given.seconds, given.corpus.resolve()))
        print(table(outcomes[-1:]), flush=True)
    print(f"\n{table(outcomes)}")
    if given.json:
        given.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
    sys.exit(any(outcome.findings for outcome in outcomes))


if __name__ == "__main__":
    main()
