//! Families about the process and what it was built from.

use super::{Desc, Unit, families};

families! {
    PROCESS_TABLE:
    /// Streams of span exports that were opened.
    OPENTELEMETRY_SPAN_EXPORT_STREAMS = Desc::counter(
        "opentelemetry_span_export_streams", "Total count of opened span export streams.",
    ).legacy();
    /// Messages with spans that were sent.
    OPENTELEMETRY_SPAN_EXPORT_REQUESTS = Desc::counter(
        "opentelemetry_span_export_requests", "Total count of span export messages.",
    ).legacy();
    /// Spans that were sent.
    OPENTELEMETRY_SPAN_EXPORTS = Desc::counter(
        "opentelemetry_span_exports", "Total count of spans exported.",
    ).legacy();
    /// Always 1.
    PROXY_BUILD_INFO = Desc::gauge(
        "proxy_build_info", "What the proxy was built from.",
    ).peer().fixed(&[&["date", "git_sha", "profile", "vendor", "version"]]);
    /// Always 1.
    RUSTLS_INFO = Desc::gauge(
        "rustls_info", "What TLS is made with.",
    ).peer().fixed(&[&["tls_suites", "tls_kx_groups", "tls_rand", "tls_key_provider", "tls_fips"]]);
    /// Made by [`crate::process::Process`], as are all that follow.
    PROCESS_START_TIME_SECONDS = Desc::gauge(
        "process_start_time_seconds", "Time when the process started, in seconds since 1970.",
    ).unit(Unit::Seconds).peer();
    /// The clock, to see how far it is off.
    PROCESS_CLOCK_TIME_SECONDS = Desc::gauge(
        "process_clock_time_seconds", "Current time as the process sees it, in seconds since 1970.",
    ).unit(Unit::Seconds).peer();
    /// Time since the start.
    PROCESS_UPTIME_SECONDS_TOTAL = Desc::counter(
        "process_uptime_seconds_total", "Time since the process started.",
    ).unit(Unit::Seconds).peer();
    /// User and system time of all threads.
    PROCESS_CPU_SECONDS_TOTAL = Desc::counter(
        "process_cpu_seconds_total", "User and system CPU time spent.",
    ).unit(Unit::Seconds).peer();
    /// Address space.
    PROCESS_VIRTUAL_MEMORY_BYTES = Desc::gauge(
        "process_virtual_memory_bytes", "Size of virtual memory.",
    ).unit(Unit::Bytes).peer();
    /// Memory in RAM.
    PROCESS_RESIDENT_MEMORY_BYTES = Desc::gauge(
        "process_resident_memory_bytes", "Size of resident memory.",
    ).unit(Unit::Bytes).peer();
    /// File descriptors in use.
    PROCESS_OPEN_FDS = Desc::gauge("process_open_fds", "The number of open file descriptors.").peer();
    /// The soft limit on them.
    PROCESS_MAX_FDS = Desc::gauge("process_max_fds", "The number of file descriptors that may be open.").peer();
    /// Threads.
    PROCESS_THREADS = Desc::gauge("process_threads", "The number of threads.").peer();
    /// Of all interfaces of the network namespace.
    PROCESS_NETWORK_RECEIVE_BYTES_TOTAL = Desc::counter(
        "process_network_receive_bytes_total", "The number of bytes received by the process's network namespace.",
    ).unit(Unit::Bytes).peer();
    /// Of all interfaces of the network namespace.
    PROCESS_NETWORK_TRANSMIT_BYTES_TOTAL = Desc::counter(
        "process_network_transmit_bytes_total", "The number of bytes sent by the process's network namespace.",
    ).unit(Unit::Bytes).peer();
}
