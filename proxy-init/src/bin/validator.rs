//! `linkerd2-network-validator`: the init container where a CNI plugin sets the rules. It ends well if a connection to
//! somewhere else arrives at the sidecar's port, as the rules promise; otherwise the Pod does not start without them.

use clap::Parser as _;
use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

/// What the one end says and the other wants to hear.
const TOKEN: [u8; 16] = *b"linkerd-redirect";
/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// Checks that traffic of this Pod is redirected to its sidecar.
#[derive(Debug, clap::Parser)]
#[command(name = "linkerd2-network-validator", version)]
struct Flags {
    /// An address that nobody has.
    #[arg(long, default_value = "1.1.1.1:20001")]
    connect_addr: SocketAddr,
    /// The sidecar's outbound port.
    #[arg(long, default_value = "0.0.0.0:4140")]
    listen_addr: SocketAddr,
    /// How long to try: 10s.
    #[arg(long, default_value = "10s", value_parser = seconds)]
    timeout: Duration,
    /// Accepted and without effect.
    #[arg(long, default_value = "info")]
    log_level: String,
    /// Accepted and without effect.
    #[arg(long, default_value = "plain")]
    log_format: String,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').and_then(|text| text.parse().ok());
    number
        .map(Duration::from_secs)
        .ok_or_else(|| "seconds are wanted, such as 10s".to_owned())
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    match check(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(
                "linkerd2-network-validator: traffic to {} does not arrive at {} ({error}): the CNI plugin has not set \
                 the rules of this Pod; is it installed on this node, and is it chained after the network's own?",
                flags.connect_addr, flags.listen_addr
            );
            ExitCode::FAILURE
        }
    }
}

fn check(flags: &Flags) -> io::Result<()> {
    let listener = TcpListener::bind(flags.listen_addr)?;
    // Ends with the process.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(&TOKEN));
        }
    });
    let until = Instant::now() + flags.timeout;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match heard(flags.connect_addr, left) {
            Ok(true) => return Ok(()),
            Ok(false) => return Err(io::Error::other("somebody else answered")),
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

fn heard(address: SocketAddr, left: Duration) -> io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, left)?;
    stream.set_read_timeout(Some(left))?;
    let mut token = [0; TOKEN.len()];
    stream.read_exact(&mut token)?;
    Ok(token == TOKEN)
}
