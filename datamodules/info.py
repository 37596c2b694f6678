"""What is known about a data set before any image is decoded, and the one error its readers raise."""

from dataclasses import dataclass, field


class DataError(ValueError):
    """Data that cannot be used as asked; the message names the field or file, the value, and what to do."""


@dataclass(frozen=True)
class DataInfo:
    """The facts that planning needs.

    Attributes:
        name: Readable name, used for cache folders and figures.
        num_train: Images in the training split, those later carved off for validation included.
        num_test: Images in the test split.
        image_size: Height and width in pixels (images are square).
        in_channels: 1 for greyscale, 3 for colour.
        num_classes: Number of classes; labels are `0 .. num_classes - 1`.
        class_names: One name per class, in label order.
        fingerprint: Hash of everything that decides the decoded pixels and labels: the revision or the files'
            contents, the splits and the preprocessing.
    """

    name: str
    num_train: int
    num_test: int
    image_size: int
    in_channels: int
    num_classes: int
    class_names: tuple[str, ...] = field(repr=False)
    fingerprint: str
