"""Images to views to features: the encode pipeline, and adaptive views."""
