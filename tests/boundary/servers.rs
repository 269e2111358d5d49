//! Servers that take their credentials from the mount, each with no change and no wrapper, each on a port of its own.

use std::path::Path;
use std::time::Duration;

use crate::harness::{ALICE, Asker, Instance, Kept, Program, Setup, free_port, wait_until};
use crate::programs::TlsPair;

const UP_LIMIT: Duration = Duration::from_secs(20);

/// The uid of an account that a Debian package made.
#[track_caller]
fn account(name: &str) -> u32 {
    let done = Program::of(&["id", "-u", name]).run();
    assert_eq!(done.code, Some(0), "no account {name}: run tests/run, which installs the packages");
    done.text().parse().expect("a uid")
}

#[track_caller]
fn wait_for_port(port: u16, server: &mut Kept) {
    wait_until("the server listens", UP_LIMIT, || {
        assert!(server.is_running(), "it ended:\n{}", server.output());
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
}

#[test]
fn nginx_serves_https_with_a_key_from_the_mount_and_takes_a_new_one_at_reload() {
    let policy = "[identities.nginx]\nuid = 0\nexe = \"/usr/sbin/nginx\"\n\
        [[grants]]\nto = [\"nginx\"]\nread = [\"prod/tls\"]\n";
    let instance = Setup::policy(policy).start();
    let first = TlsPair::make(&instance);
    let trusted = first.put(&instance, "prod/tls");
    let port = free_port();
    let dir = instance.dir().display().to_string();
    let tree = instance.path("prod/tls");
    let config = format!(
        "daemon off;\nworker_processes 1;\npid {dir}/nginx.pid;\nerror_log {dir}/nginx.log;\nuser www-data;\n\
         events {{}}\nhttp {{ access_log off; client_body_temp_path {dir}/n1; proxy_temp_path {dir}/n2;\n\
         fastcgi_temp_path {dir}/n3; uwsgi_temp_path {dir}/n4; scgi_temp_path {dir}/n5;\n\
         server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {tree}/cert; ssl_certificate_key {tree}/key;\n\
         location / {{ return 200 \"served\"; }} }} }}\n"
    );
    let config_path = instance.file("nginx.conf");
    std::fs::write(&config_path, config).expect("a configuration");
    let words = ["/usr/sbin/nginx", "-c", &config_path, "-e", &format!("{dir}/nginx.log")];
    let mut nginx = Program::of(&words).keep(Path::new(&format!("{dir}/nginx.out")));
    wait_for_port(port, &mut nginx);
    let fetch = |trusted: &str| {
        let url = format!("https://localhost:{port}/");
        let resolve = format!("localhost:{port}:127.0.0.1");
        Program::of(&["curl", "-sS", "--cacert", trusted, "--resolve", &resolve, &url]).run()
    };
    assert_eq!(fetch(&trusted).ok().text(), "served");
    let old = instance.file("old.crt");
    std::fs::copy(&trusted, &old).expect("a copy");
    TlsPair::make(&instance).put(&instance, "prod/tls");
    nginx.signal("HUP");
    wait_until("the new certificate is served", UP_LIMIT, || fetch(&trusted).code == Some(0));
    // A worker of before may answer until it has heard of its end.
    wait_until("the old certificate is no longer served", UP_LIMIT, || fetch(&old).code != Some(0));
    let records = instance.records();
    assert_eq!(records.last("open", "released").text("exe"), "/usr/sbin/nginx");
    nginx.end();
}

#[test]
fn redis_takes_its_users_from_an_acl_file_on_the_mount() {
    let instance = Instance::start();
    let acl = |password: &str| format!("user default off\nuser orders on >{password} ~* &* +@all\n");
    instance.put("prod/redis", &[("users.acl", acl("hunter2").as_bytes())]);
    let port = free_port().to_string();
    let path = instance.path("prod/redis/users.acl");
    let mut words = vec!["/usr/bin/redis-server", "--port", &port, "--bind", "127.0.0.1", "--save", ""];
    words.extend(["--dir", "/", "--aclfile", &path]);
    let log = instance.dir().join("redis.out");
    let mut redis = Asker::uid(ALICE).program(&words).keep(&log);
    wait_for_port(port.parse().expect("a port"), &mut redis);
    let cli = |password: &str, words: &[&str]| {
        let mut all =
            vec!["redis-cli", "-p", &port, "--user", "orders", "--pass", password, "--no-auth-warning"];
        all.extend(words);
        let done = Program::of(&all).run();
        format!("{}{}", done.text(), done.err)
    };
    assert_eq!(cli("hunter2", &["ping"]), "PONG");
    assert!(cli("wrong", &["ping"]).contains("WRONGPASS"));
    instance.put("prod/redis", &[("users.acl", acl("hunter3").as_bytes())]);
    assert_eq!(cli("hunter2", &["acl", "load"]), "OK");
    assert_eq!(cli("hunter3", &["ping"]), "PONG");
    assert!(cli("hunter2", &["ping"]).contains("WRONGPASS"));
    redis.end();
}

/// A fresh key pair: private and public half.
fn ssh_key(instance: &Instance, name: &str) -> (Vec<u8>, String) {
    let made = instance.file(name);
    Program::of(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", &made]).run().ok();
    let private = std::fs::read(&made).expect("a key");
    let public = std::fs::read_to_string(format!("{made}.pub")).expect("its public half");
    std::fs::remove_file(&made).expect("removed");
    (private, public)
}

#[test]
fn sshd_uses_a_host_key_and_ssh_a_client_key_and_authorized_keys_from_the_mount() {
    let client_uid = account("www-data");
    let policy = format!(
        "[identities.sshd]\nuid = 0\nexe = \"/usr/sbin/sshd\"\n[identities.client]\nuid = {client_uid}\n\
         [[grants]]\nto = [\"sshd\"]\nread = [\"prod/sshd\"]\n[[grants]]\nto = [\"client\"]\nread = [\"prod/ssh\"]\n"
    );
    // sshd's StrictModes looks at every parent up to the root: /tmp is no place for it.
    let instance = Setup::policy(&policy).below(Path::new("/run")).start();
    let (host, host_public) = ssh_key(&instance, "host");
    let (client, client_public) = ssh_key(&instance, "client");
    instance.put("prod/sshd", &[("host_key", &host), ("authorized_keys", client_public.as_bytes())]);
    instance.put("prod/ssh", &[("id", &client)]);
    let port = free_port().to_string();
    let dir = instance.dir().display().to_string();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nPidFile {dir}/sshd.pid\nAuthorizedKeysFile {}\n\
         UsePAM no\nStrictModes yes\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n",
        instance.path("prod/sshd/host_key"),
        instance.path("prod/sshd/authorized_keys"),
    );
    let config_path = instance.file("sshd_config");
    std::fs::write(&config_path, config).expect("a configuration");
    std::fs::create_dir_all("/run/sshd").expect("sshd's privilege separation directory");
    let words = ["/usr/sbin/sshd", "-D", "-e", "-f", &config_path];
    let mut sshd = Program::of(&words).keep(&instance.dir().join("sshd.out"));
    wait_for_port(port.parse().expect("a port"), &mut sshd);
    let known = instance.file("known_hosts");
    std::fs::write(&known, format!("[127.0.0.1]:{port} {host_public}")).expect("written");
    let identity = instance.path("prod/ssh/id");
    let known_option = format!("UserKnownHostsFile={known}");
    let mut words = vec!["ssh", "-F", "none", "-p", &port, "-i", &identity, "-o", "BatchMode=yes"];
    words.extend(["-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=yes", "-o", &known_option]);
    words.extend(["-o", "IdentityAgent=none", "root@127.0.0.1", "echo logged in"]);
    let done = Asker::uid(client_uid).run(&words);
    assert_eq!(done.text(), "logged in", "{}\n{}", done.err, sshd.output());
    assert!(!done.err.contains("UNPROTECTED"), "{}", done.err);
    let (_, other_host) = ssh_key(&instance, "other");
    std::fs::write(&known, format!("[127.0.0.1]:{port} {other_host}")).expect("written");
    let refused = Asker::uid(client_uid).run(&words);
    assert_ne!(refused.code, Some(0), "the host key that is served is the one that is checked");
    sshd.end();
}

/// Where Debian keeps the programs of a PostgreSQL server: the newest installed.
fn postgresql_programs() -> String {
    let versions =
        std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL: run tests/run, which installs it");
    let newest = versions.flatten().map(|entry| entry.path()).max().expect("a version");
    newest.join("bin").display().to_string()
}

/// A server with a fresh database, whose key is in the mount and whose superuser's password is hunter2.
#[track_caller]
fn start_postgresql(instance: &Instance, programs: &str, server_uid: u32, port: &str) -> Kept {
    let postgres = Asker::uid(server_uid);
    let data = instance.file("pg");
    std::fs::create_dir(&data).expect("a directory");
    std::os::unix::fs::chown(&data, Some(server_uid), None).expect("its owner");
    let initdb = format!("{programs}/initdb");
    let password = instance.file("pg.password");
    std::fs::write(&password, "hunter2\n").expect("written");
    let mut words = vec![initdb.as_str(), "-D", &data, "-U", "postgres", "--pwfile", &password];
    words.extend(["--auth", "scram-sha-256", "--no-sync", "--no-instructions"]);
    postgres.program(&words).limit(Duration::from_secs(60)).run().ok();
    let settings = [
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", instance.path("prod/pg/tls/cert")),
        format!("ssl_key_file={}", instance.path("prod/pg/tls/key")),
        "listen_addresses=127.0.0.1".to_owned(),
        format!("unix_socket_directories={data}"),
        format!("port={port}"),
        "fsync=off".to_owned(),
    ];
    let server = format!("{programs}/postgres");
    let mut words = vec![server.as_str(), "-D", &data];
    for setting in &settings {
        words.extend(["-c", setting]);
    }
    postgres.program(&words).keep(&instance.dir().join("pg.out"))
}

#[test]
fn postgresql_takes_its_server_key_and_libpq_its_password_file_from_the_mount() {
    let (server_uid, client_uid) = (account("postgres"), account("www-data"));
    let policy = "[identities.server]\nuser = \"postgres\"\n[identities.client]\nuser = \"www-data\"\n\
        [[grants]]\nto = [\"server\"]\nread = [\"prod/pg/tls\"]\n[[grants]]\nto = [\"client\"]\nread = [\"prod/pg/client\"]\n";
    let instance = Setup::policy(policy).start();
    let trusted = TlsPair::make(&instance).put(&instance, "prod/pg/tls");
    let port = free_port().to_string();
    let pgpass = format!("127.0.0.1:{port}:*:postgres:hunter2\n");
    instance.put("prod/pg/client", &[("pgpass", pgpass.as_bytes())]);
    let programs = postgresql_programs();
    let mut running = start_postgresql(&instance, &programs, server_uid, &port);
    wait_for_port(port.parse().expect("a port"), &mut running);
    let query = |trusted: &str, password_file: &str| {
        let address = format!(
            "host=127.0.0.1 port={port} user=postgres dbname=postgres sslmode=verify-ca sslrootcert={trusted}"
        );
        let sql = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
        let psql = format!("{programs}/psql");
        let words = [psql.as_str(), "-w", "-X", "-At", "-c", sql, &address];
        Asker::uid(client_uid)
            .program(&words)
            .env("PGPASSFILE", password_file)
            .env("HOME", "/nonexistent")
            .run()
    };
    let pgpass = instance.path("prod/pg/client/pgpass");
    wait_until("the server accepts", UP_LIMIT, || {
        let done = query(&trusted, &pgpass);
        assert!(
            done.code == Some(0) || done.err.contains("starting up"),
            "{}\n{}",
            done.err,
            running.output()
        );
        done.code == Some(0)
    });
    let done = query(&trusted, &pgpass).ok();
    assert_eq!(done.text(), "t");
    assert_eq!(done.err, "", "libpq finds nothing to complain of");
    assert!(query(&trusted, "/dev/null").err.contains("no password supplied"));
    let old = instance.file("old.crt");
    std::fs::copy(&trusted, &old).expect("a copy");
    TlsPair::make(&instance).put(&instance, "prod/pg/tls");
    running.signal("HUP");
    wait_until("the new certificate is served", UP_LIMIT, || query(&trusted, &pgpass).code == Some(0));
    assert_ne!(query(&old, &pgpass).code, Some(0));
    // SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for sessions.
    running.signal("INT");
    running.wait(Duration::from_secs(20)).expect("it ends");
}
