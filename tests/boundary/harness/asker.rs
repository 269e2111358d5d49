//! Who asks: a uid, a gid, supplementary groups and a cgroup, put on by setpriv and the kernel.

use super::{Cgroup, PYTHON, Program};

/// Whose shoes a program runs in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asker {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    cgroup: Option<std::path::PathBuf>,
}

/// Prints what a file holds, or the errno of its refusal.
const READ: &str = "
import sys, errno, os
try:
    with open(sys.argv[1], 'rb') as file:
        sys.stdout.buffer.write(b'read ' + file.read())
except OSError as error:
    print(errno.errorcode[error.errno])
";

impl Asker {
    pub(crate) fn root() -> Self {
        Self::default()
    }

    pub(crate) fn uid(uid: u32) -> Self {
        Self { uid, gid: uid, ..Self::default() }
    }

    /// With another group of its own.
    pub(crate) fn gid(self, gid: u32) -> Self {
        Self { gid, ..self }
    }

    pub(crate) fn groups(mut self, groups: &[u32]) -> Self {
        self.groups = groups.to_vec();
        self
    }

    pub(crate) fn in_cgroup(mut self, cgroup: &Cgroup) -> Self {
        self.cgroup = Some(cgroup.path().to_owned());
        self
    }

    pub(crate) fn uid_number(&self) -> u32 {
        self.uid
    }

    /// The words that run `words` as this asker; every step replaces the one before, so the pid stays.
    pub(crate) fn words(&self, words: &[&str]) -> Vec<String> {
        let mut all = Vec::new();
        let mut add = |more: &[&str]| all.extend(more.iter().map(|word| (*word).to_owned()));
        if let Some(cgroup) = &self.cgroup {
            let enter = format!("echo 0 > '{}/cgroup.procs' && exec \"$@\"", cgroup.display());
            add(&["/bin/sh", "-c", &enter, "sh"]);
        }
        if self.uid != 0 || self.gid != 0 || !self.groups.is_empty() {
            add(&["setpriv", "--reuid", &self.uid.to_string(), "--regid", &self.gid.to_string()]);
            if self.groups.is_empty() {
                add(&["--clear-groups"]);
            } else {
                let groups: Vec<String> = self.groups.iter().map(u32::to_string).collect();
                add(&["--groups", &groups.join(",")]);
            }
        }
        add(words);
        all
    }

    pub(crate) fn program(&self, words: &[&str]) -> Program {
        let words = self.words(words);
        Program::new(&words[0]).args(&words[1..])
    }

    #[track_caller]
    pub(crate) fn run(&self, words: &[&str]) -> super::Done {
        self.program(words).run()
    }

    /// Runs a Python script with arguments; what it printed.
    #[track_caller]
    pub(crate) fn python(&self, script: &str, arguments: &[&str]) -> String {
        let mut words = vec![PYTHON, "-I", "-c", script];
        words.extend(arguments);
        self.run(&words).ok().text()
    }

    /// What the file holds (`read …`), or the name of the errno.
    #[track_caller]
    pub(crate) fn read(&self, path: &str) -> String {
        self.python(READ, &[path])
    }
}
