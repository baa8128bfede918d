"""Options that travel together, and what they refuse."""

from dataclasses import dataclass, replace

import click
import pytest
from click.testing import CliRunner

from crossalign.cli._cluster import ClusterOptions
from crossalign.cli._common import EncoderOptions, check_output, load_encoder, option_group
from crossalign.cli._measuring import DatasetOptions
from crossalign.errors import InputError

LOCAL = ClusterOptions("local", None, None, None, None)
ENCODER = EncoderOptions("cpu", "auto", None, None)
DATASET = DatasetOptions(None, None, None, None, None, None, False)


@dataclass(frozen=True)
class Size:
    width: int
    height: int


def test_a_group_arrives_as_one_dataclass():
    got = {}

    @click.command()
    @option_group("size", Size, click.option("--width", default=3), click.option("--height", default=4))
    @click.option("--colour", default="red")
    def command(size, colour):
        got.update(size=size, colour=colour)

    assert [parameter.name for parameter in command.params] == ["width", "height", "colour"]
    assert CliRunner().invoke(command, ["--height", "5"]).exit_code == 0
    assert got == {"size": Size(3, 5), "colour": "red"}


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"ray_address": "auto"}, "--ray-address auto"),
        ({"workers": 2}, "--workers 2"),
        ({"cpus_per_worker": 3}, "--num-cpus-per-worker 3"),
        ({"gpus_per_worker": 0.0}, "--num-gpus-per-worker 0.0"),
    ],
)
def test_options_of_a_cluster_need_a_cluster(change, option):
    with pytest.raises(InputError, match=f"^{option} needs --executor ray; add it, or omit {option.split()[0]}$"):
        replace(LOCAL, **change).check()
    replace(LOCAL, executor="ray", **change).check()


def test_the_driver_of_workers_with_gpus_takes_torch():
    gpus = replace(LOCAL, executor="ray", gpus_per_worker=1.0)
    assert gpus.for_driver(ENCODER) == EncoderOptions("cpu", "torch", "f32", None)
    assert gpus.for_driver(replace(ENCODER, precision="bf16")).precision == "bf16"
    named = replace(ENCODER, runtime="openvino")
    assert gpus.for_driver(named) == named
    assert replace(gpus, gpus_per_worker=0.0).for_driver(ENCODER) == ENCODER
    assert LOCAL.for_driver(ENCODER) == ENCODER


def test_calibration_images_are_for_int8(tmp_path):
    with pytest.raises(
        InputError, match="--calibrate photos works with --precision int8 only; add that, or omit --calibrate"
    ):
        load_encoder("builtin", replace(ENCODER, calibrate="photos"))
    assert ENCODER.calibration() == []
    with pytest.raises(InputError, match="holds no images"):
        replace(ENCODER, calibrate=str(tmp_path)).calibration()


def test_the_config_is_that_of_the_options():
    with pytest.raises(InputError, match="no dataset given; name one with --dataset"):
        DATASET.config()
    config = replace(DATASET, dataset_name="dtd").config()
    assert config.name == replace(DATASET, config_name="dtd").config().name == "dtd"
    assert replace(DATASET, dataset_name="dtd", encoder="builtin").config() == replace(config, encoder="builtin")
    assert config.encoder != "builtin"


def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    assert check_output(str(tmp_path / "a.json")) == tmp_path / "a.json"
    with pytest.raises(InputError, match="cannot be written, since it is a folder; name another file"):
        check_output(str(tmp_path))
    with pytest.raises(InputError, match="cannot be written, since its folder does not exist; name another file"):
        check_output(str(tmp_path / "none" / "a.json"))
