//! Real servers, started for one test and ended by their process ids; and an outsider who asks them by curl.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Certificates, Directory, free_port};

const PATIENCE: Duration = Duration::from_secs(30);

fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vault/server");
        let made = Command::new(&script).stderr(Stdio::inherit()).output().unwrap();
        assert!(
            made.status.success(),
            "{} failed: `tests/run install` brings what it needs",
            script.display()
        );
        PathBuf::from(String::from_utf8(made.stdout).unwrap().trim())
    })
}

/// One server.
pub(crate) struct Bao {
    child: Child,
    arguments: Vec<String>,
    directory: Directory,
    pub(crate) url: String,
    pub(crate) root: String,
    ca: Option<PathBuf>,
    unseal_key: Option<String>,
}

/// How a server is reached that is not open to all.
pub(crate) struct Secured<'a> {
    pub(crate) certificates: &'a Certificates,
    /// The certificate it shows, by its name.
    pub(crate) shows: &'a str,
}

impl Bao {
    /// A server in memory, unsealed, with a KV engine of version 2 at `secret`.
    pub(crate) fn dev() -> Self {
        Self::dev_at(free_port())
    }

    pub(crate) fn dev_at(port: u16) -> Self {
        let directory = Directory::new();
        let root = format!("root-{}", unguessable());
        let address = format!("127.0.0.1:{port}");
        let arguments = [
            "server".to_owned(),
            "-dev".to_owned(),
            "-dev-no-store-token".to_owned(),
            format!("-dev-root-token-id={root}"),
            format!("-dev-listen-address={address}"),
        ];
        let child = start(&directory, &arguments);
        let url = format!("http://{address}");
        let arguments = arguments.to_vec();
        let mut bao = Self { child, arguments, directory, url, root, ca: None, unseal_key: None };
        bao.wait_for(200);
        // The engine at `secret` is being given its versions for a moment.
        bao.wait_until(|bao| bao.ask("GET", "secret/config", None).0 == 200);
        bao
    }

    /// A server with a configuration file, its own storage, and TLS where `secured` says how. Initialised and unsealed.
    pub(crate) fn configured(port: u16, secured: Option<&Secured<'_>>) -> Self {
        let directory = Directory::new();
        let storage = format!("storage \"file\" {{\n path = \"{}/data\"\n}}\n", directory.path().display());
        let mut bao = Self::with_storage(directory, (port, free_port()), &storage, secured);
        bao.initialise();
        bao
    }

    fn with_storage(
        directory: Directory,
        (port, cluster_port): (u16, u16),
        storage: &str,
        secured: Option<&Secured<'_>>,
    ) -> Self {
        let mut listener = format!(
            "listener \"tcp\" {{\n address = \"127.0.0.1:{port}\"\n cluster_address = \"127.0.0.1:{cluster_port}\"\n"
        );
        match secured {
            None => listener.push_str(" tls_disable = true\n"),
            Some(Secured { certificates, shows }) => {
                let (cert, key) = certificates.files(shows);
                let ca = certificates.ca();
                listener.push_str(&format!(
                    " tls_cert_file = \"{}\"\n tls_key_file = \"{}\"\n tls_client_ca_file = \"{}\"\n",
                    cert.display(),
                    key.display(),
                    ca.display()
                ));
            }
        }
        let scheme = if secured.is_some() { "https" } else { "http" };
        let config = format!(
            "disable_mlock = true\n{storage}{listener}}}\napi_addr = \"{scheme}://127.0.0.1:{port}\"\n"
        );
        let config = directory.file("server.hcl", &config);
        let arguments = vec!["server".to_owned(), format!("-config={}", config.display())];
        let child = start(&directory, &arguments);
        let mut bao = Self {
            child,
            arguments,
            directory,
            url: format!("{scheme}://127.0.0.1:{port}"),
            root: String::new(),
            ca: secured.map(|secured| secured.certificates.ca()),
            unseal_key: None,
        };
        bao.wait_until_sealed();
        bao
    }

    /// Not initialised, or sealed where it found a storage that is.
    fn wait_until_sealed(&mut self) {
        self.wait_until(|bao| [501, 503].contains(&bao.ask("GET", "sys/health", None).0));
    }

    /// Starts one with a storage of its own anew, after `kill`: it is sealed.
    pub(crate) fn start_again(&mut self) {
        self.child = start(&self.directory, &self.arguments);
        self.wait_until_sealed();
    }

