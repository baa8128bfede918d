"""Image files and pixels to views: decoding, crop boxes, and resizing."""
