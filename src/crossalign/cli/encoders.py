"""`crossalign encoders`: which there are."""

from __future__ import annotations

import click


@click.command()
@click.argument("pattern", default="")
def command(pattern: str) -> None:
    """List the encoders that --encoder takes; PATTERN narrows open_clip's long list.

    Encoders of other packages are listed with the package; docs/extending.md says how to add one.

    \b
    Examples:
      crossalign encoders
      crossalign encoders ViT-B-16
    """
    import open_clip

    from crossalign.encoders import ADDED

    click.echo("builtin                      embedded, no hub needed; also builtin:lite1, builtin:lite2")
    click.echo("open_clip:ARCH/PATH          weights from a checkpoint file")
    click.echo("open_clip:ARCH/random        untrained, for timing and parity tests")
    for name, load in ADDED.usable().items():
        about = (load.__doc__ or "no description").strip().split("\n")[0].rstrip(".")
        click.echo(f"{name:<28} {about}; of package {ADDED.package(name)}")
    for arch, tag in open_clip.list_pretrained():
        if pattern.lower() in f"{arch}/{tag}".lower():
            click.echo(f"open_clip:{arch}/{tag}")
