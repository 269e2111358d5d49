//! What every kind of remote store can be told about the memory in front of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::settings::is_default;
use super::{KeySetting, Trusted};
use crate::document::Section;
use crate::store::RemoteOptions;

/// The keys of `[stores.NAME]` that every remote kind has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteSettings {
    /// `fresh_for`: how long a value is given without asking again. Default 10 s.
    pub fresh_for: Duration,
    /// `grace`: how long after that a value is given while the store does not answer, where nobody said what a leak of the
    /// secret would mean. Default 1 h.
    pub grace: Duration,
    /// `grace_low`: the same for secrets of low impact. Default as `grace`.
    pub grace_low: Duration,
    /// `grace_medium`: for those of medium impact. Default as `grace`.
    pub grace_medium: Duration,
    /// `grace_high`: for those of high impact. Default as `grace`.
    pub grace_high: Duration,
    /// `answer_within`: how long one request may take. Default 3 s; at most three fifths of `limits.request_deadline`, so
    /// that what is within grace can still be given.
    pub answer_within: Duration,
    /// `failures_max`: requests in a row without an answer after which the store is left alone. Default 3.
    pub failures_max: u32,
    /// `probe_every`: how often a store that is left alone is probed. Default 800 ms.
    pub probe_every: Duration,
    /// `requests_per_minute_max`: most requests that are made without anybody waiting. Default 450.
    pub requests_per_minute_max: u32,
    /// `poll_every_min`: how often one secret in use is asked about at most. Default 1 s.
    pub poll_every_min: Duration,
    /// `in_use_for`: how long after its last read a secret counts as in use. Default 1 h.
    pub in_use_for: Duration,
    /// `list_every`: how often names are listed. Default 5 min.
    pub list_every: Duration,
    /// `state_file`: where numbers of fields are kept. Default `NAME.numbers` in `/var/lib/credfs`, or beside a private
    /// configuration. Its key lies beside it.
    pub state_file: PathBuf,
    /// `cache_file`, with `cache_key_file` or `cache_key_credential`: the sealed cache on disk. Default: none.
    pub cache: Option<CacheSettings>,
    /// `own_login_required`: whether identities without a login of their own are refused. Default false.
    pub needs_own_login: bool,
}

/// The sealed cache on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSettings {
    /// `cache_file`: where it is.
    pub path: PathBuf,
    /// Its key.
    pub key: KeySetting,
    /// `cache_file_bytes_max`: how large it may become, in bytes. Default 64 MiB.
    pub bytes_max: u64,
}

impl RemoteSettings {
    /// The usual settings of the store called `name`.
    #[must_use]
    pub fn usual(name: &str, config_file: &Path) -> Self {
        let directory = config_file.parent().unwrap_or(Path::new("/"));
        let directory = if is_default(config_file) { Path::new("/var/lib/credfs") } else { directory };
        let state_file = directory.join(format!("{name}.numbers"));
        let usual = RemoteOptions::new(&state_file);
        Self {
            fresh_for: usual.fresh_for,
            grace: usual.grace.unclassified,
            grace_low: usual.grace.low,
            grace_medium: usual.grace.medium,
            grace_high: usual.grace.high,
            answer_within: usual.answer_within,
            failures_max: usual.failures_max,
            probe_every: usual.probe_every,
            requests_per_minute_max: usual.requests_per_minute_max,
            poll_every_min: usual.poll_every_min,
            in_use_for: usual.in_use_for,
            list_every: usual.list_every,
            state_file,
            cache: None,
            needs_own_login: usual.needs_own_login,
        }
    }

    /// Reads its keys; those of the kind itself are read elsewhere, and so is the end of the table.
    #[must_use]
    pub fn read(name: &str, section: &Section<'_>) -> Self {
        let mut settings = Self::usual(name, section.file());
        let span = |key, place: &mut Duration, from_ms, to_ms| {
            let range = Duration::from_millis(from_ms)..=Duration::from_millis(to_ms);
            if let Some(span) = section.span(key, range) {
                *place = span;
            }
        };
        const DAY_MS: u64 = 86_400_000;
        span("fresh_for", &mut settings.fresh_for, 0, DAY_MS);
        span("grace", &mut settings.grace, 0, 30 * DAY_MS);
        (settings.grace_low, settings.grace_medium, settings.grace_high) =
            (settings.grace, settings.grace, settings.grace);
        span("grace_low", &mut settings.grace_low, 0, 30 * DAY_MS);
        span("grace_medium", &mut settings.grace_medium, 0, 30 * DAY_MS);
        span("grace_high", &mut settings.grace_high, 0, 30 * DAY_MS);
        span("answer_within", &mut settings.answer_within, 10, 60_000);
        span("probe_every", &mut settings.probe_every, 50, 60_000);
        span("poll_every_min", &mut settings.poll_every_min, 100, 3_600_000);
        span("in_use_for", &mut settings.in_use_for, 1_000, 30 * DAY_MS);
        span("list_every", &mut settings.list_every, 1_000, DAY_MS);
        let number = |key, place: &mut u32, from, to| {
            if let Some(number) = section.integer(key, from..=to) {
                *place = u32::try_from(number.value).unwrap_or(*place);
            }
        };
        number("failures_max", &mut settings.failures_max, 1, 100);
        number("requests_per_minute_max", &mut settings.requests_per_minute_max, 1, 60_000);
        if let Some(path) = section.path("state_file") {
            settings.state_file = path.value;
        }
        settings.cache = read_cache(section);
        settings.needs_own_login = section.boolean("own_login_required").unwrap_or(false);
        settings
    }
}

