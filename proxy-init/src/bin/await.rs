//! `linkerd-await`: waits until the sidecar of this Pod is ready. The postStart hook of sidecars that are containers.

use clap::Parser as _;
use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

/// Pause between two questions.
const PAUSE: Duration = Duration::from_millis(100);

/// Waits until the sidecar is ready.
#[derive(Debug, clap::Parser)]
#[command(name = "linkerd-await", version)]
struct Flags {
    /// The sidecar's admin port.
    #[arg(long, default_value_t = 4191)]
    port: u16,
    /// How long to wait: 30s, 2m.
    #[arg(long, default_value = "2m", value_parser = duration)]
    timeout: Duration,
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a time such as 500ms, 30s or 2m is wanted".to_owned();
    let end = text
        .find(|letter: char| !letter.is_ascii_digit())
        .ok_or_else(wrong)?;
    let (number, unit) = text.split_at_checked(end).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        _ => Err(wrong()),
    }
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let until = Instant::now() + flags.timeout;
    loop {
        if is_ready(flags.port) == Some(true) {
            return ExitCode::SUCCESS;
        }
        if Instant::now() >= until {
            eprintln!(
                "linkerd-await: the sidecar is not ready after {:?}",
                flags.timeout
            );
            return ExitCode::FAILURE;
        }
        thread::sleep(PAUSE);
    }
}

/// Whether `/ready` answers 200.
fn is_ready(port: u16) -> Option<bool> {
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&admin, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    stream
        .write_all(b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .ok()?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).ok()?;
    Some(head.ends_with(b" 200"))
}
