//! Which executables run whatever they are told to: a rule that names one alone would let in every script of anyone.

use std::path::Path;

/// Names that end here or go on with a version, such as `python3.13` or `lua5.4`.
const NAMES: &[&str] = &[
    "ash", "awk", "bash", "beam.smp", "bun", "busybox", "chroot", "csh", "dash", "deno", "dotnet", "elixir",
    "env", "erl", "escript", "expect", "fish", "gawk", "gdb", "guile", "ipython", "java", "jruby", "jshell",
    "julia", "ksh", "ld.so", "lua", "luajit", "mawk", "mksh", "mono", "nawk", "nice", "node", "nodejs",
    "nohup", "nsenter", "perl", "php", "php-cgi", "php-fpm", "posh", "pwsh", "pypy", "python", "racket",
    "rbash", "rscript", "ruby", "runuser", "scala", "setpriv", "sh", "setsid", "stdbuf", "strace", "su",
    "sudo", "swipl", "tclsh", "tcsh", "timeout", "toybox", "unshare", "uv", "wish", "xargs", "yash", "zsh",
];
/// Names that begin so, whatever follows: the dynamic loader runs any program it is given.
const BEGINNINGS: &[&str] = &["ld-linux", "ld-musl", "ld-2."];

/// The interpreter that `path` is, by its own name or by that of the file its links lead to.
pub(super) fn interpreter_at(path: &Path) -> Option<String> {
    by_name(path).or_else(|| by_name(&std::fs::canonicalize(path).ok()?))
}

fn by_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let known = NAMES.iter().any(|known| name.strip_prefix(known).is_some_and(is_version));
    let begins = BEGINNINGS.iter().any(|beginning| name.starts_with(beginning));
    (known || begins).then_some(name)
}

/// Nothing, or digits, points and dashes, with the letters that builds append (`python3.13t`, `python3-dbg`).
fn is_version(rest: &str) -> bool {
    if rest.is_empty() {
        return true;
    }
    let rest = rest.strip_suffix("-dbg").unwrap_or(rest);
    let rest = rest.strip_suffix(['d', 'm', 'u', 't']).unwrap_or(rest);
    rest.chars().all(|character| character.is_ascii_digit() || matches!(character, '.' | '-' | '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_are_known_by_name_version_and_link() {
        for path in [
            "/usr/bin/python3",
            "/usr/bin/python3.13",
            "/usr/bin/python3.13-dbg",
            "/usr/bin/perl5.40.1",
            "/bin/sh",
            "/usr/bin/env",
            "/opt/jdk/bin/java",
            "/usr/bin/php8.4",
            "/usr/bin/lua5.4",
            "/bin/busybox",
            "/usr/bin/nodejs",
            "/lib64/ld-linux-x86-64.so.2",
        ] {
            assert!(interpreter_at(Path::new(path)).is_some(), "{path}");
        }
        for path in ["/usr/sbin/nginx", "/usr/bin/shasum", "/usr/bin/environment", "/usr/bin/psql", "/"] {
            assert_eq!(by_name(Path::new(path)), None, "{path}");
        }
        let directory = std::env::temp_dir().join(format!("credfs-interpreter-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let link = directory.join("orders-worker");
        std::os::unix::fs::symlink("/bin/sh", &link).unwrap();
        assert!(interpreter_at(&link).is_some());
        std::fs::remove_dir_all(directory).unwrap();
    }
}
