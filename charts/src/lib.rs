//! The Helm charts of the mesh, and what `linkerd install` does with them: values read and checked, templates rendered as Helm
//! renders them.
//!
//! | module | what |
//! |---|---|
//! | [`chart`] | the charts' files, in the binary |
//! | [`values`] | values: defaults, files, `--set` |
//! | [`schema`] | the schema of values: defaults, and what is wrong with a value |
//! | [`mod@render`] | templates become manifests |
//! | `functions` | the functions that templates may use |
//! | [`docs`] | `values.yaml` and the README, made from the schema |

pub mod chart;
pub mod docs;
mod functions;
pub mod render;
pub mod schema;
pub mod values;

pub use chart::Chart;
pub use render::{Release, RenderError, render};
pub use values::{InvalidValues, Values};
