//! Places in a topic, as they are written on the command line.

use crate::time;
use posthouse_client::{Offset, Position, Start, Timestamp};
use std::str::FromStr;

/// `earliest`, `latest`, an offset, or a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The first message still there.
    Earliest,
    /// After the last message.
    Latest,
    /// This offset, or the next one still there.
    Offset(Offset),
    /// The first message that arrived then or later.
    Time(Timestamp),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let offset = || text.parse().ok().map(|offset| Self::Offset(Offset(offset)));
        match text {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            _ => offset().or_else(|| time::parse(text).map(Self::Time)).ok_or_else(|| {
                "is not earliest, latest, an offset, a time such as 2026-11-21T20:49:00Z, or 5m ago"
                    .to_owned()
            }),
        }
    }
}

impl Place {
    /// Where a new subscription starts.
    pub(crate) const fn start(self) -> Start {
        match self {
            Self::Earliest => Start::Earliest,
            Self::Latest => Start::Latest,
            Self::Offset(offset) => Start::Offset(offset),
            Self::Time(at) => Start::Time(at),
        }
    }

    /// Where a reader starts.
    pub(crate) const fn position(self) -> Position {
        match self {
            Self::Earliest => Position::Earliest,
            Self::Latest => Position::Latest,
            Self::Offset(offset) => Position::Offset(offset),
            Self::Time(at) => Position::Time(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart() {
        assert_eq!("earliest".parse(), Ok(Place::Earliest));
        assert_eq!("latest".parse(), Ok(Place::Latest));
        assert_eq!("17".parse(), Ok(Place::Offset(Offset(17))));
        assert_eq!("1970-01-02".parse(), Ok(Place::Time(Timestamp(86_400_000))));
        assert!("-1".parse::<Place>().is_err());
        assert!("soon".parse::<Place>().is_err());
    }
}
