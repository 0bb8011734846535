import importlib
import json
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image
from tiny_extraction import GRID, IMAGE_SIZE, MEAN, NUM_IMAGES, STD, contents, make_state_dict
from transformers import (
    AutoImageProcessor,
    CLIPImageProcessorPil,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ViTConfig,
    ViTModel,
)

from dedn_hf.backbone_dedn import backbone_feature_map, load_backbone
from dedn_hf.data.random_crop import RandomCrop
from dedn_hf.features import extraction, store_writer
from dedn_hf.features.store import FeatureMapStore, fingerprint_weights


def fail_if_run(*args, **kwargs):
    raise AssertionError("computed again")


def test_values_are_the_backbones_rounded_to_float16(store, dataset, backbone):
    """Against resizing, cropping and normalising with PIL and NumPy alone."""
    model = load_backbone(backbone)
    assert store.shape[1:] == (GRID, GRID)
    for row in dataset:
        image = row["image"].convert("RGB")
        scale = IMAGE_SIZE / min(image.size)
        image = image.resize([int(side * scale) for side in image.size], Image.Resampling.BILINEAR)
        left, top = ((side - IMAGE_SIZE) // 2 for side in image.size)
        pixels = np.asarray(image.crop((left, top, left + IMAGE_SIZE, top + IMAGE_SIZE)), np.float32) / 255
        pixels = torch.from_numpy((pixels - np.float32(MEAN)) / np.float32(STD)).permute(2, 0, 1)[None]
        with torch.inference_mode():
            expected = backbone_feature_map(model, pixels)[0]
        item = store.select([row["image_id"]])[0]
        assert item["feature_map"].dtype == torch.float16
        # Half a unit in the last place of float16, and the order in which float32 sums are taken.
        torch.testing.assert_close(item["feature_map"].float(), expected, rtol=2**-11 + 1e-5, atol=1e-4)
        assert expected.std() > 0.01
        assert item["labels"] == row["label"]


def test_what_the_store_records(store, backbone):
    metadata = store.metadata
    assert metadata["dataset"] == "birds"
    assert metadata["class_names"] == ["auk", "bunting", "crow"]
    assert metadata["backbone"] == "tiny_resnet"
    assert metadata["backbone_sha256"] == fingerprint_weights(load_backbone(backbone))
    assert (metadata["image_size"], metadata["dtype"], metadata["num_rows"]) == (IMAGE_SIZE, "float16", NUM_IMAGES)
    assert (metadata["processor"]["image_mean"], metadata["processor"]["image_std"]) == (MEAN, STD)
    assert metadata["processor"]["size"] == {"shortest_edge": IMAGE_SIZE}
    assert tuple(metadata["shape"]) == store.shape


def test_finished_store_is_not_computed_again(store, extract, monkeypatch):
    before = contents(store.path)
    monkeypatch.setattr(extraction, "_PixelValues", fail_if_run)
    assert extract().metadata == store.metadata
    assert contents(store.path) == before


@pytest.mark.parametrize("finished", [True, False])
def test_other_request_is_refused(extract, backbone, dataset, tmp_path, finished):
    folder = extract().path
    if not finished:
        (folder / "store.json").unlink()
        (folder / "shard-00002.json").unlink()
    before = contents(folder)
    with pytest.raises(ValueError, match=r"its image_size is 64, where 96 is asked for"):
        extract(image_size=96)
    with pytest.raises(ValueError, match=r"its dataset is 'birds', where 'cub' is asked for"):
        extract(dataset_name="cub")
    others = r"other images than the data set has now: " + (
        r"removed since: 1 \(image id 2 of bunting\)\. Put" if finished else "it was begun with 8, and now there are 7"
    )
    with pytest.raises(ValueError, match=others):
        extract(dataset=dataset.select(range(7)))
    other = tmp_path / "tiny_resnet"
    model = load_backbone(backbone)
    with torch.no_grad():
        next(model.parameters())[0] += 1
    model.save_pretrained(other)
    CLIPImageProcessorPil(image_mean=[0, 0, 0], image_std=STD).save_pretrained(other)
    message = (
        r"backbone_sha256 is '\w+', where '\w+' .*processor is {'image_mean': \[0\.4.*where {'image_mean': \[0, 0"
    )
    with pytest.raises(ValueError, match=message):
        extract(backbone=str(other))
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("entries", "mean", "std"),
    [
        ({"image_processor_type": "ViTImageProcessor", "do_normalize": False}, [0.0] * 3, [1.0] * 3),
        ({"image_processor_type": "ConvNextImageProcessor", "image_mean": MEAN, "image_std": STD}, MEAN, STD),
        (
            {"image_processor_type": "EfficientNetImageProcessor", "image_mean": MEAN, "image_std": STD},
            MEAN,
            [0.04, 0.0625, 0.09],
        ),
    ],
)
def test_mean_and_deviation_are_what_the_image_processor_does(extract, backbone, tmp_path, entries, mean, std):
    folder = tmp_path / "other"
    shutil.copytree(backbone, folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(entries))
    processor = extract(backbone=str(folder)).metadata["processor"]
    assert processor["image_mean"] == pytest.approx(mean) and processor["image_std"] == pytest.approx(std)
    image = Image.fromarray(np.full((IMAGE_SIZE, IMAGE_SIZE, 3), 51, np.uint8))
    own, ours = AutoImageProcessor.from_pretrained(folder), CLIPImageProcessorPil(**processor)
    expected = own(image, return_tensors="pt")["pixel_values"].mean((2, 3))
    torch.testing.assert_close(ours(image, return_tensors="pt")["pixel_values"].mean((2, 3)), expected)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"image_processor_type": "MobileViTImageProcessor"}, r"with red and blue swapped \(MobileViTImageProcessor"),
        (
            {"image_processor_type": "ViTImageProcessor", "rescale_factor": 1 / 127.5},
            r"takes pixels times 0\.0078.* \(ViTImageProcessor",
        ),
    ],
)
def test_image_processor_that_does_something_else_is_refused(extract, backbone, tmp_path, entries, message):
    folder = tmp_path / "other"
    shutil.copytree(backbone, folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=message):
        extract(backbone=str(folder))
    assert not (tmp_path / "store").exists()


