"""GeoJSON in pixel coordinates: a file per picture, a feature per 4-connected region, with its holes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tag2mask.base.files import write_text
from tag2mask.config.formats import OutputOptions
from tag2mask.data.dataset import voc_palette
from tag2mask.outputs.objects import Add, LabeledPicture, objects_of
from tag2mask.outputs.polygons import ring_polygons


@contextmanager
def geojson_writer(path: Path, classes: Sequence[str], options: OutputOptions) -> Iterator[Add]:
    """Open a folder of GeoJSON files NAME.geojson (RFC 7946, but for the coordinates, which are pixels).

    x goes to the right and y down from the picture's upper left corner, as in QuPath; programs with y up show it
    upside down. The area of outer rings is positive in these numbers, that of holes negative; rings
    are closed. Properties: `class`, `label`, `area` (pixels), `score` (tag score of the class, if known), and
    `objectType` and `classification`, which QuPath reads.
    """
    palette = voc_palette()

    def add(picture: LabeledPicture) -> None:
        features = []
        for thing in objects_of(picture, classes, instances=False):
            for region in thing.regions():
                polygons = ring_polygons(region, tolerance=options.tolerance)
                rings = [polygon.astype(int) + thing.corner for polygon in polygons]  # corners of pixels all
                closed = [[*ring.tolist(), ring[0].tolist()] for ring in rings]
                properties: dict[str, Any] = {
                    **{"class": thing.name, "label": thing.label, "area": region.area, **picture.score(thing.name)},
                    "objectType": "annotation",
                    "classification": {"name": thing.name, "color": palette[thing.label].tolist()},
                }
                geometry = {"type": "Polygon", "coordinates": closed}
                features.append({"type": "Feature", "geometry": geometry, "properties": properties})
        h, w = picture.size
        about = {"file_name": picture.file_name, "height": h, "width": w}
        collection = {"type": "FeatureCollection", "picture": about, "features": features}
        write_text(path / f"{picture.name}.geojson", json.dumps(collection, ensure_ascii=False) + "\n")

    yield add
