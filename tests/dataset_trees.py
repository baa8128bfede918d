"""Small trees in the layout each dataset is published in, made of tiny real JPEGs."""

import csv
import io
import json
import os
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from crossalign.datasets.class_lists import class_list


def jpeg(text):
    """A tiny picture that no other text gives."""
    noise = np.random.default_rng(list(text.encode())).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG")
    return file.getvalue()


def draw(root, *places):
    """Put pictures there; returns their places."""
    for place in places:
        file = Path(root, place)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg(place))
    return list(places)


def write(root, place, *lines):
    file = Path(root, place)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def timm_synsets(name):
    return (resources.files("timm") / "data" / "_info" / f"{name}_synsets.txt").read_text().split()


# One function a layout: it makes the tree under `root` and returns [(place of a picture, its class name)], as the reader
# must list them. Pictures of other splits, and what else the archives hold, lie beside.


def oxford_pet(root):
    base = "oxford-iiit-pet"
    names = ["Abyssinian_201", "american_pit_bull_terrier_2", "german_shorthaired_10", "Abyssinian_202", "Sphynx_1"]
    draw(root, *(f"{base}/images/{name}.jpg" for name in [*names, "Bengal_3"]))
    labels = {"Abyssinian": 1, "american_pit_bull_terrier": 3, "german_shorthaired": 16, "Sphynx": 34}
    write(root, f"{base}/annotations/test.txt", *(f"{n} {labels[n.rsplit('_', 1)[0]]} 1 1" for n in names))
    write(root, f"{base}/annotations/trainval.txt", "Bengal_3 6 1 2")
    shown = ["Abyssinian", "American Pit Bull Terrier", "German Shorthaired Pointer", "Abyssinian", "Sphynx"]
    return [(f"{base}/images/{name}.jpg", cls) for name, cls in zip(names, shown, strict=True)]


def dtd(root):
    test = ["zigzagged/zigzagged_0003.jpg", "banded/banded_0002.jpg", "banded/banded_0013.jpg", "waffled/waffled_0001.jpg"]
    draw(root, *(f"dtd/dtd/images/{place}" for place in [*test, "banded/banded_0004.jpg"]))
    write(root, "dtd/dtd/labels/test1.txt", *test)
    for other in ("train1", "val1", "test2"):
        write(root, f"dtd/dtd/labels/{other}.txt", "banded/banded_0004.jpg")
    write(root, "dtd/dtd/imdb/imdb.mat")
    return [(f"dtd/dtd/images/{place}", place.split("/")[0]) for place in test]


def food101(root):
    test = {"waffles": ["waffles/88", "waffles/7"], "apple_pie": ["apple_pie/1005649"]}
    train = {"apple_pie": ["apple_pie/1"], "baklava": ["baklava/2"]}
    every = [place for split in (test, train) for places in split.values() for place in places]
    draw(root, *(f"food-101/images/{place}.jpg" for place in every))
    write(root, "food-101/meta/test.json", json.dumps(test))
    write(root, "food-101/meta/train.json", json.dumps(train))
    return [(f"food-101/images/{p}.jpg", cls.replace("_", " ")) for cls, places in test.items() for p in places]


def flowers102(root):
    draw(root, *(f"flowers-102/jpg/image_{number:05d}.jpg" for number in range(1, 7)))
    savemat(Path(root, "flowers-102/imagelabels.mat"), {"labels": np.array([[77, 1, 102, 60, 1, 2]], dtype=np.uint8)})
    splits = {"trnid": [1, 2], "valid": [5], "tstid": [6, 3, 4]}
    savemat(Path(root, "flowers-102/setid.mat"), {k: np.array([v], dtype=np.uint16) for k, v in splits.items()})
    shown = ["hard-leaved pocket orchid", "blackberry lily", "pink and yellow dahlia"]
    return [(f"flowers-102/jpg/image_{n:05d}.jpg", cls) for n, cls in zip([6, 3, 4], shown, strict=True)]


def eurosat(root, base="eurosat/2750"):
    places = draw(root, f"{base}/AnnualCrop/AnnualCrop_1.jpg", f"{base}/Forest/Forest_1.jpg", f"{base}/Forest/Forest_2.jpg")
    return list(zip(places, ["annual crop land", "forest", "forest"], strict=True))


