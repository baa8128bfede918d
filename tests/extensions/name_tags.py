"""A dataset: all images in one folder; a file name is a class name and a number."""

from crossalign.configs import Config
from crossalign.datasets import ClassList, Tree, class_images

CONFIG = Config(
    "name-tags",
    title="images whose file names start with the class name",
    tree="ROOT/\n  red-1.png red-2.png blue-1.png ...",
    encoder="builtin",
    templates=("a photo of a {}.", "a photo of something {}."),
)


def read(root, config):
    paths = class_images(root)
    tags = [path.stem.rsplit("-", 1)[0] for path in paths]
    names = tuple(sorted(set(tags)))
    return Tree(paths, [names.index(tag) for tag in tags], ClassList(keys=names, names=names))
