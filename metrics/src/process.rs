//! What the kernel says about this process, read from `/proc/self` when a page is made.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::collect::{Collect, Samples};
use crate::describe as d;
use crate::labels::Labels;

/// The `process_*` families. What cannot be read is left out of the page.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    ticks_per_second: f64,
    page_bytes: f64,
    /// Since 1970.
    started: Option<Duration>,
}

impl Process {
    /// Reads what does not change: the kernel's units and the time the process started.
    #[must_use]
    pub fn new() -> Self {
        let auxv = fs::read("/proc/self/auxv").unwrap_or_default();
        let ticks_per_second = auxiliary(&auxv, AT_CLKTCK).unwrap_or(100) as f64;
        let page_bytes = auxiliary(&auxv, AT_PAGESZ).unwrap_or(4096) as f64;
        Self {
            ticks_per_second,
            page_bytes,
            started: started(ticks_per_second),
        }
    }

    fn stat(&self, samples: &mut Samples) -> Option<()> {
        let stat = Stat::read(&fs::read_to_string("/proc/self/stat").ok()?)?;
        let mut push = |desc, value| samples.push(desc, Labels::new(), value);
        push(
            &d::PROCESS_CPU_SECONDS_TOTAL,
            stat.cpu_ticks / self.ticks_per_second,
        );
        push(&d::PROCESS_VIRTUAL_MEMORY_BYTES, stat.virtual_bytes);
        push(
            &d::PROCESS_RESIDENT_MEMORY_BYTES,
            stat.resident_pages * self.page_bytes,
        );
        push(&d::PROCESS_THREADS, stat.threads);
        Some(())
    }
}

impl Default for Process {
    fn default() -> Self {
        Self::new()
    }
}

impl Collect for Process {
    fn collect(&self, samples: &mut Samples) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        if let Some(started) = self.started {
            let uptime = now.saturating_sub(started);
            samples.push(
                &d::PROCESS_START_TIME_SECONDS,
                Labels::new(),
                started.as_secs_f64(),
            );
            samples.push(
                &d::PROCESS_UPTIME_SECONDS_TOTAL,
                Labels::new(),
                uptime.as_secs_f64(),
            );
        }
        samples.push(
            &d::PROCESS_CLOCK_TIME_SECONDS,
            Labels::new(),
            now.as_secs_f64(),
        );
        // What cannot be read is left out.
        let _ = self.stat(samples);
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // The directory itself is open while it is read.
            let count = open.count().saturating_sub(1);
            samples.push(&d::PROCESS_OPEN_FDS, Labels::new(), count as f64);
        }
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        if let Some(max) = max_fds(&limits) {
            samples.push(&d::PROCESS_MAX_FDS, Labels::new(), max);
        }
        let devices = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
        if let Some((received, sent)) = network_bytes(&devices) {
            samples.push(
                &d::PROCESS_NETWORK_RECEIVE_BYTES_TOTAL,
                Labels::new(),
                received,
            );
            samples.push(
                &d::PROCESS_NETWORK_TRANSMIT_BYTES_TOTAL,
                Labels::new(),
                sent,
            );
        }
    }
}

/// Kinds of entries in the auxiliary vector (`getauxval(3)`): the sizes that `sysconf` would tell.
const AT_PAGESZ: u64 = 6;
const AT_CLKTCK: u64 = 17;

fn auxiliary(auxv: &[u8], kind: u64) -> Option<u64> {
    const WORD: usize = size_of::<usize>();
    let word = |bytes: &[u8]| {
        bytes
            .try_into()
            .ok()
            .map(|word| usize::from_ne_bytes(word) as u64)
    };
    auxv.chunks_exact(2 * WORD).find_map(|entry| {
        let (key, value) = entry.split_at_checked(WORD)?;
        (word(key)? == kind).then(|| word(value)).flatten()
    })
}

/// When the process started: ticks after boot, and when the machine booted.
fn started(ticks_per_second: f64) -> Option<Duration> {
    let stat = Stat::read(&fs::read_to_string("/proc/self/stat").ok()?)?;
    let system = fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = system
        .lines()
        .find_map(|line| line.strip_prefix("btime "))
        .and_then(|seconds| seconds.trim().parse().ok())?;
    Duration::try_from_secs_f64(boot + stat.start_ticks / ticks_per_second).ok()
}

