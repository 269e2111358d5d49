//! One process that mounts and serves with the rooms of a worker: what credfs would be without the split.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use credfs::caller::{self, Identifier, ProcExecutables};
use credfs::control::{CommandFault, Instance};
use credfs::daemon::{self, Surroundings};
use credfs::fuse::notifier::{self, Notifier};
use credfs::fuse::{self, Connection, MARKS_BYTES, PaceLimits, Session, introduce};
use credfs::sys::memory_file;
use credfs::sys::mount::{self, MountOptions};
use credfs::tree::{self, Tree};

/// Serves until SIGTERM. It is also the notifier's helper, where it is started as that.
pub(crate) fn serve(config: &Path, mount_point: &Path) -> ExitCode {
    let surroundings = Surroundings::default();
    let done = daemon::with_instance(config, &surroundings, |instance, _| run(instance, mount_point));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("{fault}");
            ExitCode::FAILURE
        }
    }
}

fn run(instance: &Instance, mount_point: &Path) -> Result<(), CommandFault> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // As a worker has them by default.
    let tree_options = tree::Options {
        public_entry_lifetime: Duration::from_secs(1),
        attribute_lifetime: Duration::from_secs(3600),
        handles_max: 65_536,
        directory_uid: 0,
        directory_gid: 0,
    };
    let tree = Tree::new(Arc::clone(&instance.gate), tree_options);
    let executables = Arc::new(ProcExecutables::default());
    let identifier = Arc::new(Identifier::new(caller::Options::default(), executables).unwrap());
    let options = fuse::Options {
        loop_threads: 1,
        spin_max: std::time::Duration::from_micros(30),
        audit_wait: Duration::from_millis(40),
        request_deadline: Duration::from_secs(5),
        pace: PaceLimits {
            refusals_per_second: 2_000,
            refusals_burst: 5_000,
            delay_max: Duration::from_millis(20),
        },
    };
    std::fs::create_dir_all(mount_point).unwrap();
    let mounted = mount::mount(mount_point, &MountOptions::default()).unwrap();
    let connection = Connection {
        introduction: introduce(&mounted.device).unwrap(),
        pages: memory_file::fixed(c"credfs-pages", MARKS_BYTES).unwrap(),
        device: mounted.device,
        orders: Arc::new(Notifier::start(mounted.tree, notifier::Options::default()).unwrap()),
    };
    let session = Session::serve(&tree, identifier, runtime.handle().clone(), &options, connection).unwrap();
    runtime.block_on(async {
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        terminate.recv().await;
    });
    mount::unmount(&mounted.handle).unwrap();
    drop(session);
    // The notifier's helper, which holds the mount, and every other thread end with the process.
    std::process::exit(0)
}
