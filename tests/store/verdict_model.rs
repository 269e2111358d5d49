//! "May this cached value be given?", told a second time: a list of every case, and what a person would answer by the rules
//! in docs/SEMANTICS.md, against a real memory in front of a real engine.

use std::time::Duration;

use credfs::store::{Grace, Login, Remote, RemoteOptions, Store, StoreFault};

use super::bench::{path, run};
use super::engine::Mood;
use super::remote::{S, Site, orders, wanted};

/// Who was given the value before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    Nobody,
    TheOneWhoAsks,
    Another,
}

/// What the engine does when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    Answer,
    Refuse,
    SayItIsDeleted,
    Fail,
    SayNonsense,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    holder: Holder,
    age_s: u64,
    grace_s: u64,
    does: Does,
    /// Whether it is known to be away before it is asked.
    is_away: bool,
    /// Whether the value was left by the process before.
    is_left: bool,
}

const FRESH_S: u64 = 10;

/// What comes of a read: a value and its staleness, or nothing.
fn by_the_rules(case: Case) -> Option<u64> {
    let is_mine = case.holder == Holder::TheOneWhoAsks;
    let is_fresh = is_mine && !case.is_left && case.age_s < FRESH_S;
    let staleness = case.age_s.saturating_sub(FRESH_S);
    let is_within_grace = is_mine && staleness < case.grace_s;
    if is_fresh {
        return Some(0);
    }
    let is_asked = !case.is_away;
    if is_asked {
        match case.does {
            Does::Answer => return Some(0),
            Does::Refuse | Does::SayItIsDeleted => return None,
            Does::Fail | Does::SayNonsense => {}
        }
    }
    is_within_grace.then_some(staleness)
}

fn outcome(site: &Site, at: &str, case: Case) -> (Option<u64>, Option<u64>) {
    site.put(at, "1");
    let options = || RemoteOptions {
        fresh_for: Duration::from_secs(FRESH_S),
        grace: Grace::of_all(Duration::from_secs(case.grace_s)),
        failures_max: 1,
        probe_every: 100_000 * S,
        ..site.options()
    };
    let mut remote = site.open(options());
    run(remote.look_up(&Login::machine(), &path(at))).unwrap();
    let holder = match case.holder {
        Holder::Nobody => None,
        Holder::TheOneWhoAsks => Some(orders()),
        Holder::Another => Some(Login::of_identity("support")),
    };
    if let Some(holder) = holder {
        run(remote.fetch(&holder, &wanted(at, 1))).unwrap();
    }
    if case.is_left {
        let left = remote.leave();
        drop(remote);
        remote = site.open(options());
        remote.take_over(&left).unwrap();
    }
    site.dial.pass(Duration::from_secs(case.age_s));
    if case.is_away {
        site.engine.away();
        drop(run(remote.look_up(&Login::machine(), &path("other"))));
        site.engine.feel(Mood::Well);
    }
    match case.does {
        Does::Answer => {}
        Does::Refuse => site.engine.refuse(&orders(), None),
        Does::SayItIsDeleted => site.elsewhere(credfs::store::Change::Delete {
            secret: path(at),
            version: Some(credfs::model::Version::new(1).unwrap()),
        }),
        Does::Fail => site.engine.away(),
        Does::SayNonsense => site.engine.feel(Mood::Failing(StoreFault::Corrupt("no JSON".into()))),
    }
    let ask = |remote: &Remote| {
        let fetched = run(remote.fetch(&orders(), &wanted(at, 1))).ok()?;
        Some(fetched.stale_for.as_secs())
    };
    let first = ask(&remote);
    // And once more, in an outage that begins right after.
    site.engine.away();
    let then = ask(&remote);
    site.engine.feel(Mood::Well);
    site.engine.permit(&orders());
    (first, then)
}

#[test]
fn a_held_value_is_given_exactly_where_the_rules_say() {
    // Anew now and then: what a memory reads at its start grows with what it was asked.
    let mut site = Site::new();
    let mut count = 0;
    for holder in [Holder::Nobody, Holder::TheOneWhoAsks, Holder::Another] {
        for age_s in [0, 9, 10, 11, 39, 40, 41] {
            for grace_s in [0, 1, 30] {
                for does in [Does::Answer, Does::Refuse, Does::SayItIsDeleted, Does::Fail, Does::SayNonsense]
                {
                    for (is_away, is_left) in [(false, false), (true, false), (false, true), (true, true)] {
                        let case = Case { holder, age_s, grace_s, does, is_away, is_left };
                        let (first, then) = outcome(&site, &format!("s{count}"), case);
                        assert_eq!(first, by_the_rules(case), "{case:?}");
                        let was_told_no = !is_away
                            && matches!(does, Does::Refuse | Does::SayItIsDeleted)
                            && first.is_none();
                        if was_told_no {
                            assert_eq!(then, None, "told no, and then an outage: {case:?}");
                        }
                        count += 1;
                        if count % 40 == 0 {
                            site = Site::new();
                        }
                    }
                }
            }
        }
    }
    assert_eq!(count, 3 * 7 * 3 * 5 * 4);
}
