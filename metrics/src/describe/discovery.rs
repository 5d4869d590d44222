//! Families of outbound discovery.

use super::{Desc, families};

families! {
    DISCOVERY_TABLE:
    /// The number of outbound destinations that are watched now.
    OUTBOUND_DESTINATIONS = Desc::gauge("outbound_destinations");
    /// The number of outbound destinations that were looked up; those in use or used a moment ago are not looked up again.
    OUTBOUND_DISCOVERY_LOOKUPS_TOTAL = Desc::counter("outbound_discovery_lookups_total");
    /// The number of updates about outbound destinations that could not be used; the last good version stays.
    OUTBOUND_DISCOVERY_UPDATES_REFUSED_TOTAL = Desc::counter("outbound_discovery_updates_refused_total");
}
