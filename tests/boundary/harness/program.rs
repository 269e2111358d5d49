//! Child processes with a deadline: nothing here can wait for ever, and nothing is left running.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a child may take where nothing else is said.
const LIMIT: Duration = Duration::from_secs(30);

/// A program to be run to its end.
pub(crate) struct Program {
    command: Command,
    input: Vec<u8>,
    limit: Duration,
}

/// What a program left behind.
pub(crate) struct Done {
    pub(crate) shown: String,
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Program {
    pub(crate) fn new(name: impl AsRef<OsStr>) -> Self {
        Self { command: Command::new(name), input: Vec::new(), limit: LIMIT }
    }

    /// A program by its words.
    pub(crate) fn of(words: &[&str]) -> Self {
        Self::new(words[0]).args(&words[1..])
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.command.args(words);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    pub(crate) fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it to its end; panics, and ends it, when it takes too long.
    #[track_caller]
    pub(crate) fn run(mut self) -> Done {
        let shown = format!("{:?}", self.command);
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{shown}: {error}; run tests/run, which installs what is missing")
            });
        let mut stdin = child.stdin.take().expect("piped");
        let input = std::mem::take(&mut self.input);
        let writer = std::thread::spawn(move || {
            // A program that does not read its input closes it; that is its right.
            drop(stdin.write_all(&input));
        });
        let reader = |mut source: Box<dyn Read + Send>| {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                source.read_to_end(&mut bytes).expect("a pipe that can be read");
                bytes
            })
        };
        let out = reader(Box::new(child.stdout.take().expect("piped")));
        let err = reader(Box::new(child.stderr.take().expect("piped")));
        let Some(status) = wait_within(&mut child, self.limit) else {
            child.kill().expect("a child of ours can be killed");
            // A child that hangs in the kernel is not waited for: the test fails now.
            panic!("{shown}: still running after {:?}", self.limit);
        };
        writer.join().expect("the writer ends");
        let (out, err) = (out.join().expect("stdout"), err.join().expect("stderr"));
        let err = String::from_utf8_lossy(&err).into_owned();
        Done { shown, code: status.code(), signal: status.signal(), out, err }
    }

    /// Starts it and keeps it running, its output in `log`.
    pub(crate) fn keep(mut self, log: &Path) -> Kept {
        let shown = format!("{:?}", self.command);
        let output =
            File::options().create(true).append(true).open(log).expect("the output file can be made");
        let child = self
            .command
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a descriptor"))
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{shown}: {error}; run tests/run, which installs what is missing")
            });
        Kept { child, shown, log: log.to_owned(), ended: false }
    }
}

impl Done {
    /// Fails unless it ended with 0.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        self.ended_with(0)
    }

    #[track_caller]
    pub(crate) fn ended_with(self, code: i32) -> Self {
        let text = String::from_utf8_lossy(&self.out);
        assert_eq!(
            self.code,
            Some(code),
            "{} (signal {:?})\nstdout: {text}\nstderr: {}",
            self.shown,
            self.signal,
            self.err
        );
        self
    }

    /// Its standard output, without the last newline.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).trim_end().to_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.out).unwrap_or_else(|error| {
            panic!("{}: no JSON ({error}): {}\n{}", self.shown, self.text(), self.err)
        })
    }
}

/// A program that runs until it is ended.
pub(crate) struct Kept {
    child: Child,
    shown: String,
    log: std::path::PathBuf,
    ended: bool,
}

impl Kept {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_none()
    }

    /// Sends a signal by name, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        Program::of(&["kill", "-s", name, &self.pid().to_string()]).run().ok();
    }

    /// Waits for its end; `None` where it did not come in time.
    pub(crate) fn wait(&mut self, limit: Duration) -> Option<std::process::ExitStatus> {
        let status = wait_within(&mut self.child, limit);
        self.ended |= status.is_some();
        status
    }

    /// Ends it, as an operator would.
    #[track_caller]
    pub(crate) fn end(&mut self) -> std::process::ExitStatus {
        self.signal("TERM");
        self.wait(Duration::from_secs(10))
            .unwrap_or_else(|| panic!("{}: no end after SIGTERM\n{}", self.shown, self.output()))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.ended || !self.is_running() {
            return;
        }
        drop(Command::new("kill").args(["-s", "TERM", &self.pid().to_string()]).status());
        if wait_within(&mut self.child, Duration::from_secs(5)).is_none() {
            drop(self.child.kill());
            let _ended = wait_within(&mut self.child, Duration::from_secs(5));
        }
    }
}

fn wait_within(child: &mut Child, limit: Duration) -> Option<std::process::ExitStatus> {
    let begun = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            return Some(status);
        }
        if begun.elapsed() > limit {
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
}
