//! Which file a thread runs: asked by a worker, which may not look, and answered by the keeper, which may. One question at
//! a time on each socket; digests, which may take seconds, have a socket of their own.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::{Condvar, Mutex};

use crate::caller::{Executables, ProcExecutables, SeenExecutable};
use crate::model::{Sha256Digest, Unknown};
use crate::sys::packet::PacketSocket;
use crate::sys::privilege::{self, Capability};
use crate::sys::process::FileStatus;
use crate::sys::program_memory::ProgramMemory;

use super::wire::{MESSAGE_BYTES, Message, question, read_facts, write_facts};

/// Longest text of a link below `/proc`.
const TEXT_BYTES_MAX: usize = 4096;
/// How long a worker waits for the keeper, its restart included; then nothing is known, which no rule takes for a yes.
const WAIT_MAX: Duration = Duration::from_secs(3);
/// How long it waits for a digest: as long as a large file takes.
const DIGEST_WAIT_MAX: Duration = Duration::from_secs(10);

/// Answers one worker's questions until its end of `socket` is closed. It never touches the mount: no file is opened but
/// executables, and none of a FUSE file system.
///
/// It gives the right to administer the machine up for its thread: who opens a process's memory with that right is shown
/// where its pages lie, and a worker has no use for that.
pub(super) fn answer(socket: &PacketSocket, executables: &ProcExecutables) {
    let given_up = privilege::give_up(Capability::SysAdmin);
    if let Err(error) = &given_up {
        tracing::warn!(%error, "each read under a rule on an executable asks for it: CAP_SYS_ADMIN cannot be given up");
    }
    while let Ok(Some(packet)) = socket.receive(MESSAGE_BYTES) {
        let Some((asked, _)) = Message::read(&packet.bytes) else { return };
        let mut answer = Message::of(question::UNKNOWN, 0);
        answer.words[0] = asked.words[0];
        let mut text = String::new();
        let mut memory = None;
        match asked.kind {
            question::FACTS => {
                if let Ok(seen) = executables.executable_of(asked.number) {
                    answer.kind = asked.kind;
                    write_facts(&mut answer, &seen.facts);
                    memory = seen.memory.filter(|_| given_up.is_ok());
                }
            }
            question::PATH => {
                if let Ok(found) = executables.path_unproven_of(asked.number) {
                    answer.kind = asked.kind;
                    text = found;
                }
            }
            question::DIGEST => {
                if let Ok(digest) = executables.digest_of(asked.number, &read_facts(&asked)) {
                    answer.kind = asked.kind;
                    for (word, part) in answer.words[1..].iter_mut().zip(digest.0.chunks_exact(8)) {
                        *word = part.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
                    }
                }
            }
            _ => {}
        }
        let mut bytes = answer.to_bytes().to_vec();
        bytes.extend(text.as_bytes().iter().take(TEXT_BYTES_MAX));
        let descriptors: Vec<_> = memory.iter().map(AsFd::as_fd).collect();
        if socket.send(&bytes, &descriptors).is_err() {
            return;
        }
    }
}

/// What the keeper answered.
struct Answer {
    message: Message,
    text: Vec<u8>,
    descriptor: Option<OwnedFd>,
}

/// A worker's side of both sockets, which change when the keeper is replaced.
pub(super) struct Asking {
    quick: Line,
    digests: Line,
    /// Guards digests that are known: they belong to a content, which no program can change unseen.
    known: Mutex<LruCache<FileStatus, Sha256Digest>>,
}

/// One socket with one question on it at a time.
#[derive(Default)]
struct Line {
    /// Guards the socket, and how many questions were asked.
    socket: Mutex<(Option<Arc<PacketSocket>>, u64)>,
    /// Guards the one question that is being asked.
    turn: Mutex<()>,
    connected: Condvar,
}

impl Asking {
    pub(super) fn new(digests_max: usize) -> Self {
        let most = NonZeroUsize::new(digests_max).unwrap_or(NonZeroUsize::MIN);
        Self { quick: Line::default(), digests: Line::default(), known: Mutex::new(LruCache::new(most)) }
    }

    /// Asks over these sockets from now on.
    pub(super) fn connect(&self, quick: PacketSocket, digests: PacketSocket) -> std::io::Result<()> {
        quick.wait_at_most(WAIT_MAX)?;
        digests.wait_at_most(DIGEST_WAIT_MAX)?;
        self.quick.connect(quick);
        self.digests.connect(digests);
        Ok(())
    }
}

impl Line {
    fn connect(&self, socket: PacketSocket) {
        self.socket.lock().0 = Some(Arc::new(socket));
        self.connected.notify_all();
    }

    /// The socket, waited for while the keeper is being replaced, and the number of this question.
    fn next(&self, until: Instant) -> Option<(Arc<PacketSocket>, u64)> {
        let mut socket = self.socket.lock();
        loop {
            socket.1 += 1;
            let count = socket.1;
            if let Some(connected) = &socket.0 {
                return Some((Arc::clone(connected), count));
            }
            if self.connected.wait_until(&mut socket, until).timed_out() {
                return None;
            }
        }
    }