/// The fields of `/proc/self/stat` (`proc_pid_stat(5)`) in use.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: f64,
    threads: f64,
    start_ticks: f64,
    virtual_bytes: f64,
    resident_pages: f64,
}

impl Stat {
    fn read(text: &str) -> Option<Self> {
        // The second field is the command in parentheses and may contain anything; count from behind it.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // Fields are numbered from 1 in the manual; the first one after the command is number 3.
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

fn max_fds(limits: &str) -> Option<f64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_ascii_whitespace().next()? {
        "unlimited" => Some(f64::INFINITY),
        soft => soft.parse().ok(),
    }
}

/// Bytes received and sent over all interfaces.
fn network_bytes(devices: &str) -> Option<(f64, f64)> {
    let mut interfaces = devices
        .lines()
        .filter_map(|line| {
            let (_, counts) = line.split_once(':')?;
            let mut counts = counts.split_ascii_whitespace();
            let received: f64 = counts.next()?.parse().ok()?;
            // Seven more counts of what was received stand before what was sent.
            let sent: f64 = counts.nth(7)?.parse().ok()?;
            Some((received, sent))
        })
        .peekable();
    interfaces.peek()?;
    Some(interfaces.fold((0.0, 0.0), |sum, (received, sent)| {
        (sum.0 + received, sum.1 + sent)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194304 100 0 0 0 11 22 0 0 20 0 3 0 4455 8192000 321 18446744073709551615";
        let expected = Stat {
            cpu_ticks: 33.0,
            threads: 3.0,
            start_ticks: 4455.0,
            virtual_bytes: 8_192_000.0,
            resident_pages: 321.0,
        };
        assert_eq!(Stat::read(stat), Some(expected));
        assert_eq!(Stat::read("7 (cut"), None);
        assert_eq!(Stat::read("7 (cut) S 1"), None);
    }

    #[test]
    fn network_bytes_are_summed_over_interfaces() {
        let devices = "Inter-|   Receive  |  Transmit\n face |bytes packets|bytes\n\
            lo: 10 1 0 0 0 0 0 0 20 1 0 0 0 0 0 0\n\
            eth0:1000 1 0 0 0 0 0 0 2000 1 0 0 0 0 0 0\n";
        assert_eq!(network_bytes(devices), Some((1010.0, 2020.0)));
        assert_eq!(network_bytes("no interfaces"), None);
    }

    #[test]
    fn this_process_is_described_in_full() {
        let mut samples = Samples::default();
        let before = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs_f64();
        Process::new().collect(&mut samples);
        let value = |desc: &d::Desc| {
            let found = samples
                .0
                .iter()
                .find(|(found, _, _)| found.name == desc.name);
            found
                .unwrap_or_else(|| panic!("{} is missing", desc.name))
                .2
        };
        assert!(value(&d::PROCESS_RESIDENT_MEMORY_BYTES) > 100_000.0);
        assert!(
            value(&d::PROCESS_VIRTUAL_MEMORY_BYTES) >= value(&d::PROCESS_RESIDENT_MEMORY_BYTES)
        );
        assert!(value(&d::PROCESS_THREADS) >= 1.0);
        assert!(value(&d::PROCESS_OPEN_FDS) >= 3.0);
        assert!(value(&d::PROCESS_MAX_FDS) >= value(&d::PROCESS_OPEN_FDS));
        assert!(value(&d::PROCESS_CLOCK_TIME_SECONDS) >= before);
        assert!(value(&d::PROCESS_START_TIME_SECONDS) <= before + 1.0);
        assert!(value(&d::PROCESS_UPTIME_SECONDS_TOTAL) >= 0.0);
        assert!(value(&d::PROCESS_CPU_SECONDS_TOTAL) >= 0.0);
        assert!(value(&d::PROCESS_NETWORK_RECEIVE_BYTES_TOTAL) >= 0.0);
        assert!(value(&d::PROCESS_NETWORK_TRANSMIT_BYTES_TOTAL) >= 0.0);
    }
}
