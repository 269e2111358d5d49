//! Readers that never pause, and what they saw.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::{Machine, wait_until};

const END_LIMIT: Duration = Duration::from_secs(40);

/// Readers that run in a unit of the machine.
pub(crate) struct Load<'a> {
    machine: &'a Machine,
    unit: String,
}

/// What readers saw from start to end.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) reads: u64,
    pub(crate) errors: Vec<String>,
    pub(crate) pause_max: Duration,
    pub(crate) numbers: BTreeSet<u64>,
    pub(crate) stuck: u64,
}

impl<'a> Load<'a> {
    /// Starts readers of `field` as `user`, in the unit `unit`.
    #[track_caller]
    pub(crate) fn start(machine: &'a Machine, unit: &str, user: &str, readers: u32, field: &str) -> Self {
        let result = format!("/tmp/{unit}.json");
        let unit_option = format!("--unit={unit}");
        let user = format!("User={user}");
        let words =
            ["systemd-run", "--quiet", "--collect", "-p", &user, "-p", "KillMode=process", &unit_option];
        let program = ["/usr/bin/python3", "/tools/load.py", &result, &readers.to_string(), field];
        machine.run(&[words.as_slice(), program.as_slice()].concat()).ok();
        wait_until("the readers read", Duration::from_secs(20), || machine.journal(unit).contains("reading"));
        Self { machine, unit: unit.to_owned() }
    }

    /// Ends the readers.
    #[track_caller]
    pub(crate) fn end(self) -> Seen {
        let result = format!("/tmp/{}.json", self.unit);
        self.machine.run(&["systemctl", "kill", "--signal=TERM", &self.unit]).ok();
        wait_until("the readers end", END_LIMIT, || {
            self.machine.run(&["test", "-e", &result]).code == Some(0)
        });
        let said: Value = self.machine.run(&["cat", &result]).ok().json();
        Seen {
            reads: said["reads"].as_u64().expect("reads"),
            errors: said["errors"]
                .as_array()
                .expect("errors")
                .iter()
                .map(|error| error.as_str().unwrap_or_default().to_owned())
                .collect(),
            pause_max: Duration::from_secs_f64(said["pause_max_s"].as_f64().expect("pause")),
            numbers: said["numbers"].as_array().expect("numbers").iter().filter_map(Value::as_u64).collect(),
            stuck: said["stuck"].as_u64().expect("stuck"),
        }
    }
}