    fn lose(&self, lost: &Arc<PacketSocket>) {
        let mut socket = self.socket.lock();
        if socket.0.as_ref().is_some_and(|now| Arc::ptr_eq(now, lost)) {
            socket.0 = None;
        }
    }

    fn ask(&self, mut message: Message) -> Result<Answer, Unknown> {
        let _turn = self.turn.lock();
        let until = Instant::now() + WAIT_MAX;
        loop {
            let (socket, count) = self.next(until).ok_or(Unknown)?;
            message.words[0] = count;
            match exchange(&socket, message) {
                Ok(answer) => return answer,
                // The keeper is gone: its successor is asked.
                Err(Gone) => self.lose(&socket),
            }
        }
    }
}

struct Gone;

fn exchange(socket: &PacketSocket, message: Message) -> Result<Result<Answer, Unknown>, Gone> {
    let is_late = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
    if let Err(error) = socket.send(&message.to_bytes(), &[]) {
        return if is_late(&error) { Ok(Err(Unknown)) } else { Err(Gone) };
    }
    loop {
        let mut packet = match socket.receive(MESSAGE_BYTES + TEXT_BYTES_MAX) {
            Ok(Some(packet)) => packet,
            Err(error) if is_late(&error) => return Ok(Err(Unknown)),
            Ok(None) | Err(_) => return Err(Gone),
        };
        let Some((answer, behind)) = Message::read(&packet.bytes) else { return Err(Gone) };
        // The answer to an earlier question, which was given up.
        if answer.words[0] != message.words[0] {
            continue;
        }
        let text = behind.to_vec();
        let is_known = answer.kind == message.kind;
        let answer = || Answer { message: answer, text, descriptor: packet.descriptors.pop() };
        return Ok(is_known.then(answer).ok_or(Unknown));
    }
}

impl Executables for Asking {
    fn executable_of(&self, tid: u32) -> Result<SeenExecutable, Unknown> {
        let answer = self.quick.ask(Message::of(question::FACTS, tid))?;
        let memory = answer.descriptor.map(ProgramMemory::of);
        Ok(SeenExecutable { facts: read_facts(&answer.message), memory })
    }

    fn path_unproven_of(&self, tid: u32) -> Result<String, Unknown> {
        let answer = self.quick.ask(Message::of(question::PATH, tid))?;
        String::from_utf8(answer.text).map_err(|_| Unknown)
    }

    fn digest_of(&self, tid: u32, expected: &FileStatus) -> Result<Sha256Digest, Unknown> {
        if let Some(digest) = self.digest_at_hand(expected) {
            return Ok(digest);
        }
        let mut message = Message::of(question::DIGEST, tid);
        write_facts(&mut message, expected);
        let answer = self.digests.ask(message)?.message;
        let mut digest = Sha256Digest([0; 32]);
        for (place, word) in digest.0.chunks_exact_mut(8).zip(&answer.words[1..]) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        self.known.lock().put(*expected, digest);
        Ok(digest)
    }

    fn digest_at_hand(&self, facts: &FileStatus) -> Option<Sha256Digest> {
        self.known.lock().get(facts).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process;

    fn connected(asking: &Asking) {
        let answering = Arc::new(ProcExecutables::default());
        let mut ends = Vec::new();
        for _ in 0..2 {
            let (ours, theirs) = PacketSocket::pair().unwrap();
            let answering = Arc::clone(&answering);
            std::thread::spawn(move || answer(&ours, &answering));
            ends.push(theirs);
        }
        let digests = ends.pop().unwrap();
        asking.connect(ends.pop().unwrap(), digests).unwrap();
    }

    #[test]
    fn a_worker_learns_by_asking_what_the_keeper_sees_itself() {
        let asking = Asking::new(4);
        connected(&asking);
        let own = process::own_pid();
        let itself = ProcExecutables::default();
        let seen = asking.executable_of(own).unwrap();
        assert_eq!(seen.facts, itself.executable_of(own).unwrap().facts);
        assert!(seen.memory.is_some_and(|memory| memory.is_in_use()), "it says while it is true");
        assert_eq!(asking.path_unproven_of(own), itself.path_unproven_of(own));
        assert_eq!(asking.digest_at_hand(&seen.facts), None);
        assert_eq!(asking.digest_of(own, &seen.facts), itself.digest_of(own, &seen.facts));
        assert!(asking.digest_at_hand(&seen.facts).is_some());
        assert_eq!(asking.executable_of(0).err(), Some(Unknown));
    }

    #[test]
    fn a_question_waits_while_the_keeper_is_replaced_and_is_then_answered() {
        let asking = Arc::new(Asking::new(4));
        let (ours, theirs) = PacketSocket::pair().unwrap();
        let (other, others) = PacketSocket::pair().unwrap();
        asking.connect(theirs, others).unwrap();
        drop((ours, other));
        let waiting = Arc::clone(&asking);
        let waiting = std::thread::spawn(move || waiting.executable_of(process::own_pid()));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        connected(&asking);
        assert!(waiting.join().unwrap().is_ok());
    }
}
