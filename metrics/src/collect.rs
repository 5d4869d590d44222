//! Values that are computed when a page is made rather than recorded as things happen.

use std::fmt;

use crate::describe::Desc;
use crate::labels::Labels;

/// Something that is asked for its values for each page, such as [`crate::process::Process`].
pub trait Collect: Send + Sync {
    /// Gives all values. Called on the thread that makes the page, so it may block shortly.
    fn collect(&self, samples: &mut Samples);
}

impl fmt::Debug for dyn Collect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Collect")
    }
}

/// Takes the values of collectors. Counters and gauges only.
#[derive(Debug, Default)]
pub struct Samples(pub(crate) Vec<(&'static Desc, Labels, f64)>);

impl Samples {
    /// Adds the value of one series.
    pub fn push(&mut self, desc: &'static Desc, labels: Labels, value: f64) {
        self.0.push((desc, labels, value));
    }
}