def caltech101(root, base="caltech101/101_ObjectCategories"):
    draw(root, f"{base}/BACKGROUND_Google/image_0001.jpg", f"{base}/BACKGROUND_Google/tmp")
    draw(root, f"{base}/../Annotations/accordion/annotation_0001.mat")
    names = {"airplanes": "airplane", "ant": "ant", "wild_cat": "wild cat"}
    return [(draw(root, f"{base}/{key}/image_0001.jpg")[0], name) for key, name in names.items()]


def cub(root):
    base = "CUB_200_2011"
    folders = {"1": "001.Black_footed_Albatross", "2": "002.Laysan_Albatross", "200": "200.Common_Yellowthroat"}
    pictures = [("1", "1", "0"), ("2", "1", "1"), ("3", "200", "0"), ("4", "2", "0")]
    places = {number: f"{folders[label]}/Bird_{number}.jpg" for number, label, _ in pictures}
    draw(root, *(f"{base}/images/{place}" for place in places.values()))
    write(root, f"{base}/images.txt", *(f"{number} {place}" for number, place in places.items()))
    write(root, f"{base}/image_class_labels.txt", *(f"{number} {label}" for number, label, _ in pictures))
    write(root, f"{base}/train_test_split.txt", *(f"{number} {training}" for number, _, training in pictures))
    write(root, f"{base}/classes.txt", *(f"{number} {folder}" for number, folder in folders.items()))
    shown = {"1": "Black-footed Albatross", "3": "Common Yellowthroat", "4": "Laysan Albatross"}
    return [(f"{base}/images/{places[number]}", name) for number, name in shown.items()]


def places365(root, pictures="val_256"):
    write(root, "categories_places365.txt", "/a/airfield 0", "/a/arena/hockey 1", "/a/arena/rodeo 2", "/z/zen_garden 364")
    names = [f"Places365_val_{number:08d}.jpg" for number in (1, 2, 3)]
    write(root, "places365_val.txt", *(f"{name} {label}" for name, label in zip(names, (364, 1, 0), strict=True)))
    draw(root, *(f"{pictures}/{name}" for name in names))
    shown = ["Zen garden", "hockey arena", "airfield"]
    return [(f"{pictures}/{name}", cls) for name, cls in zip(names, shown, strict=True)]


def places365_folders(root):
    base = "places365_standard/val"
    draw(root, "places365_standard/train/airfield/00000001.jpg")
    names = {"airfield": "airfield", "arena-hockey": "hockey arena", "zen_garden": "Zen garden"}
    return [(draw(root, f"{base}/{key}/Places365_val_00000001.jpg")[0], name) for key, name in names.items()]


WNIDS = {"n01440764": "tench", "n01484850": "great white shark", "n15075141": "toilet paper"}


def wnid_folders(root, base, file="some picture.JPEG", wnids=WNIDS):
    return [(draw(root, f"{base}/{wnid}/{file}")[0], name) for wnid, name in wnids.items()]


def imagenet(root):
    return wnid_folders(root, "imagenet/val")


def imagenet_kaggle(root):
    """Kaggle's archive: pictures flat, classes in a table whose rows are in no order."""
    draw(root, *(f"ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_{number:08d}.JPEG" for number in (1, 2, 3)))
    rows = [(3, "n15075141 1 2 3 4 n15075141 5 6 7 8 "), (1, "n01484850 1 2 3 4 "), (2, "n01440764 1 2 3 4 ")]
    lines = [f"ILSVRC2012_val_{number:08d},{boxes}" for number, boxes in rows]
    write(root, "LOC_val_solution.csv", "ImageId,PredictionString", *lines)
    shown = ["great white shark", "tench", "toilet paper"]
    return [(f"ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_{n:08d}.JPEG", name) for n, name in enumerate(shown, start=1)]


