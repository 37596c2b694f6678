"""Every kind of source delivers the images it was given and says clearly what is wrong with what it cannot read."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError
from written_files import encoded, rewrite_parquet, strip_features

from datamodules import DataError, FolderData, HubData, MapStyleData, parse_data, shipped_data, shipped_names

WriteHub = Callable[..., Path]


def hub(folder: Path, **changes: object) -> HubData:
    source = parse_data({"kind": "hub", "name": str(folder), "image_column": "img", **changes})
    assert isinstance(source, HubData)
    return source


def test_a_hub_folder_is_described_and_loaded(write_hub_folder: WriteHub, pixels: np.ndarray) -> None:
    source = hub(write_hub_folder())
    info = source.describe()
    assert (info.num_train, info.num_test, info.image_size, info.in_channels) == (20, 10, 8, 3)
    assert (info.num_classes, info.class_names) == (3, ("cat", "dog", "owl"))
    train, test = source.load("train"), source.load("test")
    np.testing.assert_array_equal(train.images, pixels[:20])
    np.testing.assert_array_equal(test.images, pixels[20:])
    np.testing.assert_array_equal(train.labels, np.arange(20) % 3)
    np.testing.assert_array_equal(test.labels, np.arange(20, 30) % 3)


def test_decoded_images_outlive_their_source(write_hub_folder: WriteHub, monkeypatch: pytest.MonkeyPatch) -> None:
    source = hub(write_hub_folder())
    checksum = source.load("train").checksum
    monkeypatch.setattr(HubData, "examples", lambda *_: pytest.fail("decoded again"))
    assert source.load("train").checksum == checksum


@pytest.mark.parametrize("layout", ["data/train-00000-of-00002.parquet", "train/0.parquet", "train-00000.parquet"])
def test_other_hub_layouts_are_found(write_hub_folder: WriteHub, layout: str, pixels: np.ndarray) -> None:
    folder = write_hub_folder()
    for split in ("train", "test"):
        target = folder / layout.replace("train", split)
        target.parent.mkdir(exist_ok=True)
        (folder / f"{split}.parquet").rename(target)
    np.testing.assert_array_equal(hub(folder).load("test").images, pixels[20:])


def test_shards_are_read_in_order(write_hub_folder: WriteHub, pixels: np.ndarray) -> None:
    folder = write_hub_folder()
    table = pq.read_table(folder / "train.parquet")
    for shard in range(2):
        pq.write_table(table.slice(shard * 10, 10), folder / f"train-0000{shard}-of-00002.parquet")
    (folder / "train.parquet").unlink()
    assert hub(folder).describe().num_train == 20
    np.testing.assert_array_equal(hub(folder).load("train").images, pixels[:20])


def test_classes_are_inferred_where_no_features_are_declared(write_hub_folder: WriteHub) -> None:
    folder = write_hub_folder()
    for split in ("train", "test"):
        strip_features(folder / f"{split}.parquet")
    info = hub(folder).describe()
    assert info.class_names == ("0", "1", "2")
    np.testing.assert_array_equal(hub(folder).load("train").labels, np.arange(20) % 3)


def test_string_labels_are_coded_in_alphabetical_order(write_hub_folder: WriteHub) -> None:
    from datasets import Value

    names = ["owl", "cat", "dog"]
    labels = {"train_labels": [names[row % 3] for row in range(20)], "test_labels": ["dog"] * 10}
    source = hub(write_hub_folder(label=Value("string"), **labels))
    assert source.describe().class_names == ("cat", "dog", "owl")
    np.testing.assert_array_equal(source.load("train").labels[:4], [2, 0, 1, 2])
    assert set(source.load("test").labels) == {1}


def test_the_fingerprint_follows_contents_and_preprocessing_but_not_the_place(
    write_hub_folder: WriteHub, tmp_path: Path
) -> None:
    folder = write_hub_folder()
    print_ = hub(folder).describe().fingerprint
    moved = folder.rename(tmp_path / "moved")
    assert hub(moved, label="hub_folder").describe().fingerprint == print_
    assert hub(moved, in_channels=1).describe().fingerprint != print_
    assert hub(moved, exclude_test_rows=[3]).describe().fingerprint != print_
    content = bytearray((moved / "test.parquet").read_bytes())
    content[500] ^= 1
    (moved / "test.parquet").write_bytes(content)
    assert hub(moved).describe().fingerprint != print_


def test_excluded_test_rows_are_left_out(write_hub_folder: WriteHub, pixels: np.ndarray) -> None:
    source = hub(write_hub_folder(), exclude_test_rows=[0, 4])
    assert source.describe().num_test == 8
    np.testing.assert_array_equal(source.load("test").images, np.delete(pixels[20:], [0, 4], axis=0))
    assert len(source.load("train")) == 20
    with pytest.raises(DataError, match=r"outside the test split's 0 \.\. 9"):
        hub(write_hub_folder(), exclude_test_rows=[10]).describe()


def test_colour_is_converted_only_when_declared(write_hub_folder: WriteHub, pixels: np.ndarray) -> None:
    grey = hub(write_hub_folder(), in_channels=1).load("test")
    assert grey.images.shape == (10, 8, 8, 1)
    expected = np.asarray(Image.fromarray(pixels[20]).convert("L"))
    np.testing.assert_array_equal(grey.images[0, ..., 0], expected)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"data\.name: there is no folder {tmp_path}/nowhere"):
        hub(tmp_path / "nowhere").describe()


def test_a_missing_split_lists_what_is_there(write_hub_folder: WriteHub) -> None:
    with pytest.raises(DataError, match=r"no parquet files of split 'valid'.*test\.parquet, train\.parquet"):
        hub(write_hub_folder(), test_split="valid").describe()


def test_a_missing_label_column_lists_the_columns(write_hub_folder: WriteHub) -> None:
    with pytest.raises(DataError, match=r"data\.label_column: .*train\.parquet has no column 'fine_label'; .*img"):
        hub(write_hub_folder(), label_column="fine_label").describe()
    folder = write_hub_folder()
    rewrite_parquet(folder / "test.parquet", drop="label")
    with pytest.raises(DataError, match=r"test\.parquet has no column 'label'"):
        hub(folder).describe()


def test_a_corrupt_image_is_named_by_split_and_row(write_hub_folder: WriteHub, cache: Path) -> None:
    source = hub(write_hub_folder(broken_row=7))
    with pytest.raises(DataError, match=r"hub_folder split train row 7: the image cannot be decoded"):
        source.load("train")
    assert not list(cache.glob("*/train"))
    source.load("test")


def test_a_damaged_parquet_file_is_named(write_hub_folder: WriteHub) -> None:
    folder = write_hub_folder()
    content = (folder / "test.parquet").read_bytes()
    (folder / "test.parquet").write_bytes(content[:-20])
    with pytest.raises(DataError, match=r"test\.parquet is not a whole parquet file .*fetch it again"):
        hub(folder).describe()
    (folder / "test.parquet").write_bytes(content[:4] + bytes(400) + content[404:])
    with pytest.raises(DataError, match=r"hub_folder split test .*(cannot be read after row|row \d+: )"):
        hub(folder).load("test")


def test_an_unlabelled_row_is_named(write_hub_folder: WriteHub) -> None:
    source = hub(write_hub_folder(train_labels=[-1] + [1] * 19))
    with pytest.raises(DataError, match="row 0 has label -1"):
        source.load("train")


def test_a_hub_name_is_planned_without_network() -> None:
    info = parse_data(shipped_data("imagenet_1k")).describe()
    assert (info.num_train, info.num_test, info.num_classes, info.image_size) == (1_281_167, 50_000, 1000, 224)


def test_a_hub_name_without_declared_facts_says_which_are_missing() -> None:
    with pytest.raises(DataError, match=r"data\.num_train, data\.num_test, data\.num_classes .* folder in the hub's"):
        HubData(name="owner/name", image_size=8, in_channels=3).describe()


def test_an_unreachable_hub_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    with pytest.raises(DataError, match=r"ylecun/mnist could not be read .*Name or service.* local folder"):
        parse_data(shipped_data("mnist")).load("test")


@pytest.fixture
def image_folder(tmp_path: Path, pixels: np.ndarray) -> Path:
    root = tmp_path / "animals"
    for row, image in enumerate(pixels[:12]):
        path = root / ("train" if row < 8 else "test") / ("cat" if row % 2 else "dog") / f"{row:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(image))
    (root / "train" / "cat" / "notes.txt").write_text("not an image")
    return root


def test_an_image_folder_is_read_class_by_class(image_folder: Path, pixels: np.ndarray) -> None:
    source = FolderData(root=image_folder)
    info = source.describe()
    assert (info.name, info.num_train, info.num_test, info.class_names) == ("animals", 8, 4, ("cat", "dog"))
    train = source.load("train")
    np.testing.assert_array_equal(train.images, pixels[[1, 3, 5, 7, 0, 2, 4, 6]])
    np.testing.assert_array_equal(train.labels, [0, 0, 0, 0, 1, 1, 1, 1])


def test_an_image_of_another_size_is_resized_only_when_asked(image_folder: Path) -> None:
    tall = np.zeros((16, 8, 3), dtype=np.uint8)
    tall[4:12] = 255
    (image_folder / "train" / "dog" / "06.png").write_bytes(encoded(tall))
    with pytest.raises(DataError, match=r"06\.png: the image is 16x8 pixels where 8x8 is expected; .*resize=true"):
        FolderData(root=image_folder).load("train")
    resized = FolderData(root=image_folder, image_size=8, resize=True).load("train")
    assert (resized.images[7] == 255).all()  # the centre square
    smaller = FolderData(root=image_folder, image_size=4, resize=True).load("train")
    assert smaller.images.shape == (8, 4, 4, 3)


def test_mixed_colour_modes_need_a_declaration(image_folder: Path) -> None:
    (image_folder / "train" / "dog" / "06.png").write_bytes(encoded(np.full((8, 8), 9, dtype=np.uint8)))
    with pytest.raises(DataError, match=r"06\.png: the image has colour mode L .*set data\.in_channels"):
        FolderData(root=image_folder).load("train")
    assert (FolderData(root=image_folder, in_channels=3).load("train").images[7] == 9).all()


def test_a_corrupt_file_is_named(image_folder: Path) -> None:
    path = image_folder / "train" / "cat" / "03.png"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match=rf"{path}: the image cannot be decoded"):
        FolderData(root=image_folder).load("train")


def test_a_missing_image_folder_is_named(image_folder: Path) -> None:
    with pytest.raises(DataError, match=r"data\.root: there is no folder .*animals/validation"):
        FolderData(root=image_folder, test_folder="validation").describe()


@pytest.mark.parametrize("form", ["memory", "npy", "npz"])
def test_arrays_are_read_from_memory_and_files(form: str, tmp_path: Path, pixels: np.ndarray) -> None:
    arrays = {
        "train_images": pixels[:20],
        "train_labels": np.arange(20) % 3,
        "test_images": pixels[20:],
        "test_labels": np.arange(10) % 3,
    }
    content: dict[str, object] = dict(arrays)
    if form == "npy":
        for name, array in arrays.items():
            np.save(tmp_path / f"{name}.npy", array)
            content[name] = str(tmp_path / f"{name}.npy")
    if form == "npz":
        np.savez(tmp_path / "all.npz", **arrays)
        content = {"archive": str(tmp_path / "all.npz")}
    source = parse_data({"kind": "arrays", **content})
    info = source.describe()
    assert (info.num_train, info.num_test, info.image_size, info.in_channels, info.num_classes) == (20, 10, 8, 3, 3)
    np.testing.assert_array_equal(source.load("test").images, pixels[20:])
    np.testing.assert_array_equal(source.load("train").labels, np.arange(20) % 3)


def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    good = {
        "train_images": pixels[:20],
        "train_labels": np.arange(20) % 3,
        "test_images": pixels[20:],
        "test_labels": np.arange(10) % 3,
    }
    for field, value, message in [
        ("train_images", pixels[:20] / 255, "must be uint8 .* got float64"),
        ("train_images", pixels[:20, :5], "expected square images"),
        ("train_labels", np.arange(19), "19 labels for 20 images"),
        ("test_labels", np.arange(10) - 1, "integers from 0"),
        ("test_images", pixels[20:, :4, :4], "must agree"),
        ("test_images", tmp_path / "none.npy", r"data\.test_images: there is no file"),
    ]:
        with pytest.raises(DataError, match=message):
            parse_data({"kind": "arrays", **good, field: value}).describe()
    with pytest.raises(ValidationError, match="give either archive or all of"):
        parse_data({"kind": "arrays", "train_images": pixels})
    np.savez(tmp_path / "all.npz", train_images=pixels)
    with pytest.raises(DataError, match="has no array 'train_labels'; it has train_images"):
        parse_data({"kind": "arrays", "archive": tmp_path / "all.npz"}).describe()


class Animals:
    """A map-style data set with the few methods asked for."""

    classes = ("cat", "dog", "owl")

    def __init__(self, images: np.ndarray, form: str = "array") -> None:
        self.images, self.form = images, form

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[object, int]:
        image = self.images[index]
        if self.form == "pil":
            return Image.fromarray(image), index % 3
        if self.form == "tensor":
            import torch

            return torch.from_numpy(image).permute(2, 0, 1), index % 3
        if self.form == "float":
            return image / 255, index % 3
        return image, index % 3


def build_animals(split: str, count: int = 6) -> Animals:
    images = np.random.default_rng(0).integers(0, 256, size=(20, 8, 8, 3), dtype=np.uint8)
    return Animals(images[:count] if split == "train" else images[count : 2 * count])


@pytest.mark.parametrize("form", ["array", "pil", "tensor"])
def test_any_map_style_data_set_is_read(form: str, pixels: np.ndarray) -> None:
    source = MapStyleData(train=Animals(pixels[:20], form), test=Animals(pixels[20:], form))
    info = source.describe()
    assert (info.num_train, info.num_test, info.image_size, info.class_names) == (20, 10, 8, Animals.classes)
    np.testing.assert_array_equal(source.load("train").images, pixels[:20])
    other = MapStyleData(train=Animals(pixels[:20], form), test=Animals(pixels[19:29], form))
    assert other.describe().fingerprint != info.fingerprint


def test_a_factory_is_imported_and_its_decoded_images_are_cached_under_a_version(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    mapping = {"kind": "dataset", "factory": "test_data_sources:build_animals", "arguments": {"count": 5}}
    assert len(parse_data(mapping).load("train")) == 5
    assert not cache.exists()
    versioned = parse_data({**mapping, "version": "1"})
    np.testing.assert_array_equal(versioned.load("train").images, build_animals("train", 5).images)
    assert list(cache.glob("dataset-*/train/images.npy"))
    assert versioned.describe().fingerprint != parse_data({**mapping, "version": "2"}).describe().fingerprint


def test_a_data_set_of_floats_or_without_classes_is_refused(pixels: np.ndarray) -> None:
    floats = Animals(pixels, "float")
    with pytest.raises(DataError, match=r"row 0: expected a PIL image.*float64"):
        MapStyleData(train=floats, test=floats).describe()
    with pytest.raises(DataError, match=r"data\.num_classes must be declared"):
        MapStyleData(train=[(pixels[0], 0)], test=[(pixels[0], 0)]).describe()
    with pytest.raises(DataError, match=r"data\.factory: nowhere:build cannot be imported"):
        MapStyleData(factory="nowhere:build").describe()


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_file_is_valid(name: str) -> None:
    content = shipped_data(name)
    if name == "folder":
        assert content.pop("root") == "???"  # for the user to fill
        content["root"] = "somewhere"
        assert isinstance(parse_data(content), FolderData)
    else:
        info = parse_data(content).describe()
        assert info.num_classes >= 2
        assert info.num_train > info.num_test


@pytest.mark.parametrize("name", [name for name in shipped_names() if name != "folder"])
def test_a_misspelt_key_or_kind_is_named(name: str) -> None:
    with pytest.raises(ValidationError, match=r"imagesize[\s\S]*Extra inputs"):
        parse_data({**shipped_data(name), "imagesize": 3})
    with pytest.raises(ValidationError, match="'dail'"):
        parse_data({**shipped_data(name), "kind": "dail"})


def test_an_augmentation_that_makes_labels_false_is_refused() -> None:
    parse_data(shipped_data("cifar10")).check_augmentation(("crop", "flip"))
    parse_data(shipped_data("mnist")).check_augmentation(("crop",))
    with pytest.raises(DataError, match=r"augmentation flip is not declared .* mnist true \(allowed: crop\)"):
        parse_data(shipped_data("mnist")).check_augmentation(("crop", "flip"))
    with pytest.raises(DataError, match=r"dial true \(allowed: none\)"):
        parse_data(shipped_data("dial")).check_augmentation(("flip",))


def test_planning_loads_neither_torch_nor_datasets() -> None:
    code = (
        "import sys, datamodules as d\n"
        "[d.parse_data(d.shipped_data(n)).describe() for n in d.shipped_names() if n != 'folder']\n"
        "d.nested_subset([0, 1] * 20, 10, seed=0); d.PixelPermutation('pixels', 8).table()\n"
        "print([m for m in ('torch', 'datasets', 'pytorch_lightning', 'hydra') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist"])
def test_real_data_agree_with_their_shipped_file(name: str) -> None:
    folder = Path(os.environ.get("INDUCTIVE_BIAS_DATA", "")) / name
    if "INDUCTIVE_BIAS_DATA" not in os.environ or not folder.is_dir():
        pytest.skip(f"INDUCTIVE_BIAS_DATA names no folder with {name}")
    declared = parse_data(shipped_data(name)).describe()
    source = parse_data({**shipped_data(name), "name": str(folder)})
    found = source.describe()
    for field in ("name", "num_train", "num_test", "image_size", "in_channels", "num_classes"):
        assert getattr(found, field) == getattr(declared, field), field
    test = source.load("test")
    assert np.bincount(test.labels).tolist() == [1000] * 10
