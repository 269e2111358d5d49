//! Whether the machine's clock is kept in step with the world, as the kernel itself was told (adjtimex(2)).

use std::io;

/// What the kernel knows of its clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockState {
    /// Whether something keeps it in step: NTP, PTP or a hypervisor's clock.
    pub is_synchronised: bool,
    /// The largest error that is thought possible, in microseconds; it grows while nothing corrects the clock.
    pub error_max_us: u64,
}

/// Asks without changing anything.
///
/// # Errors
/// What the kernel reports.
pub fn state() -> io::Result<ClockState> {
    // SAFETY: all zeros is a valid struct timex, and means that nothing is to be set.
    let mut asked: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one struct timex into ours.
    let state = unsafe { libc::adjtimex(&raw mut asked) };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ClockState {
        is_synchronised: state != libc::TIME_ERROR && asked.status & libc::STA_UNSYNC == 0,
        error_max_us: u64::try_from(asked.maxerror).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_how_its_clock_is() {
        // What it says differs between machines; that it says so does not.
        state().unwrap();
    }
}
