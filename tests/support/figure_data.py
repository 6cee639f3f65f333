"""Made-up arrays in the shapes that analyses give, for figures to be drawn from."""

from __future__ import annotations

from typing import Any

import numpy as np

from ablate.spaces.figures import Drawing, FigureData, RowData
from ablate.spaces.metrics import transfer_column

LAYERS = 20


def seen(seed: int, layers: int = LAYERS, epochs: int = 5, filters: int = 16) -> RowData:
    random = np.random.default_rng(seed)
    arrays = {f"spectrum/{name}": random.random((16, 16)) for name in ("clean", "adversarial", "difference")}
    matrix = random.random((layers, layers))
    arrays |= {
        "spectrum/profile": 0.1 + random.random(12),
        "first_kernels/kernels": random.normal(size=(filters, 3, 3, 3)),
        "first_kernels/layer": np.array("conv1"),
        "quantized_kernels/kernels": random.integers(-1, 2, (filters, filters, 3, 3)) / 1.0,
        "quantized_kernels/layer": np.array("conv2"),
        "cka/matrix": (matrix + matrix.T) / 2,
        "cka/layers": np.array([f"layer{n}" for n in range(layers)]),
        "kernel_spectra/layers": np.array(["a", "b", "c", "d"]),
    }
    arrays["heat_map/error"] = 100 * random.random((16, 16))
    arrays |= {f"gradient_spectrum/{name}": 0.1 + random.random(12) for name in ("clean", "adversarial")}
    names = np.array(["gaussian_noise", "contrast", "fog"])
    arrays |= {"corruptions/names": names, "corruptions/source": np.array("closed forms")}
    arrays |= {"corruptions/accuracy": 100 * random.random((3, 5)), "corruptions/frequency": 6 * random.random((3, 5))}
    arrays |= {f"kernel_spectra/group{g}": random.random((filters * (g + 1), 27 * 2**g)) for g in range(4)}
    scalars = {"spectrum/central_energy_share": 0.5 + seed / 100, "cka/shallow_deep": 0.3, "natural": 80.0 - seed}
    scalars["gradient_spectrum/mean_frequency"] = 4.0 + seed
    scalars |= {f"heat_map/error_{band}": 40.0 + seed for band in ("low", "mid", "high", "clean")}
    each = range(epochs + 1)
    curves = {
        "energy/ratio": {epoch: 1.0 + epoch + seed for epoch in each},
        "validation/robust": {epoch: 10.0 + 5 * epoch - epoch**2 for epoch in each},
    }
    kept = {epoch: {"spectrum/profile": 0.1 + random.random(12)} for epoch in (1, 3, epochs)}
    return RowData(arrays, scalars, curves, kept, "", settings_of("pgd", lowpass_degree=16 - 2 * (seed // 10)))


def settings_of(attack: str, size: int = 16, **measurement: int) -> dict[str, Any]:
    """What figures look at of a trial's settings."""
    training = {"attack": {"name": attack}}
    return {"data": {"image_size": size}, "model": {}, "training": training, "measurement": measurement}


def data_of(*labels: str, seeds: int = 2, **shape: int) -> FigureData:
    rows = {label: {s: seen(10 * n + s, **shape) for s in range(seeds)} for n, label in enumerate(labels)}
    for number, each in enumerate(rows.values()):  # examples that were made on the first row's network
        for seed, found in each.items():
            found.scalars[transfer_column(labels[0])] = 10.0 * number + seed  # type: ignore[index]
    return FigureData(rows)


def pictures(drawing: Drawing | None) -> list[np.ndarray]:
    """The arrays of all image panels, in order."""
    assert drawing is not None
    return [np.ma.getdata(image.get_array()) for axes in drawing.figure.axes for image in axes.get_images()]
