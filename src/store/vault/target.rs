//! What is asked for, as the path of a URL.

use std::fmt::Write as _;

/// `/v1/` and these paths, each of which may hold slashes, with every byte encoded that a URL gives a meaning.
pub(super) fn target(paths: &[&str]) -> String {
    let mut out = String::from("/v1");
    for name in paths.iter().flat_map(|path| path.split('/')).filter(|name| !name.is_empty()) {
        out.push('/');
        encode(name, &mut out);
    }
    out
}

fn encode(name: &str, out: &mut String) {
    for byte in name.bytes() {
        // The unreserved characters of RFC 3986 (2.3).
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").unwrap_or_else(|_| unreachable!("writing to a String cannot fail"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_one_step_of_the_path() {
        assert_eq!(
            target(&["secret", "data", "a/b c/d?e#f%2F/é"]),
            "/v1/secret/data/a/b%20c/d%3Fe%23f%252F/%C3%A9"
        );
        assert_eq!(target(&["team/secret", "metadata", ""]), "/v1/team/secret/metadata");
    }
}
