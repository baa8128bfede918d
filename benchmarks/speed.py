"""Time WCA against a plain reference loop, Hugging Face's pipeline and the machine's own limit, in one process.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/speed.py --quick    # shorter, on photos inside scikit-image
    OMP_WAIT_POLICY=PASSIVE python benchmarks/speed.py --data ../shared/data --json speed.json

The command `crossalign` sets that policy by itself: spinning threads of one runtime would take the cores from another's.

All but the adaptive rows use an untrained ViT-B/32: time does not depend on the weights. Contestants take turns, round by
round, so that what else the machine does meets all of them; a ratio is the reference loop's time over ours in the same
round, given as the median and the range over rounds.

reference   each image is opened by PIL in a DataLoader worker, each of its crops goes through the encoder's own PIL
            transform one by one, and batches of 32 images through torch in float32; texts are encoded class by class,
            padded to 77 tokens
ours        `crossalign.features.pipeline.encode_images`, by runtime and precision
pipeline    Hugging Face's zero-shot-image-classification with the same architecture, which looks at one view; 37 labels
one view    `crossalign.Classifier` with the method clip and the same 37 labels, from the files on; against the pipeline
pixels      one thread unpacks a JPEG of 1024 x 768 and cuts and resizes its views; the reference by PIL
limit       the same floating-point operations at the rate at which this machine multiplies matrices in that precision
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import skimage
import torch
from PIL import Image
from tabulate import tabulate
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from crossalign.classifier import Classifier
from crossalign.encoders import Encoder, load_encoder
from crossalign.features.pipeline import encode_views, ordered_map
from crossalign.images.crops import Preprocessing, ViewRecipe, crop_views
from crossalign.images.decoding import read_image
from crossalign.text.descriptions import bundled_descriptions
from limits import cpu_limits

VIT = "open_clip:ViT-B-32/random"
RECIPE = ViewRecipe(60, (0.1, 0.9), 0)
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
LABELS = ("astronaut", "cat", "cup of coffee", "rocket", "dog", "bicycle", "horse", "clock")


@dataclass
class Contest:
    """Times of all contestants, a list of seconds a round.

    Attributes:
        units: what a contestant gets through in a round: views, sentences.
        seconds, waited, memory: by contestant; memory is the peak in bytes.
    """

    units: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    waited: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)

    def time(self, name: str, units: int, work: Callable[[], float | None]) -> None:
        """Let a contestant do its work once; it may return the share of the time in which the encoder waited."""
        _reset_peak()
        start = time.perf_counter()
        waited = work()
        self.seconds.setdefault(name, []).append(time.perf_counter() - start)
        self.units[name] = units
        self.memory[name] = max(self.memory.get(name, 0), _peak())
        if waited is not None:
            self.waited[name] = waited

    def milliseconds(self, name: str) -> float:
        """Give the median time a unit."""
        return 1000 * statistics.median(self.seconds[name]) / self.units[name]

    def ratios(self, name: str, reference: str) -> list[float]:
        """Give the reference's time a unit over the contestant's, round by round."""
        pairs = zip(self.seconds[reference], self.seconds[name], strict=True)
        return [(slow / self.units[reference]) / (fast / self.units[name]) for slow, fast in pairs]


class Crops(Dataset[Tensor]):
    """The reference's images: (1 + M, 3, H, W) normalised floats, cut and resized by PIL one by one."""

    def __init__(self, files: Sequence[Path], preprocessing: Preprocessing):
        from torchvision import transforms

        self._files = files
        self._transform = transforms.Compose(
            [
                transforms.Resize(preprocessing.size[0], transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(preprocessing.size),
                transforms.ToTensor(),
                transforms.Normalize(preprocessing.mean, preprocessing.std),
            ]
        )

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Tensor:
        image = Image.open(self._files[index]).convert("RGB")
        generator = np.random.default_rng(index)
        crops = [self._transform(image)]
        for share in generator.uniform(*RECIPE.crop_scale, RECIPE.count):
            side = max(1, int(share * min(image.size)))
            left, top = (int(generator.integers(whole - side + 1)) for whole in image.size)
            crops.append(self._transform(image.crop((left, top, left + side, top + side))))
        return torch.stack(crops)


def reference(files: Sequence[Path], encode: Callable[[Tensor], Tensor], preprocessing: Preprocessing) -> None:
    loader = DataLoader(Crops(files, preprocessing), batch_size=32, num_workers=torch.get_num_threads())
    with torch.inference_mode():
        for batch in loader:
            encode(batch.flatten(0, 1))


def ours(files: Sequence[Path], encoder: Encoder) -> float:
    """Do what `encode_images` does, and give the share of the time in which the encoder waited for pixels."""
    start, waited = time.perf_counter(), 0.0
    views = ordered_map(
        lambda file: crop_views(read_image(file), RECIPE, encoder.preprocessing), files, torch.get_num_threads(), ahead=16
    )

    def timed() -> Iterator[Tensor]:
        nonlocal waited
        asked = time.perf_counter()
        for image in views:
            waited += time.perf_counter() - asked
            yield image
            asked = time.perf_counter()

    deque(encode_views(encoder, timed()), maxlen=0)
    return waited / (time.perf_counter() - start)


def pil_pixels(file: Path, preprocessing: Preprocessing) -> None:
    Crops([file], preprocessing)[0]


def our_pixels(file: Path, preprocessing: Preprocessing) -> None:
    """Do what a decoding thread does, in which torch has no threads of its own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    crop_views(read_image(file), RECIPE, preprocessing)
    torch.set_num_threads(threads)


def adaptive(files: Sequence[Path], classify: Classifier) -> int:
    """Classify, and give how many views that took, whole images included."""
    return sum(1 + (result.views or 0) for result in classify.stream(map(str, files)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="A folder with oxford_pets370 in it; else photos of scikit-image.")
    parser.add_argument("--quick", action="store_true", help="Fewer images, sentences and rounds.")
    parser.add_argument("--json", type=Path, help="Write ratios, times and limits there.")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    images, rounds, classes, photos = (2, 2, 4, 12) if options.quick else (6, 4, 12, 60)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {_processor()}\n")
    with tempfile.TemporaryDirectory() as folder:
        files = _files(options.data, Path(folder), images)
        many = (_files(options.data, Path(folder), photos) * photos)[:photos]
        large, photo = (_resized(files[0], Path(folder), *size) for size in ((4000, 3000), (1024, 768)))
        vit = {
            precision: load_encoder(VIT, "cpu", runtime=runtime, precision=precision)
            for runtime, precision in (("torch", "f32"), ("openvino", "bf16"), ("openvino", "int8"))
        }
        vit["openvino f32"] = load_encoder(VIT, "cpu", runtime="openvino", precision="f32")
        builtin = load_encoder("builtin", "cpu", runtime="auto", precision=None)
        plain = load_encoder("builtin", "cpu", runtime="torch", precision="f32")
        labels, descriptions = _question(options.data)
        classify = Classifier(labels, descriptions, encoder=builtin, views="adaptive")
        pets = tuple(bundled_descriptions("oxford_pet").classes)
        pipeline = _pipeline(pets)
        one_view = {
            name: Classifier(pets, encoder=vit[precision], method="clip")
            for name, precision in (("f32", "openvino f32"), ("torch f32", "f32"), ("bf16", "bf16"), ("int8", "int8"))
        }
        texts = [list(sentences[:30]) for sentences in islice(bundled_descriptions("imagenet").classes.values(), classes)]
        contest = Contest()
        raw = vit["f32"].tower.model
        used = 0
        for _ in range(rounds):
            views = len(files) * (1 + RECIPE.count)
            contest.time("reference", views, lambda: reference(files, raw, vit["f32"].preprocessing))
            for name, precision in (("f32", "openvino f32"), ("bf16", "bf16"), ("int8", "int8")):
                contest.time(f"ours {name}", views, lambda p=precision: ours(files, vit[p]))  # type: ignore[misc]
            contest.time("ours torch f32", views, lambda: ours(files, vit["f32"]))
            contest.time("reference 12 MP", 1 + RECIPE.count, lambda: reference([large], raw, vit["f32"].preprocessing))
            contest.time("ours bf16 12 MP", 1 + RECIPE.count, lambda: ours([large], vit["bf16"]))
            contest.time("reference pixels", 1 + RECIPE.count, lambda: pil_pixels(photo, vit["f32"].preprocessing))
            contest.time("ours pixels", 1 + RECIPE.count, lambda: our_pixels(photo, vit["f32"].preprocessing))
            contest.time("pipeline, one view", photos, lambda: pipeline(many))
            for name, labelled in one_view.items():
                contest.time(f"ours one view {name}", photos, lambda c=labelled: _labels(many, c))  # type: ignore[misc]
            contest.time("reference builtin", views, lambda: reference(files, plain.tower.model, plain.preprocessing))
            contest.time("ours builtin", views, lambda: ours(files, builtin))

            def look() -> None:
                nonlocal used
                used = adaptive(files, classify)

            contest.time("ours builtin adaptive", views, look)
            sentences = sum(map(len, texts))
            contest.time("reference texts", sentences, lambda: _class_by_class(vit["f32"], texts))
            contest.time(
                "ours texts", sentences, lambda: _discard(vit["f32"].encode_texts([text for of in texts for text in of]))
            )
        limits = cpu_limits(vit["f32"])
    _report(contest, limits, used / len(files))
    if options.json:
        options.json.write_text(json.dumps(_content(contest, limits), indent=2))


OURS = {
    "wca_f32": ("ours f32", "reference"),
    "wca_torch_f32": ("ours torch f32", "reference"),
    "wca_bf16": ("ours bf16", "reference"),
    "wca_int8": ("ours int8", "reference"),
    "wca_bf16_12mp": ("ours bf16 12 MP", "reference 12 MP"),
    "wca_builtin": ("ours builtin", "reference builtin"),
    "wca_adaptive": ("ours builtin adaptive", "reference builtin"),
    "one_view_f32": ("ours one view f32", "pipeline, one view"),
    "one_view_torch_f32": ("ours one view torch f32", "pipeline, one view"),
    "one_view_bf16": ("ours one view bf16", "pipeline, one view"),
    "one_view_int8": ("ours one view int8", "pipeline, one view"),
    "pixels": ("ours pixels", "reference pixels"),
    "text": ("ours texts", "reference texts"),
}
"""For each ratio the contestant and its reference."""


def _content(contest: Contest, limits: dict[str, float]) -> dict[str, Any]:
    return {
        "ratios": {key: statistics.median(contest.ratios(*pair)) for key, pair in OURS.items()},
        "ms_per_view": {name: contest.milliseconds(name) for name in contest.seconds if "texts" not in name},
        "limits": limits,
    }


def _report(contest: Contest, limits: dict[str, float], used: float) -> None:
    ratios = {ours: contest.ratios(ours, reference) for ours, reference in OURS.values()}
    of_precision = {"reference": "f32", "ours torch f32": "f32", "ours f32": "f32", "ours bf16": "bf16", "ours int8": "int8"}
    rows = []
    for name in contest.seconds:
        milliseconds = contest.milliseconds(name)
        spread = ratios.get(name)
        limit = limits.get(of_precision.get(name, ""))
        per_image = 1 if "one view" in name else 1 + RECIPE.count
        rows.append(
            [
                name,
                f"{milliseconds:.2f}",
                "" if "texts" in name else f"{1000 / milliseconds / per_image:.2f}",
                f"{100 * limit / milliseconds:.0f} %" if limit else "",
                f"{100 * contest.waited[name]:.0f} %" if name in contest.waited else "",
                f"{contest.memory[name] / 2**30:.2f}",
                f"{statistics.median(spread):.2f} ({min(spread):.2f} to {max(spread):.2f})" if spread else "",
            ]
        )
    header = [
        "what",
        "ms per view or sentence",
        "images/s",
        "of the limit",
        "encoder waits",
        "peak GiB",
        "times the reference",
    ]
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))
    print("\nLimits, ms per view: " + ", ".join(f"{precision} {value:.1f}" for precision, value in limits.items()))
    print(f"Adaptive views: {used:.1f} passes per image, the whole image included; its ms per view are of all 61.")


def _files(data: Path | None, folder: Path, count: int) -> list[Path]:
    if data is not None:
        found = sorted((data / "oxford_pets370").glob("*/*.jpg"))
        return found[:: len(found) // count][:count]
    files = []
    for number in range(count):
        photo = Image.open(Path(skimage.__file__).parent / "data" / PHOTOS[number % len(PHOTOS)]).convert("RGB")
        files.append(folder / f"{number}.jpg")
        photo.save(files[-1], quality=90)
    return files


def _resized(file: Path, folder: Path, width: int, height: int) -> Path:
    """Make a JPEG of that size."""
    path = folder / f"{width}.jpg"
    Image.open(file).convert("RGB").resize((width, height), Image.Resampling.BICUBIC).save(path, quality=90)
    return path


def _question(data: Path | None) -> tuple[Sequence[str], str | None]:
    """Give the labels and descriptions that the adaptive rows ask about."""
    if data is None:
        return LABELS, None
    return tuple(bundled_descriptions("oxford_pet").classes), "oxford_pet"


def _class_by_class(encoder: Any, texts: Sequence[Sequence[str]]) -> None:
    with torch.inference_mode():
        for of_class in texts:
            encoder.model.encode_text(encoder.texts.tokenizer(list(of_class)), normalize=True).mean(0)


def _discard(features: Tensor) -> None:
    """Keep nothing."""


def _labels(files: Sequence[Path], classify: Classifier) -> None:
    """Label images, which are decoded, cropped, encoded and scored."""
    deque(classify.stream(map(str, files)), maxlen=0)


def _pipeline(labels: Sequence[str]) -> Callable[[Sequence[Path]], None]:
    """Build the pipeline with an untrained model of the same architecture."""
    import open_clip.tokenizer
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer, pipeline

    words = open_clip.tokenizer.SimpleTokenizer()
    # The same words under the names that this library gives to a text's ends.
    vocabulary = {
        word.replace("<start_of_text>", "<|startoftext|>").replace("<end_of_text>", "<|endoftext|>"): number
        for word, number in words.encoder.items()
    }
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=list(words.bpe_ranks))
    run = pipeline(
        "zero-shot-image-classification",
        model=CLIPModel(CLIPConfig()).eval(),
        image_processor=CLIPImageProcessor(),
        tokenizer=tokenizer,
        device="cpu",
    )

    def classify(files: Sequence[Path]) -> None:
        for file in files:
            run(str(file), candidate_labels=list(labels))

    return classify


def _reset_peak() -> None:
    """Let Linux measure the peak anew; elsewhere the peak is that of the whole process."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """Give the most memory that the process has held, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return f"{os.cpu_count()} cores"


if __name__ == "__main__":
    main()