    /// Sends its process a signal by name: `STOP` makes a black hole of it, into which connections can still be made.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    fn initialise(&mut self) {
        let (_, made) =
            self.ask("POST", "sys/init", Some(&json!({"secret_shares": 1, "secret_threshold": 1})));
        self.root = made["root_token"].as_str().unwrap().to_owned();
        self.unseal_key = Some(made["keys_base64"][0].as_str().unwrap().to_owned());
        self.unseal();
    }

    pub(crate) fn unseal(&mut self) {
        let key = self.unseal_key.clone().unwrap();
        self.wait_until(|bao| {
            let (status, answer) = bao.ask("POST", "sys/unseal", Some(&json!({"key": key})));
            status == 200 && answer["sealed"] == json!(false)
        });
    }

    fn wait_for(&mut self, status: u16) {
        self.wait_until(|bao| bao.ask("GET", "sys/health?standbyok=true", None).0 == status);
    }

    #[track_caller]
    fn wait_until(&mut self, is_so: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !is_so(self) {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the server ended ({status}):\n{}", self.log());
            }
            assert!(began.elapsed() < PATIENCE, "the server is not ready:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Asks as root: the status, and the answer where it is JSON.
    pub(crate) fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        self.ask_with(&self.root, method, path, body)
    }

    /// Asks with a token.
    pub(crate) fn ask_with(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> (u16, Value) {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "10", "--noproxy", "*", "--request", method]);
        curl.args(["--write-out", "\n%{http_code}", "--header", "@-", &format!("{}/v1/{path}", self.url)]);
        if let Some(ca) = &self.ca {
            curl.arg("--cacert").arg(ca);
        }
        if method == "PATCH" {
            curl.args(["--header", "Content-Type: application/merge-patch+json"]);
        }
        if let Some(body) = body {
            curl.arg("--data-binary").arg(body.to_string());
        }
        let mut asked =
            curl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        asked.stdin.take().unwrap().write_all(format!("X-Vault-Token: {token}\n").as_bytes()).unwrap();
        let answered = String::from_utf8(asked.wait_with_output().unwrap().stdout).unwrap();
        let (answer, status) = answered.rsplit_once('\n').unwrap_or(("", "0"));
        (status.parse().unwrap_or(0), serde_json::from_str(answer).unwrap_or(Value::Null))
    }

    /// Asks as root for what must be done.
    #[track_caller]
    pub(crate) fn tell(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = self.ask(method, path, Some(body));
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// Posts many bodies over one connection, in the clear: a curl for each would take a minute for a thousand.
    #[track_caller]
    pub(crate) fn tell_many(&self, many: impl IntoIterator<Item = (String, Value)>) {
        use std::io::{BufRead as _, BufReader, Read as _};
        let address = self.url.trim_start_matches("http://");
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut answers = BufReader::new(stream.try_clone().unwrap());
        for (path, body) in many {
            let body = body.to_string();
            let (root, length) = (&self.root, body.len());
            let request = format!(
                "POST /v1/{path} HTTP/1.1\r\nHost: {address}\r\nX-Vault-Token: {root}\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            stream.write_all(request.as_bytes()).unwrap();
            let (mut status, mut length) = (String::new(), 0);
            answers.read_line(&mut status).unwrap();
            assert!(status.contains(" 200 ") || status.contains(" 204 "), "{path}: {status}");
            loop {
                let mut line = String::new();
                answers.read_line(&mut line).unwrap();
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line == "\r\n" {
                    break;
                }
            }
            answers.read_exact(&mut vec![0; length]).unwrap();
        }
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Value {
        let (status, answer) = self.ask("GET", path, None);
        assert_eq!(status, 200, "GET {path}: {answer}");
        answer
    }

    /// A KV engine of the given version at a path.
    #[track_caller]
    pub(crate) fn mount_kv(&self, path: &str, version: &str) {
        self.tell(
            "POST",
            &format!("sys/mounts/{path}"),
            &json!({"type": "kv", "options": {"version": version}}),
        );
        let began = Instant::now();
        while version == "2" && self.ask("GET", &format!("{path}/config"), None).0 != 200 {
            assert!(began.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[track_caller]
    pub(crate) fn policy(&self, name: &str, rules: &str) {
        self.tell("PUT", &format!("sys/policies/acl/{name}"), &json!({"policy": rules}));
    }

    /// A role of AppRole, and a secret id of it.
    #[track_caller]
    pub(crate) fn approle(&self, name: &str, mut settings: Value) -> (String, String) {
        if self.ask("GET", "auth/approle/role?list=true", None).0 == 403
            || self.ask("GET", "sys/auth/approle", None).0 != 200
        {
            self.tell("POST", "sys/auth/approle", &json!({"type": "approle"}));
        }
        if settings.is_null() {
            settings = json!({});
        }
        self.tell("POST", &format!("auth/approle/role/{name}"), &settings);
        let role_id = self.get(&format!("auth/approle/role/{name}/role-id"))["data"]["role_id"].clone();
        (role_id.as_str().unwrap().to_owned(), self.secret_id(name))
    }

    #[track_caller]
    pub(crate) fn secret_id(&self, role: &str) -> String {
        let made = self.tell("POST", &format!("auth/approle/role/{role}/secret-id"), &json!({}));
        made["data"]["secret_id"].as_str().unwrap().to_owned()
    }

    /// The token that an answer comes wrapped in, which opens once.
    #[track_caller]
    pub(crate) fn wrap(&self, path: &str, body: &Value) -> String {
        let made = Command::new("curl")
            .args(["--silent", "--noproxy", "*", "-H", "X-Vault-Wrap-TTL: 60s"])
            .args(["-H", &format!("X-Vault-Token: {}", self.root), "-d", &body.to_string()])
            .arg(format!("{}/v1/{path}", self.url))
            .output()
            .unwrap();
        let made: Value = serde_json::from_slice(&made.stdout).unwrap();
        made["wrap_info"]["token"].as_str().unwrap().to_owned()
    }

    /// How many tokens there are beside root's.
    pub(crate) fn accessors(&self) -> Vec<String> {
        let (_, told) = self.ask("GET", "auth/token/accessors?list=true", None);
        let all = told["data"]["keys"].as_array().cloned().unwrap_or_default();
        all.iter().filter_map(|key| key.as_str().map(str::to_owned)).collect()
    }

    /// Ends the server at once.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn ca(&self) -> Option<&Path> {
        self.ca.as_deref()
    }
}

impl Drop for Bao {
    fn drop(&mut self) {
        self.kill();
    }
}

fn start(directory: &Directory, arguments: &[String]) -> Child {
    let log = File::create(directory.path().join("log")).unwrap();
    // It ends with the test that started it, however that ends.
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .arg(binary())
        .args(arguments)
        .env_clear()
        .env("HOME", directory.path())
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// Three servers that keep one storage between them.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Bao>,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let ports: Vec<(u16, u16)> = (0..3).map(|_| (free_port(), free_port())).collect();
        let mut nodes: Vec<Bao> = Vec::new();
        for (at, (port, cluster_port)) in ports.iter().enumerate() {
            let directory = Directory::new();
            std::fs::create_dir(directory.path().join("raft")).unwrap();
            let join: String = ports
                .iter()
                .filter(|(other, _)| other != port)
                .map(|(other, _)| {
                    format!(" retry_join {{\n  leader_api_addr = \"http://127.0.0.1:{other}\"\n }}\n")
                })
                .collect();
            let storage = format!(
                "cluster_addr = \"http://127.0.0.1:{cluster_port}\"\nstorage \"raft\" {{\n path = \"{}/raft\"\n \
                 node_id = \"node-{at}\"\n performance_multiplier = 1\n{join}}}\n",
                directory.path().display()
            );
            let mut node = Bao::with_storage(directory, (*port, *cluster_port), &storage, None);
            match nodes.first() {
                None => node.initialise(),
                Some(first) => {
                    node.root.clone_from(&first.root);
                    node.unseal_key.clone_from(&first.unseal_key);
                    let key = first.unseal_key.clone().unwrap();
                    node.wait_until(|node| {
                        node.ask("POST", "sys/unseal", Some(&json!({"key": key})));
                        node.ask("GET", "sys/health?standbyok=true", None).0 == 200
                    });
                }
            }
            nodes.push(node);
        }
        let cluster = Self { nodes };
        // Only one that votes can elect another leader.
        let voters = || {
            let (_, told) = cluster.nodes[0].ask("GET", "sys/storage/raft/configuration", None);
            let servers = told["data"]["config"]["servers"].as_array().cloned().unwrap_or_default();
            servers.iter().filter(|server| server["voter"] == json!(true)).count()
        };
        let began = Instant::now();
        while voters() < 3 {
            assert!(began.elapsed() < PATIENCE, "the nodes did not join");
            std::thread::sleep(Duration::from_millis(100));
        }
        cluster
    }

    /// Which node leads.
    pub(crate) fn leader(&self) -> usize {
        let began = Instant::now();
        loop {
            let leads = |node: &Bao| node.ask("GET", "sys/leader", None).1["is_self"] == json!(true);
            if let Some(at) = self.nodes.iter().position(leads) {
                return at;
            }
            assert!(began.elapsed() < PATIENCE, "nobody leads");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A word that stands nowhere else.
pub(crate) fn unguessable() -> String {
    let mut bytes = [0_u8; 12];
    std::io::Read::read_exact(&mut File::open("/dev/urandom").unwrap(), &mut bytes).unwrap();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
