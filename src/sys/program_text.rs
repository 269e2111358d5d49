//! The program's own instructions in memory. Most of them are needed at the start alone, and would stay resident for as
//! long as there is memory to spare.

/// Gives back the pages that hold this program's instructions, and returns how many bytes that was at most. Those that are
/// needed come back from the page cache as they are used. Does nothing where they cannot be found.
///
/// Instructions are mapped privately from the program's file and never written, so no page can differ from the file's.
pub fn give_back() -> usize {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return 0 };
    let own = give_back as *const () as usize;
    let Some((start, length)) = maps.lines().find_map(|line| instructions_around(line, own)) else {
        return 0;
    };
    // SAFETY: the range is one private mapping of a file that holds instructions and is not written to, as its line says:
    // dropping its pages changes no byte of it. The pages of this very function fault back in.
    let result =
        unsafe { libc::madvise(std::ptr::with_exposed_provenance_mut(start), length, libc::MADV_DONTNEED) };
    if result == 0 { length } else { 0 }
}

/// Start and length of the mapping on a line of `/proc/PID/maps` (proc_pid_maps(5)), where it holds `address`, is
/// executable and private, and cannot be written to.
fn instructions_around(line: &str, address: usize) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    if words.next()? != "r-xp" {
        return None;
    }
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    (start..end).contains(&address).then(|| (start, end - start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_found_and_given_back_and_the_program_goes_on() {
        assert_eq!(
            instructions_around("1000-3000 r-xp 00000000 fe:00 7 /bin/x", 0x2fff),
            Some((0x1000, 0x2000))
        );
        for line in
            ["1000-3000 r-xp 0 fe:00 7 /bin/x", "3000-4000 rw-p 0 fe:00 7 /bin/x", "", "x", "3000-4000 r--p"]
        {
            assert_eq!(instructions_around(line, 0x3000), None, "{line}");
        }
        assert!(give_back() > 64 * 1024);
        assert_eq!((1..=10).product::<u32>(), 3_628_800);
        assert!(give_back() > 64 * 1024);
    }
}
