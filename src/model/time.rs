//! Wall-clock moments and spans as text. Nothing here asks the clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A moment, in microseconds since 1970-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixTime(i64);

impl UnixTime {
    /// The moment `micros` microseconds after the epoch.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the epoch.
    #[must_use]
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// The moment `span` later.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)))
    }

    /// The moment `span` earlier.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)))
    }

    /// RFC 3339 in UTC with microseconds, such as `2026-11-23T21:45:00.000000Z`.
    #[must_use]
    pub fn rfc3339(self) -> String {
        let mut text = Vec::with_capacity(27);
        self.append_rfc3339(&mut text);
        String::from_utf8(text).unwrap_or_default()
    }

    /// Appends what [`Self::rfc3339`] returns. Years before 0 and after 9999, which RFC 3339 has no form for, are
    /// written as those.
    pub fn append_rfc3339(self, out: &mut Vec<u8>) {
        // Days to civil date: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", days_from_civil's inverse.
        let seconds = self.0.div_euclid(1_000_000);
        let micros = self.0.rem_euclid(1_000_000);
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_shifted = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
        let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
        let year = (year_of_era + era * 400 + i64::from(month <= 2)).clamp(0, 9_999);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        for (number, digits, after) in [
            (year, 4, b'-'),
            (month, 2, b'-'),
            (day, 2, b'T'),
            (hour, 2, b':'),
            (minute, 2, b':'),
            (second, 2, b'.'),
            (micros, 6, b'Z'),
        ] {
            let mut power = 10_i64.pow(digits - 1);
            while power > 0 {
                out.push(b'0' + (number / power % 10) as u8);
                power /= 10;
            }
            out.push(after);
        }
    }

    /// Reads an RFC 3339 time (any offset).
    #[must_use]
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let timestamp: jiff::Timestamp = text.parse().ok()?;
        Some(Self(timestamp.as_microsecond()))
    }
}

impl From<SystemTime> for UnixTime {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self(i64::try_from(after.as_micros()).unwrap_or(i64::MAX)),
            Err(before) => Self(-i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX)),
        }
    }
}

impl From<UnixTime> for SystemTime {
    fn from(time: UnixTime) -> Self {
        let micros = Duration::from_micros(time.0.unsigned_abs());
        if time.0 < 0 { UNIX_EPOCH - micros } else { UNIX_EPOCH + micros }
    }
}

/// Reads a span with a unit, such as `30s`, `5m`, `12h`, `7d`, `250ms`. A bare number has no unit and is refused.
#[must_use]
pub fn parse_span(text: &str) -> Option<Duration> {
    if text.trim() == "0" {
        return None;
    }
    humantime::parse_duration(text).ok()
}

/// Writes a span the way [`parse_span`] reads it.
#[must_use]
pub fn format_span(span: Duration) -> String {
    humantime::format_duration(span).to_string().replace("days", "d").replace("day", "d").replace(' ', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_an_independent_library_writes_them() {
        for micros in [0, 1, 951_782_400_000_000, 1_795_470_300_123_456, 4_102_444_799_999_999, -1] {
            let expected = jiff::Timestamp::from_microsecond(micros).unwrap();
            let text = UnixTime::from_micros(micros).rfc3339();
            assert_eq!(text.parse::<jiff::Timestamp>().unwrap(), expected);
            assert_eq!(UnixTime::parse_rfc3339(&text), Some(UnixTime::from_micros(micros)));
            assert_eq!(text.len(), 27);
        }
    }

    #[test]
    fn a_span_needs_a_unit() {
        assert_eq!(parse_span("30s"), Some(Duration::from_secs(30)));
        assert_eq!(parse_span("7d"), Some(Duration::from_secs(7 * 86_400)));
        assert_eq!(parse_span("250ms"), Some(Duration::from_millis(250)));
        for text in ["", "30", "0", "s", "-1s", "1 parsec"] {
            assert_eq!(parse_span(text), None, "{text:?}");
        }
        assert_eq!(format_span(Duration::from_secs(90)), "1m30s");
        let quarter = Duration::from_secs(90 * 86_400);
        assert_eq!(parse_span(&format_span(quarter)), Some(quarter));
        assert_eq!(parse_span(&format_span(Duration::from_secs(93_784))), Some(Duration::from_secs(93_784)));
    }
}
