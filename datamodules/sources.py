"""Every kind of data source under one type, told apart by the field `kind`."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from datamodules.arrays import ArrayData
from datamodules.dial import DialData
from datamodules.folder import FolderData
from datamodules.hub import HubData
from datamodules.map_style import MapStyleData

DataConfig = Annotated[DialData | HubData | FolderData | ArrayData | MapStyleData, Field(discriminator="kind")]

_ADAPTER: TypeAdapter[DataConfig] = TypeAdapter(DataConfig)


def parse_data(mapping: Mapping[str, Any]) -> DataConfig:
    """Validates a mapping, such as the content of a file in `configs/data`.

    Raises:
        pydantic.ValidationError: The kind is unknown, a key is misspelt, or a value is refused; the field is named.
    """
    return _ADAPTER.validate_python(dict(mapping))
