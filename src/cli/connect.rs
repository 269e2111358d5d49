//! The two ways of running a command: through the running instance, which holds the files, or on the files directly.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::access::Actor;
use crate::config::Config;
use crate::control::{
    Answer, Command, CommandFault, Contact, Instance, Kind, NoReply, Payload, Reply, StatusAnswer, ask,
    execute,
};
use crate::daemon::{self, OpenTrouble, Rooms, Surroundings};
use crate::model::SecretBytes;

use super::output;

/// How long we wait for another command that has the files open, or for an instance that is starting.
const WAIT: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(10);

/// Where a file that comes beside an answer goes.
pub(super) type Sink<'a> = &'a mut dyn Write;

/// Runs `command`, by whichever way is open. There is no race between the two: an instance listens only while it
/// holds the locks, and greets before it takes anything.
pub(super) fn run(
    config: &Config,
    surroundings: &Surroundings,
    command: Command,
    values: Vec<SecretBytes>,
    file: Sink<'_>,
) -> Result<Reply, CommandFault> {
    let until = Instant::now() + WAIT;
    loop {
        match Contact::make(&config.control.socket)? {
            Contact::Made(stream) => {
                // Longer than the instance's own deadline, whose answer says more than ours.
                let within = config.limits.control_deadline + Duration::from_secs(2);
                match ask(&stream, &command, &values, file, within) {
                    Ok(reply) => return Ok(reply),
                    Err(NoReply::Ended) if Instant::now() < until => {
                        std::thread::sleep(RETRY);
                        continue;
                    }
                    Err(none) => return Err(none.into_fault()),
                }
            }
            Contact::Full(fault) if Instant::now() >= until => return Err(fault),
            Contact::Full(_) => {
                std::thread::sleep(RETRY);
                continue;
            }
            Contact::Nobody => {}
        }
        let config = daemon::check(&config.file).map_err(|faults| CommandFault::invalid(&faults))?;
        let trouble = match daemon::open(&config, surroundings, None, Duration::ZERO) {
            Ok(rooms) => return directly(rooms, command, values, file),
            Err(trouble) => trouble,
        };
        match trouble {
            OpenTrouble::Busy(_) if Instant::now() < until => std::thread::sleep(RETRY),
            OpenTrouble::NotOurs(fault) => {
                return Err(CommandFault::new(
                    Kind::StoreAway,
                    format!(
                        "no instance answers at {}, and its files are not yours to open: start it with `credfs mount`, \
                         or run this as root ({fault})",
                        config.control.socket.display()
                    ),
                ));
            }
            trouble => return Err(trouble.into_fault()),
        }
    }
}

/// Runs `command` through the running instance alone.
pub(super) fn through_instance(config: &Config, command: &Command) -> Result<Reply, CommandFault> {
    match Contact::make(&config.control.socket)? {
        Contact::Made(stream) => {
            let within = config.limits.control_deadline + Duration::from_secs(2);
            ask(&stream, command, &[], &mut std::io::sink(), within).map_err(NoReply::into_fault)
        }
        Contact::Full(fault) => Err(fault),
        Contact::Nobody => Err(CommandFault::new(
            Kind::StoreAway,
            format!(
                "no instance answers at {}: start one with `credfs mount`",
                config.control.socket.display()
            ),
        )),
    }
}

/// How the running instance is, where one answers.
pub(super) fn running(config: &Config) -> Option<StatusAnswer> {
    match through_instance(config, &Command::Status).ok()?.answer {
        Answer::Status(status) => Some(*status),
        _ => None,
    }
}

fn directly(
    rooms: Rooms,
    command: Command,
    values: Vec<SecretBytes>,
    file: Sink<'_>,
) -> Result<Reply, CommandFault> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .map_err(|error| CommandFault::failed(format!("no thread could be started: {error}")))?;
    let Rooms { gate, locals, remotes, .. } = rooms;
    let instance = Instance { gate, locals, running: None };
    let actor = Actor::Owner(daemon::ourselves());
    let executed = runtime.block_on(execute(&instance, &actor, command, values));
    remotes.iter().for_each(|remote| remote.close());
    daemon::log_out(&runtime, &remotes, false);
    for local in instance.locals.values() {
        // No instance does it: each command on the files erases what is due, whatever it was asked for.
        if let Err(fault) = local.store.retire() {
            output::say(&format!("credfs: warning: old versions could not be erased: {fault}"));
        }
    }
    let (answer, payload) = executed?;
    let mut reply = Reply { answer, values: Vec::new() };
    match payload {
        Payload::Nothing => {}
        Payload::Values(values) => reply.values = values,
        Payload::File(mut copy) => {
            std::io::copy(&mut copy, &mut WriteDyn(file))
                .map_err(|error| CommandFault::failed(format!("the copy cannot be written: {error}")))?;
        }
    }
    Ok(reply)
}

struct WriteDyn<'a>(&'a mut dyn Write);

impl Write for WriteDyn<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// What an answer should have been: the instance is another version of this program.
pub(super) fn unexpected(_: &Answer) -> CommandFault {
    CommandFault::failed(
        "the instance answered something else than was asked: restart it with this version of credfs",
    )
}
