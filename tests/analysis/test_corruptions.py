"""Corruptions: what each does to known images, that all networks see the same ones, and the official files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ablate.analysis.corruptions import CLOSED_FORMS, FORMS, NAMES, OFFICIAL, SEVERITIES, corrupted, corruptions
from ablate.analysis.registry import AnalysisContext
from ablate.core.errors import DataError, MeasurementError
from ablate.learning import official
from ablate.learning.official import digest_of, load_official
from ablate.spaces.specs import DataSpec

SIZE = 16


def images_of(count: int = 6, size: int = SIZE) -> Tensor:
    """Smooth images with colours, one of them grey and one black."""
    rough = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    images = nn.functional.interpolate(rough, size=size, mode="bilinear")
    images[0] = images[0, :1]
    images[1] = 0.0
    return (images * 255).to(torch.uint8)


def changed(name: str, severity: int) -> Tensor:
    return corrupted(images_of(), name, severity).float() - images_of().float()


class Constant(nn.Module):
    """Always says the first class, or nothing that is a number."""

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.answer = nn.Parameter(torch.tensor([value, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.answer.expand(len(x), 2)


def context_of(network: nn.Module, **more: object) -> AnalysisContext:
    labels = torch.tensor([0, 0, 1, 0, 1, 0])
    return AnalysisContext(network, images_of(), labels, lambda at: images_of()[at].float(), 0, 4, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FORMS)
def test_every_one_changes_images_alike_each_time_and_more_at_the_end(name: str) -> None:
    first, last = changed(name, 1), changed(name, SEVERITIES)
    assert torch.equal(first, changed(name, 1))
    assert 0 < first.abs().mean() < last.abs().mean() or name in ("saturate", "defocus_blur")
    assert last.abs().mean() > 0


def test_known_values() -> None:
    images = images_of().double() / 255
    noise = changed("gaussian_noise", 5)[2:] / 255
    inside = (images[2:] > 0.35) & (images[2:] < 0.65)
    assert float(noise[inside].std()) == pytest.approx(0.10, rel=0.1)
    hit = changed("impulse_noise", 5)[2:] != 0
    assert float(hit.float().mean()) == pytest.approx(0.07, abs=0.02)
    low = corrupted(images_of(), "contrast", 5).double() / 255
    wanted = 0.15 * images + 0.85 * images.mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(low, wanted, atol=1.01 / 255, rtol=0)
    bright = corrupted(images_of(), "brightness", 5).double() / 255
    value = (images.amax(1) + 0.3).clamp(max=1)
    torch.testing.assert_close(bright.amax(1), value, atol=1.01 / 255, rtol=0)
    grey = corrupted(images_of(), "saturate", 2).double() / 255  # a tenth of the colours
    spread = images.amax(1) - images.amin(1)
    torch.testing.assert_close(grey.amax(1) - grey.amin(1), 0.1 * spread, atol=2.01 / 255, rtol=0)
    flat = torch.full((1, 3, SIZE, SIZE), 90, dtype=torch.uint8)
    for name in ("gaussian_blur", "defocus_blur", "pixelate", "contrast"):
        for severity in range(1, SEVERITIES + 1):
            assert (corrupted(flat, name, severity).int() - 90).abs().max() <= 1  # of nothing they make nothing


def test_a_blur_takes_high_frequencies_away_and_noise_brings_them() -> None:
    found = corruptions(context_of(Constant())).arrays
    frequency = dict(zip(found["names"].tolist(), found["frequency"].mean(axis=1), strict=True))
    assert frequency["contrast"] < frequency["gaussian_blur"]
    assert frequency["brightness"] < 2 < 0.3 * SIZE < frequency["gaussian_noise"]
    assert str(found["source"]) == CLOSED_FORMS


def test_accuracy_is_of_the_answers_and_official_images_are_taken_where_there_are_any() -> None:
    found = corruptions(context_of(Constant()))
    assert set(found.scalars) == {f"corruptions/{name}" for name in (*FORMS, "mean")}
    assert all(value == pytest.approx(400 / 6) for value in found.scalars.values())
    whole = np.zeros((SEVERITIES, 6, 3, SIZE, SIZE), np.uint8)
    given = corruptions(context_of(Constant(), corrupted={"fog": whole, "snow": whole}))
    assert set(given.scalars) == {"corruptions/fog", "corruptions/snow", "corruptions/mean"}
    assert str(given.arrays["source"]) == OFFICIAL and given.arrays["accuracy"].shape == (2, SEVERITIES)
    with pytest.raises(MeasurementError, match="expected finite logits"):
        corruptions(context_of(Constant(float("nan"))))


def test_official_files_are_read_and_others_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(official, "IMAGES", 3)
    monkeypatch.setattr(official, "SHAPE", (SEVERITIES * 3, 32, 32, 3))
    folder = tmp_path / OFFICIAL
    assert load_official(DataSpec(), tmp_path) is None
    folder.mkdir()
    with pytest.raises(DataError, match=r"expected corruptions as .*gaussian_noise.npy"):
        load_official(DataSpec(), tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (SEVERITIES * 3, 32, 32, 3), dtype=np.uint8)
    np.save(folder / "fog.npy", images)
    np.save(folder / "labels.npy", np.zeros(SEVERITIES * 3, np.uint8))
    found = load_official(DataSpec(), tmp_path)
    assert found is not None and list(found) == ["fog"] and set(found) <= set(NAMES)
    assert np.array_equal(found["fog"][1, 2], images[5].transpose(2, 0, 1))
    assert load_official(DataSpec(name="digits"), tmp_path) is None
    assert load_official(DataSpec(image_size=16), tmp_path) is None
    before = digest_of(found)
    np.save(folder / "fog.npy", 255 - images)
    again = load_official(DataSpec(), tmp_path)
    assert again is not None and digest_of(again) != before
    for wrong, got in ((images[:-1], r"uint8 of shape \(14, 32, 32, 3\)"), (images / 255, "float64 of shape")):
        np.save(folder / "fog.npy", wrong)
        with pytest.raises(DataError, match=rf"fog.npy: expected uint8 images .* got {got}"):
            load_official(DataSpec(), tmp_path)
    (folder / "fog.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"fog.npy: expected uint8 images .* got no array that can be read"):
        load_official(DataSpec(), tmp_path)
