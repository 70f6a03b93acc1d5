"""The vectors of driftgraph as feature views of Feast: put this file into the feature repository of a shop.

    [publish] feast = "shop" ──► Redis ──► feast apply, get_online_features

driftgraph writes the values; Feast only reads them. docs/reader.md has the feature_store.yaml beside it.
"""

from __future__ import annotations

from datetime import timedelta

from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Float32, Int64, String

NAMESPACE = "driftgraph"  # redis.namespace of driftgraph.toml

user = Entity(name="driftgraph_user", join_keys=["user_id"], value_type=ValueType.STRING)
item = Entity(name="driftgraph_item", join_keys=["item_id"], value_type=ValueType.STRING)
unused = FileSource(
    path="unused.parquet", timestamp_field="event_timestamp"
)  # Feast wants one; nothing is read


def view_of(entity: Entity, side: str) -> FeatureView:
    """The embedding of each user or item, and the generation that it is of."""
    return FeatureView(
        name=f"{NAMESPACE}_{side}s",
        entities=[entity],
        schema=[
            Field(name=f"{side}_id", dtype=String),
            Field(name="embedding", dtype=Array(Float32)),
            Field(name="generation", dtype=Int64),
        ],
        source=unused,
        ttl=timedelta(0),  # no end: the vector of somebody who was away for a month is as good as before
    )


users = view_of(user, "user")
items = view_of(item, "item")
