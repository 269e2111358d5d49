//! Names that a file system cannot bear, names the tree uses itself, and names that meet.

use credfs::model::{Outcome, Stage};

use super::world::{World, outcome};

const ALL: &str = "[identities.root]\nuid = [0]\n[[grants]]\nto = [\"root\"]\nread = [\"**\"]\n";

#[test]
fn awkward_field_names_are_encoded_and_lead_back_to_their_values() {
    let world = World::new("awkward", ALL);
    let fields = [
        ("a/b", "slash", "a%2Fb"),
        ("..", "dots", "%2E."),
        ("100%", "percent", "100%25"),
        ("line\nbreak", "newline", "line%0Abreak"),
        ("current", "reserved", "%63urrent"),
        ("versions", "reserved too", "%76ersions"),
        ("plain", "plain", "plain"),
        ("ünïcode", "not ASCII", "ünïcode"),
    ];
    let values: Vec<_> = fields.iter().map(|(name, value, _)| (*name, *value)).collect();
    world.put("app", Stage::Current, &values);
    let caller = world.caller(0);
    let names = world.names(&caller, "app");
    for (field, value, file_name) in fields {
        assert!(names.iter().any(|name| name == file_name), "{field:?} is shown as {file_name}: {names:?}");
        assert_eq!(world.cat(&caller, &format!("app/{file_name}")).as_deref(), Ok(value));
    }
    // The tree's own names keep their meaning.
    assert_eq!(world.cat(&caller, "app/versions/1/plain").as_deref(), Ok("plain"));
    assert_eq!(outcome(world.walk(&caller, "app/a%2fb")), Outcome::Hidden, "one name, one encoding");
}

#[test]
fn a_child_keeps_a_name_it_shares_with_a_field_and_the_field_is_encoded() {
    let world = World::new("shared", ALL);
    world.put("app", Stage::Current, &[("db", "field")]);
    let caller = world.caller(0);
    assert_eq!(world.cat(&caller, "app/db").as_deref(), Ok("field"));
    world.put("app/db", Stage::Current, &[("password", "child")]);
    assert_eq!(world.cat(&caller, "app/db/password").as_deref(), Ok("child"));
    assert_eq!(world.cat(&caller, "app/%64b").as_deref(), Ok("field"));
    let names = world.names(&caller, "app");
    assert!(names.contains(&"db".to_owned()) && names.contains(&"%64b".to_owned()), "{names:?}");
}

#[test]
fn a_hidden_child_does_not_betray_itself_by_the_name_of_a_field() {
    let policy = "[identities.one]\nuid = [100]\n[[grants]]\nto = [\"one\"]\nread = [\"app\"]\n";
    let world = World::new("betray", policy);
    world.put("app", Stage::Current, &[("db", "field")]);
    let caller = world.caller(100);
    let before = world.names(&caller, "app");
    world.put("app/db", Stage::Current, &[("password", "child")]);
    assert_eq!(world.names(&caller, "app"), before);
    assert_eq!(world.cat(&caller, "app/db").as_deref(), Ok("field"));
    assert_eq!(outcome(world.walk(&caller, "app/%64b")), Outcome::Hidden);
}

#[test]
fn a_view_shows_a_field_with_its_own_owner_and_mode_and_gives_no_right() {
    let policy = format!(
        "{ALL}[identities.nginx]\nuid = [33]\n[[grants]]\nto = [\"nginx\"]\nread = [\"prod/tls\"]\n\
         [[grants]]\nto = [\"lister\"]\nlist = [\"prod/tls\"]\n[identities.lister]\nuid = [34]\n\
         [views.\"nginx/site.pem\"]\nsecret = \"prod/tls\"\nfield = \"key\"\nowner = \"root\"\ngroup = \"daemon\"\nmode = \"0440\"\n"
    );
    let world = World::new("views", &policy);
    world.put("prod/tls", Stage::Current, &[("key", "one")]);
    for uid in [0, 33] {
        let caller = world.caller(uid);
        let entry = world.walk(&caller, "nginx/site.pem").unwrap();
        let shown = (entry.attributes.uid, entry.attributes.gid, entry.attributes.mode);
        assert_eq!(shown, (0, 1, 0o440), "the same for every caller");
        assert_eq!(world.cat(&caller, "nginx/site.pem").as_deref(), Ok("one"));
        assert_eq!(world.names(&caller, "nginx"), ["site.pem"]);
    }
    let lister = world.caller(34);
    assert_eq!(outcome(world.cat(&lister, "nginx/site.pem")), Outcome::Denied);
    let nobody = world.caller(35);
    assert_eq!(outcome(world.walk(&nobody, "nginx")), Outcome::Hidden);
    assert!(!world.names(&nobody, "").contains(&"nginx".to_owned()));
    world.put("prod/tls", Stage::Current, &[("key", "two")]);
    assert_eq!(world.cat(&world.caller(33), "nginx/site.pem").as_deref(), Ok("two"));
}
