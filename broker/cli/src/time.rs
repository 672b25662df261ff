//! Times as people write and read them: RFC 3339 in UTC, or so long ago.

use posthouse_broker::config::Period;
use posthouse_client::Timestamp;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY_MILLIS: u64 = 86_400_000;

/// The time of day.
#[expect(clippy::disallowed_methods, reason = "a command line has no injected clock")]
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Reads `2026-11-21`, `2026-11-21T20:49:00Z`, `2026-11-21T21:49:00.250+01:00`, or `5m ago`.
pub(crate) fn parse(text: &str) -> Option<Timestamp> {
    if let Some(period) = text.strip_suffix("ago") {
        let Period(ago) = period.trim().parse().ok()?;
        let millis = u64::try_from(ago.as_millis()).ok()?;
        return Some(Timestamp(now().0.saturating_sub(millis)));
    }
    let (date, clock) = match text.split_once(['T', 't', ' ']) {
        Some((date, clock)) => (date, clock),
        None => (text, "00:00:00Z"),
    };
    let day = parse_date(date)?;
    let (clock, zone_minutes) = split_zone(clock)?;
    let millis = i64::try_from(day.checked_mul(DAY_MILLIS)? + parse_clock(clock)?).ok()?;
    u64::try_from(millis - zone_minutes * 60_000).ok().map(Timestamp)
}

/// `2026-11-21T20:49:00.000Z`.
pub(crate) fn print(at: Timestamp) -> String {
    let (year, month, day) = civil(at.0 / DAY_MILLIS);
    let rest = at.0 % DAY_MILLIS;
    let (hours, minutes) = (rest / 3_600_000, rest / 60_000 % 60);
    let (seconds, millis) = (rest / 1_000 % 60, rest % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{millis:03}Z")
}

/// As [`print()`], unless it is not set.
pub(crate) fn print_known(at: Timestamp) -> Option<String> {
    (at != Timestamp::ZERO).then(|| print(at))
}

/// How long ago `at` was, roughly: `3h`, `12s`.
pub(crate) fn print_age(at: Timestamp) -> String {
    let seconds = now().0.saturating_sub(at.0) / 1_000;
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn number(text: &str, digits: usize) -> Option<u64> {
    let plain = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

fn parse_date(text: &str) -> Option<u64> {
    let mut parts = text.splitn(3, '-');
    let (year, month) = (number(parts.next()?, 4)?, number(parts.next()?, 2)?);
    let day = number(parts.next()?, 2)?;
    let days = days_before(year, month, day)?;
    // A 31st of February would be taken for a day in March.
    (civil(days) == (year, month, day)).then_some(days)
}

fn parse_clock(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let mut parts = whole.splitn(3, ':');
    let (hours, minutes) = (number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    let seconds = parts.next().map_or(Some(0), |text| number(text, 2))?;
    if hours > 23 || minutes > 59 || seconds > 59 || fraction.is_empty() {
        return None;
    }
    let digits: String = fraction.chars().chain("00".chars()).take(3).collect();
    Some(((hours * 60 + minutes) * 60 + seconds) * 1_000 + number(&digits, 3)?)
}

/// The time of day without its zone, and the zone's minutes ahead of UTC.
fn split_zone(text: &str) -> Option<(&str, i64)> {
    if let Some(clock) = text.strip_suffix(['Z', 'z']) {
        return Some((clock, 0));
    }
    let at = text.rfind(['+', '-'])?;
    let (clock, zone) = text.split_at_checked(at)?;
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let minutes = i64::try_from(number(hours, 2)? * 60 + number(minutes, 2)?).ok()?;
    Some((clock, if zone.starts_with('-') { -minutes } else { minutes }))
}

/// Days from 1970-01-01 to a date of the Gregorian calendar, not before it.
fn days_before(year: u64, month: u64, day: u64) -> Option<u64> {
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Years from March, so that the leap day is the last of its year.
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let leaps = year / 4 - year / 100 + year / 400;
    (year * 365 + leaps + (month * 153 + 2) / 5 + day - 1).checked_sub(719_468)
}

/// Year, month and day of a number of days from 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (year * 365 + year / 4 - year / 100);
    let month = (of_year * 5 + 2) / 153;
    let day = of_year - (month * 153 + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_all_their_forms() {
        for (text, millis) in [
            ("1970-01-01", 0),
            ("1970-01-01T00:00:00.001Z", 1),
            ("2000-02-29T12:30:15Z", 951_827_415_000),
            ("2026-11-21T20:49:00Z", 1_795_294_140_000),
            ("2026-11-21 20:49Z", 1_795_294_140_000),
            ("2026-11-21T21:49:00+01:00", 1_795_294_140_000),
            ("2026-11-21T15:19:00.5-05:30", 1_795_294_140_500),
        ] {
            assert_eq!(parse(text), Some(Timestamp(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "yesterday",
            "2026-02-29",
            "2026-13-01",
            "2026-00-10",
            "1969-12-31",
            "2026-11-21T24:00:00Z",
            "2026-11-21T20:49:00",
            "2026-11-21T20:49:00.Z",
            "+026-11-21",
            "5 ago",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn every_day_is_printed_as_it_is_read() {
        for day in 0..80_000 {
            let at = Timestamp(day * DAY_MILLIS + 45_296_789);
            assert_eq!(parse(&print(at)), Some(at), "{}", print(at));
        }
        assert_eq!(print(Timestamp(951_827_415_000)), "2000-02-29T12:30:15.000Z");
    }

    #[test]
    fn time_ago_is_before_now() {
        let hour_ago = parse("1h ago").unwrap();
        assert!((3_599_000..3_700_000).contains(&(now().0 - hour_ago.0)));
    }
}
