"""Data: where images come from, which of them a run sees, in which order, and how they reach the network.

Names load on first use, so that planning imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datamodules.arrays import ArrayData
    from datamodules.batches import StepBatches
    from datamodules.controls import PermutationScope, PixelPermutation
    from datamodules.datamodule import SubsetDataModule
    from datamodules.dial import BayesError, DialData
    from datamodules.folder import FolderData
    from datamodules.hub import HubData
    from datamodules.images import ImageSplit
    from datamodules.info import DataError, DataInfo
    from datamodules.lane_batches import LaneBatches
    from datamodules.map_style import MapStyleData
    from datamodules.normalization import Normalization
    from datamodules.shipped import shipped_data, shipped_names
    from datamodules.sources import DataConfig, parse_data
    from datamodules.subset import carve_validation, index_hash, nested_subset, smallest_complete_size

_HOMES = {
    "ArrayData": "arrays",
    "BayesError": "dial",
    "DataConfig": "sources",
    "DataError": "info",
    "DataInfo": "info",
    "DialData": "dial",
    "FolderData": "folder",
    "HubData": "hub",
    "ImageSplit": "images",
    "LaneBatches": "lane_batches",
    "MapStyleData": "map_style",
    "Normalization": "normalization",
    "PermutationScope": "controls",
    "PixelPermutation": "controls",
    "StepBatches": "batches",
    "SubsetDataModule": "datamodule",
    "carve_validation": "subset",
    "index_hash": "subset",
    "nested_subset": "subset",
    "parse_data": "sources",
    "shipped_data": "shipped",
    "shipped_names": "shipped",
    "smallest_complete_size": "subset",
}

__all__ = [
    "ArrayData",
    "BayesError",
    "DataConfig",
    "DataError",
    "DataInfo",
    "DialData",
    "FolderData",
    "HubData",
    "ImageSplit",
    "LaneBatches",
    "MapStyleData",
    "Normalization",
    "PermutationScope",
    "PixelPermutation",
    "StepBatches",
    "SubsetDataModule",
    "carve_validation",
    "index_hash",
    "nested_subset",
    "parse_data",
    "shipped_data",
    "shipped_names",
    "smallest_complete_size",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
