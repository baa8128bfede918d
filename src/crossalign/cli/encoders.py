"""`crossalign encoders`: which there are, and what one of them computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from crossalign.cli._common import EncoderOptions, encoder_options, load_encoder
from crossalign.cli._help import GroupedCommand
from crossalign.errors import InputError

if TYPE_CHECKING:
    from crossalign.encoders import Encoder


@click.command(cls=GroupedCommand)
@click.argument("name", metavar="[PATTERN|SPEC]", default="")
@encoder_options
@click.option(
    "--time", "timed", is_flag=True, help="Time all runtimes for SPEC here, and let auto take the fastest from now on."
)
def command(name: str, timed: bool, encoder_options: EncoderOptions) -> None:
    """List the encoders that --encoder takes, or say what one of them computes.

    PATTERN narrows open_clip's long list. A SPEC, which is "builtin", a short name or has a colon, is loaded and described:
    activation, preprocessing, context, logit scale, and where its weights come from. The options are for a SPEC.

    Encoders of other packages are listed with the package; docs/extending.md says how to add one.

    \b
    Examples:
      crossalign encoders
      crossalign encoders ViT-B-16
      crossalign encoders clip
      crossalign encoders open_clip:ViT-B-32/openai
      crossalign encoders builtin --time
    """
    from crossalign.encoders import SHORT_NAMES

    if name == "builtin" or name in SHORT_NAMES or ":" in name:
        encoder = load_encoder(name, encoder_options)
        _describe(encoder)
        if timed:
            _time(encoder)
    elif timed:
        raise InputError(f"--time measures one encoder, but {name!r} names none; give a SPEC, such as builtin")
    else:
        _list(name)


def _list(pattern: str) -> None:
    import open_clip

    from crossalign.encoders import ADDED, SHORT_NAMES

    click.echo("short name   stands for                                         download   licence of the weights")
    for name, short in SHORT_NAMES.items():
        click.echo(f"{name:<12} {short.spec:<50} {short.download_bytes / 1e9:>5.1f} GB   {short.licence}")
    click.echo()
    click.echo("builtin                       embedded, no hub needed; also builtin:lite1, builtin:lite2")
    click.echo("open_clip:ARCH/TAG            published weights; the list is below")
    click.echo("open_clip:ARCH/TAG@FILE       the weights of that tag from a file")
    click.echo("open_clip:ARCH/FILE           weights from a file, where ARCH or the file says how they were trained")
    click.echo("open_clip:ARCH/random         untrained, for timing and parity tests")
    click.echo("open_clip:hf-hub:OWNER/NAME   a repository of open_clip on the hub")
    click.echo("open_clip:local-dir:DIR       such a repository as a folder")
    click.echo("transformers:NAME_OR_DIR      a dual encoder of the transformers library")
    for name, load in ADDED.usable().items():
        about = (load.__doc__ or "no description").strip().split("\n")[0].rstrip(".")
        click.echo(f"{name:<29} {about}; of package {ADDED.package(name)}")
    for arch, tag in open_clip.list_pretrained():
        if pattern.lower() in f"{arch}/{tag}".lower():
            click.echo(f"open_clip:{arch}/{tag}")


RESIZES = {
    "shortest": "shorter side resized, centre cropped",
    "squash": "resized to these sides, whatever the image's aspect",
    "longest": "longer side resized, padded",
}


def _describe(encoder: Encoder) -> None:
    from crossalign.encoders import describe, measured_choice

    described = describe(encoder)
    pixels = described["preprocessing"]
    resize = RESIZES[pixels["resize"]]
    if pixels["resized"]:
        resize = f"{resize} from {_sides(pixels['resized'])}"
    context, runtime = described["context"], described["runtime"]
    rows = {
        "encoder": described["name"],
        "weights": described["weights"],
        "digest": described["fingerprint"],
        "activation": described["activation"],
        "input": f"{_sides(pixels['size'])} pixels, {pixels['interpolation']}, {resize}",
        "mean": _numbers(pixels["mean"]),
        "std": _numbers(pixels["std"]),
        "context": None if context is None else f"{context} tokens",
        "width": described["width"],
        "logit scale": f"{described['logit_scale']:.6g}",
        "logit bias": "none" if described["logit_bias"] is None else f"{described['logit_bias']:.6g}",
        "runtime": f"{runtime['engine']} in {runtime['precision']}" if runtime else None,
        "device": described["device"],
    }
    if measured := measured_choice(encoder):
        rows["measured"] = f"auto takes the fastest of {measured}; remove that file for the choice by capability"
    for row, value in rows.items():
        click.echo(f"{row:<12} {'not said' if value is None else value}")


def _time(encoder: Encoder) -> None:
    from crossalign.encoders import time_runtimes

    timings, file = time_runtimes(encoder)
    click.echo("\nruntime            ms a view   lowest cosine to torch in f32")
    for timing in timings:
        click.echo(f"{timing.engine + ' in ' + timing.precision:<17} {timing.milliseconds:>10.2f}   {timing.cosine:.4f}")
    click.echo(
        f"\nStored in {file}. From now on --runtime auto takes {timings[0].engine} in {timings[0].precision} here; remove"
    )
    click.echo("the file to go back to the choice by capability.")


def _sides(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
