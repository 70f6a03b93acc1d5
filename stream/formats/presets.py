"""Mappings for event streams that many sites have. ``events.format`` names one.

    events.format = "segment" ──► [PRESETS] + [events.mapping] on top ──► field_mapping.EventMapping

Each preset is data in the form of ``[events.mapping]``, where a site sets what differs. The relations are
view, click, cart, favorite and purchase; events of relations that are not configured are ignored. The events
come from scripts in browsers, where a variable that is not set becomes the text "undefined" or "null".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_SNOWPLOW: Final = "com_snowplowanalytics_snowplow"

_UNSET: Final = ["undefined", "null"]
_GA4: Final = {
    "view_item": "view",
    "select_item": "click",
    "add_to_cart": "cart",
    "add_to_wishlist": "favorite",
    "purchase": "purchase",
}

PRESETS: Final[Mapping[str, Mapping[str, Any]]] = {
    # CloudEvents 1.0, structured or binary: ``cloudevents`` reads both. Ids are unique by source.
    "cloudevents": {
        "user": "data.user_id",
        "item": "data.item_id",
        "behavior": ["data.behavior", "type"],
        "ts": ["time", "data.ts", "$timestamp"],
        "event_id": {"join": ["source", "id"]},
    },
    # Segment and RudderStack, Spec: Ecommerce v2, one by one or in the bodies of the HTTP API. Only calls of
    # track have an event; identify, page and so on are no behavior.
    "segment": {
        "user": ["userId", "anonymousId"],
        "item": [
            "properties.products[*].product_id",
            "properties.products[*].sku",
            "properties.product_id",
            "properties.sku",
        ],
        "behavior": "event",
        "ts": ["timestamp", "originalTimestamp", "sentAt", "receivedAt"],
        "event_id": "messageId",
        "messages": "batch",
        "when": "event exists",
        "behaviors": {
            "Product Viewed": "view",
            "Product Clicked": "click",
            "Product Added": "cart",
            "Product Added to Wishlist": "favorite",
            "Order Completed": "purchase",
        },
        "others": "ignore",
        "none": _UNSET,
    },
    # Google Analytics 4 as BigQuery exports it: microseconds, one event a row, its products in items.
    "ga4": {
        "user": ["user_id", "user_pseudo_id"],
        "item": "items[*].item_id",
        "behavior": "event_name",
        "ts": "event_timestamp",
        "behaviors": _GA4,
        "others": "ignore",
        "none": ["(not set)", *_UNSET],
    },
    # The same events in the bodies of the Measurement Protocol: several of one visitor in a message.
    "ga4-mp": {
        "user": ["user_id", "client_id", "app_instance_id"],
        "item": "events[*].params.items[*].item_id",
        "behavior": "events[*].name",
        "ts": ["events[*].timestamp_micros", "timestamp_micros", "$timestamp"],
        "behaviors": _GA4,
        "others": "ignore",
        "none": ["(not set)", *_UNSET],
    },
    # Snowplow's ecommerce actions, enriched and as JSON, as its analytics SDKs write them.
    "snowplow": {
        "user": [
            "user_id",
            "domain_userid",
            f"contexts_{_SNOWPLOW}_client_session_1[0].userId",
            "network_userid",
        ],
        "item": f"contexts_{_SNOWPLOW}_ecommerce_product_1[*].id",
        "behavior": f"unstruct_event_{_SNOWPLOW}_ecommerce_snowplow_ecommerce_action_1.type",
        "ts": ["derived_tstamp", "collector_tstamp"],
        "event_id": "event_id",
        "when": 'event_name == "snowplow_ecommerce_action"',
        "behaviors": {
            "product_view": "view",
            "list_click": "click",
            "add_to_cart": "cart",
            "transaction": "purchase",
        },
        "others": "ignore",
        "none": _UNSET,
    },
}


def merged(preset: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A preset with a site's own keys on top; the names in ``behaviors`` are merged one by one."""
    both = {**preset, **own}
    if own.get("behaviors") and preset.get("behaviors"):
        both["behaviors"] = {**preset["behaviors"], **own["behaviors"]}
    return both
