//! The process's log: what is written, how, and changing the filter while running.
//!
//! `main` calls [`init`] once; the admin server changes the filter through the [`Level`] it gives. Lines go to
//! stdout. Control characters in a line are escaped, so that nothing a peer sends can begin a line of its own.

use crate::config::{LogFormat, Logging};
use std::{
    fmt,
    io::{self, Write},
    time::Instant,
};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::LevelFilter,
    fmt::{MakeWriter, format::Writer, time::FormatTime},
    layer::SubscriberExt,
    reload,
};

/// Exactly this filter disables logging for good.
const OFF: &str = "off";

/// Changes what is logged.
#[derive(Clone, Debug)]
pub(crate) struct Level(Option<reload::Handle<EnvFilter, Registry>>);

/// Begins to log. Bad directives of the filter are named on stderr and left out. Where something else in the process
/// logs already, its subscriber stays, and the level cannot be changed.
pub(crate) fn init(config: &Logging) -> Level {
    if config.filter.trim() == OFF {
        return Level(None);
    }
    let (filter, handle) = reload::Layer::new(builder().parse_lossy(&config.filter));
    let subscriber = Registry::default()
        .with(filter)
        .with(layer(config.format, io::stdout));
    match tracing::subscriber::set_global_default(subscriber) {
        Ok(()) => Level(Some(handle)),
        Err(error) => {
            eprintln!("The log filter is not used: {error}");
            Level(None)
        }
    }
}

impl Level {
    /// One that changes nothing but itself.
    #[cfg(test)]
    pub(crate) fn detached(filter: &str) -> Self {
        let (layer, handle) = reload::Layer::new(builder().parse_lossy(filter));
        // The handle works as long as there is a layer.
        std::mem::forget(layer);
        Self(Some(handle))
    }

    /// No logging at all.
    #[cfg(test)]
    pub(crate) fn off() -> Self {
        Self(None)
    }

    /// The filter in use; `None` if logging is off for good.
    pub(crate) fn get(&self) -> Option<String> {
        let handle = self.0.as_ref()?;
        handle.with_current(ToString::to_string).ok()
    }

    /// Uses another filter; an empty one means warnings only.
    ///
    /// # Errors
    /// What the parser says of the text.
    pub(crate) fn set(&self, filter: &str) -> Result<(), String> {
        let Some(handle) = &self.0 else {
            return Err("logging is off".into());
        };
        let filter = builder().parse(filter).map_err(|error| error.to_string())?;
        handle.reload(filter).map_err(|error| error.to_string())
    }
}

/// Field patterns are exact texts: the injected filter names fields like `[{headers}]`, and a pattern must not be able
/// to make every line slow.
fn builder() -> tracing_subscriber::filter::Builder {
    EnvFilter::builder()
        .with_default_directive(LevelFilter::WARN.into())
        .with_regex(false)
}

fn layer<S, W>(format: LogFormat, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_thread_ids(true);
    match format {
        LogFormat::Plain => layer
            .with_timer(SinceStart(Instant::now()))
            .with_writer(Escaping(writer))
            .boxed(),
        LogFormat::Json => layer
            .json()
            .with_current_span(false)
            .with_span_list(true)
            .with_writer(writer)
            .boxed(),
    }
}

/// `[     0.001234s]`: seconds since the start of the process.
struct SinceStart(Instant);

impl FormatTime for SinceStart {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let since = self.0.elapsed();
        write!(
            writer,
            "[{:>6}.{:06}s]",
            since.as_secs(),
            since.subsec_micros()
        )
    }
}

/// Makes writers that escape control characters. An event is written as a whole, with its line end.
struct Escaping<W>(W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for Escaping<W> {
    type Writer = EscapingWriter<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        EscapingWriter(self.0.make_writer())
    }
}

struct EscapingWriter<W>(W);

impl<W: Write> Write for EscapingWriter<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let (text, end) = match line.strip_suffix(b"\n") {
            Some(text) => (text, &b"\n"[..]),
            None => (line, &b""[..]),
        };
        if !text.iter().any(u8::is_ascii_control) {
            self.0.write_all(line)?;
            return Ok(line.len());
        }
        let mut escaped = Vec::with_capacity(line.len() + 16);
        for byte in text {
            if byte.is_ascii_control() {
                escaped.extend(byte.escape_ascii());
            } else {
                escaped.push(*byte);
            }
        }
        escaped.extend_from_slice(end);
        self.0.write_all(&escaped)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, events: impl FnOnce()) -> String {
        let page = Page::default();
        let writer = page.clone();
        let subscriber = Registry::default().with(layer(format, move || writer.clone()));
        tracing::subscriber::with_default(subscriber, events);
        String::from_utf8(page.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn plain_lines_have_time_level_thread_span_target_and_fields() {
        let text = logged(LogFormat::Plain, || {
            let _span = tracing::info_span!("server", port = 80).entered();
            tracing::info!(client = "a", "Request denied");
        });
        let (time, rest) = text.split_once(']').unwrap();
        let number = time.strip_prefix('[').unwrap().trim_start();
        let (_, micros) = number.strip_suffix('s').unwrap().split_once('.').unwrap();
        assert_eq!((time.len(), micros.len()), (15, 6), "{text}");
        assert!(rest.starts_with("  INFO ThreadId("), "{text}");
        assert!(
            rest.ends_with(
                ") server{port=80}: linkerd_proxy::logging::tests: Request denied client=\"a\"\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn json_lines_have_the_keys_that_collectors_read() {
        let text = logged(LogFormat::Json, || {
            let _span = tracing::info_span!("server", port = 80).entered();
            tracing::info!(client = "a\nb", "Request denied");
        });
        let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["fields"]["message"], "Request denied");
        assert_eq!(line["fields"]["client"], "a\nb");
        assert_eq!(line["spans"][0]["name"], "server");
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));
        assert!(line["threadId"].as_str().unwrap().starts_with("ThreadId("));
        assert_eq!(line["target"], "linkerd_proxy::logging::tests");
    }

    #[test]
    fn a_peers_line_break_cannot_begin_a_line() {
        let text = logged(LogFormat::Plain, || {
            tracing::info!(path = %"/a\n[     0.000001s]  INFO forged\x1b[31m", "x");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("/a\\n[") && !text.contains('\x1b'), "{text}");
    }

    #[test]
    fn the_injected_filter_is_understood_as_it_is() {
        let filter = "warn,linkerd=info,hickory=error,[{headers}]=off,[{request}]=off";
        let parsed = builder().parse(filter).unwrap().to_string();
        for part in filter.split(',') {
            assert!(parsed.contains(part), "{part} is missing in {parsed}");
        }
        assert!(builder().parse("linkerd=loud").is_err());
    }
}
