//! Every deadline, queue and size, by name.

use std::time::Duration;

use crate::document::Section;

/// `[limits]`: what bounds each wait, each queue and each store of memory. Every key may be left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitSettings {
    /// How long a request of the kernel may take before it is answered with ETIMEDOUT. Default 5 s.
    pub request_deadline: Duration,
    /// How long a reader waits for the audit log before EIO. Default 40 ms.
    pub audit_wait: Duration,
    /// How long a command over the control socket may take. Default 30 s.
    pub control_deadline: Duration,
    /// How long requests in flight may go on after SIGTERM. Default 10 s.
    pub shutdown_deadline: Duration,
    /// How long the kernel may keep what everyone may list; `reload` returns only after that long. Default
    /// 1 s.
    pub directory_life: Duration,
    /// Most requests of one user that wait for a store at once; one more is EAGAIN. Default 64.
    pub in_flight_per_uid_max: u64,
    /// Most files that may be open at once, of all users; one more is EAGAIN. Default 65,536.
    pub handles_max: u64,
    /// Most that cached values may take, in bytes; 0: none is kept. Default 4 MiB.
    pub cache_bytes_max: u64,
    /// Most kinds of refusals that are being counted at once, of all users. Default 4,096.
    pub refusals_max: u64,
    /// Most kinds of refusals that are being counted at once for one user. Default 128.
    pub refusals_per_uid_max: u64,
    /// Most processes that are remembered at once. Default 4,096.
    pub callers_max: u64,
    /// Most executables whose digest is remembered. Default 1,024.
    pub executables_max: u64,
    /// Largest executable whose digest is taken, in bytes; of a larger one it is unknown. Default 256 MiB.
    pub executable_bytes_max: u64,
    /// Most connections to the control socket at once. Default 32.
    pub control_connections_max: u64,
    /// Longest request over the control socket, in bytes. Default 16 MiB.
    pub control_request_bytes_max: u64,
    /// Threads that take requests from the kernel. One costs least on one CPU, and more are added by themselves when all
    /// are held up; a machine with many cores and many readers may want more from the start.
    pub threads_max: u64,
    /// How long such a thread looks for the next request before it sleeps, where that has paid lately; 0: it sleeps at
    /// once, which saves that much of a processor after each burst and wakes it for every request. Default 30 us.
    pub spin_max: Duration,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            request_deadline: Duration::from_millis(5_000),
            audit_wait: Duration::from_millis(40),
            control_deadline: Duration::from_millis(30_000),
            shutdown_deadline: Duration::from_millis(10_000),
            directory_life: Duration::from_millis(1_000),
            in_flight_per_uid_max: 64,
            handles_max: 65_536,
            cache_bytes_max: 4_194_304,
            refusals_max: 4_096,
            refusals_per_uid_max: 128,
            callers_max: 4_096,
            executables_max: 1_024,
            executable_bytes_max: 268_435_456,
            control_connections_max: 32,
            control_request_bytes_max: 16_777_216,
            threads_max: 1,
            spin_max: Duration::from_micros(30),
        }
    }
}

impl LimitSettings {
    /// Reads the table, to its end.
    pub(super) fn read(section: Section<'_>) -> Self {
        let mut limits = Self::default();
        read_spans(&section, &mut limits);
        read_numbers(&section, &mut limits);
        section.finish();
        limits
    }
}

fn read_spans(section: &Section<'_>, limits: &mut LimitSettings) {
    let read = |key, place: &mut Duration, from_ms, to_ms| {
        let range = Duration::from_millis(from_ms)..=Duration::from_millis(to_ms);
        if let Some(span) = section.span(key, range) {
            *place = span;
        }
    };
    read("request_deadline", &mut limits.request_deadline, 10, 120_000);
    read("audit_wait", &mut limits.audit_wait, 1, 1_000);
    read("control_deadline", &mut limits.control_deadline, 100, 600_000);
    read("shutdown_deadline", &mut limits.shutdown_deadline, 100, 300_000);
    read("directory_life", &mut limits.directory_life, 0, 1_000);
    read("spin_max", &mut limits.spin_max, 0, 1);
}

fn read_numbers(section: &Section<'_>, limits: &mut LimitSettings) {
    let read = |key, place: &mut u64, from, to| {
        if let Some(number) = section.integer(key, from..=to) {
            *place = number.value;
        }
    };
    read("in_flight_per_uid_max", &mut limits.in_flight_per_uid_max, 1, 65_536);
    read("handles_max", &mut limits.handles_max, 16, 1_048_576);
    read("cache_bytes_max", &mut limits.cache_bytes_max, 0, 4_294_967_296);
    read("refusals_max", &mut limits.refusals_max, 16, 1_048_576);
    read("refusals_per_uid_max", &mut limits.refusals_per_uid_max, 1, 65_536);
    read("callers_max", &mut limits.callers_max, 16, 1_048_576);
    read("executables_max", &mut limits.executables_max, 16, 1_048_576);
    read("executable_bytes_max", &mut limits.executable_bytes_max, 1_048_576, 17_179_869_184);
    read("control_connections_max", &mut limits.control_connections_max, 1, 1_024);
    read("control_request_bytes_max", &mut limits.control_request_bytes_max, 4_096, 268_435_456);
    read("threads_max", &mut limits.threads_max, 1, 64);
}
