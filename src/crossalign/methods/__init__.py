"""Methods: one row and one scoring function each; see `registry`."""

from crossalign.methods.registry import METHODS as METHODS
from crossalign.methods.registry import Method as Method
from crossalign.methods.registry import TextBank as TextBank
from crossalign.methods.registry import pick_methods as pick_methods
