"""The transforms that `datasets` and Ray Data call.

`CachedFeatures` and `CachedWaveforms` are those that users make; `cached_transform` has what they share. The three
forms are `FeatureColumns.of` (arrays into Arrow), `references` (references into Arrow, each row of the type
`CachedArray`) and `attach` (nothing into Arrow). `batch_formats` knows in which forms a batch comes and goes back,
`map_functions` and `feature_reader` have the functions that `datasets` pickles and hashes, `attached` the transform
of an attached dataset. `coverage` and `estimate` say what a dataset needs, `ray_fill` fills a cache on a cluster.
"""

from .cached_array import CachedArray
from .cached_features import CachedFeatures
from .cached_waveforms import CachedWaveforms
from .coverage import Coverage
from .estimate import Estimate

__all__ = ["CachedArray", "CachedFeatures", "CachedWaveforms", "Coverage", "Estimate"]
