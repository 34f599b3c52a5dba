"""The page's own JavaScript against the runtime, in Node: resize, PNG, metadata, intervals."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from numclip_export.delivery import web
from numclip_runtime import read_metadata
from numclip_runtime.calibration import Calibration
from numclip_runtime.metadata import Preprocessing
from numclip_runtime.preprocess import load_rgb, normalise, to_pixels
from numclip_runtime.serve.static_files import SHARED
from numclip_runtime.task import Task
from tests.export.web_photos import write_pngs

NODE = shutil.which("node")
TINY = Path(__file__).parents[1] / "data/tiny.onnx"

pytestmark = pytest.mark.skipif(NODE is None, reason="there is no Node (node) on this machine")


def run(folder: Path, job: object, body: str) -> Any:
    """Run a script that gets `job`, and return what it returns; its files lie in `folder`."""
    (folder / "job.json").write_text(json.dumps(job), "utf-8")
    names = ("decode", "metadata", "png", "resample")
    shared = {path.stem for path in SHARED.glob("*.js")}
    modules = {
        name: ((SHARED if name in shared else web.PAGE) / f"{name}.js").as_uri() for name in names
    }
    script = "import * as fs from 'node:fs';\n" + "".join(
        f"import * as {name} from {json.dumps(place)};\n" for name, place in modules.items()
    )
    script += "const job = JSON.parse(fs.readFileSync('job.json'));\n"
    script += f"const answer = await (async () => {{ {body} }})();\n"
    script += "fs.writeFileSync('answer.json', JSON.stringify(answer ?? null));\n"
    command = [str(NODE), "--input-type=module", "-e", script]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "answer.json").read_text("utf-8"))


def test_resize_and_normalisation_are_pillows(tmp_path: Path) -> None:
    choose, rng = random.Random(0), np.random.default_rng(0)
    cases: list[Any] = []
    expected: list[Any] = []
    with (tmp_path / "pixels").open("wb") as file:
        for i in range(80):
            sizes = ((40, 40), (300, 300), (6, 900), (900, 6))[i % 4]
            w, h = (choose.randint(1, side) for side in sizes)
            crop = choose.randint(1, 48)
            long = max(w, h) / min(w, h) > 100
            spec = Preprocessing(
                crop=crop,
                resize=crop + choose.randint(0, 30),
                resize_mode="squash" if long or i % 3 else "shortest",
                interpolation=choose.choice(("bilinear", "bicubic")),
                std=(0.2, choose.uniform(0.1, 1), 0.3),
            )
            if i % 5 == 0:  # of 1 to 12 pixels a piece, some larger than the picture
                count = choose.randint(1, 4)
                crop = count * choose.randint(1, 12)
                spec = Preprocessing(
                    crop=crop, resize=crop, resize_mode="fragments", fragments=count
                )
            pixels = rng.integers(0, 256, (h, w, 3), dtype=np.uint8)
            if i % 2:  # the largest overshoot
                pixels = np.where(pixels > 127, np.uint8(255), np.uint8(0))
            file.write(np.dstack([pixels, pixels[..., :1]]).tobytes())
            cases.append({"width": w, "height": h, "spec": asdict(spec)})
            expected.append(to_pixels(Image.fromarray(pixels), spec))
            expected.append(normalise(expected[-1], spec))
    run(
        tmp_path,
        cases,
        """
        const all = fs.readFileSync('pixels'), out = [];
        let at = 0;
        for (const { width, height, spec } of job) {
          const data = all.subarray(at, at += width * height * 4);
          const square = resample.resizeAndCrop({ width, height, data }, spec);
          out.push(resample.packed(square));
          out.push(new Uint8Array(resample.normalise(square, spec).buffer));
        }
        fs.writeFileSync('out', Buffer.concat(out));
        """,
    )
    assert (tmp_path / "out").read_bytes() == b"".join(array.tobytes() for array in expected)


def test_png_is_read_as_by_the_runtime(tmp_path: Path) -> None:
    write_pngs(tmp_path, (160, 107))
    names = sorted(path.name for path in tmp_path.glob("*.png"))
    assert len(names) > 20
    body = """
        const sizes = [];
        for (const name of job) {
          const { width, height, data } = await decode.decode(fs.readFileSync(name));
          fs.writeFileSync(name + '.rgba', data);
          sizes.push([width, height]);
        }
        return sizes;
        """
    for name, size in zip(names, run(tmp_path, names, body), strict=True):
        rgb = load_rgb(tmp_path / name)
        assert tuple(size) == rgb.size, name
        rgba = np.frombuffer((tmp_path / f"{name}.rgba").read_bytes(), np.uint8)
        assert np.array_equal(rgba.reshape(*size[::-1], 4)[..., :3], np.asarray(rgb)), name


def test_every_orientation(tmp_path: Path) -> None:
    stored = np.arange(4 * 3 * 2, dtype=np.uint8).reshape(3, 2, 4)
    got = run(
        tmp_path,
        stored.reshape(-1).tolist(),
        """
        return [1, 2, 3, 4, 5, 6, 7, 8, 9].map((orientation) => {
          const stored = { width: 2, height: 3, data: Uint8Array.from(job) };
          const { width, height, data } = decode.upright(stored, orientation);
          return [width, height, Array.from(data)];
        });
        """,
    )
    for orientation, (width, height, data) in enumerate(got, 1):
        image = Image.fromarray(np.ascontiguousarray(stored[..., :3]))
        image.getexif()[0x0112] = orientation
        upright = np.asarray(load_rgb(image))
        turned = np.array(data, np.uint8).reshape(height, width, 4)[..., :3]
        assert np.array_equal(turned, upright), orientation


def test_numbers_are_the_runtimes(tmp_path: Path) -> None:
    choose = random.Random(0)
    tasks, jobs, expected = [], [], []
    for i in range(60):
        start, scale = choose.randint(-5, 20), 10.0 ** choose.randint(-6, 6) if i % 2 else 1.0
        steps = [1] * 6 if i % 3 == 0 else [choose.randint(1, 9) for _ in range(6)]
        edges = [scale * (start + sum(steps[:k])) for k in range(7)]
        task = Task(
            name="a",
            unit="",
            bin_edges=tuple(edges),
            phrases=tuple("abcdef"),
            label_offset=choose.choice((0.0, 100.0, 0.5)),
            whole_numbers=choose.choice((None, True, False)),
        )
        calibration = Calibration(1.5, scale / 7, (0.5, 0.9), (0.6, 1.7), 99)
        if i % 4:
            calibration = replace(calibration, measured_from="values")
        value = np.float32(choose.uniform(edges[0], edges[-1]) + task.label_offset)
        probs = np.random.default_rng(i).dirichlet(np.ones(6)).astype(np.float32)
        facts = {"task": task.to_dict(), "calibration": calibration.to_dict()}
        shown = choose.uniform(
            edges[0], edges[-1]
        )  # float32 has halves, which Python rounds to even
        jobs.append({**facts, "value": float(value), "shares": probs.tolist(), "shown": shown})
        ends = calibration.intervals(value[None], probs[None], task)
        assert ends is not None
        expected.append((ends[0].tolist(), [v + task.label_offset for v in task.bin_values]))
        tasks.append(task)
    got = run(
        tmp_path,
        jobs,
        """
        return job.map(({ value, shares, shown, ...facts }) => [
          metadata.interval(facts, value, shares), metadata.binValues(facts.task),
          metadata.numberText(facts.task, shown),
        ]);
        """,
    )
    for (interval, values, text), job, task, (ends, numbers) in zip(
        got, jobs, tasks, expected, strict=True
    ):
        assert interval == pytest.approx(ends, rel=1e-12)
        assert values == pytest.approx(numbers, rel=1e-12)
        assert text == task.number(job["shown"])
    without = {**jobs[0], "calibration": None}
    assert run(tmp_path, without, "return metadata.interval(job, 1, job.shares);") is None


def test_metadata_come_from_the_model(tmp_path: Path) -> None:
    shutil.copy(TINY, tmp_path / "a.onnx")
    (tmp_path / "cut.onnx").write_bytes(TINY.read_bytes()[:300])
    (tmp_path / "text.onnx").write_text("not a model")
    got = run(
        tmp_path,
        ["a", "cut", "text"],
        """
        return job.map((name) => {
          try { return metadata.readMetadata(fs.readFileSync(`${name}.onnx`)); }
          catch (error) { return error.message; }
        });
        """,
    )
    assert got[0] == json.loads(read_metadata(TINY).to_json())
    assert all(isinstance(message, str) for message in got[1:])


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    photo = Image.effect_noise((80, 60), 50)
    photo.save(tmp_path / "a.png")
    photo.save(tmp_path / "a.jpg")
    photo.save(tmp_path / "a.tif")
    bomb = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + b"\0\1\0\0" * 2 + b"\x08\2\0\0\0" + b"\0" * 4
    files = {
        (tmp_path / "a.png").read_bytes()[:900]: "damaged or cut short",
        (tmp_path / "a.jpg").read_bytes()[:900]: "cut short",
        (tmp_path / "a.jpg").read_bytes()[:30]: "cut short",
        (tmp_path / "a.tif").read_bytes(): "a TIFF file; save it as JPEG or PNG",
        b"\0\0\0\x18ftypheic": "a HEIC photo; save it as JPEG or PNG",
        bomb: "too large, 65536 x 65536 pixels",
        b"some text": "not a picture",
        b"": "the file is empty",
    }
    job = [list(content) for content in files]
    body = """
        return Promise.all(job.map((bytes) => decode.decode(Uint8Array.from(bytes))
          .then(() => 'read', (error) => error.message)));
        """
    assert run(tmp_path, job, body) == list(files.values())
