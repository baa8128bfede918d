"""The name that datasets of other packages import `Config` by; it lives in datasets/configs."""

from crossalign.datasets.configs import Config as Config
