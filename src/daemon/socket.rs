//! The control socket of a worker: one instance answers there.

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::sync::Arc;

use crate::caller::Identifier;
use crate::config::Config;
use crate::control::{CommandFault, Contact, Instance, Kind, Server, ServerOptions};

use super::rooms::size;

/// One instance for each configuration: a second one says so at once, and not by the locks that it would wait for.
pub(super) fn refuse_a_second(config: &Config) -> Result<(), CommandFault> {
    let socket = &config.control.socket;
    let Ok(Contact::Made(_) | Contact::Full(_)) = Contact::make(socket) else { return Ok(()) };
    Err(CommandFault::new(
        Kind::Exists,
        format!(
            "an instance of this configuration is already running (it answers at {}): use credfs reload, or stop it \
             first",
            socket.display()
        ),
    ))
}

/// Serves the socket, whose directory is made where it is missing.
pub(super) fn serve(
    config: &Config,
    instance: &Arc<Instance>,
    identifier: &Arc<Identifier>,
    runtime: &tokio::runtime::Runtime,
) -> Result<Server, CommandFault> {
    let socket = &config.control.socket;
    if let Some(directory) = socket.parent().filter(|directory| !directory.exists()) {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory).and_then(|()| {
            // The umask is for secrets; everyone may come as far as the socket.
            std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))
        });
        made.map_err(|error| {
            CommandFault::failed(format!("{} cannot be made: {error}", directory.display()))
        })?;
    }
    let options = ServerOptions {
        socket: socket.clone(),
        connections_max: size(config.limits.control_connections_max),
        request_bytes_max: size(config.limits.control_request_bytes_max),
        deadline: config.limits.control_deadline,
    };
    Server::start(options, Arc::clone(instance), Arc::clone(identifier), runtime.handle().clone()).map_err(
        |error| {
            let kind =
                if error.kind() == std::io::ErrorKind::AddrInUse { Kind::Exists } else { Kind::Failed };
            let remedy = if error.kind() == std::io::ErrorKind::InvalidInput {
                "; a socket's path has at most 107 bytes: set control.socket to a shorter one"
            } else {
                ""
            };
            CommandFault::new(
                kind,
                format!("the control socket {} cannot be made: {error}{remedy}", socket.display()),
            )
        },
    )
}
