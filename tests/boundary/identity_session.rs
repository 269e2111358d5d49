//! Login sessions, as the kernel's audit part numbers them: what PAM does at a login is done here by hand.

use std::time::Duration;

use crate::harness::{ALICE, Asker, Instance, Kept, PYTHON, Setup, wait_until};

const LOGIN_UID: u64 = 24_077;

/// Logs in (or out) as `/proc/self/loginuid` lets root do it, says in which session it is, and waits to be told to
/// read. Ends with 3 where the kernel does not let it.
const LOGIN: &str = "
import errno, os, sys
login, go, paths = sys.argv[1], sys.argv[2], sys.argv[3:]
try:
    with open('/proc/self/loginuid', 'w') as file:
        file.write(login)
except OSError as error:
    print('refused', errno.errorcode[error.errno], flush=True)
    sys.exit(3)
print('session', open('/proc/self/sessionid').read().strip(), flush=True)
os.setgroups([])
os.setresgid(24001, 24001, 24001)
os.setresuid(24001, 24001, 24001)
open(go).read()
for path in paths:
    try:
        with open(path) as file:
            print('read', file.read())
    except OSError as error:
        print(errno.errorcode[error.errno])
";

/// What the kernel writes for nobody (`AUDIT_UID_UNSET`), and for no session.
const UNSET: &str = "4294967295";

struct Login {
    process: Kept,
    session: String,
    go: String,
}

/// Logs `login` in, in a process of its own that then waits.
#[track_caller]
fn log_in(instance: &Instance, name: &str, login: &str) -> Login {
    let go = instance.file(&format!("go-{name}"));
    Asker::root().run(&["mkfifo", "-m", "0666", &go]).ok();
    let paths = ["any/db/key", "none/db/key", "one/db/key"].map(|path| instance.path(path));
    let mut words = vec![PYTHON, "-I", "-c", LOGIN, login, &go];
    words.extend(paths.iter().map(String::as_str));
    let mut process = Asker::root().program(&words).keep(&instance.dir().join(format!("{name}.out")));
    wait_until("it logs in", Duration::from_secs(5), || {
        let output = process.output();
        assert!(
            !output.contains("refused"),
            "this kernel lets root set no login uid ({output}): the session rule cannot be shown here; run the tests \
             on a kernel with CONFIG_AUDIT, outside an unprivileged container"
        );
        assert!(process.is_running() || output.contains("session"), "{output}");
        output.contains("session")
    });
    let output = process.output();
    let session = output.trim().rsplit(' ').next().expect("a number").to_owned();
    Login { process, session, go }
}

impl Login {
    /// Has it read; what it got of `any`, `none` and `one`.
    #[track_caller]
    fn reads(mut self) -> [String; 3] {
        std::fs::write(&self.go, "go").expect("it waits");
        assert!(self.process.wait(Duration::from_secs(10)).expect("it ends").success());
        let output = self.process.output();
        let lines: Vec<String> = output.lines().skip(1).map(str::to_owned).collect();
        lines.try_into().unwrap_or_else(|lines| panic!("{lines:?}"))
    }
}

fn policy(one: &str) -> String {
    let rule = |name: &str, session: &str| {
        format!(
            "[identities.{name}]\nuid = 24001\nsession = {session}\n\
             [[grants]]\nto = [\"{name}\"]\nread = [\"{name}/**\"]\n"
        )
    };
    let list = "[identities.alice]\nuid = 24001\n[[grants]]\nto = [\"alice\"]\nlist = [\"**\"]\n";
    format!("{list}{}{}{}", rule("any", "\"any\""), rule("none", "\"none\""), rule("one", one))
}

#[test]
fn a_session_rule_knows_logins_services_and_one_session_from_another() {
    let instance = Setup::policy(&policy("1")).start();
    for secret in ["any/db", "none/db", "one/db"] {
        instance.put(secret, &[("key", b"hunter2")]);
    }
    let service = log_in(&instance, "service", UNSET);
    let first = log_in(&instance, "first", &LOGIN_UID.to_string());
    let second = log_in(&instance, "second", &LOGIN_UID.to_string());
    assert_eq!(service.session, UNSET, "a service is in no session");
    assert!(first.session != UNSET && first.session != second.session, "each login is a session of its own");
    let number: u64 = first.session.parse().expect("a number");
    instance.reload_policy(&policy(&first.session));
    let (yes, no) = ("read hunter2", "EACCES");
    assert_eq!(service.reads(), [no, yes, no], "a service");
    assert_eq!(second.reads(), [yes, no, no], "the same login uid in another session");
    assert_eq!(first.reads(), [yes, no, yes], "the session that the rule names");
    let records = instance.records();
    let record = records.last("open", "released");
    assert_eq!(record.text("secret"), "one/db");
    assert_eq!(record.number("session"), Some(number), "{record:?}");
    assert_eq!(record.number("login_uid"), Some(LOGIN_UID), "{record:?}");
    assert_eq!(record.number("uid"), Some(u64::from(ALICE)));
    let of_service = records.all("open", "released")[0];
    assert!(
        of_service.0.get("session").is_none() && of_service.0.get("login_uid").is_none(),
        "{of_service:?}"
    );
}

#[test]
fn what_an_administrator_does_names_his_login_with_and_without_an_instance() {
    let instance = Setup::default().initialised();
    let config = instance.config_path();
    let login = LOGIN_UID.to_string();
    let script = "echo \"$1\" > /proc/self/loginuid && shift && exec \"$@\"";
    let put = || {
        let credfs = env!("CARGO_BIN_EXE_credfs");
        let words =
            ["/bin/sh", "-c", script, "sh", &login, credfs, "--config", &config, "put", "prod/db", "key"];
        let unit = crate::harness::Cgroup::make(&format!(
            "system.slice/credfs-test-{}-administrator.service",
            std::process::id()
        ));
        let done = Asker::root().in_cgroup(&unit).program(&words).input("hunter2").run().ok();
        assert!(done.out.is_empty() || !done.text().contains("hunter2"));
    };
    put();
    instance.mount();
    put();
    let records = instance.records();
    let made = records.all("put", "done");
    assert_eq!(made.len(), 2, "{made:#?}");
    let facts = |at: usize| {
        let record = made[at].0.as_object().expect("an object").clone();
        let who = ["uid", "gid", "unit", "container", "login_uid", "exe", "exe_id"];
        who.map(|key| (key, record.get(key).cloned()))
    };
    assert_eq!(facts(0), facts(1), "without an instance and with one");
    assert_eq!(made[0].number("login_uid"), Some(LOGIN_UID));
    assert!(made[0].text("unit").ends_with("administrator.service"), "{:?}", made[0]);
    assert!(made.iter().all(|record| record.0.get("session").is_some() && record.0.get("tid").is_some()));
    let key_set = |at: usize| made[at].0.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(key_set(0), key_set(1), "the same keys");
}
