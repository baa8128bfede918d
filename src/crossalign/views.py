"""The name that encoders of other packages import `Preprocessing` by; it lives in images/crops.py."""

from crossalign.images.crops import Preprocessing as Preprocessing
