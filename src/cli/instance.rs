//! Commands on an instance: make, serve, reload, refresh, check, status.

use serde_json::json;

use crate::config::{Config, DEFAULT_CONFIG};
use crate::control::{Answer, Command, CommandFault, Contact, Kind, LoginRow, NoReply, StatusAnswer, ask};
use crate::daemon::{self, Keeping, Layout, Mounting, Working};
use crate::document::Fault;
use crate::keeper::{self, Ended};

use super::arguments::Init;
use super::connect::{run, through_instance, unexpected};
use super::{Context, Exit, output, secret_path};

pub(super) fn init(context: &Context, options: &Init) -> Result<Exit, CommandFault> {
    if options.complete {
        return complete(context);
    }
    let laid = Layout::of(&context.config_file, options.mount_point.as_deref())
        .map_err(|error| CommandFault::failed(format!("the working directory cannot be told: {error}")))?
        .make(None)?;
    let layout = &laid.layout;
    let fingerprint = laid.fingerprint.map(|fingerprint| fingerprint.to_string());
    if context.json {
        output::json(&json!({
            "config": layout.config, "mount_point": layout.mount_point, "policy": layout.policy(),
            "key": layout.key(), "audit_fingerprint": fingerprint,
        }))?;
        return Ok(Exit::Done);
    }
    let option = if layout.config == std::path::Path::new(DEFAULT_CONFIG) {
        String::new()
    } else {
        format!(" --config {}", layout.config.display())
    };
    output::text(&format!(
        "A new instance is laid down; its configuration is {config}.\n\n\
         Audit fingerprint: {fingerprint}\n\
         Keep it on another machine: `credfs audit verify --root` proves the log from it.\n\
         Keep a copy of {key} too: without it nothing in the store can be read.\n\n\
         Next:\n  \
         credfs put prod/orders/db password{option}\n  \
         edit {policy}, which grants nothing yet; then credfs check{option}\n  \
         credfs mount{option}\n",
        config = layout.config.display(),
        fingerprint = fingerprint.unwrap_or_default(),
        key = layout.key().display(),
        policy = layout.policy().display(),
    ))?;
    Ok(Exit::Done)
}

fn complete(context: &Context) -> Result<Exit, CommandFault> {
    let completed = daemon::complete(&context.config_file, &context.surroundings)?;
    let fingerprint = completed.fingerprint.map(|fingerprint| fingerprint.to_string());
    if context.json {
        output::json(&json!({ "made": completed.made, "audit_fingerprint": fingerprint }))?;
        return Ok(Exit::Done);
    }
    let mut text = String::new();
    for made in &completed.made {
        text.push_str(&format!("made {}\n", made.display()));
    }
    if completed.made.is_empty() {
        text.push_str("nothing is missing\n");
    }
    if let Some(fingerprint) = fingerprint {
        text.push_str(&format!(
            "Audit fingerprint: {fingerprint}\nKeep it on another machine: `credfs audit verify --root` proves the \
             log from it.\n"
        ));
    }
    output::text(&text)?;
    Ok(Exit::Done)
}

pub(super) fn mount(context: &Context) -> Result<Exit, CommandFault> {
    daemon::mount(Mounting {
        config: &context.config_file,
        surroundings: &context.surroundings,
        log_level: context.log_level.as_deref(),
        hangup_ends: false,
        ready: &mut || {},
    })
    .map(exit_of)
}

pub(super) fn keeper(context: &Context, socket: &std::path::Path) -> Result<Exit, CommandFault> {
    daemon::keep(Keeping { config: &context.config_file, surroundings: &context.surroundings, socket })
        .map(exit_of)
}

pub(super) fn worker(context: &Context, keeper: Option<std::path::PathBuf>) -> Result<Exit, CommandFault> {
    daemon::work(Working {
        config: &context.config_file,
        surroundings: &context.surroundings,
        keeper: keeper.map_or(keeper::From::StandardInput, keeper::From::Socket),
    })?;
    Ok(Exit::Done)
}

/// A worker that failed has said why; its exit code is ours.
pub(super) fn exit_of(ended: Ended) -> Exit {
    match ended {
        Ended::Signal => Exit::Done,
        Ended::Unmounted => Exit::Failed,
        Ended::WorkerFailed(code) => Exit::of_code(code),
    }
}

pub(super) fn reload(context: &Context) -> Result<Exit, CommandFault> {
    // A configuration that cannot be read any more is a fault of the reload, told by who was asked to.
    let answer = through_instance(&context.config()?, &Command::Reload)?.answer;
    let Answer::Reloaded { policy, grants, warnings } = answer else { return Err(unexpected(&answer)) };
    for warning in &warnings {
        output::say(&format!("credfs: warning: {warning}"));
    }
    if context.json {
        output::json(&json!({ "policy": policy, "grants": grants, "warnings": warnings }))?;
    } else {
        output::line(&format!("in force: policy {policy} with {grants} grants"))?;
    }
    Ok(Exit::Done)
}

pub(super) fn refresh(context: &Context, path: Option<&str>) -> Result<Exit, CommandFault> {
    let secret = path.map(secret_path).transpose()?;
    let command = Command::Refresh { secret };
    let reply = run(&context.config()?, &context.surroundings, command, Vec::new(), &mut std::io::sink())?;
    let Answer::Refreshed { secrets } = reply.answer else { return Err(unexpected(&reply.answer)) };
    if context.json {
        output::json(&json!({ "secrets": secrets }))?;
    } else {
        output::line(&format!("asked again: {secrets} known"))?;
    }
    Ok(Exit::Done)
}

