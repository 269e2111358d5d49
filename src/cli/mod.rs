//! The command line: reads arguments and surroundings, runs one command, prints what came of it. It holds no rule:
//! what a command does is the `control` room's, or the `daemon` room's.

mod arguments;
mod audit;
mod connect;
mod dev;
mod doctor;
mod exit;
mod explain;
mod input;
mod instance;
mod learn;
mod output;
mod secrets;
mod server_policy;
mod stores;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::Config;
use crate::control::{CommandFault, Kind};
use crate::daemon::{self, Surroundings};

use arguments::{Arguments, Verb};
pub use exit::Exit;

/// What every command needs.
struct Context {
    config_file: std::path::PathBuf,
    json: bool,
    log_level: Option<String>,
    surroundings: Surroundings,
}

impl Context {
    /// The configuration: enough to find the running instance, which has checked who could have written what.
    fn config(&self) -> Result<Config, CommandFault> {
        Config::load(&self.config_file).map_err(|faults| CommandFault::invalid(&faults))
    }

    /// The configuration, and nobody else could have written what it names: before we trust the files ourselves.
    fn trusted_config(&self) -> Result<Config, CommandFault> {
        daemon::check(&self.config_file).map_err(|faults| CommandFault::invalid(&faults))
    }
}

/// The whole command line, for manual pages and shell completions.
#[must_use]
pub fn command() -> clap::Command {
    <Arguments as clap::CommandFactory>::command()
}

/// Runs the program on the arguments of this process.
#[must_use]
pub fn run() -> ExitCode {
    // The notifier's process and the guard are this program under another name: before anything is set up.
    let asked = crate::fuse::notifier::run_if_asked(std::env::args_os())
        .or_else(|| crate::keeper::run_if_asked(std::env::args_os()));
    if let Some(exit) = asked {
        return exit;
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    log_to_standard_error(&arguments);
    daemon::harden();
    let context = Context {
        config_file: arguments.config,
        json: arguments.json,
        log_level: arguments.log_level,
        surroundings: Surroundings {
            notify_socket: std::env::var("NOTIFY_SOCKET").ok(),
            watchdog_usec: std::env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok()),
            credentials_directory: std::env::var_os("CREDENTIALS_DIRECTORY").map(Into::into),
            listen: ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"].map(|name| std::env::var(name).ok()),
        },
    };
    match dispatch(&context, arguments.verb) {
        Ok(exit) => exit.into(),
        Err(fault) => {
            for line in fault.message.lines() {
                output::say(&format!("credfs: {line}"));
            }
            Exit::from(fault.kind).into()
        }
    }
}

fn dispatch(context: &Context, verb: Verb) -> Result<Exit, CommandFault> {
    match verb {
        Verb::Dev(options) => dev::dev(context, &options),
        Verb::Init(options) => instance::init(context, &options),
        Verb::Mount => instance::mount(context),
        Verb::Keeper { socket } => instance::keeper(context, &socket),
        Verb::Worker { keeper } => instance::worker(context, keeper),
        Verb::Put(options) => secrets::put(context, options),
        Verb::Get(options) => secrets::get(context, &options),
        Verb::Ls { path } => secrets::ls(context, path),
        Verb::Versions { path } => secrets::versions(context, &path),
        Verb::Promote { path } => secrets::promote(context, &path),
        Verb::Rollback(options) => secrets::rollback(context, &options),
        Verb::Revoke(options) => secrets::revoke(context, &options),
        Verb::Delete(options) => secrets::delete(context, &options),
        Verb::Undelete(options) => secrets::undelete(context, &options),
        Verb::Destroy(options) => secrets::destroy(context, &options),
        Verb::Reload => instance::reload(context),
        Verb::Refresh { path } => instance::refresh(context, path.as_deref()),
        Verb::Check => instance::check(context),
        Verb::Explain(options) => explain::explain(context, &options),
        Verb::Learn(options) => match &options.store {
            Some(store) => server_policy::server_policy(context, store, &options),
            None => learn::learn(context, &options.since),
        },
        Verb::WhoRead(options) => audit::who_read(context, &options),
        Verb::Audit(verb) => audit::audit(context, verb),
        Verb::Backup { file, store } => stores::backup(context, &file, store),
        Verb::Restore(options) => stores::restore(context, &options),
        Verb::Rekey { store } => stores::rekey(context, store),
        Verb::Status => instance::status(context),
        Verb::Doctor => doctor::doctor(context),
    }
}

/// Help and version are no errors; everything else is exit code 2. An argument that was not understood may be a value
/// that someone put there: it is not repeated.
fn usage(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    match error.kind() {
        DisplayHelp | DisplayVersion => {
            // A reader that went away is no failure.
            drop(error.print());
            Exit::Done.into()
        }
        DisplayHelpOnMissingArgumentOrSubcommand => {
            drop(error.print());
            Exit::Usage.into()
        }
        kind => {
            output::say(&format!(
                "credfs: {}",
                kind.as_str().unwrap_or("the command line was not understood")
            ));
            for (part, value) in error.context() {
                use clap::error::ContextKind::{
                    InvalidArg, PriorArg, SuggestedArg, SuggestedSubcommand, Usage, ValidSubcommand,
                    ValidValue,
                };
                // What was typed as a value, or as an argument nobody knows, stays untold.
                let is_ours = matches!(
                    part,
                    PriorArg | SuggestedArg | SuggestedSubcommand | ValidSubcommand | ValidValue
                ) || (part == InvalidArg && kind != clap::error::ErrorKind::UnknownArgument);
                if part == Usage {
                    output::say(&value.to_string());
                } else if is_ours {
                    output::say(&format!("  {part}: {value}"));
                }
            }
            output::say("For more, try --help.");
            Exit::Usage.into()
        }
    }
}

fn log_to_standard_error(arguments: &Arguments) {
    let usual = if matches!(arguments.verb, Verb::Mount | Verb::Keeper { .. } | Verb::Worker { .. }) {
        "info"
    } else {
        "warn"
    };
    let wanted = arguments.log_level.as_deref().unwrap_or(usual);
    let filter: Targets = wanted.parse().or_else(|_| usual.parse()).unwrap_or_default();
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let log = tracing_subscriber::registry().with(filter);
    // The journal dates every line itself.
    let done = if crate::sys::notify::standard_error_is_the_journal(std::env::var("JOURNAL_STREAM").ok()) {
        log.with(lines.without_time()).try_init()
    } else {
        log.with(lines).try_init()
    };
    if done.is_err() {
        output::say("credfs: warning: no log can be written");
    }
}

/// A path that someone typed.
fn secret_path(text: &str) -> Result<crate::model::SecretPath, CommandFault> {
    crate::model::SecretPath::parse(text.trim_matches('/'))
        .map_err(|fault| CommandFault::new(Kind::Usage, format!("the path of the secret: {fault}")))
}
