//! Answers for a worker that is not there: takes requests from the kernel, reads their headers and nothing else, and
//! answers ETIMEDOUT when their time is over. What it has not answered the next worker is sent again by the kernel; where
//! the kernel cannot, it is answered when that worker comes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use crate::fuse::resend;
use crate::sys::poll::{self, Interest};

/// `struct fuse_in_header` (`include/uapi/linux/fuse.h`): length, opcode, number, …
const HEADER_BYTES: usize = 40;
/// More than the kernel sends at once: a write of 64 KiB and its header.
const REQUEST_BYTES_MAX: usize = 256 * 1024;
/// Opcodes to which no answer is expected: FORGET, INTERRUPT, BATCH_FORGET.
const UNANSWERED: [u32; 3] = [2, 36, 42];
/// Opcodes whose answer nobody waits for, and whose content the next worker needs: RELEASE, RELEASEDIR.
const KEPT: [u32; 2] = [18, 29];
const ETIMEDOUT: i32 = 110;

/// Requests that wait for a worker.
pub(super) struct StandIn {
    /// How long a request may wait here.
    wait_max: Duration,
    /// Numbers of requests and when each was taken, oldest first. `None`: it is not standing in.
    waiting: Option<VecDeque<(Instant, u64)>>,
    /// Whether the next worker can be sent what was taken here.
    can_resend: bool,
    buffer: Vec<u8>,
}

impl StandIn {
    pub(super) fn new(wait_max: Duration) -> Self {
        Self { wait_max, waiting: None, can_resend: true, buffer: Vec::new() }
    }

    pub(super) fn is_active(&self) -> bool {
        self.waiting.is_some()
    }

    /// Begins: also what the worker before had taken comes again, where the kernel can.
    pub(super) fn begin(&mut self, device: &OwnedFd, can_resend: bool) -> io::Result<()> {
        if self.waiting.is_none() {
            if can_resend {
                resend(device)?;
            }
            self.can_resend = can_resend;
            self.buffer = vec![0; REQUEST_BYTES_MAX];
            self.waiting = Some(VecDeque::new());
        }
        Ok(())
    }

    /// Ends, together with the connection.
    pub(super) fn end(&mut self) {
        self.waiting = None;
        self.buffer = Vec::new();
    }

    /// Ends: a worker is about to take the device. It will have everything sent again, or everything is answered now;
    /// how many those were.
    pub(super) fn hand_on(&mut self, device: &OwnedFd) -> io::Result<u64> {
        let answered = if self.can_resend { Ok(0) } else { self.answer(device, |_| true) };
        self.end();
        answered
    }

    /// When the next request is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.waiting.as_ref()?.front().map(|(taken, _)| *taken + self.wait_max)
    }

    /// Takes what lies in the device, without ever waiting for more: nobody else reads it now.
    pub(super) fn take(&mut self, device: &OwnedFd, now: Instant) -> io::Result<()> {
        let Some(waiting) = &mut self.waiting else { return Ok(()) };
        let mut file = File::from(device.try_clone()?);
        while poll::wait(&[(device.as_fd(), Interest::Readable)], Duration::ZERO)?[0].is_readable {
            let count = match file.read(&mut self.buffer) {
                Ok(count) => count,
                // The request was withdrawn meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let Some((opcode, number)) = header(&self.buffer[..count]) else { continue };
            if KEPT.contains(&opcode) {
                // Nobody looks at what it is answered.
                if !self.can_resend {
                    file.write_all(&refusal(number))?;
                }
            } else if !UNANSWERED.contains(&opcode) {
                waiting.push_back((now, number));
            }
        }
        Ok(())
    }

    /// Answers what has waited too long; how many those were.
    pub(super) fn answer_overdue(&mut self, device: &OwnedFd, now: Instant) -> io::Result<u64> {
        let wait_max = self.wait_max;
        self.answer(device, |taken| now.duration_since(taken) >= wait_max)
    }

    /// Answers those that were taken at such a time, oldest first.
    fn answer(&mut self, device: &OwnedFd, is_due: impl Fn(Instant) -> bool) -> io::Result<u64> {
        let Some(waiting) = &mut self.waiting else { return Ok(0) };
        let mut file = File::from(device.try_clone()?);
        let mut count = 0;
        while let Some((taken, number)) = waiting.front().copied()
            && is_due(taken)
        {
            waiting.pop_front();
            match file.write_all(&refusal(number)) {
                Ok(()) => count += 1,
                // Whoever asked is gone.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }
}

/// Opcode and number of a request.
fn header(request: &[u8]) -> Option<(u32, u64)> {
    let head = request.get(..HEADER_BYTES)?;
    let opcode = u32::from_ne_bytes(head[4..8].try_into().ok()?);
    Some((opcode, u64::from_ne_bytes(head[8..16].try_into().ok()?)))
}

/// `struct fuse_out_header` with an error and no body.
fn refusal(number: u64) -> [u8; 16] {
    let mut reply = [0; 16];
    reply[..4].copy_from_slice(&16_u32.to_ne_bytes());
    reply[4..8].copy_from_slice(&(-ETIMEDOUT).to_ne_bytes());
    reply[8..].copy_from_slice(&number.to_ne_bytes());
    reply
}
