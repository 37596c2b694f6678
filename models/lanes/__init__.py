"""Lanes: several runs of one architecture trained as one program.

```
networks --build_lanes--> LaneNetwork   images [L, B, C, H, W] -> logits [L, B, K]
                          LaneAdamW     one step for all lanes, each with its own rate, decay, norm and step count
lane_state, load_lane     a lane is at any time an ordinary solo checkpoint, and back
```

Two forms compute the same. *Stacked* lanes hold the weights of all lanes in every layer, ``[L, ...]``, and are one
batched matrix product per layer. *Branches* are networks side by side, each on a CUDA stream of its own. Which networks
can be stacked is read off their layers (`why_not_stacked`); those that draw random numbers train solo (`why_no_lanes`).
"""

from models.lanes.network import LaneKind, LaneNetwork, build_lanes
from models.lanes.optimizer import LaneAdamW
from models.lanes.randomness import why_no_lanes
from models.lanes.stacking import why_not_stacked

__all__ = ["LaneAdamW", "LaneKind", "LaneNetwork", "build_lanes", "why_no_lanes", "why_not_stacked"]
