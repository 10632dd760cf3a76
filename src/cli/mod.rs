//! The command line.

mod args;
mod bench;
mod check;
mod dump;
mod error;
mod explain;
mod inspect;
mod machine;
mod model;
mod progress;
mod ptx;
mod run;
mod stats;
mod table;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command};
use error::{CliError, Fault};

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        eprintln!("fuse: internal error: {info}\n{}", error::BUG_REPORT);
    }));
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return exit_of_clap(&e),
    };
    start_logging(cli.verbose);
    match std::panic::catch_unwind(|| dispatch(cli.command)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(e)) => {
            // Names come from files, which must not move the cursor.
            eprintln!("{}", table::printable(&e.to_string()));
            ExitCode::from(e.fault.exit_code())
        }
        Err(_) => ExitCode::from(Fault::Bug.exit_code()),
    }
}

fn dispatch(command: Command) -> Result<(), CliError> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Ptx(args) => ptx::ptx(&args),
        Command::Dump(args) => dump::dump(&args),
        Command::Explain(args) => explain::explain(&args),
        Command::Check(args) => check::check(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::Machine(args) => machine::machine(&args),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::OnnxOps { json } => print(&table::onnx_ops(json)),
        Command::Ops => print(&table::ops()),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "fuse", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
    }
}

/// Help and version go to the standard output; a mistake is one line and a hint.
fn exit_of_clap(e: &clap::Error) -> ExitCode {
    if e.use_stderr() {
        let text = e.to_string();
        let first = text.lines().next().unwrap_or("wrong arguments");
        eprintln!("fuse: {} (try --help)", first.strip_prefix("error: ").unwrap_or(first));
        if e.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            eprintln!("{text}");
        }
        ExitCode::from(Fault::Usage.exit_code())
    } else {
        // A reader that went away is no error of ours.
        let _ = e.print();
        ExitCode::SUCCESS
    }
}

fn start_logging(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

/// Writes to the standard output. A closed pipe (`fuse … | head`) ends the command quietly.
fn print(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(e) => Err(CliError::input(format!("standard output: {e}"))),
    }
}
