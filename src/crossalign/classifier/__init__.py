"""`Classifier`: labels for one's own images, by words, by example images, or both."""

from crossalign.classifier.classification import CSV_HEADER as CSV_HEADER
from crossalign.classifier.classification import Classification as Classification
from crossalign.classifier.classifier import Classifier as Classifier
from crossalign.classifier.scorer import Prediction as Prediction
