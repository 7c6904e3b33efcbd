//! aya's `Pod` for what crosses into the maps.

use crate::{
    address::Address,
    endpoint::{Endpoint, Link},
    event::{Event, ReportKey, ReportWindow},
    maps::{AddressKey, Config, FlowKey, ReplyKey},
    origin::{Origin, OriginQuery, Published},
};

macro_rules! pod {
    ($($type:ty),+ $(,)?) => {
        // SAFETY: each is repr(C), Copy, without padding, pointers or invalid bit patterns; the
        // sizes are asserted beside the types.
        $(unsafe impl aya::Pod for $type {})+
    };
}

pod!(
    Address,
    Endpoint,
    Link,
    Event,
    ReportKey,
    ReportWindow,
    Config,
    FlowKey,
    ReplyKey,
    Origin,
    AddressKey,
    OriginQuery,
    Published
);