def test_image_size_is_refused_before_anything_is_written(extract, tmp_path, backbone):
    folder = tmp_path / "vit"
    shutil.copytree(backbone, folder)
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=32, patch_size=8
    )
    ViTModel(config).save_pretrained(folder)
    message = r"this ViTModel are for images of 32 × 32 pixels, but these have 64 × 64: use that image size"
    with pytest.raises(ValueError, match=message):
        extract(backbone=str(folder))
    assert not (tmp_path / "store").exists()
    assert extract(backbone=str(folder), image_size=32).shape == (8, 4, 4)


@pytest.mark.parametrize("reason", ["No module named 'timm'", "operator torchvision::nms does not exist"])
def test_timm_folder_without_timm_names_the_extra(extract, tmp_path, monkeypatch, reason):
    (tmp_path / "timm").mkdir()
    entries = {"architecture": "resnet10t", "model_type": "timm_wrapper", "pretrained_cfg": {"input_size": [3, 8, 8]}}
    (tmp_path / "timm" / "config.json").write_text(json.dumps(entries))
    import_module = importlib.import_module

    def without_timm(name, *args):
        if name == "timm":
            raise RuntimeError(reason)
        return import_module(name, *args)

    monkeypatch.setattr(importlib, "import_module", without_timm)
    with pytest.raises(ImportError, match=rf"{reason}\): pip install 'dedn-hf\[timm\]'\.$"):
        extract(backbone=str(tmp_path / "timm"))
    assert not (tmp_path / "store").exists()