def imagenet_kit(root):
    """The organisers' archives: pictures flat, classes in the development kit, numbered in an order of its own."""
    draw(root, *(f"val/ILSVRC2012_val_{number:08d}.JPEG" for number in (1, 2, 3)))
    kit = Path(root, "ILSVRC2012_devkit_t12/data")
    kit.mkdir(parents=True)
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    synsets = [(9, "n01484850", "great white shark", 0), (4, "n15075141", "tissue", 0), (7, "n01440764", "tench", 0)]
    savemat(kit / "meta.mat", {"synsets": np.array(synsets, dtype=kinds)[:, None]})
    write(kit, "ILSVRC2012_validation_ground_truth.txt", "7", "4", "9")
    shown = ["tench", "toilet paper", "great white shark"]
    return [(f"val/ILSVRC2012_val_{n:08d}.JPEG", name) for n, name in enumerate(shown, start=1)]


def imagenetv2(root):
    names = {"0": "tench", "10": "brambling", "2": "great white shark", "999": "toilet paper"}
    base = "imagenetv2-matched-frequency-format-val"
    return [(draw(root, f"{base}/{number}/0af3f1b5.jpeg")[0], name) for number, name in names.items()]


def imagenet_part(name):
    """A whole tree of ImageNet-A or -R: 200 folders beside a README."""

    def tree(root):
        write(root, f"{name}/README.txt", "about")
        every = class_list("imagenet")
        names = dict(zip(every.keys, every.names, strict=True))
        wnids = {wnid: names[wnid] for wnid in sorted(timm_synsets(name.replace("-", "_")))}
        return wnid_folders(root, name, "0.01_digital clock _ digital clock_0.86.jpg", wnids)

    return tree


def imagenet_sketch(root):
    return wnid_folders(root, "sketch", "sketch_0.JPEG")


def folder(root):
    draw(root, ".hidden/x.jpg", "cat/.thumbnails/x.jpg", "cat/._one.jpg")
    write(root, "notes.txt", "no picture")
    write(root, "cat/notes.txt", "no picture")
    places = draw(root, "Cat_2/a.JPEG", "cat/deep/b.png", "cat/one.jpg", "golden_retriever/c.webp", "écureuil roux/d.tiff")
    return list(zip(places, ["Cat 2", "cat", "cat", "golden retriever", "écureuil roux"], strict=True))


def folder_csv(root):
    places = draw(root, "b.jpg", "two, three.jpg", "sub/a.jpg")
    rows = zip(places, ["sea lion", "cat", "sea lion"], strict=True)
    with open(Path(root, "pictures.csv"), "w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows, ()])
    return list(zip(places, ["sea lion", "cat", "sea lion"], strict=True))


LAYOUTS = [
    # (config, tree, folders of it that may be the root)
    ("oxford_pet", oxford_pet, ["", "oxford-iiit-pet"]),
    ("dtd", dtd, ["", "dtd", "dtd/dtd"]),
    ("food101", food101, ["", "food-101"]),
    ("flowers102", flowers102, ["", "flowers-102"]),
    ("eurosat", eurosat, ["", "eurosat", "eurosat/2750"]),
    ("eurosat", lambda root: eurosat(root, "EuroSAT_RGB"), ["", "EuroSAT_RGB"]),
    ("caltech101", caltech101, ["", "caltech101", "caltech101/101_ObjectCategories"]),
    ("caltech101", lambda root: caltech101(root, "caltech-101/101_ObjectCategories"), ["", "caltech-101"]),
    ("cub", cub, ["", "CUB_200_2011"]),
    ("places365", places365, [""]),
    ("places365", lambda root: places365(root, "val_large"), [""]),
    ("places365", places365_folders, ["", "places365_standard", "places365_standard/val"]),
    ("imagenet", imagenet, ["", "imagenet", "imagenet/val"]),
    ("imagenet", imagenet_kaggle, [""]),
    ("imagenet", imagenet_kit, [""]),
    ("imagenetv2", imagenetv2, ["", "imagenetv2-matched-frequency-format-val"]),
    ("imagenet-r", imagenet_part("imagenet-r"), ["", "imagenet-r"]),
    ("imagenet-a", imagenet_part("imagenet-a"), ["", "imagenet-a"]),
    ("imagenet-sketch", imagenet_sketch, ["", "sketch"]),
    ("folder", lambda root: wnid_folders(root, "."), [""]),
    ("folder", folder, [""]),
    ("folder", folder_csv, ["pictures.csv"]),
]


def listed(dataset, root):
    places = [os.path.relpath(path, root) for path in dataset.paths]
    return list(zip(places, [dataset.class_names[label] for label in dataset.labels], strict=True))
