"""The card of the packaged model "quality"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PUBLIC_DOMAIN, NONE_KNOWN = "public domain", "no known copyright restrictions"
CC0, CC_BY = "CC0", "CC BY 2.0"
# As stated by scikit-image's docstrings and scikit-learn's README of the pictures
LICENCES = {
    "skimage/astronaut.png": (PUBLIC_DOMAIN, "NASA"),
    "skimage/brick.png": (CC0, "CC0Textures"),
    "skimage/camera.png": (CC0, "Lav Varshney"),
    "skimage/chelsea.png": (CC0, "Stefan van der Walt"),
    "skimage/coffee.png": (CC0, "Rachel Michetti"),
    "skimage/coins.png": (NONE_KNOWN, "Brooklyn Museum"),
    "skimage/grass.png": (CC0, "linolafett"),
    "skimage/gravel.png": (CC0, "CC0Textures"),
    "skimage/hubble_deep_field.jpg": (PUBLIC_DOMAIN, "NASA"),
    "skimage/ihc.png": (NONE_KNOWN, "Center for Microscopy and Molecular Imaging"),
    "skimage/retina.jpg": (CC0, "Mikael Häggström"),
    "skimage/rocket.jpg": (PUBLIC_DOMAIN, "SpaceX"),
    "sklearn/china.jpg": (CC_BY, "danielbuechele, flickr.com/photos/danielbuechele/6061409035"),
    "sklearn/flower.jpg": (CC_BY, "vultilion, flickr.com/photos/vultilion/6056698931"),
}
HOW = {
    "walls": "walls of pieces of the test photos, impaired as a whole (no photo of that size ships "
    "with the two packages, and a small one enlarged would be soft)",
    "photos": "real photos, shrunk to that size and impaired; their own faults count as none (of "
    "Debian's packages lomiri-wallpapers-16.04, lomiri-wallpapers-20.04 and mate-backgrounds)",
}
TEXT = """\
---
library_name: numclip
license: apache-2.0
tags: [image-quality, blur, noise, jpeg, onnx]
---

# quality

Reads how impaired a photo is **at full resolution**: 0 (no blur, noise or compression to be seen at
1:1) to 100 (very annoying), with a 90 % interval. It says nothing about composition, exposure or
what is in the picture.

```
numclip-run quality photo.jpg
```

It looks at nine pieces of 64 x 64 pixels, the most detailed of the cells of a 3 x 3 grid. Its
network is a fixed bank of cosine filters, and a linear function of the sizes of their answers that
is fitted in closed form. The file has {size:.0f} kB; SHA-256 `{sha256}`.

## How good it is

Severities are of known impairments: Gaussian blur of up to 4 pixels, Gaussian noise of up to 70 of
255 levels, JPEG down to quality 3, or two or three of them. "Constant" is the error of always
saying the median.

{results}
The intervals were fitted on pieces of photos. The column "inside" shows how often they hold.

## How it was made

`{made_by}`, from pieces of these photos, shrunk by 1.3 to 3 so that they are sharp:

| used for | photo | licence | by |
| --- | --- | --- | --- |
{photos}

`numclip-train` had these options: `{train}`.

## Limits

- It learned from few photos, and from impairments that were computed. Camera shake, a wrong focus
  and the smoothed noise of phones look different.
- A photo that is soft at full resolution, as those of many phones are, is read as slightly blurred:
  at 1:1 it is.
- What is out of focus on purpose counts little, since the most detailed pieces are looked at.
- Drawings, screenshots and renderings have areas without any grain, as strongly compressed photos
  have, and are read as such.
- A photo that was made smaller after it was impaired is judged as it is now.
- Where the number decides something about people or their work, have a person look.
"""


def card(record: Mapping[str, Any], size: int) -> str:
    """Return the card as Markdown.

    Args:
        record: As `native.keep` writes it.
        size: Bytes of the model file.
    """
    results = "".join(f"{_table(kind, rows)}\n" for kind, rows in record["test"].items())
    photos = "\n".join(
        f"| {split} | {name} | {' | '.join(LICENCES[name])} |"
        for split, names in record["photos"].items()
        for name in names
    )
    return TEXT.format(
        size=size / 1e3,
        sha256=record["sha256"],
        results=results,
        made_by=record["made_by"],
        photos=photos,
        train=" ".join(record["train"]),
    )


def _table(kind: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    lines = [
        f"On {HOW[kind]}:\n",
        "| size | images | mean absolute error | constant | rank correlation | inside |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        lines.append(
            f"| {name} | {row['images']} | {row['mae']:.1f} | {row['mae_constant']:.1f} | "
            f"{row['rank_correlation']:.2f} | {row['coverage']:.0%} |"
        )
    return "\n".join(lines) + "\n"