def test_unreadable_image_is_named(extract, dataset, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    paths = [row["path"] for row in dataset.cast_column("image", ImageFeature(decode=False))["image"]]
    broken = Dataset.from_dict({**dataset[:], "image": [*paths[:-1], str(tmp_path / "broken.jpg")]}, dataset.features)
    for num_workers in (0, 1):
        message = (
            r"^The image .*broken\.jpg cannot be read: it is no image of a kind that Pillow knows.* --on_error skip\.$"
        )
        with pytest.raises(ValueError, match=message):
            extract(dataset=broken, num_workers=num_workers)


def test_overflow_of_float16_is_refused(extract, monkeypatch):
    monkeypatch.setattr(extraction, "backbone_feature_map", lambda *args: backbone_feature_map(*args) + 1e6)
    with pytest.raises(ValueError, match=r"image id 2 has values that float16 cannot hold"):
        extract()


def test_workers_and_threads_give_the_same_store(extract, store, tmp_path, monkeypatch):
    other = extract(tmp_path / "other", num_workers=1)
    assert contents(other.path) == contents(store.path)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert contents(extract(tmp_path / "third").path) == contents(store.path)


def test_on_a_cpu_no_process_takes_cores_from_the_backbone(extract, store, tmp_path, monkeypatch):
    def note(*args, num_workers, **kwargs):
        given.append(num_workers)
        return data_loader(*args, num_workers=num_workers, **kwargs)

    given, data_loader = [], torch.utils.data.DataLoader
    monkeypatch.setattr(torch.utils.data, "DataLoader", note)
    assert contents(extract(tmp_path / "other", num_workers=None).path) == contents(store.path)
    assert set(given) == {0}


def break_images(image_folder):
    """One is missing, one truncated, one is text; in the order of ids they are the last, the first and the third."""
    (image_folder / "0.jpg").unlink()
    content = (image_folder / "7.jpg").read_bytes()
    (image_folder / "7.jpg").write_bytes(content[: len(content) // 2])
    (image_folder / "1.jpg").write_text("no image")


@pytest.mark.parametrize(("num_workers", "num_threads"), [(0, 1), (0, 3), (1, 1)])
def test_unreadable_images_are_skipped_and_listed(
    extract, store, image_folder, tmp_path, monkeypatch, num_workers, num_threads
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    break_images(image_folder)
    skipping = extract(tmp_path / "skipping", on_error="skip", num_workers=num_workers)
    assert skipping.image_ids.tolist() == [3, 9, 15, 21, 30] and len(skipping) == 5
    assert [(image["image_id"], image["path"]) for image in skipping.skipped] == [
        (image_id, str(image_folder / name)) for image_id, name in ((2, "7.jpg"), (7, "1.jpg"), (40, "0.jpg"))
    ]
    for image, reason in zip(skipping.skipped, ["truncated", "no image of a kind", "No such file"], strict=True):
        assert reason in image["reason"]
    assert [shard["rows"] for shard in skipping.metadata["shards"]] == [1, 3, 1]
    # Other images in a batch change how float32 sums are taken.
    for image_id in skipping.image_ids:
        ours, theirs = (s.select([image_id])[0]["feature_map"].float() for s in (skipping, store))
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    with pytest.warns(UserWarning, match=r"no feature maps of 2 of 4 images, which could not be read"):
        selected = skipping.select([40, 3, 2, 30])
    assert selected.image_ids.tolist() == [3, 30] and selected.labels.tolist() == [2, 0]
    with (
        pytest.warns(UserWarning, match="1 of 3 images"),
        pytest.raises(ValueError, match=r"1 of 2 images, .* ids \[1\]"),
    ):
        skipping.select([2, 3, 1])


@pytest.mark.parametrize("killed_at", [1, 2])
def test_skipping_run_goes_on_with_identical_result(extract, image_folder, tmp_path, monkeypatch, killed_at):
    break_images(image_folder)
    expected = contents(extract(tmp_path / "whole", on_error="skip").path)
    write = store_writer.write_shard

    def killed(output_dir, index, *rest):
        if index == killed_at:
            raise KeyboardInterrupt
        write(output_dir, index, *rest)

    monkeypatch.setattr(store_writer, "write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        extract(on_error="skip")
    written = []
    monkeypatch.setattr(store_writer, "write_shard", lambda *args: (written.append(args[1]), write(*args)))
    folder = extract(on_error="skip").path
    assert written == list(range(killed_at, 3))
    assert contents(folder) == expected
    extract(on_error="skip")  # verifies
    assert contents(folder) == expected


def test_run_that_an_image_stopped_goes_on_without_it(extract, image_folder, tmp_path):
    (image_folder / "0.jpg").unlink()
    expected = contents(extract(tmp_path / "whole", on_error="skip").path)
    with pytest.raises(ValueError, match=r"0\.jpg cannot be read"):
        extract()
    assert contents(extract(on_error="skip").path) == expected


def test_whole_shard_and_all_images_unreadable(extract, image_folder):
    for name in ("7.jpg", "2.jpg", "1.jpg"):  # image ids 2, 3 and 7
        (image_folder / name).unlink()
    store = extract(on_error="skip")
    assert [shard["rows"] for shard in store.metadata["shards"]] == [0, 3, 2]
    assert store.select([9])[0]["feature_map"].shape == store.shape
    for file in image_folder.iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"None of the 8 images can be read; the first is .*7\.jpg: .*No such file"):
        extract(store.path.with_name("none"), on_error="skip")


def test_unknown_on_error(extract):
    with pytest.raises(ValueError, match="`on_error` must be 'raise' or 'skip', but is 'ignore'"):
        extract(on_error="ignore")


def test_store_of_before_is_continued(extract, tmp_path):
    """What version 0.1.0 recorded has no keys of what it did not know."""
    request = json.loads((extract(tmp_path / "whole").path / "request.json").read_text())
    assert set(request) == {
        *("format_version", "dataset", "class_names", "num_rows", "images_sha256", "backbone", "backbone_sha256"),
        *("image_size", "processor", "shape", "dtype", "shard_rows"),
    }


def test_bf16(extract, store, tmp_path):
    half = extract(tmp_path / "half", bf16=True)
    assert half.metadata["compute_dtype"] == "bfloat16" and "compute_dtype" not in store.metadata
    ours, theirs = (np.stack([s[row] for row in range(NUM_IMAGES)]).astype(np.float32) for s in (half, store))
    error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    # bfloat16 has 8 bits, and few layers add to what rounding loses.
    assert 1e-4 < error < 2e-2
    with pytest.raises(ValueError, match="its compute_dtype is 'bfloat16', where None is asked for"):
        extract(half.path)
    with pytest.raises(ValueError, match="its compute_dtype is None, where 'bfloat16' is asked for"):
        extract(store.path, bf16=True)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("first", [15, 11])
def test_bf16_is_decided_once_for_a_store(extract, tmp_path, speeds, finished, first):
    speeds |= {"native": True, "bfloat16": first}
    whole = extract(tmp_path / "whole", bf16="auto")
    assert whole.metadata.get("compute_dtype") == ("bfloat16" if first == 15 else None) and speeds["timed"] == [2]
    before = contents(whole.path)
    assert before == contents(extract(tmp_path / "fixed", bf16=first == 15).path)
    # Gone on with where the other way is faster.
    speeds |= {"native": first == 11, "bfloat16": 26 - first, "timed": []}
    if not finished:
        for name in ("store.json", "shard-00001.json"):
            (whole.path / name).unlink()
    extract(whole.path, bf16="auto")
    assert contents(whole.path) == before and not speeds["timed"]
    with pytest.raises(ValueError, match="its compute_dtype is"):
        extract(whole.path, bf16=first == 11)


def test_two_processes_do_what_the_first_decides(launch, tmp_path):
    # By itself, the second would choose otherwise.
    for name, first in (("fast", 15), ("slow", 9)):
        speeds = [{"native": True, "float32": 10, "bfloat16": bfloat16} for bfloat16 in (first, 24 - first)]
        printed, _ = launch(tmp_path / name, num_processes=2, bf16="auto", speeds=speeds)
        chosen = FeatureMapStore(tmp_path / name).metadata.get("compute_dtype")
        assert chosen == ("bfloat16" if first == 15 else None)
        assert printed.count("one batch had") == 1 and f"{first} images/s in bfloat16" in printed


def test_a_store_that_is_damaged_is_refused_with_auto_too(extract, store):
    (store.path / "store.json").write_text("[")
    with pytest.raises(ValueError, match=r"store\.json is damaged"):
        extract(bf16="auto")


def test_unknown_bf16_is_refused_before_anything_is_loaded(extract):
    with pytest.raises(ValueError, match="`bf16` must be True, False or 'auto', but is 'false'"):
        extract(backbone="nowhere", bf16="false")


def save_token_backbone(folder, kind):
    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    sizes |= {"image_size": IMAGE_SIZE, "patch_size": 16}
    if kind == "vit":
        model = ViTModel(ViTConfig(**sizes), add_pooling_layer=False)
    else:
        sizes["num_register_tokens"] = 3
        model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**sizes))
    model.save_pretrained(folder)
    CLIPImageProcessorPil(image_mean=MEAN, image_std=STD).save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("kind, special", [("vit", 1), ("dinov2 with registers", 4)])
def test_tokens_are_stored_as_a_grid(extract, dataset, tmp_path, kind, special):
    model = save_token_backbone(tmp_path / "backbone", kind)
    store = extract(backbone=str(tmp_path / "backbone"))
    assert store.shape == (12, 4, 4)
    row = dataset[0]
    processor = CLIPImageProcessorPil(**store.metadata["processor"])
    pixel_values = processor(row["image"].convert("RGB"), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        tokens = model(pixel_values).last_hidden_state[0, special:]
    assert len(tokens) == 16
    feature_map = store.select([row["image_id"]])[0]["feature_map"].float()
    for place, token in enumerate(tokens):
        torch.testing.assert_close(feature_map[:, place // 4, place % 4], token, rtol=2e-3, atol=2e-3)


def test_random_pooler_is_no_part_of_the_backbone(extract, tmp_path):
    """A checkpoint without a pooler gets a new random one each time that it is loaded."""
    save_token_backbone(tmp_path / "backbone", "vit")
    first, second = (extract(tmp_path / name, backbone=str(tmp_path / "backbone")) for name in ("first", "second"))
    assert contents(first.path) == contents(second.path)
    models = [load_backbone(str(tmp_path / "backbone")) for _ in range(2)]
    assert not torch.equal(*(model.pooler.dense.weight for model in models))


def test_torchvision_state_dict(extract, tmp_path):
    state = make_state_dict()
    file = tmp_path / "resnet101-63fe2227.pth"
    torch.save(state, file)
    store = extract(backbone=str(file))
    assert store.metadata["backbone"] == file.name
    assert store.metadata["processor"]["image_mean"] == [0.485, 0.456, 0.406]
    assert store.metadata["processor"]["image_std"] == [0.229, 0.224, 0.225]
    # The folder that was made of it is the same backbone, for whatever takes one.
    folder = store.path / "backbone"
    store.require(backbone_sha256=fingerprint_weights(load_backbone(str(folder))))
    before = contents(store.path)
    extract(backbone=str(file))
    assert contents(store.path) == before
    again = extract(tmp_path / "again", backbone=str(folder))
    assert again.metadata["shards"] == store.metadata["shards"]
    assert again.metadata["processor"] == store.metadata["processor"]

    # A run that was killed while it saved the folder makes it again.
    (store.path / "store.json").unlink()
    folder.rename(store.path / "backbone.tmp")
    (store.path / "backbone.tmp/config.json").unlink()
    extract(backbone=str(file))
    assert contents(store.path) == before


def test_further_views_are_maps_of_random_crops(extract, dataset, backbone):
    store = extract(views=3)
    assert len(store.views) == 2 and extract().metadata == store.metadata  # it is as it would be without
    model, processor = load_backbone(backbone), store.image_processor
    for number, view in enumerate(store.views, 1):
        assert view.metadata["view"] == {"number": number, "random_crop_scale": 0.5, "seed": 0}
        assert view.image_ids.tolist() == store.image_ids.tolist() and view.labels.tolist() == store.labels.tolist()
        for row in dataset:
            image = RandomCrop(0.5, 0)(row["image"].convert("RGB"), IMAGE_SIZE, 2, number, row["image_id"])
            pixels = processor(image, do_resize=False, do_center_crop=False, return_tensors="pt")["pixel_values"]
            with torch.inference_mode():
                expected = backbone_feature_map(model, pixels)[0]
            found = view.select([row["image_id"]])[0]["feature_map"].float()
            torch.testing.assert_close(found, expected, rtol=2**-11 + 1e-5, atol=1e-4)
    assert not np.array_equal(store.views[0][0], store.views[1][0])


def test_views_are_added_to_a_store_and_gone_on_with(store, extract, monkeypatch):
    before = contents(store.path)
    assert store.views == []
    extract(views=2)
    assert {name: content for name, content in contents(store.path).items() if "views" not in name} == before
    after = contents(store.path)
    (store.path / "views" / "1" / "store.json").unlink()
    (store.path / "views" / "1" / "shard-00002.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"views.1 is no feature-map store.*run `dedn features` again"):
        FeatureMapStore(store.path).views  # noqa: B018
    extract(views=2)
    assert contents(store.path) == after
    monkeypatch.setattr(extraction, "_PixelValues", fail_if_run)
    assert len(extract(views=2).views) == 1


def test_views_of_images_that_have_changed(extract, image_folder):
    store = extract(views=2)
    path = sorted(image_folder.rglob("*.*"))[0]
    Image.new("RGB", (70, 80), (200, 10, 10)).save(path)
    changed = extract()
    with pytest.raises(ValueError, match=r"made of other images than .*: run `dedn features` again with --views 2"):
        changed.views  # noqa: B018
    assert len(extract(views=2).views) == 1
    assert contents(store.path) == contents(extract(store.path.parent / "anew", views=2).path)


@pytest.mark.parametrize("views", [0, -1])
def test_no_view_at_all(extract, views):
    with pytest.raises(ValueError, match=rf"`views` is {views}, but the image itself is one"):
        extract(views=views)