/// Every fault of configuration, permissions and policy at once.
pub(super) fn check(context: &Context) -> Result<Exit, CommandFault> {
    let mut faults = Vec::new();
    let mut warnings = Vec::new();
    match Config::load_with_faults(&context.config_file) {
        Err(fault) => faults.push(fault),
        Ok((config, found)) => {
            // A file that only a default names, in the place of a faulty value, is not missed.
            let policy_is_named = found.is_empty() || config.policy.paths.iter().all(|path| path.exists());
            faults.extend(found);
            if faults.is_empty()
                && let Err(lax) = daemon::check(&context.config_file)
            {
                faults.extend(lax);
            }
            warnings.extend(config.warnings());
            match daemon::load_policy(&config) {
                Ok(loaded) => warnings.extend(loaded.warnings),
                Err(found) if policy_is_named => faults.extend(found),
                Err(_) => {}
            }
        }
    }
    if context.json {
        let rows = |faults: &[Fault]| {
            let row = |fault: &Fault| json!({ "file": fault.file, "line": fault.line, "message": fault.message, "remedy": fault.remedy });
            faults.iter().map(row).collect::<Vec<_>>()
        };
        output::json(
            &json!({ "ok": faults.is_empty(), "faults": rows(&faults), "warnings": rows(&warnings) }),
        )?;
    } else if faults.is_empty() {
        output::line("configuration and policy are valid")?;
    }
    for warning in &warnings {
        output::say(&format!("credfs: warning: {warning}"));
    }
    if faults.is_empty() { Ok(Exit::Done) } else { Err(CommandFault::invalid(&faults)) }
}

pub(super) fn status(context: &Context) -> Result<Exit, CommandFault> {
    let config = Config::load(&context.config_file);
    let status = match &config {
        Ok(config) => status_of(config),
        Err(faults) => Err(CommandFault::invalid(faults)),
    };
    let status = status.unwrap_or_else(|fault| StatusAnswer {
        state: if fault.kind == Kind::StoreAway { "unreachable" } else { "stopped" }.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        mount_point: config.as_ref().ok().map(|config| config.mount_point.clone()),
        why: Some(fault.message),
        ..StatusAnswer::default()
    });
    print_status(context, &status)?;
    Ok(if status.state == "serving" { Exit::Done } else { Exit::Failed })
}

fn status_of(config: &Config) -> Result<StatusAnswer, CommandFault> {
    match Contact::make(&config.control.socket)? {
        Contact::Full(fault) => Err(fault),
        Contact::Nobody => Err(CommandFault::failed(format!(
            "no instance answers at {}: start one with `credfs mount`",
            config.control.socket.display()
        ))),
        Contact::Made(stream) => {
            let within = config.limits.control_deadline;
            let reply = ask(&stream, &Command::Status, &[], &mut std::io::sink(), within)
                .map_err(NoReply::into_fault)?;
            match reply.answer {
                Answer::Status(status) => Ok(*status),
                other => Err(unexpected(&other)),
            }
        }
    }
}

fn print_status(context: &Context, status: &StatusAnswer) -> Result<(), CommandFault> {
    if context.json {
        let value = serde_json::to_value(status).map_err(|error| CommandFault::failed(error.to_string()))?;
        return output::json(&value);
    }
    let mut text = format!("state        {}\n", status.state);
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text.push_str(&format!("{name:<12} {value}\n"));
        }
    };
    add("why", status.why.clone());
    add("mount point", status.mount_point.as_ref().map(|path| path.display().to_string()));
    add("worker", status.worker_pid.map(|pid| pid.to_string()));
    add("keeper", status.keeper_pid.map(|pid| pid.to_string()));
    add("since", status.started.clone());
    add("version", Some(status.version.clone()));
    for store in &status.stores {
        add("store", Some(format!("{}: {}", store.name, format!("{:?}", store.state).to_lowercase())));
        for login in &store.logins {
            add("login", Some(login_line(&store.name, login)));
        }
        for (path, count) in &store.leases {
            let ending =
                if count.ending > 0 { format!(", {} to be ended", count.ending) } else { String::new() };
            add("leases", Some(format!("{path}: {} live{ending}", count.live)));
        }
    }
    add("audit log", status.audit.clone());
    add(
        "policy",
        status.policy.clone().zip(status.grants).map(|(policy, grants)| format!("{policy}, {grants} grants")),
    );
    add("open files", status.open_files.map(|count| count.to_string()));
    output::text(&text)
}

/// One login as a line. Its token is not known here.
fn login_line(store: &str, login: &LoginRow) -> String {
    let state = format!("{:?}", login.state).to_lowercase();
    let mut line = format!("{} at {store} by {}: {state}", login.login, login.method);
    if let Some(age_s) = login.age_s {
        line.push_str(&format!(", {age_s} s old"));
    }
    if let Some(remaining_s) = login.remaining_s {
        line.push_str(&format!(", {remaining_s} s left"));
    }
    if let Some(accessor) = &login.accessor {
        line.push_str(&format!(", accessor {accessor}"));
    }
    line
}
