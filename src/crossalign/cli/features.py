"""`crossalign features`: encode a dataset's views, for later."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from crossalign.cli import _cluster as clusters
from crossalign.cli import _common as common
from crossalign.cli import _measuring as measuring


@click.command()
@measuring.dataset_options
@click.option("--views", type=click.IntRange(0), help="Local views a picture; 0: whole ones alone [default: the config's].")
@click.option("--crop-scale", help="released (0.1,0.9), written (0.5,0.9; Places365 0.7,0.9) or LOW,HIGH.")
@common.seed_option
@common.workers_option
@common.device_option
@common.runtime_options
@clusters.executor_options
@common.store_option
def command(**options: Any) -> None:
    """Encode a dataset's pictures and keep the features, which is what takes long of `evaluate`.

    What is in the store is not encoded again, so a stopped call goes on where it was, and `evaluate` with the same encoder,
    views and seed only scores. On a cluster all machines need to see the dataset and the store under the same paths.

    \b
    Examples:
      crossalign features --dataset imagenet --encoder open_clip:ViT-B-32/openai
      crossalign features --dataset imagenet --executor ray --ray-address auto --store /shared/store
      crossalign features --dataset imagenet --executor ray --num-gpus-per-worker 1 --precision bf16 --store /shared/store
      crossalign store list
    """
    clusters.check_executor(options)
    config = measuring.dataset_config(options["dataset_name"], options["config_name"])
    config = replace(config, encoder=options["encoder"] or config.encoder)
    views = config.views if options["views"] is None else options["views"]
    scale = measuring.read_crop_scale(options["crop_scale"], config) if options["crop_scale"] else config.crop_scale

    from crossalign.features.pipeline import image_features
    from crossalign.images.crops import ViewRecipe
    from crossalign.store.shards import Store

    recipe = ViewRecipe(views, scale, options["seed"])
    dataset = measuring.open_dataset(config, options)
    encoder = common.load_encoder(config.encoder, clusters.for_driver(options))
    with clusters.executor(options, encoder) as executor:
        found = image_features(
            dataset,
            encoder,
            recipe,
            Store(options["store"]),
            num_workers=options["num_workers"],
            progress=common.progress_bar,
            encode=executor.encode if executor else None,
        )
        for _ in found:  # Reading checks the digest of each shard; a damaged one is encoded again.
            pass
    kept = found.images - found.encoded
    click.echo(
        f"{found.shards.folder}: {found.encoded} images encoded now, {kept} cached before, {1 + recipe.count} views each"
    )
