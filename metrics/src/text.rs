//! The two text formats.
//!
//! In both, legacy families have integer `le` labels, so that a series keeps its name whichever format a scraper asks
//! for. They differ in the head of a family: the classic format names a counter in full; OpenMetrics leaves `_total` to
//! the sample, has units and an end mark, and knows no counter without `_total` (such a one is `unknown`).

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::time::Duration;

use crate::describe::{Desc, Kind, Style};
use crate::format::Exposition;
use crate::histogram::Snapshot;
use crate::labels::Labels;
use crate::recorder::Value;

/// A page in a text format.
#[derive(Debug)]
pub(crate) struct Page {
    openmetrics: bool,
    text: String,
    current: Option<&'static Desc>,
    /// True once the head of the current family is on the page.
    headed: bool,
}

impl Page {
    pub(crate) const fn classic() -> Self {
        Self::new(false)
    }

    pub(crate) const fn openmetrics() -> Self {
        Self::new(true)
    }

    const fn new(openmetrics: bool) -> Self {
        Self {
            openmetrics,
            text: String::new(),
            current: None,
            headed: false,
        }
    }

    fn head(&mut self, desc: &Desc) -> fmt::Result {
        if std::mem::replace(&mut self.headed, true) {
            return Ok(());
        }
        let (name, kind) = match (self.openmetrics, desc.kind) {
            (true, Kind::Counter) => match desc.name.strip_suffix("_total") {
                Some(name) => (name, "counter"),
                None => (desc.name, "unknown"),
            },
            (_, kind) => (desc.name, kind.as_str()),
        };
        let text = &mut self.text;
        writeln!(text, "# HELP {name} {}", desc.help)?;
        writeln!(text, "# TYPE {name} {kind}")?;
        let unit = desc.unit.as_str();
        if self.openmetrics && desc.style == Style::Modern && !unit.is_empty() {
            writeln!(text, "# UNIT {name} {unit}")?;
        }
        Ok(())
    }

    fn sample(&mut self, desc: &'static Desc, labels: &Labels, value: Value) -> fmt::Result {
        self.head(desc)?;
        match value {
            Value::Count(count) => {
                self.name(desc, "", labels)?;
                writeln!(self.text, " {count}")
            }
            Value::Number(number) => {
                self.name(desc, "", labels)?;
                writeln!(self.text, " {}", Number(number))
            }
            Value::Histogram(snapshot) => self.histogram(desc, labels, &snapshot),
        }
    }

    fn name(&mut self, desc: &Desc, suffix: &str, labels: &Labels) -> fmt::Result {
        self.text.push_str(desc.name);
        self.text.push_str(suffix);
        if labels.is_empty() {
            return Ok(());
        }
        write!(self.text, "{{{labels}}}")
    }

    fn histogram(&mut self, desc: &Desc, labels: &Labels, snapshot: &Snapshot) -> fmt::Result {
        let comma = if labels.is_empty() { "" } else { "," };
        for (bound, count) in snapshot.cumulative() {
            let (name, labels, le) = (desc.name, labels, Number(bound));
            let point = if desc.style == Style::Modern && bound.is_finite() && bound.fract() == 0.0
            {
                ".0"
            } else {
                ""
            };
            writeln!(
                self.text,
                "{name}_bucket{{{labels}{comma}le=\"{le}{point}\"}} {count}"
            )?;
        }
        self.name(desc, "_sum", labels)?;
        writeln!(self.text, " {}", Number(snapshot.sum))?;
        self.name(desc, "_count", labels)?;
        writeln!(self.text, " {}", snapshot.count())
    }
}

impl Exposition for Page {
    fn family(&mut self, desc: &'static Desc) {
        self.current = Some(desc);
        self.headed = false;
    }

    fn series(&mut self, labels: &Labels, _age: Option<Duration>, value: Value) {
        if let Some(desc) = self.current {
            // Writing to a string does not fail.
            let _ = self.sample(desc, labels, value);
        }
    }

    fn end_family(&mut self) {
        self.current = None;
    }

    fn finish(&mut self) {
        if self.openmetrics {
            self.text.push_str("# EOF\n");
        }
    }

    fn pending(&self) -> usize {
        self.text.len()
    }

    fn flush(&mut self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(self.text.as_bytes())?;
        self.text.clear();
        Ok(())
    }
}

/// A float as both formats spell it.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_infinite() {
            f.write_str(if self.0 > 0.0 { "+Inf" } else { "-Inf" })
        } else {
            self.0.fmt(f)
        }
    }
}
