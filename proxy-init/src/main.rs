//! `linkerd2-proxy-init`: the init container of a Pod with a sidecar.

use clap::Parser as _;
use linkerd_proxy_init::{
    firewall::{Error, Firewall},
    flags::Flags,
    rules::{self, Family},
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs::{self, File},
    io,
    os::fd::AsFd as _,
    process::ExitCode,
};

const CLOSE_WAIT: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait";

fn main() -> ExitCode {
    let flags = Flags::parse();
    let filter =
        tracing_subscriber::EnvFilter::try_new(&flags.log_level).unwrap_or_else(|_| "info".into());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false);
    if flags.log_format == "json" {
        log.json().init();
    } else {
        log.init();
    }
    match run(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Firewall(#[from] Error),
    #[error("--netns {path}: {source}")]
    Namespace { path: String, source: io::Error },
    #[error("--timeout-close-wait-secs: {CLOSE_WAIT}: {0}; it needs root, or leave the flag out")]
    CloseWait(io::Error),
}

fn run(flags: &Flags) -> Result<(), Failure> {
    if let Some(path) = &flags.netns {
        let entered = File::open(path).and_then(|namespace| {
            let network = Some(LinkNameSpaceType::Network);
            Ok(move_into_link_name_space(namespace.as_fd(), network)?)
        });
        entered.map_err(|source| Failure::Namespace {
            path: path.display().to_string(),
            source,
        })?;
    }
    if flags.timeout_close_wait_secs > 0 && !flags.simulate && !flags.undo {
        let seconds = flags.timeout_close_wait_secs.to_string();
        fs::write(CLOSE_WAIT, seconds).map_err(Failure::CloseWait)?;
    }
    for family in [Family::V4, Family::V6] {
        let is_wanted = family == Family::V4 || flags.ipv6;
        if flags.undo {
            // IPv6 may have been on when the rules were set.
            undo(flags, family)?;
        } else if is_wanted {
            install(flags, family)?;
        }
    }
    Ok(())
}

fn install(flags: &Flags, family: Family) -> Result<(), Failure> {
    if flags.simulate {
        // What is there is not known where nobody may ask.
        let found = Firewall::find(flags, family);
        let present = found.as_ref().map_or("", Firewall::present);
        print!("{}", rules::install(flags, family, present));
        return Ok(());
    }
    let firewall = Firewall::find(flags, family)?;
    firewall.install(flags, family)?;
    tracing::info!(?family, program = %firewall.restore().display(), "Rules are set");
    Ok(())
}

fn undo(flags: &Flags, family: Family) -> Result<(), Failure> {
    for mut firewall in Firewall::all(flags, family) {
        if flags.simulate {
            print!("{}", rules::undo(firewall.present()).unwrap_or_default());
        } else if firewall.undo()? {
            tracing::info!(?family, program = %firewall.restore().display(), "Rules are gone");
        }
    }
    Ok(())
}
