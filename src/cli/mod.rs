//! The command line. Each command reads its arguments, builds what it needs and reports like a
//! program: results on standard output, everything else on standard error.

mod serve;
mod dev;
mod bridge;
mod check;
mod token;
mod management;
mod publish;
mod connections;
mod logging;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A WebSocket-terminating edge and sidecar proxy: live clients in front of backends that only know
/// request and reply.
#[derive(Debug, Parser)]
#[command(name = "moorline", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Dev(dev::Dev),
    Check(check::Check),
    Bridge(bridge::Run),
    Token(token::Mint),
    Publish(publish::Publish),
    Connections(connections::Connections),
}

/// Runs the command that the arguments name.
///
/// # Errors
/// When the command cannot do what it was asked for; the error is for the user.
pub async fn run() -> anyhow::Result<ExitCode> {
    crate::tls::install_provider();
    match Arguments::parse().command {
        Command::Serve(serve) => Box::pin(serve.run()).await,
        Command::Dev(dev) => Box::pin(dev.run()).await,
        Command::Check(check) => Box::pin(check.run()).await,
        Command::Bridge(bridge) => Box::pin(bridge.run()).await,
        Command::Token(mint) => mint.run(),
        Command::Publish(publish) => Box::pin(publish.run()).await,
        Command::Connections(connections) => Box::pin(connections.run()).await,
    }
}

/// Says on standard error why the command failed: one line, causes last.
///
/// # Errors
/// When standard error is closed.
pub fn complain(error: &anyhow::Error) -> io::Result<()> {
    writeln!(io::stderr(), "moorline: {error:#}")
}

/// Writes a command's result to standard output. A reader that has seen enough is no error.
fn print(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}
