//! The asking side of the control socket.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::model::SecretBytes;

use super::wire::{self, AnswerHeader, Greeting, PROTOCOL, RequestHeader, Timed};
use super::{Answer, Command, CommandFault, Kind};

/// Whether anyone answers at the socket.
pub enum Contact {
    /// Nobody listens there.
    Nobody,
    /// Someone does.
    Made(UnixStream),
    /// Someone does, and has no place for us now.
    Full(CommandFault),
}

/// An answer from the other side.
pub struct Reply {
    /// What it says.
    pub answer: Answer,
    /// The values that came beside it.
    pub values: Vec<SecretBytes>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum NoReply {
    /// The instance refused, or did not answer in time.
    Fault(CommandFault),
    /// It ended before it answered, and has done nothing that counts: its successor can be asked.
    Ended,
}

impl From<CommandFault> for NoReply {
    fn from(fault: CommandFault) -> Self {
        Self::Fault(fault)
    }
}

impl NoReply {
    /// As a fault, where nobody is asked again.
    #[must_use]
    pub fn into_fault(self) -> CommandFault {
        match self {
            Self::Fault(fault) => fault,
            Self::Ended => CommandFault::new(
                Kind::StoreAway,
                "the running instance ended before it answered: ask again, and look at its log",
            ),
        }
    }
}

/// Whether the other end is gone.
fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), ConnectionReset | BrokenPipe | UnexpectedEof)
}

impl Contact {
    /// Connects to `socket` and waits to be greeted. An instance that is ending or gone is nobody: it has taken
    /// nothing from us.
    ///
    /// # Errors
    /// When someone listens there but does not let us in.
    pub fn make(socket: &Path) -> Result<Self, CommandFault> {
        use io::ErrorKind::{ConnectionRefused, NotFound};
        let is_nobody =
            |error: &io::Error| is_end(error) || matches!(error.kind(), NotFound | ConnectionRefused);
        let away = |error: &io::Error| {
            CommandFault::new(
                Kind::StoreAway,
                format!("the instance at {} does not answer: {error}; look at its log", socket.display()),
            )
        };
        let stream = match UnixStream::connect(socket) {
            Ok(stream) => stream,
            Err(error) if is_nobody(&error) => return Ok(Self::Nobody),
            Err(error) => return Err(away(&error)),
        };
        match wire::read_header::<Greeting>(&mut Timed::new(&stream, GREETING_WAIT), GREETING_BYTES_MAX) {
            Ok(Greeting::Ready { protocol: PROTOCOL }) => Ok(Self::Made(stream)),
            Ok(Greeting::Ready { protocol }) => Err(CommandFault::failed(format!(
                "the running instance speaks version {protocol} of the control protocol, this command {PROTOCOL}: \
                 restart the instance"
            ))),
            Ok(Greeting::Fault(fault)) => Ok(Self::Full(fault)),
            Err(error) if is_nobody(&error) => Ok(Self::Nobody),
            Err(error) => Err(away(&error)),
        }
    }
}

/// How long an instance may take to greet.
const GREETING_WAIT: Duration = Duration::from_secs(5);
/// Longest greeting, in bytes.
const GREETING_BYTES_MAX: usize = 4096;

/// Sends one command with its values over `stream` and waits for the answer. A file that comes beside the answer
/// goes into `file`.
///
/// # Errors
/// [`NoReply`].
pub fn ask(
    stream: &UnixStream,
    command: &Command,
    values: &[SecretBytes],
    file: &mut dyn Write,
    within: Duration,
) -> Result<Reply, NoReply> {
    let silent = |error: io::Error| {
        CommandFault::new(
            Kind::StoreAway,
            format!("the running instance did not answer ({error}): look at `credfs status` and its log"),
        )
    };
    let broken = |error: io::Error| match is_end(&error) {
        true if command.is_a_change() => NoReply::Fault(CommandFault::new(
            Kind::StoreAway,
            "the running instance ended before it answered: the change may have been made, or not; look \
             (`credfs versions` of the secret, `credfs audit log`) before you repeat it",
        )),
        true => NoReply::Ended,
        false => silent(error).into(),
    };
    let mut timed = Timed::new(stream, within);
    let sent =
        wire::write_header(&mut timed, &RequestHeader { protocol: PROTOCOL, command: command.clone() })
            .and_then(|()| wire::write_values(&mut timed, values));
    // An instance that refuses before it has read everything has answered: its answer says more than our error.
    let header = wire::read_header::<AnswerHeader>(&mut timed, wire::ANSWER_HEADER_BYTES_MAX);
    let header = match (sent, header) {
        (_, Ok(header)) => header,
        // What was not sent whole is not begun.
        (Err(error), Err(_)) if is_end(&error) => return Err(NoReply::Ended),
        (Err(error), Err(_)) | (Ok(()), Err(error)) => return Err(broken(error)),
    };
    let answer = match header {
        AnswerHeader::Done(answer) => answer,
        AnswerHeader::Fault(fault) => return Err(fault.into()),
    };
    let values = match &answer {
        Answer::Values { fields, .. } => {
            wire::read_values(&mut timed, fields.len(), usize::MAX).map_err(broken)?
        }
        Answer::File { .. } => {
            // A part of it is written already.
            wire::read_file(&mut timed, &mut WriteDyn(file)).map_err(silent)?;
            Vec::new()
        }
        _ => Vec::new(),
    };
    Ok(Reply { answer, values })
}

struct WriteDyn<'a>(&'a mut dyn Write);

impl Write for WriteDyn<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
