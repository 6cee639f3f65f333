from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ablate.core.errors import DataError, SpecError
from ablate.learning.data import describe, load, split_validation
from ablate.learning.imagefolder import scan
from ablate.spaces.specs import DataSpec

SIZE = 8


def picture(value: int = 100, size: tuple[int, int] = (10, 10)) -> Image.Image:
    return Image.new("RGB", size, (value, 255 - value, value // 2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pets"
    for split, count in (("train", 3), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                picture(40 * label + 10 * index).save(root / split / name / f"{index}.png")
    return root


def spec_of(root: Path, **settings: object) -> DataSpec:
    return DataSpec.model_validate({"name": "imagefolder", "root": str(root), "image_size": SIZE, **settings})


# Image folders


def image_of(root: Path, file: str, scratch: Path) -> np.ndarray:
    """The training image that came from a file."""
    _, splits = scan(root)
    return load(spec_of(root), scratch).train_images[splits["train"].files.index(file)]


def test_folder_loads_every_image_with_its_label(folder: Path, tmp_path: Path) -> None:
    dataset = load(spec_of(folder), tmp_path)
    assert dataset.classes == ("cat", "dog") and dataset.label == "pets" and dataset.name == "imagefolder"
    assert dataset.train_images.shape == (6, 3, SIZE, SIZE) and dataset.train_images.dtype == np.uint8
    assert dataset.test_images.shape == (4, 3, SIZE, SIZE)
    assert dataset.train_labels.dtype == np.int64
    found = zip(dataset.train_labels.tolist(), dataset.train_images[:, :, 0, 0].tolist(), strict=True)
    assert sorted(found) == [(v // 40, [v, 255 - v, v // 2]) for v in (0, 10, 20, 40, 50, 60)]


def test_the_first_images_are_of_all_classes_in_an_order_that_more_images_leave_alone(tmp_path: Path) -> None:
    root = tmp_path / "many"
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for index in range(40):
                picture(index).save(root / split / name / f"{index}.png")
    classes, splits = scan(root)
    for split in splits.values():
        assert 5 <= split.labels[:20].sum() <= 15
        assert [classes[label] for label in split.labels] == [file.split("/")[0] for file in split.files]
    picture(99).save(root / "train" / "cat" / "more.png")
    grown = [file for file in scan(root)[1]["train"].files if file != "cat/more.png"]
    assert grown == list(splits["train"].files)


def test_summary_agrees_with_what_is_loaded(folder: Path, tmp_path: Path) -> None:
    summary, dataset = describe(spec_of(folder), tmp_path), load(spec_of(folder), tmp_path)
    assert (summary.train_count, summary.test_count) == (len(dataset.train_images), len(dataset.test_images))
    assert (summary.label, summary.classes) == (dataset.label, len(dataset.classes))
    assert summary == describe(spec_of(folder), tmp_path)


def test_label_names_the_data_without_changing_its_digest(folder: Path, tmp_path: Path) -> None:
    named = describe(spec_of(folder, label="JPEG quality 75"), tmp_path)
    assert named.label == "JPEG quality 75" == load(spec_of(folder, label="JPEG quality 75"), tmp_path).label
    assert named.train_digest == describe(spec_of(folder), tmp_path).train_digest


def test_digest_follows_the_pixels_not_the_place(folder: Path, tmp_path: Path) -> None:
    before = describe(spec_of(folder), tmp_path)
    moved = folder.rename(tmp_path / "elsewhere")
    after = describe(spec_of(moved), tmp_path)
    assert (after.train_digest, after.test_digest) == (before.train_digest, before.test_digest)
    (moved / "train" / "cat" / "README.txt").write_text("not an image")
    (moved / "train" / ".DS_Store").write_bytes(b"x")
    (moved / "train" / "cat" / "._0.png").write_bytes(b"x")
    assert describe(spec_of(moved), tmp_path).train_digest == before.train_digest
    assert load(spec_of(moved), tmp_path).train_images.shape[0] == 6

    picture(99).save(moved / "train" / "cat" / "0.png")
    changed = describe(spec_of(moved), tmp_path)
    assert changed.train_digest != before.train_digest and changed.test_digest == before.test_digest
    assert describe(spec_of(moved, image_size=10), tmp_path).test_digest != before.test_digest
    (moved / "test" / "dog" / "1.png").rename(moved / "test" / "cat" / "1b.png")
    assert describe(spec_of(moved), tmp_path).test_digest != before.test_digest


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("gray.png", encoded(Image.new("L", (9, 9), 77), "PNG"), (77, 77, 77)),
        ("deep.png", encoded(Image.fromarray(np.full((9, 9), 257 * 77, np.uint16)), "PNG"), (77, 77, 77)),
        ("deep.tif", encoded(Image.fromarray(np.full((9, 9), 65535, np.uint16)), "TIFF"), (255, 255, 255)),
        ("deep.pgm", b"P5 1 1 65535\n" + (257 * 9).to_bytes(2, "big"), (9, 9, 9)),
        ("palette.gif", encoded(picture().convert("P"), "GIF"), None),
        ("print.jpg", encoded(Image.new("CMYK", (9, 9), (0, 255, 255, 0)), "JPEG"), (254, 0, 0)),
        ("clear.png", encoded(Image.new("RGBA", (9, 9), (1, 2, 3, 0)), "PNG"), (1, 2, 3)),
        ("bit.png", encoded(Image.new("1", (9, 9), 1), "PNG"), (255, 255, 255)),
        ("one.PNG", encoded(Image.new("RGB", (1, 1), (5, 6, 7)), "PNG"), (5, 6, 7)),
        ("wide.bmp", encoded(Image.new("RGB", (50, 3), (5, 6, 7)), "BMP"), (5, 6, 7)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_kind_of_image_becomes_rgb(
    folder: Path, tmp_path: Path, name: str, content: bytes, expected: tuple[int, int, int] | None
) -> None:
    (folder / "train" / "cat" / f"a-{name}").write_bytes(content)
    image = image_of(folder, f"cat/a-{name}", tmp_path)
    assert image.shape == (3, SIZE, SIZE)
    if expected is not None:
        assert np.abs(image.astype(int) - np.asarray(expected)[:, None, None]).max() <= 1


def test_shrinking_is_antialiased(folder: Path, tmp_path: Path) -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(folder / "train" / "cat" / "a.png")
    image = image_of(folder, "cat/a.png", tmp_path)
    assert np.abs(image.astype(int) - 127).max() < 10


PNG = encoded(Image.effect_noise((32, 32), 50), "PNG")


@pytest.mark.parametrize("content", [b"", b"hello", PNG[: len(PNG) // 2], encoded(Image.new("F", (4, 4), 0.5), "TIFF")])
def test_a_file_that_is_no_whole_image_is_named(folder: Path, tmp_path: Path, content: bytes) -> None:
    broken = folder / "test" / "dog" / "1.png"
    broken.write_bytes(content)
    with pytest.raises(DataError, match=str(broken)):
        load(spec_of(folder), tmp_path)


def test_a_broken_link_is_named(folder: Path, tmp_path: Path) -> None:
    broken = folder / "test" / "dog" / "0.png"
    broken.unlink()
    broken.symlink_to(tmp_path / "gone.png")
    for function in (describe, load):
        with pytest.raises(DataError, match=str(broken)):
            function(spec_of(folder), tmp_path)


def test_a_folder_that_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    def message() -> str:
        with pytest.raises(DataError) as caught:
            describe(spec_of(folder), tmp_path)
        return str(caught.value)

    empty = folder / "train" / "emu"
    empty.mkdir()
    assert "'emu' in train only" in message()
    (folder / "test" / "emu").mkdir()
    assert f"none in {empty}" in message()
    (empty / "README.txt").write_text("x")
    assert f"none in {empty}" in message()
    (empty / "more").mkdir()
    assert str(empty / "more") in message()
    for split in ("train", "test"):
        (folder / split / "emu").rename(tmp_path / split)
    picture().save(folder / "test" / "stray.png")
    assert "stray.png" in message()
    (folder / "test" / "stray.png").unlink()
    (folder / "test").rename(folder / "validation")
    assert "no test/" in message()
    with pytest.raises(DataError, match="nowhere"):
        describe(spec_of(tmp_path / "nowhere"), tmp_path)


def test_one_class_is_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="at least two class folders"):
        describe(spec_of(tmp_path), tmp_path)


def test_root_belongs_to_image_folders(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"expected data\.root, the folder"):
        describe(DataSpec(name="imagefolder"), tmp_path)
    with pytest.raises(SpecError, match=r"data\.root only with"):
        load(DataSpec(name="digits", root=str(tmp_path)), tmp_path)


# Digits


def test_digits_are_real_data_with_a_fixed_stratified_split(tmp_path: Path) -> None:
    spec = DataSpec(name="digits", image_size=16)
    dataset, again = load(spec, tmp_path), load(spec, tmp_path)
    assert dataset.train_images.shape == (1437, 3, 16, 16) and dataset.test_images.shape == (360, 3, 16, 16)
    np.testing.assert_array_equal(dataset.train_images, again.train_images)
    assert dataset.train_images.max() == 255 and dataset.train_images.min() == 0
    assert (dataset.train_images[:, 0] == dataset.train_images[:, 2]).all()
    assert dataset.label == "digits" and len(dataset.classes) == 10
    shares = np.bincount(dataset.test_labels) / np.bincount(np.r_[dataset.train_labels, dataset.test_labels])
    assert np.abs(shares - 0.2).max() < 0.01
    summary = describe(spec, tmp_path)
    assert (summary.train_count, summary.test_count, summary.classes) == (1437, 360, 10)
    assert (
        len({summary.train_digest, summary.test_digest, describe(DataSpec(name="digits"), tmp_path).train_digest}) == 3
    )


def test_digits_at_their_own_size_are_untouched(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    dataset = load(DataSpec(name="digits", image_size=8), tmp_path)
    every = np.concatenate([dataset.train_images, dataset.test_images])[:, 0]
    original = np.floor(load_digits().images * 255 / 16 + 0.5).astype(np.uint8)
    assert sorted(image.tobytes() for image in every) == sorted(image.tobytes() for image in original)


# Tiny ImageNet, by the guide's recipe


def test_the_guides_recipe_makes_tiny_imagenet_a_folder_of_200_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "tiny-imagenet-200"
    names = [f"n{number:08}" for number in range(200)]
    lines = []
    (root / "val" / "images").mkdir(parents=True)
    for number, name in enumerate(names):
        image = Image.new("RGB", (64, 64), (number, 0, 0))
        (root / "train" / name / "images").mkdir(parents=True)
        image.save(root / "train" / name / "images" / f"{name}_0.JPEG")
        (root / "train" / name / f"{name}_boxes.txt").write_text("boxes\n")
        image.save(root / "val" / "images" / f"val_{number}.JPEG")
        lines.append(f"val_{number}.JPEG\t{name}\t0\t0\t62\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "test" / "images").mkdir(parents=True)  # without labels
    Image.new("RGB", (64, 64)).save(root / "test" / "images" / "test_0.JPEG")
    guide = (Path(__file__).parents[2] / "search_spaces" / "README.md").read_text()
    [recipe] = [block for block in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "tiny-imagenet" in block]
    exec(compile(recipe, "recipe", "exec"), {})
    spec = DataSpec(name="imagefolder", root="tiny-imagenet", image_size=64)
    summary, dataset = describe(spec, tmp_path), load(spec, tmp_path)
    assert (summary.train_count, summary.test_count, summary.classes, summary.passed_over) == (200, 200, 200, ())
    assert dataset.classes == tuple(names) and dataset.train_images.shape == (200, 3, 64, 64)
    # Each class has its own red, whichever split.
    for images, labels in ((dataset.train_images, dataset.train_labels), (dataset.test_images, dataset.test_labels)):
        assert np.abs(images[:, 0].mean(axis=(1, 2)) - labels).max() < 3


# The validation split


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.floats(0, 0.5))
def test_validation_split_is_a_fixed_stratified_partition(labels: list[int], share: float) -> None:
    array = np.asarray(labels, dtype=np.int64)
    wanted = round(share * len(labels))
    if share > 0 and wanted == 0:
        with pytest.raises(DataError, match=r"data\.validation"):
            split_validation(array, share)
        return
    train, held_out = split_validation(array, share)
    assert sorted([*train, *held_out]) == list(range(len(labels))) and len(held_out) == wanted
    assert (np.diff(train) > 0).all() and (np.diff(held_out) > 0).all()
    for label in set(labels):
        assert abs((array[held_out] == label).sum() - share * (array == label).sum()) <= 1.5
    np.testing.assert_array_equal(held_out, split_validation(array, share)[1])


def test_a_smaller_validation_split_is_part_of_a_larger_one() -> None:
    labels = np.arange(100, dtype=np.int64) % 7
    assert set(split_validation(labels, 0.1)[1]) < set(split_validation(labels, 0.3)[1])
