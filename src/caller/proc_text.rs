//! Reads the text of `/proc/TID/{status,stat,cgroup}`. Pure: bytes in, words out, nothing assumed of the bytes
//! beyond what `fs/proc/array.c` and `kernel/cgroup/cgroup.c` write.

/// What `/proc/TID/status` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) tgid: u32,
    /// Real, effective, saved, file system.
    pub(super) uids: [u32; 4],
    pub(super) gids: [u32; 4],
    pub(super) groups: Vec<u32>,
}

/// Reads `status`; `None` when a line is missing or is not what the kernel writes. The thread's own name comes in a
/// line of its own with newlines escaped (`proc_task_name`), so it cannot forge another.
pub(super) fn status(bytes: &[u8]) -> Option<Status> {
    let (mut tgid, mut uids, mut gids, mut groups) = (None, None, None, None);
    for line in bytes.split(|byte| *byte == b'\n') {
        if let Some(rest) = line.strip_prefix(b"Tgid:") {
            tgid.get_or_insert(numbers(rest)?);
        } else if let Some(rest) = line.strip_prefix(b"Uid:") {
            uids.get_or_insert(numbers(rest)?);
        } else if let Some(rest) = line.strip_prefix(b"Gid:") {
            gids.get_or_insert(numbers(rest)?);
        } else if let Some(rest) = line.strip_prefix(b"Groups:") {
            groups.get_or_insert(numbers(rest)?);
        }
    }
    let [tgid] = tgid?[..] else { return None };
    Some(Status { tgid, uids: uids?.try_into().ok()?, gids: gids?.try_into().ok()?, groups: groups? })
}

fn numbers(text: &[u8]) -> Option<Vec<u32>> {
    let text = std::str::from_utf8(text).ok()?;
    text.split_ascii_whitespace().map(|word| word.parse().ok()).collect()
}

/// The start time in ticks since boot: field 22 of `stat`. The second field is the program's name in parentheses
/// and may hold anything, so counting starts behind the last `)`.
pub(super) fn start_ticks(bytes: &[u8]) -> Option<u64> {
    let behind_name = bytes.iter().rposition(|byte| *byte == b')')? + 1;
    let text = std::str::from_utf8(bytes.get(behind_name..)?).ok()?;
    // The first word behind the name is field 3.
    text.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

/// The path in the unified hierarchy: the line `0::PATH`. No name in a path holds a newline (`cgroup_mkdir` refuses
/// it), and nothing else is escaped.
pub(super) fn unified_cgroup(bytes: &[u8]) -> Option<&[u8]> {
    let mut lines = bytes.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"0::"));
    let path = lines.next()?;
    (lines.next().is_none() && path.first() == Some(&b'/')).then_some(path)
}

/// A decimal number that fills the whole file, as `loginuid` and `sessionid` are; unset is 4294967295.
pub(super) fn audit_number(bytes: &[u8]) -> Option<u32> {
    std::str::from_utf8(bytes).ok()?.trim().parse().ok().filter(|number| *number != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tev\\nUid:\t0 0 0 0\nState:\tS (sleeping)\nTgid:\t712\nNgid:\t0\nPid:\t714\n\
        Uid:\t1000\t1001\t1002\t1003\nGid:\t5\t6\t7\t8\nFDSize:\t64\nGroups:\t4 24 4294967294 \nNStgid:\t712\n";

    #[test]
    fn status_gives_process_credentials_and_groups() {
        let expected = Status {
            tgid: 712,
            uids: [1000, 1001, 1002, 1003],
            gids: [5, 6, 7, 8],
            groups: vec![4, 24, 4_294_967_294],
        };
        assert_eq!(status(STATUS.as_bytes()), Some(expected));
        assert_eq!(status(STATUS.replace("24 ", "x ").as_bytes()), None);
        assert_eq!(status(STATUS.replace("Groups:", "Group:").as_bytes()), None);
    }

    #[test]
    fn a_program_name_cannot_shift_the_fields_of_stat() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 424242 20 21";
        for name in ["cat", "a) R 1 (b", ") R 1", "x y z", "((", ")"] {
            assert_eq!(start_ticks(format!("77 ({name}) {tail}").as_bytes()), Some(424_242), "{name}");
        }
        assert_eq!(start_ticks(b"77 (cat) S 1 2"), None);
        assert_eq!(start_ticks(b"no parenthesis"), None);
    }

    #[test]
    fn the_unified_line_is_taken_on_hybrid_hosts() {
        assert_eq!(unified_cgroup(b"9:name=systemd:/evil\n1:cpu:/0::x\n0::/a/b c\n"), Some(&b"/a/b c"[..]));
        for text in [&b"1:cpu:/a\n"[..], b"", b"0::relative\n", b"0::\n", b"0::/a\n0::/b\n"] {
            assert_eq!(unified_cgroup(text), None);
        }
    }

    #[test]
    fn unset_audit_numbers_are_absent() {
        assert_eq!(audit_number(b"4294967295"), None);
        assert_eq!(audit_number(b"1000"), Some(1000));
        assert_eq!(audit_number(b"x"), None);
    }

    /// A small generator with a fixed seed (xorshift64*, G. Marsaglia and S. Vigna), so that failures repeat.
    fn next(state: &mut u64) -> usize {
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        usize::try_from(state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap()
    }

    #[test]
    fn a_hundred_thousand_damaged_files_make_no_parser_panic() {
        let mut state = 0x9E37_79B9_7F4A_7C15;
        let stat = b"77 (cat) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 424242 20 21";
        let groups = b"4:memory:/x\n0::/user.slice/user-1000.slice/user@1000.service/app.slice/a.service\n";
        for round in 0..100_000 {
            let mut bytes = match round % 4 {
                0 => STATUS.as_bytes().to_vec(),
                1 => stat.to_vec(),
                2 => groups.to_vec(),
                _ => (0..next(&mut state) % 200).map(|_| (next(&mut state) & 0xFF) as u8).collect(),
            };
            for _ in 0..next(&mut state) % 8 {
                if !bytes.is_empty() {
                    let at = next(&mut state) % bytes.len();
                    match next(&mut state) % 3 {
                        0 => bytes[at] = (next(&mut state) & 0xFF) as u8,
                        1 => bytes.truncate(at),
                        _ => bytes.insert(at, b"0:/.)\n\t-9"[next(&mut state) % 9]),
                    }
                }
            }
            let _ = status(&bytes);
            let _ = start_ticks(&bytes);
            let _ = audit_number(&bytes);
            if let Some(path) = unified_cgroup(&bytes) {
                std::hint::black_box(crate::caller::cgroup::Place::of(path).is_ok());
            }
        }
    }
}
