"""`numclip` and its commands: found without importing them, named as they were typed, as before."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner

from numclip.entry import COMMANDS, main
from numclip_runtime import UsageError, __version__
from tests.runtime.conftest import SEPARATE, records
from tests.runtime.conftest import invoke as invoke_run

ROOT = Path(__file__).parents[2]
SCRIPT = re.compile(r'^([\w-]+) = "([\w.]+):(\w+)"$', re.MULTILINE)


def invoke(*args: object) -> tuple[int, str, str]:
    """Run `numclip` in this process; return exit code, stdout and stderr."""
    done = CliRunner(**SEPARATE).invoke(main, [str(arg) for arg in args], prog_name="numclip")
    return done.exit_code, done.stdout, done.stderr


def python(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own."""
    return subprocess.run(
        [sys.executable, *args],
        env=os.environ | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_alone_it_lists_the_commands_in_the_order_of_the_work() -> None:
    code, out, _ = invoke()
    assert (code, out) == invoke("--help")[:2]
    assert code == 0
    found = re.findall(r"^  (\w+)  +\S.*\.$", out.partition("Commands:")[2], re.MULTILINE)
    assert found == [
        *("run", "serve", "train", "eval", "export", "distill", "zeroshot", "convert"),
        *("doctor", "bench"),
    ]
    assert max(map(len, out.splitlines())) <= 80


def test_the_list_imports_no_command() -> None:
    code = (
        "import sys; from numclip.entry import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(*sys.modules, sep='\\n')"
    )
    loaded = set(python("-c", code).stdout.split())
    assert "numclip_runtime.commands" in loaded
    assert not loaded & {"numpy", "PIL", "torch", "numclip.cli", "numclip_runtime.app"}


def test_the_old_names_stay() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    table = text.partition("[project.scripts]\n")[2].partition("\n\n")[0]
    scripts = {name: (module, target) for name, module, target in SCRIPT.findall(table)}
    old = {f"numclip-{name}" for name in ("train", "convert", "zeroshot", "export", "run", "eval")}
    assert set(scripts) == {"numclip", "numclip-distill"} | old
    for module, target in scripts.values():
        assert callable(getattr(import_module(module), target))


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "bench"])
def test_usage_names_the_command_that_was_typed(name: str) -> None:
    code, out, _ = invoke(name, "--help")
    assert code == 0
    assert out.startswith(f"Usage: numclip {name} [OPTIONS]")
    code, _, err = invoke(name, "--no-such-option")
    assert code == 2
    assert f"Try 'numclip {name} -" in err  # --help, of click 8.1 -h


@pytest.mark.parametrize("name", [None, *(name for name in COMMANDS if name != "bench")])
def test_help_shows_examples_before_options_in_80_columns(name: str | None) -> None:
    out = invoke(*filter(None, (name, "--help")))[1]
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert out.index("\nExamples:\n") < out.index("--version" if name != "doctor" else "--json")
    shown = [line for line in lines if line.startswith(f"  numclip {name or ''}".rstrip())]
    assert shown
    headings = [line for line in lines if re.fullmatch(r"[A-Z].*:", line)]
    assert headings[0] == "Examples:"
    assert headings[-1] == "Options:"
    if name in ("run", "serve", "train", "eval", "export", "convert", "zeroshot", "distill"):
        assert len(headings) >= 4  # no option of a command's own stands under "Options"
        assert out.partition("\nOptions:\n")[2].count("--") == 2  # --version, --help


@pytest.mark.parametrize("name", ["train", "eval", "zeroshot", "convert", "export", "distill"])
def test_a_missing_extra_is_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    (ckpt := tmp_path / "m.pt").write_bytes(b"PK")
    (tmp_path / "d.csv").write_text("path,label\na.png,1\n")
    arguments: dict[str, list[object]] = {
        "train": ["--train", "d.csv", "--val", "d.csv", "--task", "age"],
        "eval": ["--ckpt", ckpt, "--data", tmp_path / "d.csv"],
        "zeroshot": ["--task", "age", "--pretrained", "openai"],
        "convert": [ckpt, "-o", tmp_path / "x.pt"],
        "export": ["--ckpt", ckpt],
        "distill": [ckpt, tmp_path, "--student", "ViT-B-16"],
    }
    code, _, err = invoke(name, *arguments[name])
    assert code == 2
    extra = "export,cpu" if name == "export" else "train"
    assert re.fullmatch(rf"Error: torch\b.* not installed; .*'numclip\[{extra}\]'\.?\n", err)


def test_run_does_what_numclip_run_does(tiny: Path, photos: Path) -> None:
    code, out, _ = invoke("run", tiny, photos, "none.jpg", "--device", "cpu")
    other = invoke_run(tiny, photos, "none.jpg", "--device", "cpu")
    assert (code, out) == (other.exit_code, other.stdout)
    assert code == 1
    assert len(records(other)) == 4


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["predict", "m.onnx"], "'predict' is not a command; similar is run."),
        (["evaluate"], "'evaluate' is not a command; similar is eval."),
        (["nothing"], "'nothing' is not a command."),
        (
            ["m.onnx", "a.jpg"],
            "'m.onnx' is not a command; the command comes first: `numclip run m.onnx a.jpg`.",
        ),
        (["\x1b[2J"], r"'\x1b[2J' is not a command."),
    ],
)
def test_a_word_that_is_no_command(words: list[str], sentence: str) -> None:
    code, _, err = invoke(*words)
    assert code == 2
    assert err.splitlines()[-1] == f"Error: {sentence}"


def test_bench_without_a_checkout_says_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("numclip.entry.__file__", str(tmp_path / "numclip/entry.py"))
    code, _, err = invoke("bench", "--help")
    assert code == 2
    assert err.endswith("in a checkout of numclip type `python benchmarks/latency.py`.\n")
    with pytest.raises(UsageError):
        COMMANDS["bench"].load()


@pytest.mark.parametrize("module", ["numclip", "numclip_runtime", "numclip_export"])
def test_packages_run_as_commands(module: str) -> None:
    done = python("-m", module, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"python -m {module}, version {__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_and_options(shell: str) -> None:
    def completed(*words: str) -> list[str]:
        line = " ".join(("numclip", *words))
        last = words[-1] if shell == "fish" else str(len(words))
        done = python(
            "-c",
            "from numclip.entry import main; main(prog_name='numclip')",
            _NUMCLIP_COMPLETE=f"{shell}_complete",
            COMP_WORDS=line,
            COMP_CWORD=last,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return re.findall(r"[\w-]+", done.stdout)

    assert "export" in completed("e")
    assert "run" not in completed("e")
    assert "--report" in completed("run", "--rep")


def test_completion_scripts_exist() -> None:
    for shell in ("bash", "zsh", "fish"):
        done = python(
            "-c",
            "from numclip.entry import main; main(prog_name='numclip')",
            _NUMCLIP_COMPLETE=f"{shell}_source",
        )
        assert "_NUMCLIP_COMPLETE" in done.stdout, done.stderr
