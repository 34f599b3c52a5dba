"""Make `tensorrt_names.json`: what the Python packages of several TensorRT versions offer.

TensorRT itself needs a GPU to do anything, but its Python package only needs libraries to link
to. So each package is downloaded without its libraries, given empty ones that define the functions
it links to, imported in a process of its own, and asked for the names in the classes that numclip
uses. Names in all versions are listed once. Needs Linux on x86-64, a C compiler and the network.
Run as: python tests/data/make_tensorrt_names.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

VERSIONS = {  # 10.3 is JetPack 6, the others span what is on the package index
    "tensorrt": ("10.3.0", "10.13.0.35", "10.16.1.11", "11.0.0.114", "11.4.0.106"),
    "tensorrt_rtx": ("1.4.0.76", "1.5.0.114", "1.6.1.120", "1.7.1.116"),
}
LEAN = ("10.3.0", "11.4.0.106")  # runs engines only, so it has the names of those classes only
PACKAGES = {
    "tensorrt": "tensorrt-cu12-bindings",
    "tensorrt_lean": "tensorrt-lean-cu12-bindings",
    "tensorrt_rtx": "tensorrt-rtx-cu13-bindings",
}
CLASSES = (
    *("Builder", "BuilderFlag", "ComputeCapability", "DataType"),
    *("DynamicShapesKernelSpecializationStrategy", "EngineInspector"),
    *("ExecutionContextAllocationStrategy", "HardwareCompatibilityLevel", "IBuilderConfig"),
    *("ICudaEngine", "IExecutionContext", "IHostMemory", "ILogger", "INetworkDefinition"),
    *("IOptimizationProfile", "IProgressMonitor", "IRuntimeCache", "IRuntimeConfig"),
    *("ITensor", "ITimingCache", "LayerInformationFormat", "Logger", "MemoryPoolType"),
    *("NetworkDefinitionCreationFlag", "OnnxParser", "ParserError", "ProfilingVerbosity"),
    *("Runtime", "TensorIOMode"),
)
FUNCTIONS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "getPluginRegistry"),
    *("createInferRuntime_INTERNAL", "createNvOnnxParserRefitter_INTERNAL"),
    *("createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry", "getNvOnnxParserVersion"),
    "initLibNvInferPlugins",
)
LIST = """
import importlib, json, sys
trt = importlib.import_module(sys.argv[1])
public = lambda thing: sorted(name for name in dir(thing) if not name.startswith("_"))
names = {c: public(getattr(trt, c)) for c in sys.argv[2].split(",") if hasattr(trt, c)}
names["ILogger.Severity"] = public(trt.ILogger.Severity)
names[""] = [c for c in names if c and "." not in c]
print(json.dumps(names))
"""
TARGET = Path(__file__).with_name("tensorrt_names.json")


def names_of(module: str, version: str, folder: Path) -> dict[str, list[str]]:
    """Return class -> public names of one version's Python package; "" -> the classes."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder)]
    requirement = f"{PACKAGES[module]}=={version}"
    subprocess.run([*pip, "--only-binary", ":all:", requirement], check=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder)
    library = folder / f"{module}_bindings" / f"{module}.so"
    source = folder / "empty.c"
    source.write_text("".join(f"void {name}(void) {{}}\n" for name in FUNCTIONS))
    for needed in needed_libraries(library):
        output = folder / needed
        subprocess.run(["cc", "-shared", "-fPIC", "-o", str(output), str(source)], check=True)
    done = subprocess.run(
        [sys.executable, "-c", LIST, f"{module}_bindings", ",".join(CLASSES)],
        env={"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    names: dict[str, list[str]] = json.loads(done.stdout)
    return names


def needed_libraries(library: Path) -> list[str]:
    """Return the TensorRT libraries that a Python package links to."""
    done = subprocess.run(
        ["readelf", "-d", str(library)], capture_output=True, text=True, check=True
    )
    names = [
        line.split("[")[1].split("]")[0] for line in done.stdout.splitlines() if "NEEDED" in line
    ]
    return [name for name in names if name.startswith(("libnv", "libtensorrt"))]


def names_of_all(versions: dict[str, tuple[str, ...]]) -> dict[str, dict[str, list[str]]]:
    """Return "module version" -> class -> names."""
    found = {}
    for module, numbers in versions.items():
        for version in numbers:
            with tempfile.TemporaryDirectory() as folder:
                found[f"{module} {version}"] = names_of(module, version, Path(folder))
    return found


def main() -> None:
    """Write the listing."""
    found = names_of_all(VERSIONS)
    classes = sorted(set().union(*found.values()))
    everywhere = {
        name: sorted(set.intersection(*(set(names.get(name, ())) for names in found.values())))
        for name in classes
    }
    only = {
        version: {
            name: others
            for name in classes
            if (others := sorted(set(names.get(name, ())) - set(everywhere[name])))
        }
        for version, names in found.items()
    }
    lean = names_of_all({"tensorrt_lean": LEAN})
    listing = {"everywhere": everywhere, "only": only, "lean": lean}
    TARGET.write_text(json.dumps(listing, indent=1) + "\n")
    sys.stdout.write(f"{TARGET.name}: {TARGET.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
