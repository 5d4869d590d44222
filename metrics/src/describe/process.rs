//! Families about the process and what it was built from.

use super::{Desc, Unit, families};

families! {
    PROCESS_TABLE:
    /// Total count of opened span export streams.
    OPENTELEMETRY_SPAN_EXPORT_STREAMS = Desc::counter("opentelemetry_span_export_streams").legacy();
    /// Total count of span export messages.
    OPENTELEMETRY_SPAN_EXPORT_REQUESTS = Desc::counter("opentelemetry_span_export_requests").legacy();
    /// Total count of spans exported.
    OPENTELEMETRY_SPAN_EXPORTS = Desc::counter("opentelemetry_span_exports").legacy();
    /// The number of batches of spans that the collector did not take; their spans are lost.
    OPENTELEMETRY_SPAN_EXPORT_FAILURES_TOTAL = Desc::counter("opentelemetry_span_export_failures_total");
    /// The number of spans that found the buffer full.
    OPENTELEMETRY_SPANS_DROPPED_TOTAL = Desc::counter("opentelemetry_spans_dropped_total");
    /// The number of lines of the access log that were not written because whoever reads it is too slow.
    ACCESS_LOG_LINES_DROPPED_TOTAL = Desc::counter("access_log_lines_dropped_total");
    /// What the proxy was built from.
    /// Always 1.
    PROXY_BUILD_INFO =
        Desc::gauge("proxy_build_info").peer().fixed(&[&["date", "git_sha", "profile", "vendor", "version"]]);
    /// What TLS is made with.
    /// Always 1.
    RUSTLS_INFO =
        Desc::gauge("rustls_info")
            .peer()
            .fixed(&[&["tls_suites", "tls_kx_groups", "tls_rand", "tls_key_provider", "tls_fips"]]);
    /// Time when the process started, in seconds since 1970.
    PROCESS_START_TIME_SECONDS = Desc::gauge("process_start_time_seconds").unit(Unit::Seconds).peer();
    /// Current time as the process sees it, in seconds since 1970.
    PROCESS_CLOCK_TIME_SECONDS = Desc::gauge("process_clock_time_seconds").unit(Unit::Seconds).peer();
    /// Time since the process started.
    PROCESS_UPTIME_SECONDS_TOTAL = Desc::counter("process_uptime_seconds_total").unit(Unit::Seconds).peer();
    /// User and system CPU time spent.
    PROCESS_CPU_SECONDS_TOTAL = Desc::counter("process_cpu_seconds_total").unit(Unit::Seconds).peer();
    /// Size of virtual memory.
    PROCESS_VIRTUAL_MEMORY_BYTES = Desc::gauge("process_virtual_memory_bytes").unit(Unit::Bytes).peer();
    /// Size of resident memory.
    PROCESS_RESIDENT_MEMORY_BYTES = Desc::gauge("process_resident_memory_bytes").unit(Unit::Bytes).peer();
    /// The number of open file descriptors.
    PROCESS_OPEN_FDS = Desc::gauge("process_open_fds").peer();
    /// The number of file descriptors that may be open.
    PROCESS_MAX_FDS = Desc::gauge("process_max_fds").peer();
    /// The number of threads.
    PROCESS_THREADS = Desc::gauge("process_threads").peer();
    /// The number of bytes received by the process's network namespace.
    /// Over all interfaces.
    PROCESS_NETWORK_RECEIVE_BYTES_TOTAL =
        Desc::counter("process_network_receive_bytes_total").unit(Unit::Bytes).peer();
    /// The number of bytes sent by the process's network namespace.
    /// Over all interfaces.
    PROCESS_NETWORK_TRANSMIT_BYTES_TOTAL =
        Desc::counter("process_network_transmit_bytes_total").unit(Unit::Bytes).peer();
}
