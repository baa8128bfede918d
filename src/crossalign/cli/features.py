"""`crossalign features`: encode the images of a dataset, for later commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from crossalign.cli import _cluster as clusters
from crossalign.cli import _common as common
from crossalign.cli import _measuring as measuring
from crossalign.cli._help import GroupedCommand


@dataclass(frozen=True)
class Options:
    """The values of the command's options."""

    dataset_options: measuring.DatasetOptions
    encoder_options: common.EncoderOptions
    cluster: clusters.ClusterOptions
    views: int | None
    crop_scale: str | None
    seed: int
    num_workers: int
    store: str | None


@click.command(cls=GroupedCommand)
@measuring.dataset_options
@click.option(
    "--views", type=click.IntRange(0), help="Local views per image; 0: the global view alone [default: from the config]."
)
@measuring.crop_scale_option
@common.seed_option
@common.encoder_options
@common.workers_option
@clusters.executor_options
@common.store_option
def command(**values: Any) -> None:
    """Encode the images of a dataset, and cache the features.

    This is the slow part of `crossalign evaluate`. Images with cached features are not encoded again, so a call that was
    stopped resumes. `crossalign evaluate` with the same encoder, views, crop scale and seed then reads the features. On a
    cluster, all machines must see the dataset and the store under the same paths.

    \b
    Examples:
      crossalign features --dataset imagenet --encoder open_clip:ViT-B-32/openai
      crossalign features --dataset imagenet --executor ray --ray-address auto --store /shared/store
      crossalign features --dataset imagenet --executor ray --num-gpus-per-worker 1 --precision bf16 --store /shared/store
      crossalign store list
    """
    options = Options(**values)
    options.cluster.check()
    config = options.dataset_options.config()
    views = config.views if options.views is None else options.views
    scale = measuring.read_crop_scale(options.crop_scale, config) if options.crop_scale else config.crop_scale

    from crossalign.features.pipeline import image_features
    from crossalign.images.crops import ViewRecipe
    from crossalign.store.shards import Store

    recipe = ViewRecipe(views, scale, options.seed)
    dataset = options.dataset_options.open(config)
    encoder = common.load_encoder(config.encoder, options.cluster.for_driver(options.encoder_options))
    with clusters.executor(options.cluster, encoder, options.encoder_options, options.num_workers) as executor:
        features = image_features(
            dataset,
            encoder,
            recipe,
            Store(options.store),
            num_workers=options.num_workers,
            progress=common.progress_bar,
            encode=executor.encode if executor else None,
        )
        for _ in features:  # Reading checks the digest of each shard; a damaged one is encoded again.
            pass
    cached = features.images - features.encoded
    click.echo(
        f"{features.shards.folder}: {features.encoded} images encoded now, {cached} cached before, "
        f"{1 + recipe.count} views each"
    )
