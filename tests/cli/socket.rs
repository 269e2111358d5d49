//! The control socket: who may do what over it, and what a client that misbehaves can do to others.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use serde_json::json;

use crate::world::{CANARY, World};

const STRANGER: u32 = 54_321;
const OPERATOR: u32 = 54_322;

#[test]
fn peers_have_what_policy_grants_them_and_learn_nothing_of_the_rest() {
    let world = World::new();
    world.put("prod/db", "password", b"production");
    world.put("staging/db", "password", b"staging");
    let policy = format!(
        "[identities.operator]\nuid = [{OPERATOR}]\n\
         [[grants]]\nto = [\"operator\"]\nadmin = [\"staging/**\"]\n\
         [[grants]]\nto = [\"operator\"]\nlist = [\"prod/**\"]\n"
    );
    world.write("policy.toml", &policy);
    let instance = world.serve();
    let run = |uid, arguments: &[&str]| world.run_as(uid, arguments, b"new");
    let hidden = run(STRANGER, &["get", "prod/db", "password"]).expect(3);
    let absent = run(STRANGER, &["get", "prod/no", "password"]).expect(3);
    assert_eq!(
        hidden.err.replace("prod/db", "prod/no"),
        absent.err,
        "what is hidden looks like what is not there"
    );
    assert_eq!(run(STRANGER, &["ls", "--json"]).expect(0).json(), json!([]));
    run(STRANGER, &["versions", "prod/db"]).expect(3);
    run(STRANGER, &["put", "prod/db", "password"]).expect(4);
    run(STRANGER, &["put", "prod/no", "password"]).expect(4);
    for verb in ["reload", "refresh", "rekey"] {
        run(STRANGER, &[verb]).expect(4);
    }
    run(STRANGER, &["audit", "rotate"]).expect(4);
    let status = run(STRANGER, &["status", "--json"]).expect(0).json();
    assert!(status.get("policy").is_none() && status["state"] == json!("serving"), "{status}");
    assert_eq!(run(OPERATOR, &["ls", "--json"]).expect(0).json(), json!(["prod/db", "staging/db"]));
    run(OPERATOR, &["get", "prod/db", "password"]).expect(4);
    let none = run(OPERATOR, &["get", "prod/db", "password", "--version", "next"]).expect(3);
    world.run_with(&["put", "prod/db", "password", "--stage", "next"], b"staged").expect(0);
    let staged = run(OPERATOR, &["get", "prod/db", "password", "--version", "next"]).expect(3);
    assert_eq!(
        staged.err, none.err,
        "whether a version is staged is not told to whom the stage is not granted"
    );
    assert_eq!(run(OPERATOR, &["get", "staging/db", "password"]).expect(0).out, b"staging");
    run(OPERATOR, &["put", "staging/db", "password"]).expect(0);
    run(OPERATOR, &["put", "prod/db", "password"]).expect(4);
    run(OPERATOR, &["reload"]).expect(4);
    instance.stop();
    let log = world.run(&["audit", "log", "--json"]).expect(0).json();
    let has = |uid: u32, op: &str, outcome: &str| {
        log.as_array().unwrap().iter().any(|record| {
            record["uid"] == json!(uid) && record["op"] == json!(op) && record["outcome"] == json!(outcome)
        })
    };
    assert!(
        has(STRANGER, "put", "denied") && has(OPERATOR, "get", "released") && has(OPERATOR, "get", "denied")
    );
    // Without an instance the permissions of the files decide.
    world.run_as(STRANGER, &["get", "staging/db", "password"], b"").expect(5);
}

#[test]
fn a_client_that_sends_nonsense_or_nothing_harms_nobody_else() {
    let world = World::new();
    world.put("prod/db", "password", CANARY.as_bytes());
    let instance = world.serve();
    let socket = world.path("control.sock");
    let header =
        |text: &str| [&u32::try_from(text.len()).unwrap().to_le_bytes()[..], text.as_bytes()].concat();
    let put = r#"{"protocol":1,"command":{"verb":"put","secret":"a/b","fields":["x"],"only":false,"stage":"current","ownership":{}}}"#;
    let nonsense: Vec<Vec<u8>> = vec![
        vec![],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xFF; 64],
        u32::MAX.to_le_bytes().to_vec(),
        header("{}"),
        header("{\"protocol\":2,\"command\":{\"verb\":\"status\"}}"),
        header("{\"protocol\":1,\"command\":{\"verb\":\"conquer\"}}"),
        [header(put), u32::MAX.to_le_bytes().to_vec()].concat(),
        [header(put), 5_u32.to_le_bytes().to_vec(), b"abc".to_vec()].concat(),
    ];
    for bytes in &nonsense {
        let mut client = UnixStream::connect(&socket).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.write_all(bytes).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        // A refused client may find its connection reset; it must not find it open.
        drop(client.read_to_end(&mut answer));
        assert!(!String::from_utf8_lossy(&answer).contains("\"done\""), "{bytes:?}");
    }
    let silent: Vec<_> = (0..64).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    let refused = world.run(&["versions", "a/b"]);
    assert!(refused.code == 5 || refused.code == 3, "{refused:?}");
    drop(silent);
    world.run(&["versions", "a/b"]).expect(3);
    assert_eq!(world.run(&["get", "prod/db", "password"]).expect(0).out, CANARY.as_bytes());
    let silent: Vec<_> = (0..8).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    world.run(&["status"]).expect(0);
    let begun = std::time::Instant::now();
    instance.stop();
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "a client that says nothing does not keep it from ending"
    );
    drop(silent);
}

/// Answers at the control socket as an instance that dies when it has taken a whole command, as many times as asked.
fn die_with_commands(socket: &std::path::Path, times: usize) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    let socket = socket.to_owned();
    std::thread::spawn(move || {
        for _ in 0..times {
            let (mut client, _) = listener.accept().unwrap();
            let greeting = r#"{"ready":{"protocol":1}}"#;
            client.write_all(&u32::try_from(greeting.len()).unwrap().to_le_bytes()).unwrap();
            client.write_all(greeting.as_bytes()).unwrap();
            client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            let mut taken = Vec::new();
            // Ends when nothing more comes.
            drop(client.read_to_end(&mut taken));
            assert!(taken.len() > 10, "a command was sent");
        }
        std::fs::remove_file(socket).unwrap();
    })
}

#[test]
fn a_command_whose_instance_dies_is_asked_again_unless_it_may_have_changed_something() {
    let world = World::new();
    world.put("prod/db", "password", CANARY.as_bytes());
    let socket = world.path("control.sock");
    let dying = die_with_commands(&socket, 2);
    // The third time nobody listens, and the files are asked.
    assert_eq!(world.run(&["get", "prod/db", "password"]).expect(0).out, CANARY.as_bytes());
    dying.join().unwrap();
    for arguments in [&["put", "prod/db", "password"][..], &["delete", "prod/db"]] {
        let dying = die_with_commands(&socket, 1);
        let done = world.run_with(arguments, b"new").expect(5);
        assert!(done.err.contains("may have been made"), "{arguments:?}: {}", done.err);
        assert!(done.err.contains("credfs versions"), "the remedy is said: {}", done.err);
        dying.join().unwrap();
    }
    let versions = world.run(&["versions", "prod/db", "--json"]).expect(0).json();
    assert_eq!(versions.as_array().unwrap().len(), 1, "nothing was repeated: {versions}");
}