impl RemoteSettings {
    /// The files that it names, and how much each may be seen by others.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, Trusted)> {
        let mut key = self.state_file.as_os_str().to_owned();
        key.push(".key");
        let mut files = vec![(self.state_file.clone(), Trusted::Private), (key.into(), Trusted::Private)];
        for beside in [".leases", ".leases.key"] {
            let mut name = self.state_file.as_os_str().to_owned();
            name.push(beside);
            files.push((name.into(), Trusted::Private));
        }
        if let Some(cache) = &self.cache {
            files.push((cache.path.clone(), Trusted::Private));
            if let KeySetting::File(key) = &cache.key {
                files.push((key.clone(), Trusted::Private));
            }
        }
        files
    }
}

fn read_cache(section: &Section<'_>) -> Option<CacheSettings> {
    let (file, credential) = (section.path("cache_key_file"), section.text("cache_key_credential"));
    let bytes = section.integer("cache_file_bytes_max", 65_536..=1 << 40);
    let path = section.path("cache_file");
    let (has_file, has_credential) = (section.has("cache_key_file"), section.has("cache_key_credential"));
    if !section.has("cache_file") {
        for key in ["cache_key_file", "cache_key_credential", "cache_file_bytes_max"] {
            if section.has(key) {
                section.fault(
                    section.line_of(key),
                    format!("\"{key}\" is given without \"cache_file\""),
                    "add cache_file = \"/var/lib/credfs/NAME.cache\", or remove it",
                );
            }
        }
        return None;
    }
    if has_file == has_credential {
        section.fault(
            section.line_of("cache_file"),
            if has_file {
                "both \"cache_key_file\" and \"cache_key_credential\" are given"
            } else {
                "the cache on disk has no key"
            },
            "give one of cache_key_file = \"/etc/credfs/cache.key\" and cache_key_credential = \"NAME\"",
        );
        return None;
    }
    let key = match credential {
        Some(name) if name.value.is_empty() || name.value.contains(['/', '\0', ':']) => {
            section.fault(
                name.line,
                "\"cache_key_credential\" is not the name of a credential",
                "write the ID of LoadCredential= in the unit, without a slash",
            );
            return None;
        }
        Some(name) => KeySetting::Credential(name.value.to_owned()),
        None => KeySetting::File(file?.value),
    };
    Some(CacheSettings {
        path: path?.value,
        key,
        bytes_max: bytes.map_or(64 * 1024 * 1024, |bytes| bytes.value),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{Document, Faults};

    fn read(text: &str) -> (RemoteSettings, Vec<String>) {
        let faults = Faults::of(Path::new("/srv/x/credfs.toml"));
        let document = Document::parse(text, &faults);
        let root = document.root(&faults);
        let settings = RemoteSettings::read("central", &root);
        root.report_unknown();
        (settings, faults.into_vec().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_is_not_said_is_as_usual_and_grace_goes_down_to_every_class() {
        let (settings, faults) = read("");
        assert!(faults.is_empty());
        assert_eq!(settings, RemoteSettings::usual("central", Path::new("/srv/x/credfs.toml")));
        assert_eq!(settings.state_file, Path::new("/srv/x/central.numbers"));
        let (settings, _) = read("grace = \"2h\"\ngrace_high = \"0s\"\nfresh_for = \"1s\"");
        let two = Duration::from_secs(7200);
        assert_eq!((settings.grace, settings.grace_low, settings.grace_medium), (two, two, two));
        assert_eq!((settings.grace_high, settings.fresh_for), (Duration::ZERO, Duration::from_secs(1)));
    }

    #[test]
    fn a_cache_on_disk_needs_a_file_and_one_key() {
        let (settings, faults) =
            read("cache_file = \"c\"\ncache_key_file = \"/etc/k\"\ncache_file_bytes_max = 65536");
        assert!(faults.is_empty(), "{faults:?}");
        let cache = settings.cache.unwrap();
        assert_eq!((cache.path, cache.bytes_max), (PathBuf::from("/srv/x/c"), 65_536));
        for (text, says) in [
            ("cache_file = \"c\"", "no key"),
            ("cache_file = \"c\"\ncache_key_file = \"k\"\ncache_key_credential = \"n\"", "both"),
            ("cache_key_file = \"k\"", "without"),
            ("cache_file_bytes_max = 65536", "without"),
            ("cache_file = \"c\"\ncache_key_credential = \"a/b\"", "credential"),
            ("fresh_for = \"10\"", "unit"),
            ("grace = \"99d\"", "range"),
            ("fresh_fro = \"10s\"", "fresh_for"),
        ] {
            let (_, faults) = read(text);
            assert!(faults.iter().any(|fault| fault.contains(says)), "{text}: {faults:?}");
        }
    }
}
