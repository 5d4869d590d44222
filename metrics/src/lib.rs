//! Metric families, label sets, recorders, retention and exposition for the sidecar and its control plane.
//!
//! The proxy and the controller resolve a [`Handle`] once (per connection, route or policy version) and then only
//! increment it: no label is formatted or hashed, and no lock taken, per request. The admin servers call
//! [`Registry::encode`] with the [`Format`] that the scraper asked for.
//!
//! | file | what |
//! |---|---|
//! | [`describe`] | the one table of families: names, types, units, labels; `docs/metrics.md` comes from it |
//! | `labels` | [`Labels`], an immutable label set, rendered once |
//! | `recorder`, `histogram`, `native` | [`Counter`], [`Gauge`], [`Histogram`]: lock-free recorders |
//! | `family` | [`Family`] and [`Handle`]: one series per label set, bounded, evicted when idle |
//! | `registry` | [`Registry`] and [`Options`] |
//! | `collect`, [`process`] | values computed when a page is made |
//! | `format`, `text`, `protobuf` | content negotiation and the three exposition formats |
//!
//! The exposition is written here and not by `prometheus-client`, which prints OpenMetrics only: dashboards made for
//! the peer's metrics need the classic text format, type lines that carry `_total`, integer `le` labels in the legacy
//! families, and counters whose names have no `_total`; native histograms need the protobuf format; and its
//! histograms lock on every observation. It is used in the tests as an oracle for the OpenMetrics page.

#![deny(missing_docs)]

pub mod describe;
pub mod process;

mod collect;
mod family;
mod format;
mod histogram;
mod labels;
mod native;
mod protobuf;
mod recorder;
mod registry;
mod text;

pub use collect::{Collect, Samples};
pub use describe::Desc;
pub use family::{Family, Handle};
pub use format::{Format, accepts_gzip, gzip};
pub use histogram::Histogram;
pub use labels::{Labels, MAX_VALUE_BYTES};
pub use recorder::{Counter, Gauge, Held, Recorder};
pub use registry::{Options, Registry};
