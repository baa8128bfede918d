"""Methods: each is one row of `registry` and one scoring function."""

from crossalign.methods.registry import METHODS as METHODS
from crossalign.methods.registry import Method as Method
from crossalign.methods.registry import Released as Released
from crossalign.methods.registry import ScoreConfig as ScoreConfig
from crossalign.methods.registry import TextFeatures as TextFeatures
from crossalign.methods.registry import WeightedMean as WeightedMean
from crossalign.methods.registry import pick_methods as pick_methods
